"""Plans of loaded encoders: measured, remembered, overridden by settings, and held against the memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

import pytest
from headwaiter_server.config import ServerSettings
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.calibration import Calibrator
from headwaiter_server.lifecycle.learning import Beside
from headwaiter_server.lifecycle.memory import TRIAL_PROCESS_BYTES, MemoryPlan
from headwaiter_server.lifecycle.plan import CalibrationPlan
from headwaiter_server.lifecycle.planning import Planner
from headwaiter_server.lifecycle.subject import Subject
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import EncoderModel, FloatArray, Graph
from headwaiter_server.scheduling.cost import PackedCost
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from .engines import CostlyEncoder, ThreadClock

TRUE = PackedCost(0.001, 0.0003, 2e-7)
RUNTIME = "1.2.3"
SESSION_BYTES = 90_000_000


class NoGraph:
    """A graph that nobody runs."""

    inputs: list[str]
    outputs: list[str]

    def run(self, *_: object) -> list[FloatArray]:
        raise AssertionError


class LargeGraph(bytes):
    """A graph of a gigabyte, as far as its length says."""

    def __len__(self) -> int:
        return 1_000_000_000


class SessionSized(bytes):
    """A graph as large as its session, as far as its length says."""

    def __len__(self) -> int:
        return SESSION_BYTES


class Bench:
    """A model on a machine of so many processors, which is twice as fast on all threads."""

    def __init__(
        self,
        models: Path,
        *,
        cpus: int = 2,
        graph: bytes = b"graph",
        limit_bytes: int | None = None,
        session_bytes: int = 0,
    ) -> None:
        self.models = models
        self.session_bytes = session_bytes
        self.cpus = cpus
        self.graph = graph
        self.limit_bytes = limit_bytes
        self.clock = ThreadClock()
        self.engine = CostlyEncoder(self.clock, lambda lengths: TRUE.seconds(sum(lengths)))
        self.opened: list[int] = []
        self.lone_models: WeakValueDictionary[int, CostlyEncoder] = WeakValueDictionary()
        self.beside: Beside | None = None
        self.metrics = Metrics()

    def resident(self) -> int:
        longest = max((sum(lengths) for lengths in list(self.engine.runs)), default=0)
        return 100_000_000 + self.session_bytes * len(self.lone_models) + 1000 * longest**2

    def open_graph(self, name: str, graph: bytes, threads: int) -> Graph:
        assert graph == self.graph
        self.opened.append(threads)
        return NoGraph()

    def build(self, graph: Graph) -> EncoderModel:
        model = CostlyEncoder(self.clock, lambda lengths: TRUE.seconds(sum(lengths)) / 2)
        self.lone_models[id(model)] = model
        return model

    def plan(self, **settings: object) -> tuple[CalibrationPlan, EncoderModel | None]:
        chosen = ServerSettings(models=self.models, **{"workers": self.cpus, **settings})  # type: ignore[arg-type]  # the test's own
        calibrator = Calibrator(chosen.effective_workers, self.clock, self.resident)
        memory = MemoryPlan(self.limit_bytes, self.resident)
        subject = Subject(
            name="m",
            folder=self.models / "m",
            model=self.engine,
            graph=self.graph,
            build=self.build,
            longest_tokens=256,
            make_text=lambda tokens: Encoding([1] * tokens),
        )
        self.planner = Planner(chosen, self.metrics, memory, self.open_graph, RUNTIME, calibrator, self.cpus)
        made = self.planner.plan(subject, self.beside)
        return made.calibration, made.lone_model

    @property
    def measured(self) -> bool:
        return bool(self.engine.runs)


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "headwaiter"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "m").mkdir(parents=True)
    return folder


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("calibration-*.json"))


def test_second_start_remembers_the_first(models: Path) -> None:
    """The same model on the same machine is measured once; the plan is the same to the last digit."""
    plan, _ = Bench(models).plan()
    again = Bench(models)
    assert again.plan()[0] == plan
    assert not again.measured
    assert len(kept(models / "m" / ".calibration")) == 1


@pytest.mark.parametrize("change", ["graph", "workers", "runtime", "headwaiter", "processors", "threads"])
def test_what_the_figures_depend_on_is_measured_anew(
    change: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another graph, machine, runtime or Headwaiter, or other threads: nothing that was measured before holds."""
    Bench(models).plan()
    again = Bench(models)
    settings: dict[str, int] = {}
    if change == "graph":
        again = Bench(models, graph=b"other")
    elif change == "workers":
        settings = {"workers": 1}
    elif change == "threads":
        settings = {"threads_per_run": 2}
    elif change == "processors":
        monkeypatch.setattr("headwaiter_server.lifecycle.learning.describe_cpus", lambda: "2 of another kind")
    elif change == "headwaiter":
        monkeypatch.setattr("headwaiter_server.lifecycle.learning.version", lambda package: f"next {package}")
    else:
        monkeypatch.setattr(f"{__name__}.RUNTIME", "1.2.4")
    again.plan(**settings)
    assert again.measured


def test_fresh_measures_and_remembers_and_off_does_neither(models: Path) -> None:
    """--calibration fresh renews what is kept; off guesses, and asks for no second session."""
    off = Bench(models)
    plan, lone = off.plan(calibration="off")
    assert not off.measured
    assert not kept(models / "m" / ".calibration")
    assert lone is None
    assert plan.budget_tokens == 128
    Bench(models).plan()
    before = kept(models / "m" / ".calibration")[0].stat().st_mtime_ns
    fresh = Bench(models)
    fresh.plan(calibration="fresh")
    assert fresh.measured
    assert kept(models / "m" / ".calibration")[0].stat().st_mtime_ns > before


def test_one_processor_changes_the_plan(models: Path) -> None:
    """With a quota of one processor there are no threads to add: a lone run is as any other."""
    two, lone_of_two = Bench(models, cpus=2).plan()
    assert two.lone_tokens == 8
    assert lone_of_two is not None
    single = Bench(models, cpus=1)
    one, lone_of_one = single.plan()
    assert one.lone_tokens is None
    assert lone_of_one is None
    assert single.opened == []


def test_lone_model_is_opened_when_the_plan_is_remembered(models: Path) -> None:
    """The second session is needed for serving, whether or not it was for measuring."""
    Bench(models).plan()
    again = Bench(models)
    plan, lone = again.plan()
    assert plan.lone_tokens == 8
    assert lone is not None
    assert again.opened == [2]


def test_settings_win_over_the_calibration(models: Path) -> None:
    """A budget and threads that somebody chose are used, and the calibration that is kept stays what was measured."""
    plan, lone = Bench(models).plan(max_batch_tokens=77, lone_run_threads=1)
    assert plan.budget_tokens == 77
    assert plan.lone_tokens is None
    assert lone is None
    always = Bench(models)
    plan, lone = always.plan(lone_run_threads=5)
    assert plan.lone_tokens == 1
    assert lone is not None
    assert always.opened[-1] == 5
    assert Bench(models).plan()[0].budget_tokens != 77


def test_read_only_model_folder_is_no_obstacle(models: Path, user_cache: Path) -> None:
    """What cannot be kept beside the model is kept in the user's cache, and what cannot be kept there is not kept."""
    (models / "m" / ".calibration").write_text("no folder", encoding="ascii")
    plan, _ = Bench(models).plan()
    assert len(kept(user_cache)) == 1
    again = Bench(models)
    assert again.plan()[0] == plan
    assert not again.measured
    kept(user_cache)[0].unlink()
    user_cache.rmdir()
    user_cache.write_text("no folder", encoding="ascii")
    assert Bench(models).plan()[0] == plan
    assert sorted(path.name for path in (models / "m").iterdir()) == [".calibration"]


def test_cache_folder_of_the_settings_is_the_only_one(models: Path, user_cache: Path, tmp_path: Path) -> None:
    """--calibration-cache names the folder, and nothing is written elsewhere."""
    Bench(models).plan(calibration_cache=tmp_path / "chosen")
    assert len(kept(tmp_path / "chosen")) == 1
    assert not user_cache.exists()
    assert not (models / "m" / ".calibration").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:100],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: text.replace('"format": 2', '"format": 1'),
        lambda text: text.replace('"budget_tokens": ', '"budget_tokens": -'),
        lambda text: text.replace('"fixed": ', '"fixed": 1e999, "was": '),
        lambda text: text.replace('"fixed": ', '"fixed": "x", "was": '),
        lambda text: text.replace('"graph_sha256": "', '"graph_sha256": "0'),
        lambda text: text.replace('"kind": "packed"', '"kind": "other"'),
    ],
)
def test_damaged_memory_is_ignored_and_renewed(
    damage: Callable[[str], str], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is cut off, of another format or model, or of nonsense costs a measurement, not the start."""
    plan, _ = Bench(models).plan()
    (path,) = kept(models / "m" / ".calibration")
    whole = path.read_text(encoding="utf-8")
    assert damage(whole) != whole
    path.write_text(damage(whole), encoding="utf-8")
    again = Bench(models)
    assert again.plan()[0] == plan
    assert again.measured
    assert path.read_text(encoding="utf-8") == whole
    assert "calibration_ignored" in capsys.readouterr().out


def test_disturbed_calibration_is_used_and_not_remembered(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures that make no sense together serve this start only: the next one measures again."""
    bench = Bench(models)
    bench.engine.seconds_of = lambda lengths: TRUE.seconds(sum(lengths)) * (2.5 if sum(lengths) in {16, 96, 256} else 1)
    assert bench.plan()[0].samples
    assert "calibration_disturbed" in capsys.readouterr().out
    assert not kept(models / "m" / ".calibration")
    again = Bench(models)
    again.plan()
    assert again.measured


def test_log_says_how_long_measuring_took(models: Path) -> None:
    """Once, when it was measured; a plan that is remembered took nothing."""
    with capture_logs() as log:
        bench = Bench(models)
        bench.plan()
        Bench(models).plan()
    (said,) = [each for each in log if each["event"] == "model_measured"]
    assert (said["model"], said["seconds"]) == ("m", round(bench.clock(), 3))
    assert said["seconds"] > 0


def test_plan_is_shown_in_metrics(models: Path) -> None:
    """Budget, terms and lone runs of each model can be scraped."""
    bench = Bench(models)
    plan, _ = bench.plan()
    bench.planner.show("m", plan)
    text = generate_latest(bench.metrics.registry).decode()
    assert f'headwaiter_calibration_budget_tokens{{model="m"}} {float(plan.budget_tokens)}' in text
    assert f'headwaiter_calibration_lone_tokens{{model="m"}} {float(plan.lone_tokens or 0)}' in text
    for name in ("full_run_seconds", "fixed_seconds", "linear_seconds", "quadratic_seconds"):
        assert f'headwaiter_calibration_{name}{{model="m"}}' in text


def test_plan_of_a_model_that_runs_alike_is_taken_over(models: Path) -> None:
    """Beside models that serve nothing is measured that one of them tells; the shapes are run once to warm them up."""
    known = Bench(models).plan(calibration="fresh")[0]
    shutil.rmtree(models / "m" / ".calibration")
    bench = Bench(models)
    bench.beside = Beside(known)
    plan, _ = bench.plan()
    assert plan == known
    runs = sorted(sum(lengths) for lengths in bench.engine.runs)
    assert runs == sorted(each.tokens for each in known.samples if each.tokens <= known.budget_tokens)
    assert not kept(models / "m" / ".calibration")


def test_model_like_no_other_is_measured_gently(models: Path, user_cache: Path) -> None:
    """Beside models that serve a new one is measured run by run on one thread; that is nothing to remember."""
    bench = Bench(models)
    bench.beside = Beside(None)
    plan, lone_model = bench.plan()
    assert plan.samples
    assert lone_model is None
    assert bench.opened == []
    assert not kept(models / "m" / ".calibration")
    assert not kept(user_cache)


def test_remembered_plan_wins_over_one_that_is_alike(models: Path) -> None:
    """What was measured for this very graph is nearer to the truth than what another one takes."""
    own = Bench(models).plan()[0]
    bench = Bench(models)
    bench.beside = Beside(replace(own, budget_tokens=own.budget_tokens + 1))
    assert bench.plan()[0] == own


def test_table_is_for_people(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table is printed where logs are text, and only there."""
    bench = Bench(models)
    plan = bench.plan(log_format="json")[0]
    bench.planner.show("m", plan)
    assert "tokens a run" not in capsys.readouterr().err
    bench = Bench(models)
    plan = bench.plan(log_format="text")[0]
    bench.planner.show("m", plan)
    assert "m: up to" in capsys.readouterr().err


def test_model_that_does_not_fit_is_refused(models: Path) -> None:
    """A model whose largest runs exceed the limit is named with the figures, also when it was measured before."""
    for bench in (Bench(models, limit_bytes=150_000_000), Bench(models, limit_bytes=150_000_000)):
        with pytest.raises(BundleError, match=r"take \d+ MiB, .* the limit is 143 MiB: allow more memory, or lower"):
            bench.plan()
    Bench(models, limit_bytes=500_000_000).plan()
    Bench(models, limit_bytes=None).plan()


@pytest.mark.parametrize("remembered", [False, True])
def test_session_for_lone_runs_is_no_room_for_others(models: Path, *, remembered: bool) -> None:
    """A second session's memory and its runs come on top of what the largest runs take, which come first."""
    largest = {"max_batch_tokens": 2048}  # of which calibration tries a quarter
    plan = Bench(models).plan(**largest)[0]
    run_bytes, lone_bytes = plan.run_bytes(256), replace(plan, budget_tokens=256).run_bytes(256) // 2
    needed_bytes = 100_000_000 + SESSION_BYTES + run_bytes + lone_bytes + TRIAL_PROCESS_BYTES
    if remembered:
        Bench(models, graph=SessionSized()).plan(**largest)
    for spare_bytes in (-lone_bytes // 2, lone_bytes // 2):
        # What a start decides, the next one decides as well: what it has measured is in neither's way.
        for first in (True, False):
            limit_bytes = needed_bytes + spare_bytes
            bench = Bench(models, limit_bytes=limit_bytes, session_bytes=SESSION_BYTES, graph=SessionSized())
            plan, lone_model = bench.plan(calibration="fresh" if first and not remembered else "on", **largest)
            assert (lone_model is None) == (plan.lone_tokens is None) == (spare_bytes < 0)
            assert bench.opened == ([] if spare_bytes < 0 else [2])
            assert bench.measured == (first and not remembered)


@pytest.mark.parametrize("threads", ["auto", 2])
@pytest.mark.parametrize("remembered", [False, True])
def test_lone_runs_are_left_out_where_a_second_session_has_no_room(
    models: Path, threads: str | int, *, remembered: bool
) -> None:
    """A model that fits without them serves without them, instead of being killed for a second copy of its weights."""
    graph, tight, ample = LargeGraph(b"graph"), 2_000_000_000, 4_000_000_000
    if remembered:
        Bench(models, graph=graph).plan()
    with capture_logs() as logs:
        bench = Bench(models, graph=graph, limit_bytes=tight)
        plan, lone_model = bench.plan(lone_run_threads=threads)
    assert (plan.lone_tokens, lone_model, bench.opened) == (None, None, [])
    (said,) = [each for each in logs if each["event"] == "lone_runs_left_out"]
    assert (said["model"], said["limit_bytes"]) == ("m", tight)
    assert said["needed_bytes"] >= 2 * len(graph)
    assert bench.measured != remembered
    # What was measured without them is remembered, too, and hides nothing where there is room.
    again, roomy = Bench(models, graph=graph, limit_bytes=tight), Bench(models, graph=graph, limit_bytes=ample)
    assert again.plan(lone_run_threads=threads)[0].lone_tokens is None
    assert not again.measured
    plan, lone_model = roomy.plan(lone_run_threads=threads)
    assert (plan.lone_tokens is None, lone_model is None, roomy.opened) == (False, False, [2])


def test_model_that_does_not_run_is_refused(models: Path) -> None:
    """What the engine raises while it is measured keeps the model from serving, by name."""
    bench = Bench(models)
    bench.engine.seconds_of = lambda lengths: 1 / 0
    with pytest.raises(BundleError, match="'m' does not run: division by zero"):
        bench.plan()


def test_kept_file_says_what_it_is_for(models: Path) -> None:
    """Machine, versions and graph stand in the file, for a person who wonders."""
    Bench(models).plan()
    record = json.loads(kept(models / "m" / ".calibration")[0].read_text(encoding="utf-8"))
    assert record["key"]["onnxruntime"] == RUNTIME
    assert record["key"]["workers"] == 2
    assert len(record["key"]["graph_sha256"]) == 64
