"""A bundle is believed only as far as its digests go: every damage is refused, naming the file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.errors import BundleError
from headwaiter_server.model.bundle import digest_of_bundle, read_bundle
from numpy.typing import NDArray

CONTENTS = {
    "tokenizer.json": b'{"version": "1.0"}',
    "encoder.onnx": b"encoder" * 10,
    "decoder.onnx": b"decoder" * 10,
    "encoder-int8.onnx": b"small encoder",
}
USED_BY_FP32 = ["tokenizer.json", "golden.npz", "encoder.onnx", "decoder.onnx"]


def archive(tokens: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, tokens=tokens)
    return buffer.getvalue()


def listed(name: str, content: bytes) -> bundle_pb2.File:
    return bundle_pb2.File(name=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle with two variants, whole and unaltered."""
    contents = CONTENTS | {"golden.npz": archive(np.arange(6).reshape(2, 3))}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)

    def graph(role: bundle_pb2.GraphRole, name: str) -> bundle_pb2.Graph:
        return bundle_pb2.Graph(role=role, file=listed(name, contents[name]))

    encoder, decoder = bundle_pb2.GRAPH_ROLE_ENCODER, bundle_pb2.GRAPH_ROLE_DECODER_STEP
    manifest = bundle_pb2.Manifest(
        format_version=1,
        task=bundle_pb2.TASK_GENERATE,
        architecture="transformer",
        files=[listed(name, contents[name]) for name in ("tokenizer.json", "golden.npz")],
        variants=[
            bundle_pb2.Variant(name="fp32", graphs=[graph(encoder, "encoder.onnx"), graph(decoder, "decoder.onnx")]),
            bundle_pb2.Variant(name="int8", graphs=[graph(encoder, "encoder-int8.onnx")]),
        ],
    )
    (tmp_path / "manifest.json").write_text(json_format.MessageToJson(manifest), encoding="utf-8")
    return tmp_path


def alter_manifest(folder: Path, alter: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    alter(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def replace_listed(folder: Path, name: str, content: bytes) -> None:
    """Another content, rightly listed: as a hostile or a broken exporter would write it."""
    (folder / name).write_bytes(content)
    digest = {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "sizeBytes": str(len(content))}

    def alter(manifest: dict[str, Any]) -> None:
        manifest["files"] = [digest if file["name"] == name else file for file in manifest["files"]]

    alter_manifest(folder, alter)


def refusal(folder: Path, named: str, variant: str = "fp32") -> str:
    """The message that refuses the bundle; it names the file."""
    with pytest.raises(BundleError) as caught:
        read_bundle(folder, variant)
    assert named in str(caught.value)
    return str(caught.value)


def test_whole_bundle_is_read(folder: Path) -> None:
    """What is returned is what the files hold, by role."""
    bundle = read_bundle(folder, "fp32")
    assert bundle.manifest.architecture == "transformer"
    assert bundle.variant.name == "fp32"
    assert bundle.tokenizer_json == CONTENTS["tokenizer.json"].decode()
    assert bundle.graphs == {
        bundle_pb2.GRAPH_ROLE_ENCODER: CONTENTS["encoder.onnx"],
        bundle_pb2.GRAPH_ROLE_DECODER_STEP: CONTENTS["decoder.onnx"],
    }
    assert bundle.golden["tokens"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert list(read_bundle(folder, "int8").graphs.values()) == [CONTENTS["encoder-int8.onnx"]]


def test_manifest_is_judged_before_the_files(folder: Path) -> None:
    """What is not wanted for what its manifest says is refused for that, whatever else it lacks."""
    alter_manifest(folder, lambda manifest: manifest.update(files=[]))

    def check(manifest: bundle_pb2.Manifest, variant: bundle_pb2.Variant) -> None:
        raise BundleError(f"nobody wants a {manifest.architecture} in {variant.name}")

    with pytest.raises(BundleError, match="nobody wants a transformer in int8"):
        read_bundle(folder, "int8", check)


@pytest.mark.parametrize("name", USED_BY_FP32)
def test_flipped_bit_is_noticed(folder: Path, name: str) -> None:
    """One bit of any file that is used changes its digest."""
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert "was altered" in refusal(folder, name)


@pytest.mark.parametrize("name", USED_BY_FP32)
def test_truncated_and_grown_files_are_noticed(folder: Path, name: str) -> None:
    """A file that was cut short or has grown is told with both sizes."""
    content = (folder / name).read_bytes()
    for damaged in (content[:-1], b"", content + b"\n"):
        (folder / name).write_bytes(damaged)
        assert f"has {len(damaged)} bytes, the manifest says {len(content)}" in refusal(folder, name)


@pytest.mark.parametrize("digest", ["", "0" * 64, hashlib.sha256(CONTENTS["encoder.onnx"]).hexdigest()[:-1]])
def test_wrong_digest_is_noticed(folder: Path, digest: str) -> None:
    """A digest that is absent, wrong or cut off is not that of the file."""
    alter_manifest(folder, lambda manifest: manifest["variants"][0]["graphs"][0]["file"].update(sha256=digest))
    assert "was altered" in refusal(folder, "encoder.onnx")


@pytest.mark.parametrize("name", [*USED_BY_FP32, "manifest.json"])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    """A file that is not there, or is a folder, is named."""
    (folder / name).unlink()
    assert "cannot be read" in refusal(folder, name)
    (folder / name).mkdir()
    assert "cannot be read" in refusal(folder, name)


@pytest.mark.parametrize("name", [*USED_BY_FP32, "manifest.json"])
def test_pipe_is_refused_and_not_waited_for(folder: Path, name: str) -> None:
    """What would never come to an end is not read."""
    size = (folder / name).stat().st_size
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "is no regular file" in refusal(folder, name)
    # With somebody at its other end, too.
    writer = os.open(folder / name, os.O_RDWR)
    os.write(writer, b"x" * min(size, 4096))
    assert "is no regular file" in refusal(folder, name)
    os.close(writer)


@pytest.mark.parametrize(("name", "most"), [("tokenizer.json", 256 << 20), ("encoder.onnx", (1 << 31) - 1)])
def test_file_larger_than_any_real_one_is_not_read(folder: Path, name: str, most: int) -> None:
    """A file of 100 GB, and listed as such, is refused by its size."""
    with (folder / name).open("wb") as file:
        file.truncate(100 << 30)

    def alter(manifest: dict[str, Any]) -> None:
        for entry in (*manifest["files"], *(graph["file"] for graph in manifest["variants"][0]["graphs"])):
            if entry["name"] == name:
                entry["sizeBytes"] = str(100 << 30)

    alter_manifest(folder, alter)
    assert f"has {100 << 30} bytes, the limit is {most}" in refusal(folder, name)


def test_huge_manifest_is_not_read(folder: Path) -> None:
    """A manifest is a page of text; whatever is larger is none."""
    with (folder / "manifest.json").open("ab") as file:
        file.truncate(17 << 20)
    assert "the limit is" in refusal(folder, "manifest.json")


def test_digest_names_the_bundle(folder: Path) -> None:
    """The digest is that of the manifest, and there without reading anything else."""
    expected = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert read_bundle(folder, "fp32").digest == digest_of_bundle(folder) == expected
    (folder / "encoder.onnx").unlink()
    assert digest_of_bundle(folder) == expected


@pytest.mark.parametrize("name", USED_BY_FP32)
def test_symbolic_link_is_refused(folder: Path, name: str) -> None:
    """A link is refused even where it leads to the right bytes: it can lead elsewhere the next time."""
    (folder / name).rename(folder / "elsewhere")
    (folder / name).symlink_to("elsewhere")
    assert "symbolic link" in refusal(folder, name)


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "/etc/passwd", "sub/x", "x/", "./x", "manifest.json"])
def test_name_that_leaves_the_folder_is_refused(folder: Path, name: str) -> None:
    """A manifest can name files of its own folder only, and not itself."""
    (folder.parent / "x").write_bytes(CONTENTS["encoder.onnx"])
    alter_manifest(folder, lambda manifest: manifest["variants"][0]["graphs"][0]["file"].update(name=name))
    assert f"{name!r} is not a plain file name" in refusal(folder, "manifest.json")


@pytest.mark.parametrize("name", ["a\0b", "x" * 300], ids=["nul", "too long"])
def test_name_no_file_can_have_is_refused(folder: Path, name: str) -> None:
    """What the file system would choke on is a broken bundle like any other."""
    alter_manifest(folder, lambda manifest: manifest["variants"][0]["graphs"][0]["file"].update(name=name))
    refusal(folder, str(folder))


def test_unknown_manifest_field_is_refused(folder: Path) -> None:
    """A field this server does not know may change what the others mean."""
    alter_manifest(folder, lambda manifest: manifest.update(compression="zstd"))
    assert "compression" in refusal(folder, "manifest.json")


@pytest.mark.parametrize("version", [0, 2, 99])
def test_other_format_version_is_refused(folder: Path, version: int) -> None:
    """Another version of the format is refused, with both versions."""
    alter_manifest(folder, lambda manifest: manifest.update(formatVersion=version))
    assert f"format_version {version}; this server reads 1" in refusal(folder, "manifest.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"formatVersion": "x"}', '{"variants": [null]}', "[" * 9999])
def test_broken_manifest_is_refused(folder: Path, text: str) -> None:
    """What is no manifest at all is named as such."""
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    refusal(folder, "manifest.json")
    (folder / "manifest.json").write_bytes(b"\xff\xfe")
    refusal(folder, "manifest.json")


def test_refusal_can_be_sent_whatever_it_quotes(folder: Path) -> None:
    """A message that quotes half a surrogate pair, or very much, still fits into a gRPC status."""
    alter_manifest(folder, lambda manifest: manifest.update(architecture="\ud800"))
    assert refusal(folder, "manifest.json").encode()
    alter_manifest(folder, lambda manifest: manifest.update(architecture="x", **{"y" * 10_000: 1}))
    assert len(refusal(folder, "manifest.json")) < 2000


def test_unknown_variant_is_told_with_those_there_are(folder: Path) -> None:
    """A variant the bundle lacks is told beside those it has."""
    assert "no variant 'int4', only fp32, int8" in refusal(folder, str(folder), variant="int4")


@pytest.mark.parametrize("name", ["tokenizer.json", "golden.npz"])
def test_manifest_without_a_needed_file_is_refused(folder: Path, name: str) -> None:
    """A file that every bundle has must be listed, not only lie there."""
    alter_manifest(
        folder, lambda manifest: manifest.update(files=[file for file in manifest["files"] if file["name"] != name])
    )
    assert f"lists no {name}" in refusal(folder, "manifest.json")


def test_golden_file_is_never_unpickled(folder: Path) -> None:
    """An array of objects, whose loading could run any code, is refused though its digest is right."""
    replace_listed(folder, "golden.npz", archive(np.array([{"a": 1}], dtype=object)))
    assert "allow_pickle=False" in refusal(folder, "golden.npz")


def broken_archives() -> dict[str, bytes]:
    whole = archive(np.arange(100))
    single = io.BytesIO()
    np.save(single, np.arange(3))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("tokens.npy", np.arange(5000).tobytes())
    inner = bytearray(packed.getvalue())
    inner[60:70] = b"\xff" * 10
    return {
        "empty": b"",
        "no archive": b"junk" * 10,
        "cut": whole[:-30],
        "flipped": whole.replace(np.arange(100).tobytes(), np.arange(1, 101).tobytes()),
        "one array": single.getvalue(),
        "bad deflate": bytes(inner),
    }


@pytest.mark.parametrize("content", broken_archives().values(), ids=broken_archives())
def test_broken_golden_file_is_refused(folder: Path, content: bytes) -> None:
    """A golden file that is no whole archive is named, though its digest is right."""
    replace_listed(folder, "golden.npz", content)
    refusal(folder, "golden.npz")


def test_archive_that_unfolds_to_gigabytes_is_not_unfolded(folder: Path) -> None:
    """A golden file of a few kilobytes that would fill the memory is refused by what it says of itself."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for index in range(3):
            file.writestr(f"{index}.npy", b"")
    content = bytearray(packed.getvalue())
    for entry in re.finditer(rb"PK\x01\x02", bytes(content)):  # sizes as the archive's own list has them
        content[entry.start() + 24 : entry.start() + 28] = (500 << 20).to_bytes(4, "little")
    replace_listed(folder, "golden.npz", bytes(content))
    assert f"it unfolds to {1500 << 20} bytes" in refusal(folder, "golden.npz")


def test_tokenizer_that_is_no_text_is_refused(folder: Path) -> None:
    """A tokenizer file in no text encoding is named, though its digest is right."""
    replace_listed(folder, "tokenizer.json", b"\xff\xfe{}")
    refusal(folder, "tokenizer.json")
