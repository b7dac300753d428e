"""What the live page is told: counts as rates, quantiles and shares; and the routes that tell it."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from headwaiter.cli import cli
from headwaiter_server.metrics import OTHER, CallFacts, Metrics, definitions, site
from headwaiter_server.metrics.growth import worked_on
from headwaiter_server.metrics.live import answer, figures, within
from headwaiter_server.metrics.messages import Request, Response, Route
from headwaiter_server.metrics.sampling import ModelSample, Observations, Sample, Sampler
from headwaiter_server.metrics.situation import ModelFacts, Situation
from hypothesis import example, given
from hypothesis import strategies as st

METHOD = "headwaiter.v1.InferenceService/Embed"
BOUNDS = (0.01, 0.1, 1.0)
WORKERS = 2
PAGE = Path(site.__file__).parent / "page"
EMPTY = Observations([0, 0, 0, 0], 0.0)
NOTHING = ModelSample(
    calls=0,
    failed_calls=0,
    failures={},
    texts=0,
    source_tokens=0,
    generated_tokens=0,
    computed_tokens=0,
    padding_tokens=0,
    cpu_seconds=0,
    wasted_cpu_seconds=0,
    queue_depth=0,
    running_texts=0,
    predicted_wait_seconds=None,
    kv_cache_bytes=0,
    kv_cache_limit_bytes=0,
    request_seconds=EMPTY,
    queue_seconds=EMPTY,
    inference_seconds=EMPTY,
    first_token_seconds=EMPTY,
    inter_token_seconds=EMPTY,
    batch_size=EMPTY,
    batch_tokens=EMPTY,
)
SITUATION = Situation(
    run="first",
    started=1000.0,
    version="1.2.3",
    state="ready",
    workers=WORKERS,
    slo_seconds=0.1,
    targets=["127.0.0.1:8001"],
    models=[ModelFacts("m", "embed", 128)],
)


def sample(at: float, busy_seconds: float = 0.0, /, **models: ModelSample) -> Sample:
    """A sample whose wall clock began at 1000."""
    return Sample(
        at=at,
        unix_seconds=1000 + at,
        busy_seconds=busy_seconds,
        saturation_ratio=0.0,
        event_loop_lag_seconds=0.0,
        calls_started=0,
        calls_in_flight=3,
        calls_held=0,
        texts_held=0,
        models=models,
    )


def durations(*counts: int) -> ModelSample:
    return replace(NOTHING, calls=sum(counts), request_seconds=Observations(counts, 0.0))


def asked(samples: Sequence[Sample], *, model: str = "", since: float = 0.0) -> dict[str, Any]:
    return answer(samples, SITUATION, BOUNDS, model=model, since=since)


def ticking(seconds: int) -> list[Sample]:
    """A sample each second, with ten calls more in each."""
    return [sample(at, m=replace(NOTHING, calls=10 * at)) for at in range(1, seconds + 1)]


def test_rates_are_growth_by_the_time_it_took() -> None:
    """A late sample makes no rate too high."""
    older = sample(10, m=replace(NOTHING, calls=100, failed_calls=1, texts=200, source_tokens=1000))
    newer = sample(14, m=replace(NOTHING, calls=140, failed_calls=3, texts=300, source_tokens=2000))
    found = figures(older, newer, WORKERS, BOUNDS, "m")
    assert {name: found[name] for name in ("calls", "errors", "texts", "source_tokens")} == {
        "calls": 10,
        "errors": 0.5,
        "texts": 25,
        "source_tokens": 250,
    }


def test_generated_tokens_are_told_as_they_come() -> None:
    """Each token counts in the second in which it came, whatever becomes of its call; first ones apart from others."""
    before = replace(NOTHING, first_token_seconds=Observations([5, 0, 0, 0], 0.0))
    after = replace(
        before,
        generated_tokens=1000,
        first_token_seconds=Observations([5, 4, 0, 0], 0.2),
        inter_token_seconds=Observations([8, 0, 0, 0], 0.04),
    )
    found = figures(sample(1, m=before), sample(3, m=after), WORKERS, BOUNDS, "m")
    assert found["generated_tokens"] == (4 + 8) / 2
    told = [found[name] for name in ("first_p50", "next_p50", "first_p99", "next_p99")]
    assert told == pytest.approx([0.055, 0.005, 0.0991, 0.0099])


def test_memory_for_keys_and_values_is_a_share_of_what_there_is() -> None:
    """Of several models together it is that of all of theirs; of one that does not generate there is none."""
    one = replace(NOTHING, kv_cache_bytes=100, kv_cache_limit_bytes=200)
    other = replace(NOTHING, kv_cache_bytes=0, kv_cache_limit_bytes=600)
    newer = sample(2, one=one, other=other, encoder=NOTHING)
    told = {model: figures(sample(1), newer, WORKERS, BOUNDS, model)["kv_cache"] for model in (*newer.models, "")}
    assert told == {"one": 0.5, "other": 0.0, "encoder": None, "": 0.125}


@pytest.mark.parametrize(("model", "generates"), [("", True), ("g", True), ("m", False), ("unknown", False)])
def test_the_page_is_told_whether_what_is_chosen_generates(model: str, generates: bool) -> None:  # noqa: FBT001
    """Only then it has figures of generation to show."""
    situation = replace(SITUATION, models=[ModelFacts("m", "embed"), ModelFacts("g", "generate")])
    told: Any = answer(ticking(2), situation, BOUNDS, model=model)
    assert told["generates"] is generates
    assert asked(ticking(2))["generates"] is False


def test_quantiles_are_those_of_the_time_between() -> None:
    """What was observed before counts for nothing; within a bucket the estimate goes up in a straight line."""
    found = figures(sample(1, m=durations(1000, 0, 0, 0)), sample(2, m=durations(1000, 10, 90, 0)), WORKERS, BOUNDS)
    assert found["p50"] == pytest.approx(0.1 + 0.9 * 40 / 90)
    assert found["p90"] == pytest.approx(0.1 + 0.9 * 80 / 90)
    assert found["p99"] == pytest.approx(0.1 + 0.9 * 89 / 90)


def test_what_is_beyond_the_last_bound_is_told_as_that_bound() -> None:
    """Nothing is known of how far beyond; Prometheus says the same."""
    assert figures(sample(1, m=NOTHING), sample(2, m=durations(0, 0, 0, 5)), WORKERS, BOUNDS)["p50"] == 1.0


def test_what_did_not_happen_has_no_figure() -> None:
    """Without calls there is no latency, without runs no batch and no padding: None, which is not 0."""
    found = figures(sample(1, m=NOTHING), sample(2, m=NOTHING), WORKERS, BOUNDS)
    assert {name for name, figure in found.items() if figure is None} == {
        *("p50", "p90", "p99", "first_p50", "first_p99", "next_p50", "next_p99"),
        *("run_texts", "run_tokens", "padding", "wait", "kv_cache"),
    }
    assert found["calls"] == 0


def test_means_of_runs_and_the_share_of_padding() -> None:
    """Runs are counted by their histograms; padding is a share of all that was computed."""
    before = replace(NOTHING, batch_size=Observations([1, 0], 3.0), batch_tokens=Observations([1], 40.0))
    after = replace(
        before,
        batch_size=Observations([2, 3], 19.0),
        batch_tokens=Observations([5], 440.0),
        computed_tokens=500,
        padding_tokens=100,
    )
    found = figures(sample(1, m=before), sample(2, m=after), WORKERS, BOUNDS)
    assert (found["run_texts"], found["run_tokens"], found["padding"]) == (4.0, 100.0, 0.2)


@pytest.mark.parametrize(("busy_seconds", "saturation"), [(5.0, 0.0), (6.5, 0.75), (7.0, 1.0), (7.1, 1.0)])
def test_saturation_is_the_busy_part_of_all_workers(busy_seconds: float, saturation: float) -> None:
    """Two workers have two seconds in each; rounding never makes it more than all."""
    found = figures(sample(1, 5.0), sample(2, busy_seconds), WORKERS, BOUNDS)
    assert found["saturation"] == saturation


def test_gauges_are_those_of_the_newer_sample() -> None:
    """Depth, running texts and the wait are as they are now; of several models the longest wait is told."""
    one = replace(NOTHING, queue_depth=3, running_texts=2, predicted_wait_seconds=0.25)
    other = replace(NOTHING, queue_depth=5, running_texts=1, predicted_wait_seconds=0.5)
    older = sample(1, one=replace(one, queue_depth=99), other=other)
    for model, expected in (("one", (3, 2, 0.25)), ("other", (5, 1, 0.5)), ("", (8, 3, 0.5)), ("none", (0, 0, None))):
        found = figures(older, sample(2, one=one, other=other), WORKERS, BOUNDS, model)
        assert (found["queue"], found["running"], found["wait"]) == expected


def test_a_model_that_came_in_between_counts_from_nothing() -> None:
    """A model loaded since the older sample had no calls then; one that began anew has no negative rate."""
    assert figures(sample(1), sample(2, m=durations(4, 0, 0, 0)), WORKERS, BOUNDS)["calls"] == 4
    again = figures(sample(1, m=durations(9, 0, 0, 0)), sample(2, m=durations(4, 0, 0, 0)), WORKERS, BOUNDS)
    assert (again["calls"], again["p50"]) == (0, None)


@given(
    counts=st.lists(st.tuples(*[st.integers(0, 50)] * 4), min_size=2, max_size=2),
    model=st.sampled_from(["", "one", "other"]),
)
@example(counts=[(0, 0, 0, 0), (0, 0, 13, 13)], model="")  # whose median is rounded up
def test_all_models_together_are_the_sum_of_each(counts: list[tuple[int, int, int, int]], model: str) -> None:
    """Rates of the whole are the sum of the rates of its parts, and quantiles keep their order."""
    older, newer = sample(1), sample(2, one=durations(*counts[0]), other=durations(*counts[1]))
    rates = {name: figures(older, newer, WORKERS, BOUNDS, name)["calls"] or 0 for name in ("", "one", "other")}
    assert rates[""] == rates["one"] + rates["other"]
    found = figures(older, newer, WORKERS, BOUNDS, model)
    quantiles = [found["p50"], found["p90"], found["p99"]]
    assert quantiles == ([None] * 3 if not rates[model] else sorted(quantiles, key=lambda each: each or 0))


def test_the_share_within_a_bound_is_exact() -> None:
    """The objective is one of the bounds, so no estimate is needed."""
    assert within(BOUNDS, [90, 9, 1, 0], 0.1) == 0.99
    assert within(BOUNDS, [0, 0, 0, 0], 0.1) is None


def test_refused_calls_are_the_shortest_and_count_in_no_latency() -> None:
    """They are taken from the shortest durations, over as many buckets as it takes; none are left where all were."""
    assert worked_on([90, 9, 1, 0], 0) == [90, 9, 1, 0]
    assert worked_on([90, 9, 1, 0], 80) == [10, 9, 1, 0]
    assert worked_on([3, 9, 1, 0], 5) == [0, 7, 1, 0]
    assert worked_on([3, 0, 0, 0], 5) == [0, 0, 0, 0]


def test_an_overload_does_not_look_fast() -> None:
    """Quantiles and the share in time are of the same calls: of those that were worked on, however they ended."""
    worked = replace(durations(0, 50, 50, 0), failed_calls=10, failures={"DEADLINE_EXCEEDED": 10.0})
    flooded = replace(durations(900, 50, 50, 0), failed_calls=910, failures={**worked.failures, "UNAVAILABLE": 900.0})
    calm, crowd = (asked([sample(1, m=NOTHING), sample(2, m=each)])["now"] for each in (worked, flooded))
    assert [crowd[each] for each in ("p50", "p90", "p99")] == [calm[each] for each in ("p50", "p90", "p99")]
    assert crowd["within_slo"] == calm["within_slo"] == 0.5
    points = asked([sample(1, m=NOTHING), sample(2, m=flooded)])["points"]
    assert points["p50"] == [calm["p50"]]


def test_the_first_answer_holds_everything_and_the_next_what_is_new() -> None:
    """A page gets each point once, however often it asks: from `last` on."""
    samples = ticking(5)
    first = asked(samples[:3])
    assert first["times"] == [1002.0, 1003.0]
    assert first["points"]["calls"] == [10, 10]
    then = asked(samples, since=first["last"])
    assert then["times"] == [1004.0, 1005.0]
    assert asked(samples, since=then["last"])["times"] == []
    assert {len(column) for column in then["points"].values()} == {2}


def test_a_page_that_was_away_for_longer_gets_what_is_left() -> None:
    """When the samples a page knows have gone, it gets all there are."""
    assert asked(ticking(9)[5:], since=2.0)["times"] == [1007.0, 1008.0, 1009.0]


def test_before_there_are_samples() -> None:
    """A server that has just begun has no figures, and says so without failing."""
    for samples in ([], ticking(1)):
        told = asked(samples)
        assert (told["times"], told["points"], told["now"]) == ([], {}, {"seconds": 0.0})
        json.dumps(told, allow_nan=False)


def test_a_gap_breaks_the_lines() -> None:
    """Where samples are missing a point without figures stands between; the rate after it is the mean over the gap."""
    samples = ticking(10)
    told = asked([*samples[:2], *samples[6:8]])
    assert told["times"] == [1002.0, 1004.5, 1007.0, 1008.0]
    assert told["points"]["calls"] == [10, None, 10, 10]


def test_now_is_the_mean_of_the_last_ten_seconds() -> None:
    """Tiles show what the last ten seconds were like, with the codes that were not OK and the share in time."""
    quiet = [sample(at, m=NOTHING) for at in range(1, 51)]
    busy = replace(durations(80, 10, 10, 0), failed_calls=6, failures={"UNAVAILABLE": 5.0, "NOT_FOUND": 1.0}, texts=100)
    now = asked([*quiet, sample(51, m=busy)])["now"]
    assert now["seconds"] == 10.0
    assert (now["calls"], now["errors"], now["texts"]) == (10, 0.6, 10)
    assert now["codes"] == {"UNAVAILABLE": 0.5, "NOT_FOUND": 0.1}
    assert now["within_slo"] == pytest.approx(1 - 10 / 94)
    assert now["in_flight"] == 3
    later = [sample(at, m=busy) for at in range(52, 63)]
    now = asked([*quiet, sample(51, m=busy), *later])["now"]
    assert (now["calls"], now["codes"], now["within_slo"]) == (0, {}, None)


def test_calls_in_flight_belong_to_no_model() -> None:
    """Whose model a call is for shows when it is answered: of one model nothing is said."""
    assert asked(ticking(3), model="m")["now"]["in_flight"] is None


def test_choices_are_the_models_and_calls_of_none() -> None:
    """Each model once, in order, with its first call; calls that reached no model only when there were some."""
    models = [ModelFacts("zeta", "generate"), ModelFacts("it's", "embed", 96), ModelFacts("zeta", "generate")]
    situation = replace(SITUATION, models=models)
    told: Any = answer(ticking(2), situation, BOUNDS)
    assert [each["name"] for each in told["models"]] == ["it's", "zeta"]
    command = told["models"][0]["command"]
    assert command == ("echo 'Hello, world' | headwaiter embed --model 'it'\"'\"'s' --target", "")
    with_others: Any = answer([sample(1, **{OTHER: durations(1, 0, 0, 0)})], situation, BOUNDS)
    assert with_others["models"][-1] == {"name": OTHER, "title": "Calls of no model", "command": ()}


@pytest.mark.parametrize("task", ["generate", "embed", "classify", "tag", "rerank"])
def test_first_calls_are_commands_that_there_are(task: str) -> None:
    """The client's command takes what the page says to type, for a model of every task that has one."""
    before, after = ModelFacts("m", task).first_call()
    words = shlex.split(f"{before} 127.0.0.1:8001 {after}".rpartition("|")[2])
    assert words[0] == "headwaiter"
    context = cli.commands[words[1]].make_context(words[1], words[2:])
    assert (context.params["model"], context.params["target"]) == ("m", "127.0.0.1:8001")
    assert ModelFacts("m", "tensor").first_call() == ()


def test_a_call_of_no_model_is_no_first_call() -> None:
    """Somebody who listed the models has not yet seen a figure: the page goes on saying how to send a call."""
    samples = [sample(1, m=durations(2, 0, 0, 0), **{OTHER: durations(5, 0, 0, 0)})]
    assert [asked(samples, model=model)["calls"] for model in ("", "m", OTHER, "unknown")] == [2, 2, 5, 0]


@pytest.mark.parametrize(("model", "budget"), [("", None), ("a", 96), ("b", None), ("unknown", None)])
def test_the_budget_is_of_one_model(model: str, budget: float | None) -> None:
    """Of several models together there is none; of the only one it is shown without its being chosen."""
    two = replace(SITUATION, models=[ModelFacts("a", "embed", 96), ModelFacts("b", "generate")])
    assert answer(ticking(2), two, BOUNDS, model=model)["budget_tokens"] == budget
    assert asked(ticking(2))["budget_tokens"] == 128


def test_answers_are_small() -> None:
    """What a page asks for each second is a kilobyte, and all 15 minutes are less than 200, however odd the figures."""
    odd = [
        sample(
            at,
            at / 3,
            m=replace(
                durations(*(round(at * share) for share in (7.7, 31.3, 77.7, 3.3))),
                texts=at * 1234.5678,
                source_tokens=at * 98765.4321,
                batch_size=Observations([at], at * 3.1415926),
                batch_tokens=Observations([at], at * 31.415926),
                predicted_wait_seconds=1 / (at + 3),
            ),
        )
        for at in range(1, 901)
    ]
    assert len(json.dumps(asked(odd), separators=(",", ":"))) < 200_000
    assert len(json.dumps(asked(odd, since=899.0), separators=(",", ":"))) < 1500


@dataclass
class Clock:
    """A clock that is set by hand."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sampler(clock: Clock) -> Sampler:
    """A sampler of real metrics, of which each sample is taken by hand."""
    metrics = Metrics()
    metrics.watch(definitions.WORKERS, lambda: float(WORKERS))
    return Sampler(metrics, clock, clock)


@pytest.fixture
def routes(sampler: Sampler) -> dict[str, Route]:
    return site.routes(sampler, lambda: SITUATION)


def fetched(routes: dict[str, Route], path: str, query: str = "") -> Response:
    return routes[path](Request(path, query=query))


def live(routes: dict[str, Route], query: str = "") -> dict[str, Any]:
    told: dict[str, Any] = json.loads(fetched(routes, "/live.json", query).body)
    return told


def test_the_route_tells_what_was_recorded(sampler: Sampler, clock: Clock, routes: dict[str, Route]) -> None:
    """From a recorded call to the figure on the page: per second, and for the model that is asked for."""
    sampler.take()
    for code in ("OK", "OK", "OK", "UNAVAILABLE"):
        sampler.metrics.call_started(METHOD)
        sampler.metrics.call_finished(CallFacts(METHOD, "m", "1", code, seconds=0.004, texts=2 * (code == "OK")))
    clock.now += 2
    sampler.take()
    told = live(routes, "model=m")
    assert (told["points"]["calls"], told["points"]["errors"], told["points"]["texts"]) == ([2], [0.5], [3])
    assert 0.0025 < told["points"]["p50"][0] <= 0.005
    assert told["now"]["codes"] == {"UNAVAILABLE": 0.5}
    assert live(routes, "model=other")["points"]["calls"] == [0]


def test_a_page_of_another_run_gets_everything(sampler: Sampler, clock: Clock, routes: dict[str, Route]) -> None:
    """After a restart the clock may stand anywhere: what a page knows of another run counts for nothing."""
    for _ in range(3):
        sampler.take()
        clock.now += 1
    last = live(routes)["last"]
    assert live(routes, f"since={last!r}&run={SITUATION.run}")["times"] == []
    assert len(live(routes, f"since={last!r}&run=another")["times"]) == 2
    assert len(live(routes, f"since={last!r}")["times"]) == 2


@pytest.mark.parametrize("since", ["x", "nan", "inf", "1e999"])
def test_a_since_that_is_no_number_is_refused(routes: dict[str, Route], since: str) -> None:
    """What cannot be compared is the asker's mistake, not an error of the server."""
    assert fetched(routes, "/live.json", f"since={since}").status is HTTPStatus.BAD_REQUEST


def test_every_file_of_the_page_is_a_route(routes: dict[str, Route]) -> None:
    """Each file is there under /page/ with its type, the document at /, and nothing else."""
    files = {path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file()}
    assert files >= {"index.html", "page.js", "page.css", "vendor/uplot/LICENSE", "vendor/uplot/VENDORED"}
    assert set(routes) == {"/", "/live.json", *(f"/page/{name}" for name in files - {"index.html"})}
    assert fetched(routes, "/").content_type.startswith("text/html")
    assert fetched(routes, "/page/page.js").content_type.startswith("text/javascript")


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(routes: dict[str, Route]) -> None:
    """Every answer carries the policy: nothing is allowed but files and figures of this port."""
    for path in routes:
        policy = fetched(routes, path).headers["Content-Security-Policy"]
        directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
        assert directives.pop("default-src") == "'none'"
        assert set(directives.values()) == {"'self'", "'none'"}


def test_vendored_files_are_those_that_were_noted() -> None:
    """What was taken from elsewhere is unchanged: each file has the digest that stands beside it."""
    folder = PAGE / "vendor" / "uplot"
    lines = (folder / "VENDORED").read_text().splitlines()
    noted = {name: digest for digest, _, name in (line.partition("  ") for line in lines) if len(digest) == 64}
    assert set(noted) == {path.name for path in folder.iterdir()} - {"VENDORED"}
    assert noted == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in noted}
