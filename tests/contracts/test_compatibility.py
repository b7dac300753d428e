"""docs/compatibility.md leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

from compatibility.environments import ENVIRONMENTS, ROOT
from compatibility.record import COLUMNS, Measured, Record, Seen
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import inference_pb2

PAGE = ROOT / "docs" / "compatibility.md"
TOOLS = (
    "perf_analyzer",
    "grpcurl",
    "k6",
    "headwaiter-load",
    *(f"tritonclient {each.version}" for each in ENVIRONMENTS),
)


def test_every_rpc_and_every_tool_is_in_the_summary() -> None:
    """Each method of the protocol has a line in the table, others are our own service's, and each tool is there."""
    summary = PAGE.read_text().partition("<!-- summary:begin -->")[2].partition("<!-- summary:end -->")[0]
    protocol = {method.name for method in grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    own = {method.name for method in inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].methods}
    shown = set(re.findall(r"^\| `(\w+)` \|", summary, flags=re.MULTILINE))
    assert protocol <= shown <= protocol | own
    assert [tool for tool in TOOLS if tool not in summary] == []


def test_what_was_seen_is_written(tmp_path: Path) -> None:
    """Versions of a tool that ran the same share a line, bars do not break the table, and every load has its line."""
    page = tmp_path / "page.md"
    names = ("summary", "calls", "perf-analyzer")
    page.write_text("\n".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->" for name in names))
    record = Record()
    for version in ("2.73", "2.50"):
        tool = f"tritonclient {version}"
        record.seen.append(Seen(("ModelInfer", "timeout"), tool, "inference.timeout", "What is late", "a|b"))
    record.measured.append(Measured("-m x", "4", dict.fromkeys(COLUMNS, "7")))
    record.write(page)
    text = page.read_text()
    assert "| `ModelInfer` | tritonclient 2.50, tritonclient 2.73 | 2 |\n| timeout |" in text
    line = "| `ModelInfer`, timeout | tritonclient 2.50, 2.73 | `inference.timeout` | What is late | a\\|b |"
    assert text.count(line) == text.count("inference.timeout") == 1
    assert "| `-m x` | 4 | 7 |" in text
