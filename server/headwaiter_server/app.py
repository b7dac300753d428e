"""The server put together: its parts are constructed, started and ended here, in order; its models' in `wiring`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TypeVar

from headwaiter_server.access.watch import AccessWatch
from headwaiter_server.allocator import give_back_after_peaks, hold_no_freed_memory
from headwaiter_server.config import AUTO, ServerSettings, split_address
from headwaiter_server.errors import ConfigError, DrainingError, HeadwaiterError
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.lifecycle.manager import Manager
from headwaiter_server.lifecycle.memory import memory_limit_bytes, resident_bytes
from headwaiter_server.lifecycle.poller import Poller
from headwaiter_server.lifecycle.trial import open_trials
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import Metrics, MetricsEndpoint, definitions, endpoint, site
from headwaiter_server.metrics.loop_lag import LoopLag
from headwaiter_server.metrics.rendering import Renderer
from headwaiter_server.metrics.sampling import Sampler
from headwaiter_server.metrics.situation import Situation
from headwaiter_server.model.session import RUNTIME_VERSION
from headwaiter_server.pipeline import Pipeline, ResponseCache
from headwaiter_server.rpc.edge import Edge
from headwaiter_server.rpc.inference import SERVICE_NAME, InferenceService
from headwaiter_server.rpc.open_inference.config import Configs, Setup
from headwaiter_server.rpc.open_inference.infer import Inference
from headwaiter_server.rpc.open_inference.metadata import Metadata, extensions
from headwaiter_server.rpc.open_inference.repository import Repository
from headwaiter_server.rpc.open_inference.service import SERVICE_NAME as OPEN_SERVICE_NAME
from headwaiter_server.rpc.open_inference.service import OpenInferenceService
from headwaiter_server.rpc.open_inference.settings import Settings
from headwaiter_server.rpc.open_inference.shared_memory import SharedMemory
from headwaiter_server.rpc.open_inference.statistics import Statistics
from headwaiter_server.rpc.server import WHOLE_SERVER, GrpcServer
from headwaiter_server.scheduling.admission import RETRY_SECONDS, Admission
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.forecast import Forecast
from headwaiter_server.shared_memory import Regions
from headwaiter_server.tracing import open_tracing
from headwaiter_server.wiring import Wiring, model_facts, watch, watch_cache
from headwaiter_server.wiring.security import open_security

_log = get_logger(__name__)

Result = TypeVar("Result")

# A worker that comes back from onnxruntime waits at most this long for the interpreter lock; the default of 5 ms is
# longer than many runs.
_SWITCH_INTERVAL_SECONDS = 0.0005
# After the drain, what gRPC may take to send the last answers.
_LAST_ANSWERS_SECONDS = 1.0
# After everybody was answered, what a run under way may take to end.
_LAST_RUNS_SECONDS = 5.0
# Then, what the collector of traces may take for the last of them.
_LAST_SPANS_SECONDS = 2.0


class Server:
    """A whole server. `start`, `drain`, `close`, in this order and once; `close` also when `start` has failed."""

    def __init__(
        self, settings: ServerSettings, stop: asyncio.Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Put the parts together. Needs a running event loop, starts nothing but the thread that sends traces.

        Args:
            settings: The settings.
            stop: Set by whoever wants the server to end; it sets it itself when its scheduler has crashed.
            clock: The scheduler's clock.

        Raises:
            ConfigError: Traces are wanted, and cannot be made; or a certificate, a token or the access file cannot be
                used.
        """
        self._settings = settings
        self._security = open_security(settings)
        self._access = (
            AccessWatch(settings.access_file, health_open=settings.health_access == "open", clock=clock)
            if settings.access_file is not None
            else None
        )
        gate = self._access.gate if self._access is not None else None
        self._stop = stop
        # Kept, as it is looked up in files, and the live page asks every second.
        self._version = version("headwaiter")
        self.metrics = Metrics(settings.slo_seconds)
        self.admission = Admission(
            settings.max_calls, settings.max_call_bytes, settings.max_waiting_texts, shared=gate is not None
        )
        self.dispatcher = Dispatcher(settings.effective_workers, on_crash=self._on_crash, clock=clock)
        bound = settings.max_queue_seconds
        self.forecast = Forecast(settings.effective_workers, None if bound == AUTO else bound)
        self.cache = ResponseCache(settings.cache_bytes, self.metrics) if settings.cache_bytes else None
        self._catalog = Catalog()
        self._trials = open_trials(settings, RUNTIME_VERSION)
        self._tasks: set[asyncio.Task[None]] = set()
        self._tracing = open_tracing(
            settings.otlp_endpoint, settings.trace_sample_ratio, self._version, self.dispatcher.clock
        )
        self._manager = Manager(
            settings.models,
            settings.version_policies,
            settings.variant,
            catalog=self._catalog,
            workshop=Wiring(settings, self.dispatcher, self.forecast, self.metrics, self._tracing, self.cache),
            trial=self._trials,
            metrics=self.metrics,
            set_serving=self._set_serving,
        )
        self._edge = Edge(self.admission, self.metrics, clock, self._tracing, gate)
        pipeline = Pipeline(
            self._catalog,
            self.dispatcher,
            self.metrics,
            settings.max_texts,
            self.cache,
            settings.nonfinite_inputs,
        )
        shared_memory = SharedMemory(Regions() if settings.shared_memory_enabled else None)
        open_service = OpenInferenceService(
            Inference(pipeline, shared_memory),
            lambda: self._ready,
            # Each part of the protocol gives its methods by name.
            questions={
                **Metadata(
                    pipeline,
                    self._version,
                    lambda: self._ready,
                    extensions(
                        control=settings.effective_model_control == "explicit", shared_memory=shared_memory.enabled
                    ),
                ).methods(),
                **Configs(
                    pipeline,
                    Setup(
                        workers=settings.effective_workers,
                        batching=settings.batching,
                        batch_delay_seconds=settings.batch_delay_seconds,
                        cached=settings.cache_bytes > 0,
                        version_policy=lambda name: str(self._manager.policy(name)),
                    ),
                ).methods(),
                **Statistics(pipeline).methods(),
                **Settings(
                    pipeline,
                    control=settings.effective_model_control,
                    sampled=settings.trace_sample_ratio if self._tracing is not None else None,
                ).methods(),
                **shared_memory.methods(),
                **Repository(self._manager, control=settings.effective_model_control).methods(),
            },
            calls={},
        )
        self._grpc = GrpcServer(
            [InferenceService(pipeline).handlers(self._edge), open_service.handlers(self._edge)],
            [SERVICE_NAME, OPEN_SERVICE_NAME],
            max_message_bytes=settings.max_message_bytes,
            max_streams=settings.max_streams,
            max_arriving_bytes=settings.max_arriving_bytes,
            memory_limit_bytes=memory_limit_bytes(settings),
            listeners=len(settings.listen),
            identity=self._security.grpc,
            gate=gate,
        )
        self._loop_lag = LoopLag()
        self._sampler = Sampler(self.metrics, clock)
        self._run, self._started = secrets.token_hex(8), time.time()
        self._metrics_endpoint: MetricsEndpoint | None = None
        self.crashed = False
        self.grpc_addresses: list[str] = []
        self.metrics_address = ""

    @property
    def _ready(self) -> bool:
        """Whether the server takes requests: it listens, and has not been told to end."""
        return bool(self.grpc_addresses) and not self._stop.is_set()

    @property
    def models(self) -> list[ServedModel]:
        """The models that serve."""
        return self._catalog.all()

    async def start(self) -> None:
        """Load the models, then listen.

        Raises:
            BundleError: A model failed to load.
            ConfigError: An address cannot be had.
        """
        sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
        hold_no_freed_memory()
        self.metrics.build(self._version, RUNTIME_VERSION)
        watch(self.metrics, self._catalog, self.admission, self.dispatcher, self.forecast)
        if self.cache is not None:
            watch_cache(self.metrics, self.cache)
        self._security.watch(self.metrics)
        if (access := self._access) is not None:
            self.metrics.watch(definitions.ACCESS_RELOAD_FAILING, lambda: float(access.failing))
            if self._security.grpc is None and not self._settings.local_only:
                _log.warning("tokens_in_clear_text", listeners=self._settings.listen)
            self._keep(access.run())
        self.metrics.watch(definitions.EVENT_LOOP_LAG_SECONDS, self._loop_lag.seconds)
        self.metrics.watch(definitions.EVENT_LOOP_TASKS, lambda: float(self._loop_lag.tasks))
        self._loop_lag.start()
        self._sampler.start()
        self._listen_for_metrics()
        # As many threads for tokenizing as there are processors to run them; the default counts the host's.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self.dispatcher.workers))
        found = await self._until_stopped(
            self._manager.start(allow_partial=self._settings.allow_partial, chosen=self._settings.models_at_start)
        )
        if found is None:
            return
        self.grpc_addresses = [self._grpc.listen(address) for address in self._settings.listen]
        await self._grpc.start()
        await self._grpc.set_serving(WHOLE_SERVER, serving=True)
        self._keep(give_back_after_peaks(resident_bytes))
        if self._settings.effective_model_control == "poll":
            poller = Poller(self._settings.models, self._settings.poll_seconds, found, self._manager.reconcile)
            self._keep(poller.run())

    async def drain(self) -> None:
        """Turn callers away without failing one.

        NOT_SERVING, but calls are taken for the lame-duck time; then clients are sent elsewhere, and calls that are
        held are finished, up to a deadline.
        """
        settings = self._settings
        _log.info("draining", calls=self.admission.calls, lame_duck_seconds=settings.lame_duck_seconds)
        await self._grpc.leave()
        await self._manager.close()
        await asyncio.sleep(settings.lame_duck_seconds)
        await self._grpc.go_away()
        self.admission.close()
        self.dispatcher.end_holds()
        self._edge.leave()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.admission.drained(), settings.drain_seconds)

    async def close(self) -> None:
        """End. What is still held is failed loudly; then connections go, then the workers, the metrics last."""
        if self.admission.calls:
            _log.warning("drain_deadline_passed", calls=self.admission.calls)
            self.dispatcher.fail_all(DrainingError("the server has shut down", RETRY_SECONDS))
        await self._manager.close()
        await self._grpc.stop(_LAST_ANSWERS_SECONDS)
        for task in self._tasks:
            task.cancel()
        await self._trials.close()
        ended = await self.dispatcher.close(_LAST_RUNS_SECONDS)
        if self._tracing is not None:
            await self._tracing.close(_LAST_SPANS_SECONDS)
        self._close_metrics()
        if not ended:
            # Nobody waits for it, and Python would wait for its thread for ever.
            _log.error("run_never_ended", seconds=_LAST_RUNS_SECONDS)
            os._exit(1)
        if self.grpc_addresses:  # a start that failed ends with its own error
            _log.info("stopped")

    def _listen_for_metrics(self) -> None:
        host, port = split_address(self._settings.metrics_listen)
        try:
            self._metrics_endpoint = endpoint.serve(
                host,
                port,
                {"/metrics": Renderer(self.metrics.registry), **site.routes(self._sampler, self._situation)},
                context=self._security.metrics_context,
                gate=self._security.gate,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self._settings.metrics_listen}: {error.strerror}; --metrics-listen chooses another"
            ) from error
        shown = f"[{host}]" if ":" in host else host
        self.metrics_address = f"{shown}:{self._metrics_endpoint.port}"

    def _close_metrics(self) -> None:
        self._loop_lag.stop()
        self._sampler.stop()
        if self._metrics_endpoint is not None:
            self._metrics_endpoint.close()

    def _situation(self) -> Situation:
        """What the live page is told; called on other threads."""
        serving = "ready" if self.grpc_addresses else "loading"
        return Situation(
            run=self._run,
            started=self._started,
            version=self._version,
            state="draining" if self._stop.is_set() else serving,
            workers=self.dispatcher.workers,
            slo_seconds=self.metrics.slo_seconds,
            targets=self.grpc_addresses,
            models=model_facts(self.models),
        )

    def _on_crash(self) -> None:
        """The scheduler has a bug and has stopped: let nobody route calls here, and end."""
        self.crashed = True
        self._stop.set()
        self._keep(self._grpc.leave())

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        """Have something done beside, until it is over or the server ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _set_serving(self, name: str, *, serving: bool) -> None:
        await self._grpc.set_serving(name, serving=serving)

    async def _until_stopped(self, work: Coroutine[None, None, Result]) -> Result | None:
        """Wait for something; None if the server is told to end before, and the work is abandoned."""
        task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            stopped.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)


async def serve(settings: ServerSettings, stop: asyncio.Event, announce: Callable[[Server], None]) -> None:
    """Run a server until it is told to stop.

    Args:
        settings: The settings; ports may be 0, so that tests never collide.
        stop: Set it to end the server in order.
        announce: Called once with the server when every model is ready.

    Raises:
        BundleError: A model failed to load.
        ConfigError: A setting cannot be met.
        HeadwaiterError: The scheduler has crashed; every caller was told.
    """
    server = Server(settings, stop)
    try:
        await server.start()
        if not stop.is_set():
            announce(server)
        await stop.wait()
        await server.drain()
    finally:
        await server.close()
    if server.crashed:
        raise HeadwaiterError("the scheduler has crashed; the log says why")
