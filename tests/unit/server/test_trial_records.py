"""Which trials are remembered, what for, and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from headwaiter_server.lifecycle.trial_records import TrialMachine, TrialRecords

MACHINE = TrialMachine("a processor", "1.0", "2.0")


@pytest.mark.parametrize(
    "machine",
    [
        TrialMachine("another processor", "1.0", "2.0"),
        TrialMachine("a processor", "1.1", "2.0"),
        TrialMachine("a processor", "1.0", "2.1"),
    ],
)
def test_trial_holds_for_its_machine_and_versions(tmp_path: Path, machine: TrialMachine) -> None:
    """Another processor, runtime or server has to try for itself; so have another variant and other files."""
    TrialRecords([tmp_path], MACHINE).add("digest", "fp32")
    assert TrialRecords([tmp_path], MACHINE).has("digest", "fp32")
    assert not TrialRecords([tmp_path], machine).has("digest", "fp32")
    assert not TrialRecords([tmp_path], MACHINE).has("digest", "int8")
    assert not TrialRecords([tmp_path], MACHINE).has("other", "fp32")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]"])
def test_damaged_record_counts_for_nothing(tmp_path: Path, content: bytes) -> None:
    """A record that is not as it was written vouches for nothing."""
    TrialRecords([tmp_path], MACHINE).add("digest", "fp32")
    (record,) = tmp_path.iterdir()
    record.write_bytes(content)
    assert not TrialRecords([tmp_path], MACHINE).has("digest", "fp32")


def test_record_that_cannot_be_kept_is_remembered_for_now(tmp_path: Path) -> None:
    """Where nothing can be written, a trial counts until the server ends."""
    (tmp_path / "file").write_text("")
    records = TrialRecords([tmp_path / "file" / "folder"], MACHINE)
    records.add("digest", "fp32")
    assert records.has("digest", "fp32")


def test_records_are_json_that_a_person_can_read(tmp_path: Path) -> None:
    """A kept record says what it holds for."""
    TrialRecords([tmp_path], MACHINE).add("digest", "fp32")
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert record["cpus"] == "a processor"
    assert record["digest"] == "digest"
