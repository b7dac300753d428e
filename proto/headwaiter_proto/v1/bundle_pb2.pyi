from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_GENERATE: _ClassVar[Task]
    TASK_EMBED: _ClassVar[Task]
    TASK_CLASSIFY: _ClassVar[Task]
    TASK_TAG: _ClassVar[Task]
    TASK_RERANK: _ClassVar[Task]
    TASK_TENSOR: _ClassVar[Task]

class GraphKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRAPH_KIND_UNSPECIFIED: _ClassVar[GraphKind]
    GRAPH_KIND_PADDED: _ClassVar[GraphKind]
    GRAPH_KIND_PACKED: _ClassVar[GraphKind]
    GRAPH_KIND_CACHED: _ClassVar[GraphKind]

class GraphRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRAPH_ROLE_UNSPECIFIED: _ClassVar[GraphRole]
    GRAPH_ROLE_ENCODER: _ClassVar[GraphRole]
    GRAPH_ROLE_DECODER_STEP: _ClassVar[GraphRole]
    GRAPH_ROLE_MODEL: _ClassVar[GraphRole]
    GRAPH_ROLE_DECODER: _ClassVar[GraphRole]
TASK_UNSPECIFIED: Task
TASK_GENERATE: Task
TASK_EMBED: Task
TASK_CLASSIFY: Task
TASK_TAG: Task
TASK_RERANK: Task
TASK_TENSOR: Task
GRAPH_KIND_UNSPECIFIED: GraphKind
GRAPH_KIND_PADDED: GraphKind
GRAPH_KIND_PACKED: GraphKind
GRAPH_KIND_CACHED: GraphKind
GRAPH_ROLE_UNSPECIFIED: GraphRole
GRAPH_ROLE_ENCODER: GraphRole
GRAPH_ROLE_DECODER_STEP: GraphRole
GRAPH_ROLE_MODEL: GraphRole
GRAPH_ROLE_DECODER: GraphRole

class Manifest(_message.Message):
    __slots__ = ("format_version", "task", "architecture", "graph_kind", "limits", "special_tokens", "refuse_unknown_tokens", "kv_cache", "variants", "files", "tool_versions", "labels", "multi_label", "embedding", "remarks")
    class ToolVersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    GRAPH_KIND_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REFUSE_UNKNOWN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    TOOL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MULTI_LABEL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    REMARKS_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    task: Task
    architecture: str
    graph_kind: GraphKind
    limits: Limits
    special_tokens: SpecialTokens
    refuse_unknown_tokens: bool
    kv_cache: KvCache
    variants: _containers.RepeatedCompositeFieldContainer[Variant]
    files: _containers.RepeatedCompositeFieldContainer[File]
    tool_versions: _containers.ScalarMap[str, str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    multi_label: bool
    embedding: Embedding
    remarks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, format_version: _Optional[int] = ..., task: _Optional[_Union[Task, str]] = ..., architecture: _Optional[str] = ..., graph_kind: _Optional[_Union[GraphKind, str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., special_tokens: _Optional[_Union[SpecialTokens, _Mapping]] = ..., refuse_unknown_tokens: bool = ..., kv_cache: _Optional[_Union[KvCache, _Mapping]] = ..., variants: _Optional[_Iterable[_Union[Variant, _Mapping]]] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., tool_versions: _Optional[_Mapping[str, str]] = ..., labels: _Optional[_Iterable[str]] = ..., multi_label: bool = ..., embedding: _Optional[_Union[Embedding, _Mapping]] = ..., remarks: _Optional[_Iterable[str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_source_tokens", "max_new_tokens", "max_total_tokens")
    MAX_SOURCE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOTAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    max_source_tokens: int
    max_new_tokens: int
    max_total_tokens: int
    def __init__(self, max_source_tokens: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., max_total_tokens: _Optional[int] = ...) -> None: ...

class SpecialTokens(_message.Message):
    __slots__ = ("pad_id", "bos_id", "eos_id", "unk_id", "more_eos_ids")
    PAD_ID_FIELD_NUMBER: _ClassVar[int]
    BOS_ID_FIELD_NUMBER: _ClassVar[int]
    EOS_ID_FIELD_NUMBER: _ClassVar[int]
    UNK_ID_FIELD_NUMBER: _ClassVar[int]
    MORE_EOS_IDS_FIELD_NUMBER: _ClassVar[int]
    pad_id: int
    bos_id: int
    eos_id: int
    unk_id: int
    more_eos_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, pad_id: _Optional[int] = ..., bos_id: _Optional[int] = ..., eos_id: _Optional[int] = ..., unk_id: _Optional[int] = ..., more_eos_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("dimension", "normalized", "prompts", "default_prompt")
    class PromptsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PROMPT_FIELD_NUMBER: _ClassVar[int]
    dimension: int
    normalized: bool
    prompts: _containers.ScalarMap[str, str]
    default_prompt: str
    def __init__(self, dimension: _Optional[int] = ..., normalized: bool = ..., prompts: _Optional[_Mapping[str, str]] = ..., default_prompt: _Optional[str] = ...) -> None: ...

class KvCache(_message.Message):
    __slots__ = ("num_layers", "num_heads", "head_dim")
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    NUM_HEADS_FIELD_NUMBER: _ClassVar[int]
    HEAD_DIM_FIELD_NUMBER: _ClassVar[int]
    num_layers: int
    num_heads: int
    head_dim: int
    def __init__(self, num_layers: _Optional[int] = ..., num_heads: _Optional[int] = ..., head_dim: _Optional[int] = ...) -> None: ...

class Variant(_message.Message):
    __slots__ = ("name", "graphs", "parity", "quantization")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GRAPHS_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    graphs: _containers.RepeatedCompositeFieldContainer[Graph]
    parity: ParityCertificate
    quantization: QuantizationCertificate
    def __init__(self, name: _Optional[str] = ..., graphs: _Optional[_Iterable[_Union[Graph, _Mapping]]] = ..., parity: _Optional[_Union[ParityCertificate, _Mapping]] = ..., quantization: _Optional[_Union[QuantizationCertificate, _Mapping]] = ...) -> None: ...

class Graph(_message.Message):
    __slots__ = ("role", "file", "inputs", "outputs")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    role: GraphRole
    file: File
    inputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    def __init__(self, role: _Optional[_Union[GraphRole, str]] = ..., file: _Optional[_Union[File, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("name", "sha256", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[str]] = ...) -> None: ...

class ParityCertificate(_message.Message):
    __slots__ = ("tolerance", "points", "texts_compared", "texts_identical")
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_COMPARED_FIELD_NUMBER: _ClassVar[int]
    TEXTS_IDENTICAL_FIELD_NUMBER: _ClassVar[int]
    tolerance: float
    points: _containers.RepeatedCompositeFieldContainer[ParityPoint]
    texts_compared: int
    texts_identical: int
    def __init__(self, tolerance: _Optional[float] = ..., points: _Optional[_Iterable[_Union[ParityPoint, _Mapping]]] = ..., texts_compared: _Optional[int] = ..., texts_identical: _Optional[int] = ...) -> None: ...

class ParityPoint(_message.Message):
    __slots__ = ("batch", "length", "padded", "steps", "max_abs_diff")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    PADDED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFF_FIELD_NUMBER: _ClassVar[int]
    batch: int
    length: int
    padded: bool
    steps: int
    max_abs_diff: float
    def __init__(self, batch: _Optional[int] = ..., length: _Optional[int] = ..., padded: bool = ..., steps: _Optional[int] = ..., max_abs_diff: _Optional[float] = ...) -> None: ...

class QuantizationCertificate(_message.Message):
    __slots__ = ("scheme", "fp32_weights", "quantized_weights", "points", "speedup", "max_run_tokens")
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    FP32_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    QUANTIZED_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    SPEEDUP_FIELD_NUMBER: _ClassVar[int]
    MAX_RUN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    scheme: str
    fp32_weights: _containers.RepeatedScalarFieldContainer[str]
    quantized_weights: int
    points: _containers.RepeatedCompositeFieldContainer[QualityPoint]
    speedup: float
    max_run_tokens: int
    def __init__(self, scheme: _Optional[str] = ..., fp32_weights: _Optional[_Iterable[str]] = ..., quantized_weights: _Optional[int] = ..., points: _Optional[_Iterable[_Union[QualityPoint, _Mapping]]] = ..., speedup: _Optional[float] = ..., max_run_tokens: _Optional[int] = ...) -> None: ...

class QualityPoint(_message.Message):
    __slots__ = ("texts", "count", "mean_cosine", "worst_cosine", "agreement", "max_batch_diff")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MEAN_COSINE_FIELD_NUMBER: _ClassVar[int]
    WORST_COSINE_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_DIFF_FIELD_NUMBER: _ClassVar[int]
    texts: str
    count: int
    mean_cosine: float
    worst_cosine: float
    agreement: float
    max_batch_diff: float
    def __init__(self, texts: _Optional[str] = ..., count: _Optional[int] = ..., mean_cosine: _Optional[float] = ..., worst_cosine: _Optional[float] = ..., agreement: _Optional[float] = ..., max_batch_diff: _Optional[float] = ...) -> None: ...
