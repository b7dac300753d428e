"""What the server tells of itself and its models, as messages and as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient

from .checks import Server, connected, expect, refused, shows, tensor, text

_STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


@shows("ServerLive", "ServerReady", "ModelReady")
def check_health(server: Server) -> str:
    """Server and models are ready; one that is not there, or not in that version, is not."""
    with connected(server) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("minilm")
        assert client.is_model_ready("minilm", "1")
        assert not client.is_model_ready("minilm", "2")
        assert not client.is_model_ready("nobody")
    return "live, ready; models by name and version"


@shows("ServerMetadata")
def check_server_metadata(server: Server) -> str:
    """Name, version and extensions."""
    with connected(server) as client:
        message, as_json = client.get_server_metadata(), client.get_server_metadata(as_json=True)
    assert message.name == as_json["name"] == "headwaiter"
    assert message.version
    assert "statistics" in message.extensions
    return f"{message.name} {message.version}: {', '.join(message.extensions)}"


@shows("ModelMetadata", "ModelConfig")
def check_metadata_and_config(server: Server) -> str:
    """Both describe the same tensors; sizes in the configuration go without the batch."""
    told = []
    with connected(server) as client:
        for name in ("minilm", "classify", "tag", "rerank", "pronounce", "simple", "times", "slow", "numbers"):
            metadata = client.get_model_metadata(name, as_json=True)
            config = client.get_model_config(name, as_json=True)["config"]
            _compare(metadata, config)
            told.append(f"{name} {config.get('max_batch_size', 0)}")
        simple = client.get_model_config("simple").config
        everything = client.get_model_metadata("numbers")
        error = refused(client.get_model_metadata, "nobody")
        expect(refused(client.get_model_config, "nobody"), "NOT_FOUND", "nobody")
    assert simple.max_batch_size == 8
    assert [list(each.dims) for each in simple.input] == [[16], [16]]
    assert simple.HasField("dynamic_batching")
    assert all(each.name == f"in_{each.datatype}" for each in everything.inputs)
    expect(error, "NOT_FOUND", "nobody")
    return f"{metadata['platform']}; max_batch_size: {', '.join(told)}"


def _compare(metadata: dict[str, Any], config: dict[str, Any]) -> None:
    assert metadata["name"] == config["name"]
    assert metadata["platform"] == config["platform"]
    batched = int(config.get("max_batch_size", 0)) > 0
    for kind in ("input", "output"):
        for tensor_metadata, described in zip(metadata[f"{kind}s"], config[kind], strict=True):
            assert tensor_metadata["name"] == described["name"]
            datatype = {"BYTES": "STRING"}.get(tensor_metadata["datatype"], tensor_metadata["datatype"])
            assert described["data_type"] == f"TYPE_{datatype}"
            shape = tensor_metadata.get("shape", [])
            assert described.get("dims", []) == shape[1 if batched else 0 :]
            assert not batched or shape[0] == "-1"


def _statistics(client: InferenceServerClient, model: str) -> dict[str, Any]:
    (found,) = client.get_inference_statistics(model, as_json=True)["model_stats"]
    assert int(found["version"]) >= 1
    stages = {name: {key: int(value) for key, value in each.items()} for name, each in found["inference_stats"].items()}
    return {"rows": int(found.get("inference_count", 0)), "runs": int(found.get("execution_count", 0)), **stages}


@shows("ModelStatistics", "statistics")
def check_statistics(server: Server) -> str:
    """Calls, rows and runs are counted as they are, and the stages of good calls grow; failures count apart."""
    rows = np.ones((3, 16), dtype=np.int32)
    with connected(server) as client:
        before = _statistics(client, "simple")
        for _ in range(5):
            client.infer("simple", [tensor("INPUT0", rows), tensor("INPUT1", rows)])
        refused(client.infer, "simple", [tensor("INPUT0", rows)])
        after = _statistics(client, "simple")
        every = client.get_inference_statistics(as_json=True)["model_stats"]
        expect(refused(client.get_inference_statistics, "nobody"), "NOT_FOUND", "nobody")
        expect(refused(client.get_inference_statistics, "simple", "9"), "NOT_FOUND", "9")

    def grown(stage: str, key: str = "count") -> int:
        return int(after[stage].get(key, 0) - before.get(stage, {}).get(key, 0))

    assert after["rows"] - before["rows"] == 15
    assert 1 <= after["runs"] - before["runs"] <= 5
    assert (grown("success"), grown("fail")) == (5, 1)
    for stage in _STAGES:
        assert grown(stage) == 5, stage
        assert grown(stage, "ns") > 0, stage
    assert sum(grown(stage, "ns") for stage in _STAGES) <= grown("success", "ns")
    assert {"simple", "minilm", "pronounce"} <= {each["name"] for each in every}
    return f"5 calls of 3 rows: success +{grown('success')}, fail +{grown('fail')}, inference_count +15"


@shows("ModelStatistics", "statistics")
def check_statistics_of_texts(server: Server) -> str:
    """A call with four texts is one success and four inferences."""
    with connected(server) as client:
        before = _statistics(client, "minilm")
        client.infer("minilm", [text("a", "b", "c", "d")])
        after = _statistics(client, "minilm")
    assert after["rows"] - before["rows"] == 4
    assert after["success"]["count"] - before.get("success", {}).get("count", 0) == 1
    return "success +1, inference_count +4"


@shows("TraceSetting")
def check_trace_settings(server: Server) -> str:
    """They can be read; changing what would have no effect is refused."""
    with connected(server) as client:
        settings = client.get_trace_settings(as_json=True).get("settings", {})
        error = refused(client.update_trace_settings, settings={"trace_level": ["TENSORS"]})
    return f"{', '.join(sorted(settings))}; update: {expect(error, 'UNIMPLEMENTED')}"


@shows("LogSettings")
def check_log_settings(server: Server) -> str:
    """They can be read, and the level of the log changed while the server runs."""
    with connected(server) as client:
        before = client.get_log_settings(as_json=True)["settings"]
        after = client.update_log_settings({"log_verbose_level": 1}, as_json=True)["settings"]
        client.update_log_settings({"log_verbose_level": 0})
        restored = client.get_log_settings(as_json=True)["settings"]
        error = refused(client.update_log_settings, {"log_file": "/tmp/triton.log"})  # noqa: S108 - must be refused
    assert int(after["log_verbose_level"]["uint32_param"]) == 1
    assert restored == before
    expect(error, "UNIMPLEMENTED", "log_file")
    return ", ".join(sorted(before))
