"""The predicted wait, and who is refused by it: figures by hand."""

from __future__ import annotations

import contextlib
import math
import random

import pytest
from headwaiter_server.errors import DeadlineUnreachableError, OverloadedError, QueueFullError
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.scheduling.cost import PackedCost, Prices
from headwaiter_server.scheduling.forecast import Forecast, ModelForecast

# A full run of 100 tokens takes 100 ms, and a token of it 1 ms.
PRICES = Prices(PackedCost(0.02, 0.0008, 0.0), 100)


def server(workers: int = 1, max_queue_seconds: float | None = None) -> tuple[Forecast, ModelForecast]:
    forecast = Forecast(workers, max_queue_seconds)
    return forecast, forecast.model(PRICES)


def refusal(model: ModelForecast, terms: Terms, lengths: list[int], now: float = 0.0) -> OverloadedError:
    with pytest.raises(OverloadedError) as caught:
        model.reserve("refused", terms, lengths, now)
    return caught.value


def some_terms(rng: random.Random, keys: int) -> Terms:
    deadline = rng.choice([math.inf, rng.uniform(0.01, 3.0)])
    return Terms(0.0, deadline, rng.randint(1, 3), str(rng.randrange(keys)), rng.choice([0.5, 1.0, 4.0]))


def test_wait_is_what_stands_before() -> None:
    """Waiting texts count by their share of full runs, what runs by the rest of it, all shared by the workers."""
    forecast, model = server(workers=2)
    assert forecast.wait_seconds(0.0) == 0
    model.reserve("a", Terms(0.0), [100, 50], 0.0)
    assert forecast.wait_seconds(0.0) == pytest.approx(0.150 / 2)
    model.run_started([("a", 100)], 0.0, more_wait=True)
    assert forecast.wait_seconds(0.0) == pytest.approx((0.050 + 0.100) / 2)
    assert forecast.wait_seconds(0.040) == pytest.approx((0.050 + 0.060) / 2)
    assert forecast.wait_seconds(5.0) == pytest.approx(0.050 / 2)


def test_nothing_is_left_when_calls_are_over() -> None:
    """However calls end, before their run or after, all at once or text by text, the forecast is empty again."""
    forecast, model = server()
    rng = random.Random(3)
    for number in range(200):
        terms = Terms(rng.random(), priority=rng.randint(1, 9), fairness_key=str(rng.randint(0, 3)))
        lengths = [rng.randint(1, 300) for _ in range(rng.randint(1, 5))]
        model.reserve(number, terms, lengths, 0.0)
        texts = [(number, length) for length in rng.sample(lengths, rng.randint(0, len(lengths)))]
        run = model.run_started(texts, 0.0, more_wait=False) if texts else None
        model.release(number)
        model.release(number)
        if run is not None:
            model.run_finished(run, 0.1, clean=False)
    assert forecast.waiting.seconds == 0
    assert forecast.wait_seconds(0.0) == 0
    assert model.drift == 1


def test_run_of_a_call_that_is_over_changes_nothing() -> None:
    """A text whose call has ended is no longer counted, whether it runs or not."""
    forecast, model = server()
    model.reserve("a", Terms(0.0), [100], 0.0)
    model.release("a")
    model.run_finished(model.run_started([("a", 100)], 0.0, more_wait=False), 0.1, clean=True)
    assert forecast.wait_seconds(0.1) == 0


def test_call_that_would_be_late_is_refused_whole() -> None:
    """Before anything waits; coming back does not help it, and it is told so."""
    forecast, model = server()
    model.reserve("a", Terms(0.0, deadline=0.51), [100] * 5, 0.0)
    error = refusal(model, Terms(0.0, deadline=0.59), [100])
    assert isinstance(error, DeadlineUnreachableError)
    assert error.retry_after_seconds == math.inf
    assert forecast.waiting.seconds == pytest.approx(0.5)
    forecast, model = server(max_queue_seconds=10)
    model.reserve("a", Terms(0.0, deadline=0.51), [100] * 5, 0.0)
    model.reserve("b", Terms(0.0, deadline=0.61), [100], 0.0)


def test_call_that_would_wait_too_long_is_told_when_there_is_room() -> None:
    """The hint is when the wait will have come down to the bound, and the refused come back one by one."""
    _, model = server(max_queue_seconds=0.3)
    model.reserve("a", Terms(0.0), [100] * 5, 0.0)
    hints = []
    for _ in range(3):
        error = refusal(model, Terms(0.0), [100])
        assert isinstance(error, QueueFullError)
        assert "0.5 s" in str(error)
        assert "0.3 s" in str(error)
        hints.append(error.retry_after_seconds)
    assert hints == pytest.approx([0.2, 0.3, 0.4])


def test_hint_beyond_the_deadline_is_no_hint() -> None:
    """Who would come back too late is told to stay away."""
    _, model = server(max_queue_seconds=0.1)
    model.reserve("a", Terms(0.0, deadline=0.6), [100] * 5, 0.0)
    hints = [refusal(model, Terms(0.0, deadline=0.65), [100]).retry_after_seconds for _ in range(4)]
    assert hints == pytest.approx([0.4, 0.5, math.inf, math.inf])


def test_who_stays_away_takes_no_turn() -> None:
    """Those who are told to stay away are not waited for: the next one is told when there is room."""
    _, model = server(max_queue_seconds=0.1)
    model.reserve("a", Terms(0.0, deadline=0.6), [100] * 5, 0.0)
    away = [refusal(model, Terms(0.0, deadline=0.61), [100]).retry_after_seconds for _ in range(40)]
    assert away == pytest.approx([0.4, 0.5, *[math.inf] * 38])
    assert refusal(model, Terms(0.0, deadline=9.0), [100]).retry_after_seconds == pytest.approx(0.6)


def test_hints_are_bounded() -> None:
    """However many were refused, nobody is sent away for longer than some seconds."""
    _, model = server(max_queue_seconds=0.1)
    model.reserve("a", Terms(0.0), [100] * 50, 0.0)
    hints = [refusal(model, Terms(0.0), [100]).retry_after_seconds for _ in range(100)]
    assert max(hints) <= 5


def test_bound_without_a_setting_follows_the_deadline() -> None:
    """Two full runs, or a twelfth of the time that the caller gives; without a deadline there is no bound."""
    _, model = server()
    model.reserve("a", Terms(0.0, deadline=0.9), [100] * 5, 0.0)
    assert "0.2 s" in str(refusal(model, Terms(0.0, deadline=1.0), [10]))
    assert "0.4 s" in str(refusal(model, Terms(0.0, deadline=4.8), [10]))
    model.reserve("b", Terms(0.0, deadline=6.1), [10], 0.0)
    model.reserve("c", Terms(0.0), [100] * 1000, 0.0)


def test_calls_are_refused_before_they_are_read_once_one_was_after() -> None:
    """While others are refused it is asked whether reading is of use; a second after the last of them no more."""
    _, model = server(max_queue_seconds=0.3)
    model.reserve("a", Terms(0.0), [100] * 5, 0.0)
    model.foresee(Terms(0.0), 1, 0.0)
    refusal(model, Terms(0.0), [100])
    for now in (0.0, 0.9, 1.8):
        with pytest.raises(QueueFullError, match=r"the wait would be 0\.5 s, the limit is 0\.3 s"):
            model.foresee(Terms(now), 1, now)
    model.foresee(Terms(2.9), 1, 2.9)


def test_who_was_not_read_comes_back_one_by_one_too() -> None:
    """At the pace at which texts such as those before can be served, so many as each call has."""
    _, model = server(max_queue_seconds=0.3)
    model.reserve("a", Terms(0.0), [100] * 5, 0.0)
    refusal(model, Terms(0.0), [100])
    hints = []
    for texts in (2, 1, 1):
        with pytest.raises(QueueFullError) as refused:
            model.foresee(Terms(0.0), texts, 0.0)
        hints.append(refused.value.retry_after_seconds)
    assert hints == pytest.approx([0.3, 0.5, 0.6])


def test_who_was_not_read_is_told_to_stay_away_if_such_texts_would_be_late() -> None:
    """By what texts took before; and nobody else waits for its turn."""
    _, model = server(max_queue_seconds=0.3)
    model.reserve("a", Terms(0.0, deadline=0.51), [100] * 5, 0.0)
    refusal(model, Terms(0.0), [100])
    for terms, texts, hint in ((Terms(0.0, deadline=0.65), 4, math.inf), (Terms(0.0), 1, 0.3)):
        with pytest.raises(QueueFullError) as refused:
            model.foresee(terms, texts, 0.0)
        assert refused.value.retry_after_seconds == pytest.approx(hint)


def test_nobody_is_refused_unread_who_would_be_taken_when_read() -> None:
    """Whatever waits and runs, whoever asks, and however long the texts turn out to be."""
    rng = random.Random(11)
    unread = 0
    for _ in range(400):
        _, model = server(rng.randint(1, 3), rng.choice([None, 0.05, 0.3]))
        model.drift, keys = rng.uniform(0.3, 3.0), rng.choice([1, 4, 40])
        for number in range(rng.randint(0, 60)):
            lengths = [rng.randint(1, 100) for _ in range(rng.randint(1, 4))]
            with contextlib.suppress(OverloadedError):
                model.reserve(number, some_terms(rng, keys), lengths, 0.0)
            if rng.random() < 0.2:
                model.run_started([(number, lengths[0])], 0.0, more_wait=True)
        with contextlib.suppress(OverloadedError):
            model.reserve("hopeless", Terms(0.0, deadline=1e-9), [100], 0.0)
        terms = some_terms(rng, keys)
        texts = rng.randint(1, 4)
        try:
            model.foresee(terms, texts, 0.0)
        except OverloadedError:
            unread += 1
            with pytest.raises(OverloadedError):
                model.reserve("read", terms, [rng.randint(1, 100) for _ in range(texts)], 0.0)
    assert 100 < unread < 300


def test_idle_server_takes_a_call_of_any_size() -> None:
    """A call alone waits for nobody: the bound is for the work of others."""
    _, model = server(max_queue_seconds=0.1)
    model.reserve("a", Terms(0.0), [100] * 1000, 0.0)


def test_idle_server_refuses_only_the_hopeless() -> None:
    """An idle server learns only from what it runs: it doubts its own figures before it refuses."""
    _, model = server()
    model.reserve("a", Terms(0.0, deadline=0.06), [100], 0.0)
    model.release("a")
    assert isinstance(refusal(model, Terms(0.0, deadline=0.04), [100]), DeadlineUnreachableError)
    for _ in range(100):
        model.run_finished(model.run_started([("x", 100)], 0.0, more_wait=True), 0.8, clean=True)
    assert model.drift > 7
    model.reserve("a", Terms(0.0, deadline=0.06), [100], 0.0)


def test_higher_level_does_not_wait_for_lower_ones() -> None:
    """Work of lower priority is not in the way of a higher one, which is in the way of the lower."""
    _, model = server(max_queue_seconds=0.1)
    model.reserve("bulk", Terms(0.0, priority=5), [100] * 9, 0.0)
    model.reserve("urgent", Terms(0.0, priority=1, deadline=0.2), [100], 0.0)
    assert "1 s" in str(refusal(model, Terms(0.0, priority=5), [100]))


def test_callers_with_fair_shares_do_not_wait_for_each_others_queues() -> None:
    """A caller with nothing waiting is served in turn with one who has much; one with much waits for its own."""
    _, model = server(max_queue_seconds=0.2)
    model.reserve("bulk", Terms(0.0, fairness_key="bulk"), [100] * 9, 0.0)
    model.reserve("light", Terms(0.0, fairness_key="light", deadline=0.3), [100], 0.0)
    refusal(model, Terms(0.0, fairness_key="bulk"), [100])
    # Names are the callers' own: new ones by the dozen are no way around the bound.
    for number in range(20):
        try:
            model.reserve(number, Terms(0.0, fairness_key=str(number)), [100], 0.0)
        except QueueFullError:
            break
    else:
        pytest.fail("every new name was let in")


def test_earlier_deadline_does_not_wait_for_later_ones() -> None:
    """Texts without a deadline make room for a caller's urgent ones, as the queue does."""
    _, model = server()
    model.reserve("bulk", Terms(0.0), [100] * 50, 0.0)
    model.reserve("urgent", Terms(0.0, deadline=1.0), [100], 0.0)


def test_correction_follows_what_runs_take() -> None:
    """A machine that is three times as slow as it was is priced so after some runs, and when it recovers, too."""
    forecast, model = server()
    for slowness in (3.0, 1.0, 0.5):
        now = 0.0
        for _ in range(100):
            run = model.run_started([("x", 100)], now, more_wait=True)
            now += 0.1 * slowness
            model.run_finished(run, now, clean=True)
        assert model.drift == pytest.approx(slowness, rel=0.02)
    model.reserve("a", Terms(0.0), [100] * 10, 0.0)
    assert forecast.wait_seconds(0.0) == pytest.approx(0.5, rel=0.02)
    model.release("a")
    assert forecast.wait_seconds(0.0) == 0


def test_one_stalled_run_changes_little() -> None:
    """A run that took a hundred times as long as others is no slow machine, and a failed one is no measure."""
    _, model = server()
    model.run_finished(model.run_started([("x", 100)], 0.0, more_wait=True), 10.0, clean=True)
    assert model.drift < 1.5
    drift = model.drift
    model.run_finished(model.run_started([("x", 100)], 0.0, more_wait=True), 10.0, clean=False)
    assert model.drift == drift


def crowded(model: ModelForecast) -> None:
    """A flood with three full runs waiting, and three callers with a short text each."""
    for number in range(3):
        model.reserve(number, Terms(0.0, 2.4, fairness_key="flood"), [100], 0.0)
    for number in range(3):
        model.reserve(("other", number), Terms(0.0, 2.4, fairness_key=f"other {number}"), [40], 0.0)


def test_who_has_little_waiting_may_wait_for_longer_than_who_has_much() -> None:
    """A wait that is too long by what others have waiting is no reason to refuse a call; up to twice the bound."""
    _, model = server()
    crowded(model)
    refused = refusal(model, Terms(0.0, 2.4, fairness_key="flood"), [100])
    assert isinstance(refused, QueueFullError)
    # A full run of the flood and the three short texts: 0.22 s, where 0.2 s are allowed.
    model.reserve("modest", Terms(0.0, 2.4, fairness_key="modest"), [100], 0.0)
    model.reserve("urgent", Terms(0.0, 2.4, 1), [200], 0.0)
    assert isinstance(refusal(model, Terms(0.0, 2.4, fairness_key="new"), [100]), QueueFullError)


def test_bound_that_was_chosen_holds_for_all() -> None:
    """What the settings say of the longest wait is said of every call."""
    _, model = server(max_queue_seconds=0.2)
    crowded(model)
    assert isinstance(refusal(model, Terms(0.0, 2.4, fairness_key="modest"), [100]), QueueFullError)
