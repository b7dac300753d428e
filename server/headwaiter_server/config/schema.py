"""The settings: names, types, bounds, defaults, and the help text that explains each trade-off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from headwaiter_server.config.checks import (
    ENV_PREFIX,
    NUMBER_TAG,
    check_listener,
    check_url,
    is_local,
    parse_pairs,
    split_address,
    split_commas,
)
from headwaiter_server.config.version_policy import VersionPolicies
from headwaiter_server.cpu import available_cpus
from headwaiter_server.log import LogFormat, LogLevel

Auto = Literal["auto"]
AUTO: Final = "auto"

Batching = Literal["auto", "fifo", "none"]
HealthAccess = Literal["open", "closed"]
CalibrationMode = Literal["on", "fresh", "off"]
SharedMemoryMode = Literal["auto", "on", "off"]
NonfiniteInputs = Literal["refuse", "pass"]
TrialLoads = Literal["on", "off"]
ModelControl = Literal["auto", "none", "explicit", "poll"]

_GENERATION_BATCH_TOKENS = 512
DEFAULT_SLO_SECONDS = 0.1


@dataclass(frozen=True)
class Placeholder:
    """What `--help` shows for a setting's value, put into the setting's type."""

    text: str


def _kind(value: object) -> str:
    return AUTO if value == AUTO else NUMBER_TAG


Folder = Annotated[Path, Placeholder("FOLDER")]
OptionalFile = Annotated[Path | None, Placeholder("FILE")]
Count = Annotated[int, Placeholder("COUNT")]
Bytes = Annotated[int, Placeholder("BYTES")]
Seconds = Annotated[float, Placeholder("SECONDS")]
# Of the two halves, the value alone decides which one it is held to: an error speaks of one of them, not of both.
_AutoTag = Annotated[Auto, Tag(AUTO)]
AutoCount = Annotated[
    _AutoTag | Annotated[int, Field(ge=1, le=1 << 20), Tag(NUMBER_TAG)], Discriminator(_kind), Placeholder("auto|COUNT")
]
AutoBytes = Annotated[
    _AutoTag | Annotated[int, Field(ge=1), Tag(NUMBER_TAG)], Discriminator(_kind), Placeholder("auto|BYTES")
]
AutoSeconds = Annotated[
    _AutoTag | Annotated[float, Field(gt=0, le=3600), Tag(NUMBER_TAG)],
    Discriminator(_kind),
    Placeholder("auto|SECONDS"),
]
AutoFolder = Annotated[_AutoTag | Annotated[Path, Tag(NUMBER_TAG)], Discriminator(_kind), Placeholder("auto|FOLDER")]


class ServerSettings(BaseSettings):
    """Headwaiter: serves exported Transformers over gRPC."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="forbid",
        frozen=True,
        cli_prog_name="headwaiter-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    models: Folder = Field(
        description="Model repository: a folder of NAME/VERSION folders, as headwaiter-export writes them."
    )
    listen: Annotated[list[str], NoDecode, Placeholder("ADDRESS")] = Field(
        default=["127.0.0.1:8001"],
        min_length=1,
        description="Address of the gRPC service, HOST:PORT or unix:PATH; port 0 takes a free one. Several may "
        "be given, separated by commas. The default is reachable from this machine only.",
    )
    metrics_listen: Annotated[str, Placeholder("HOST:PORT")] = Field(
        default="127.0.0.1:8002",
        description="Address of the Prometheus metrics, HOST:PORT; port 0 takes a free one.",
    )
    tls_cert: OptionalFile = Field(
        default=None,
        description="PEM file of the certificate with which listeners at HOST:PORT speak TLS, 1.2 or newer, followed "
        "by those that it was signed with; unix: ones stay as they are. A changed file is taken for new connections; "
        "one that cannot be is logged, and the old one stays. Without it calls travel in clear text.",
    )
    tls_key: OptionalFile = Field(
        default=None,
        validate_default=True,
        description="PEM file of that certificate's private key, without a password.",
    )
    tls_client_ca: OptionalFile = Field(
        default=None,
        validate_default=True,
        description="PEM file of the authorities that certificates of clients must be signed by: then whoever shows "
        "none of theirs is refused. Re-read as the certificate is. Without it clients are not asked for one.",
    )
    metrics_tls_cert: OptionalFile = Field(
        default=None,
        description="The same as --tls-cert for the port of the metrics and the live page.",
    )
    metrics_tls_key: OptionalFile = Field(
        default=None, validate_default=True, description="PEM file of that certificate's private key."
    )
    metrics_token_file: OptionalFile = Field(
        default=None,
        description="File with a token that whoever asks for the metrics or the live page must show, as a bearer token "
        "or as the password of HTTP Basic, where the user's name does not matter; of 16 characters or more. Re-read "
        "when it has changed.",
    )
    access_file: OptionalFile = Field(
        default=None,
        description="TOML file of the clients that may call, with the hashes of their tokens, their roles, weights and "
        "quotas (docs/access.md). Re-read when it has changed; a broken one is logged, and what it said before stays. "
        "Without it everybody who reaches a listener may call everything.",
    )
    health_access: HealthAccess = Field(
        default="open",
        validate_default=True,
        description="With --access-file, who may ask whether the server and its models serve: open is everybody, as "
        "probes and load balancers have no tokens; closed is every client.",
    )
    variant: Annotated[dict[str, str], NoDecode, Placeholder("NAME=VARIANT")] = Field(
        default={},
        description="Which variant of a model's weights serves, NAME=VARIANT; several separated by commas. "
        "fp32 where not given.",
    )
    version_policy: Annotated[str, Placeholder("POLICY")] = Field(
        default="latest:1",
        description="Which versions of a model serve: latest:COUNT for the highest, all, or specific:VERSION,VERSION. "
        "With NAME= before it, for one model; several separated by commas, such as latest:1,minilm=specific:1,3. What "
        "is said for one model wins over its folder's config.pbtxt, and that over what is said for all.",
    )
    model_control: ModelControl = Field(
        default=AUTO,
        description="Who says what is loaded while the server runs. explicit: callers, by the Open Inference "
        "Protocol's RepositoryModelLoad and RepositoryModelUnload. poll: the model repository, which is watched. none: "
        "nobody. auto is explicit where every listener is reached from this machine only, and none elsewhere.",
    )
    poll_seconds: Seconds = Field(
        default=5.0,
        ge=0.05,
        le=86_400,
        description="With --model-control poll, how often the model repository is looked at. What has changed is "
        "loaded when it has been still from one look to the next.",
    )
    load_models: Annotated[list[str], NoDecode, Placeholder("NAME")] = Field(
        default=["*"],
        description="Which models are loaded at the start, by name, several separated by commas; * for all. Others, or "
        "none where this is empty, wait for callers to load them, which takes --model-control explicit.",
    )
    allow_partial: bool = Field(
        default=False,
        description="Start although some model failed to load. Otherwise the server ends with exit code 1 and "
        "names it.",
    )
    workers: Count = Field(
        default=0,
        ge=0,
        le=1024,
        description="Runs at one time; 0 takes one for each processor that the container's quota allows, which serves "
        "the most texts.",
    )
    threads_per_run: AutoCount = Field(
        default=AUTO,
        description="Threads of one run while others run beside it. auto shares the processors between the workers: "
        "one for each worker unless fewer workers were asked for.",
    )
    lone_run_threads: AutoCount = Field(
        default=AUTO,
        description="Threads of a run that has the server to itself. auto is all processors where calibration finds "
        "that faster; 1 never does. Left out where a second copy of the model's weights and the largest runs do not "
        "fit below the memory limit together.",
    )
    batching: Batching = Field(
        default="auto",
        description="auto: packed texts fill a run up to its tokens, padded ones join texts of like length, and "
        "generations join a running batch between steps. fifo: batches in order of arrival, padded to the longest, "
        "each run until its last text is done, as most servers do; none: one text at a time; both for comparison.",
    )
    max_batch_rows: Count = Field(
        default=64,
        ge=1,
        le=4096,
        description="Most texts of one running batch. More raises throughput until the step leaves the processor's "
        "cache, and lengthens every step for all.",
    )
    max_batch_tokens: AutoCount = Field(
        default=AUTO,
        description="Most tokens of one run; a longer text runs alone. auto is what calibration finds for a model: the "
        "fewest tokens from which more bring next to no throughput. For generation it bounds the source tokens that "
        f"may join in one step, and auto is {_GENERATION_BATCH_TOKENS}.",
    )
    kv_cache_bytes: AutoBytes = Field(
        default=AUTO,
        description="Memory for the keys and values of the texts that a model generates from, of each model that "
        "generates; each worker has an equal part of it. A text joins when there is room for all that it may take, and "
        "waits until then; what could never fit into a part is refused. auto is an eighth of the server's memory, at "
        "least what the longest text takes on each worker, and at most what all rows can use.",
    )
    batch_delay_seconds: Seconds = Field(
        default=0.0,
        ge=0,
        le=10,
        description="How long a text for an encoder may wait for others to share its run while a worker is idle, "
        "counted from the arrival of its call. A full run, or a deadline that would be missed, ends the wait. 0 never "
        "waits, which answers soonest. More fills runs where many callers send one text each: nearly all of them then "
        "wait that long, and little processor time is saved. With batching none it does nothing.",
    )
    calibration: CalibrationMode = Field(
        default="on",
        description="How the cost of a model's runs is found. on: measured at load, in a few seconds, once for each "
        "machine and version, and remembered; fresh: measured at every start; off: guessed, and corrected by what "
        "runs take.",
    )
    calibration_cache: AutoFolder = Field(
        default=AUTO,
        description="Folder that remembers calibrations. auto is .calibration in the model's folder or, where that "
        "cannot be written, headwaiter in XDG_CACHE_HOME or ~/.cache.",
    )
    trial_loads: TrialLoads = Field(
        default="on",
        description="on: a model that this machine and these versions have not loaded before is first built in a "
        "process of its own, so that one that crashes or hangs onnxruntime, or takes all memory, is refused and takes "
        "nothing down. What has passed is remembered in the folder of --calibration-cache or, where that is auto, in "
        "headwaiter in XDG_CACHE_HOME or ~/.cache; never in a model's folder. off: models are built in the server at "
        "once.",
    )
    load_timeout_seconds: Seconds = Field(
        default=120.0,
        gt=0,
        le=86_400,
        description="What the trial of a model may take until it has answered its smallest and largest inputs; then it "
        "is ended, and the model refused.",
    )
    memory_limit_bytes: AutoBytes = Field(
        default=AUTO,
        description="Memory that the server may take: a model whose largest runs would exceed it on all workers is not "
        "loaded. auto is the container's limit. The log says what was planned (memory_planned), and warns above four "
        "fifths of the limit (memory_nearly_full).",
    )
    max_queue_seconds: AutoSeconds = Field(
        default=AUTO,
        description="Longest predicted wait with which a call is taken in; with a longer one it is refused at once, "
        "with UNAVAILABLE and the time to come back. auto: two runs at the budget or, if that is more, a twelfth of "
        "the time that the call's deadline leaves; calls without a deadline may wait.",
    )
    max_calls: Count = Field(
        default=4096,
        ge=1,
        le=1 << 20,
        description="Most calls held at one time, waiting and running; further ones are refused with UNAVAILABLE.",
    )
    max_call_bytes: Bytes = Field(
        default=256 << 20,
        ge=1,
        description="Most bytes of messages, and of inputs in shared memory, held at one time; further calls are "
        "refused with UNAVAILABLE.",
    )
    max_message_bytes: Bytes = Field(
        default=8 << 20,
        ge=1024,
        le=(1 << 31) - 1,
        description="Largest message taken in; larger ones are refused with RESOURCE_EXHAUSTED.",
    )
    max_arriving_bytes: Bytes = Field(
        default=64 << 20,
        ge=1 << 20,
        description="Memory that messages may take while they are on their way in: when the server has grown by half "
        "of it while they were waited for, the oldest of the calls whose messages are late are refused with "
        "UNAVAILABLE, the more of them the more it has grown. So many as cannot be larger together are always waited "
        "for, and streams as long as the server may take so much more.",
    )
    max_texts: Count = Field(
        default=1024,
        ge=1,
        le=1 << 20,
        description="Most texts in one call; more are refused with INVALID_ARGUMENT.",
    )
    max_waiting_texts: Count = Field(
        default=32_768,
        ge=1,
        le=1 << 24,
        description="Most texts held at one time, waiting and running, of all calls together; a call with more than "
        "there is room for is refused whole with UNAVAILABLE. Each takes about 700 bytes of memory.",
    )
    max_streams: Count = Field(
        default=4096,
        ge=1,
        le=(1 << 31) - 1,
        description="Most calls at one time on one connection; further ones wait in the client. Calls "
        "that are over count until they are forgotten: a client that has as many at one time has some refused.",
    )
    shared_memory: SharedMemoryMode = Field(
        default=AUTO,
        description="Whether clients of the Open Inference Protocol may register shared memory for their tensors. They "
        "can then have the server read and write all shared memory of this machine that its user may, so auto is on "
        "where every listener is reached from this machine only, and off elsewhere.",
    )
    nonfinite_inputs: NonfiniteInputs = Field(
        default="pass",
        description="What becomes of requests for models of tensors whose floating numbers hold a NaN or an infinity: "
        "they are passed on as they are, as some models read a NaN as missing, and infinities as a mask; or refused "
        "with INVALID_ARGUMENT, which names the tensor. Answers to other requests never change by them.",
    )
    cache_bytes: Bytes = Field(
        default=0,
        ge=0,
        description="Memory for answers that are remembered and given again for the same input, the least recently "
        "used ones forgotten first; what is asked for several times at once is computed once. 0 remembers nothing. It "
        "pays where texts come again: each answer takes about its own size and 500 bytes.",
    )
    lame_duck_seconds: Seconds = Field(
        default=2.0,
        ge=0,
        le=3600,
        description="After SIGTERM, how long calls are still taken while health says NOT_SERVING, so that "
        "load balancers and clients turn away before calls are refused.",
    )
    drain_seconds: Seconds = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="After the lame-duck time, how long calls that were taken may take to finish.",
    )
    slo_seconds: Seconds = Field(
        default=DEFAULT_SLO_SECONDS,
        ge=0.001,
        le=3600,
        description="Time within which calls should be answered. Metrics then count exactly those that were, and the "
        "alerts that come with the server go by it; nothing is served differently.",
    )
    otlp_endpoint: Annotated[str, Placeholder("URL")] = Field(
        default="",
        description="OpenTelemetry collector that traces go to, http://HOST:PORT (OTLP over gRPC, usually port 4317) "
        "or https. Without it nothing is traced, and OpenTelemetry need not be installed (it is the extra otel).",
    )
    trace_sample_ratio: Annotated[float, Placeholder("RATIO")] = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of the calls without a traceparent that are traced. Of those with one, exactly the ones "
        "that it says are sampled.",
    )
    log_format: LogFormat = Field(default="auto", description="auto is text on a terminal and JSON elsewhere.")
    log_level: LogLevel = Field(default="info", description="Least severe event that is logged.")

    @field_validator("version_policy")
    @classmethod
    def _check_policies(cls, value: str) -> str:
        VersionPolicies.parse(value)
        return value

    @field_validator("load_models", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return split_commas(value)

    @field_validator("load_models")
    @classmethod
    def _check_names(cls, value: list[str], info: ValidationInfo) -> list[str]:
        # Of the settings above this one, those that were wrong are missing: they are what is said to be wrong.
        control, listeners = info.data.get("model_control", "explicit"), info.data.get("listen", [])
        explicit = control == "explicit" or (control == AUTO and all(map(is_local, listeners)))
        if "*" not in value and not explicit:
            raise ValueError("to choose models takes --model-control explicit, so that callers can load the others")
        return value

    @field_validator("listen", mode="before")
    @classmethod
    def _split_addresses(cls, value: object) -> object:
        return split_commas(value)

    @field_validator("listen")
    @classmethod
    def _check_addresses(cls, value: list[str]) -> list[str]:
        for address in value:
            check_listener(address)
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _check_metrics_address(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("tls_key", "metrics_tls_key")
    @classmethod
    def _check_pair(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        certificate = str(info.field_name).removesuffix("key") + "cert"
        if (value is None) != (info.data.get(certificate, value) is None):
            flag = f"--{certificate.replace('_', '-')}"
            raise ValueError(f"belongs together with {flag}: give both or neither")
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _check_client_ca(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_cert", value) is None:
            raise ValueError("only TLS asks clients for certificates, which takes --tls-cert and --tls-key")
        return value

    @field_validator("health_access")
    @classmethod
    def _check_health_access(cls, value: HealthAccess, info: ValidationInfo) -> HealthAccess:
        if value == "closed" and info.data.get("access_file", value) is None:
            raise ValueError("to close health takes --access-file, which says for whom it is open")
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_otlp_endpoint(cls, value: str) -> str:
        if value:
            check_url(value)
        return value

    @field_validator("variant", mode="before")
    @classmethod
    def _parse_variants(cls, value: object) -> object:
        return parse_pairs(value)

    @property
    def effective_workers(self) -> int:
        """Workers, once 0 is replaced by the processors this process may use."""
        return self.workers or available_cpus()

    @property
    def effective_threads_per_run(self) -> int:
        """Threads of a run beside others, once auto is replaced."""
        if self.threads_per_run == AUTO:
            return max(1, available_cpus() // self.effective_workers)
        return self.threads_per_run

    @property
    def local_only(self) -> bool:
        """Whether every listener is reached from this machine only."""
        return all(map(is_local, self.listen))

    @property
    def effective_model_control(self) -> ModelControl:
        """Who says what is loaded while the server runs, once auto is replaced."""
        if self.model_control == AUTO:
            return "explicit" if self.local_only else "none"
        return self.model_control

    @property
    def version_policies(self) -> VersionPolicies:
        """Which versions of models serve."""
        return VersionPolicies.parse(self.version_policy)

    @property
    def models_at_start(self) -> list[str] | None:
        """Names of the models that are loaded at the start; None for all."""
        return None if "*" in self.load_models else self.load_models

    @property
    def shared_memory_enabled(self) -> bool:
        """Whether clients may register shared memory, once auto is replaced."""
        return self.local_only if self.shared_memory == AUTO else self.shared_memory == "on"

    @property
    def generation_batch_tokens(self) -> int:
        """Source tokens that may join a generation's step, once auto is replaced."""
        return _GENERATION_BATCH_TOKENS if self.max_batch_tokens == AUTO else self.max_batch_tokens

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Sources, strongest first; a settings file is named by `toml_file` in the class's configuration."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
