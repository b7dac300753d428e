"""`headwaiter explain --attention`: a table for the terminal, a drawing, and JSON."""

from __future__ import annotations

import json
import string
import struct
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from headwaiter.attention_plot import write_plot
from headwaiter.heat_map import ASCII_SHADES, SHADES, HeatMap, heat_map_lines
from headwaiter_proto.v1 import bundle_pb2, inference_pb2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unit.client.scripted_server import ScriptedServer

Run = Any  # what the fixture `headwaiter` gives

# Two generated tokens, one layer, two heads, three tokens of the source.
WEIGHTS = (0.5, 0.25, 0.25, 1.0, 0.0, 0.0, 0.0, 0.25, 0.75, 0.0, 0.75, 0.25)
MEAN = [[0.75, 0.125, 0.125], [0.0, 0.5, 0.5]]
SVG = "{http://www.w3.org/2000/svg}"


def generation(*tokens: str) -> inference_pb2.Generation:
    weights = struct.pack(f"<{6 * len(tokens)}f", *WEIGHTS[: 6 * len(tokens)])
    attention = inference_pb2.Attention(
        layers=1, heads=2, source_tokens=["a", "b", "</s>"], tokens=tokens, weights=weights
    )
    return inference_pb2.Generation(text="".join(tokens), token_ids=range(len(tokens)), attention=attention)


@pytest.fixture
def serving(serve: Callable[..., ScriptedServer]) -> Callable[..., ScriptedServer]:
    """Starts a server whose model gives this generation, its attention where it is asked for."""

    def start(given: inference_pb2.Generation, task: str = "GENERATE") -> ScriptedServer:
        info = inference_pb2.ModelInfo(name="m", version=1, task=getattr(bundle_pb2, f"TASK_{task}"), variant="fp32")

        def generate(raw: bytes, context: object) -> bytes:
            answer = inference_pb2.Generation.FromString(given.SerializeToString())
            if not inference_pb2.GenerateRequest.FromString(raw).attention:
                answer.ClearField("attention")
            return inference_pb2.GenerateResponse(generations=[answer]).SerializeToString()

        tokens = inference_pb2.TokenizeResponse(tokenizations=[inference_pb2.Tokenization(tokens=["a", "b", "</s>"])])
        return serve(
            {
                "GetModel": lambda raw, context: inference_pb2.GetModelResponse(model=info).SerializeToString(),
                "Generate": generate,
                "Tokenize": lambda raw, context: tokens.SerializeToString(),
            }
        )

    return start


def test_a_table_follows_the_explanation(headwaiter: Run, serving: Callable[..., ScriptedServer]) -> None:
    """A row for each generated token, a column for each of the source, shares of the mean over layers and heads."""
    server = serving(generation("AA", "B"))
    code, out, err = headwaiter("explain", "ab", "--attention", "--target", server.target)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "m version 1 (generate, fp32)"
    assert lines[-9:] == [
        "attention in the mean of all layers, of all heads",
        "                 <",
        "                 /",
        "                 s",
        "             a b >",
        "AA   75 % a  ██",
        "B    50 % b    ▓▓▓▓",
        "",
        "░ from 15 %, ▒ from 30 %, ▓ from 45 %, █ from 60 % to 75 %",
    ]
    requests = [
        inference_pb2.GenerateRequest.FromString(each.request) for each in server.calls if each.method == "Generate"
    ]
    assert [each.attention for each in requests] == [True, False, False]


def test_one_layer_or_head(headwaiter: Run, serving: Callable[..., ScriptedServer]) -> None:
    """Of one head the shares are its own; one that the model has not is named."""
    server = serving(generation("AA", "B"))
    options = ("explain", "ab", "--attention", "--target", server.target)
    out = headwaiter(*options, "--layer", "0", "--head", "1")[1]
    assert "attention in layer 0, of head 1\n" in out
    assert "AA  100 % a" in out
    assert "B    75 % b" in out
    code, out, err = headwaiter(*options, "--head", "2")
    assert (code, out) == (2, "")
    assert "head 2 is none of the 2 heads, which are counted from 0" in err


def test_as_json(headwaiter: Run, serving: Callable[..., ScriptedServer]) -> None:
    """The explanation as without, and the shares that the table would have shown."""
    server = serving(generation("AA", "B"))
    told = json.loads(headwaiter("explain", "ab", "--attention", "--json", "--target", server.target)[1])
    assert told["answer"] == "'AAB', 2 tokens"
    assert told["attention"] == {
        "layers": 1,
        "heads": 2,
        "layer": None,
        "head": None,
        "source_tokens": ["a", "b", "</s>"],
        "tokens": ["AA", "B"],
        "weights": MEAN,
    }


@pytest.mark.parametrize("suffix", [".svg", ".html"])
def test_a_drawing(headwaiter: Run, serving: Callable[..., ScriptedServer], tmp_path: Path, suffix: str) -> None:
    """A file that needs nothing else, with a cell for each share, which is told where one points at it."""
    server, path = serving(generation("<A&", "B")), tmp_path / f"map{suffix}"
    assert headwaiter("explain", "ab", "--attention", "--plot", str(path), "--target", server.target)[0] == 0
    page = path.read_text(encoding="utf-8")
    drawing = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])  # noqa: S314 - our own
    cells = list(drawing.iter(f"{SVG}rect"))
    assert [float(cell.attrib["fill-opacity"]) for cell in cells] == pytest.approx(
        [max(0.02, share / 0.75) for row in MEAN for share in row], abs=1e-3
    )
    assert cells[0].findtext(f"{SVG}title") == "<A& → a: 75.0 %"
    assert [text.text for text in drawing.iter(f"{SVG}text")] == [
        "m version 1: 'ab', attention in the mean of all layers, of all heads",
        *("a", "b", "</s>", "<A&", "B"),
    ]
    assert page.startswith("<!doctype html>") is (suffix == ".html")
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layer", "0"], "go with --attention"),
        (["--plot", "x.svg"], "go with --attention"),
        (["--attention", "--plot", "x.png"], "ends in .svg or .html, not 'x.png'"),
    ],
)
def test_options_that_make_no_sense(
    headwaiter: Run, serving: Callable[..., ScriptedServer], arguments: list[str], words: str
) -> None:
    """They are named before anything is called."""
    server = serving(generation("A"))
    code, out, err = headwaiter("explain", "ab", *arguments, "--target", server.target)
    assert (code, out, server.calls) == (2, "", [])
    assert words in err


def test_models_without_attention_to_tell(headwaiter: Run, serving: Callable[..., ScriptedServer]) -> None:
    """A model that does something else, a server that tells nothing, and a text from which nothing comes."""
    code, _, err = headwaiter("explain", "ab", "--attention", "--target", serving(generation("A"), "EMBED").target)
    assert (code, "--attention means nothing to 'm', whose task is to embed" in err) == (2, True)
    silent = inference_pb2.Generation(text="A", token_ids=[1])
    code, _, err = headwaiter("explain", "ab", "--attention", "--target", serving(silent).target)
    assert (code, err) == (1, "headwaiter: the server tells nothing of the attention of 'm'\n")
    code, out, _ = headwaiter("explain", "ab", "--attention", "--target", serving(generation()).target)
    assert (code, out.splitlines()[-1]) == (0, "nothing was generated")


def test_what_does_not_fit_stands_below() -> None:
    """No line is longer than the terminal; every column is there once; names are cut, and take the cells they take."""
    columns = tuple((string.ascii_letters + string.digits)[:60])
    rows = ("家" * 3, "a\x1b\u0301b", "an-unreasonably-long-name")
    it = HeatMap(rows, columns, [[float(number == at) for number in range(60)] for at in (0, 30, 59)])
    *lines, _ = heat_map_lines(it, width=60, shades=ASCII_SHADES)
    assert max(map(len, lines)) <= 60
    assert [letter for line in lines if "%" not in line for letter in line.split()] == [*columns]
    shaded = [line for line in lines if "##" in line]
    assert [line.split()[0] for line in shaded] == ["家家家", "a\ufffd\u0301b", "an-unreasonabl.."]
    # Of 16 columns before the gap, the first name takes six in three characters, the second three in four.
    assert [line.index("100 %") for line in shaded] == [18 - 3, 18 + 1, 18]
    assert "\x1b" not in "".join(lines)


def test_shades_are_equal_parts() -> None:
    """Five shades from nothing to the largest share; nothing at all has none."""
    it = HeatMap(("r",), ("a", "b", "c", "d", "e", "f"), [[0.0, 0.09, 0.1, 0.2, 0.3, 0.5]])
    assert list(heat_map_lines(it, width=80, shades=SHADES))[1].endswith("    ░░▒▒▓▓██")
    none = HeatMap(("r",), ("a",), [[0.0]])
    assert list(heat_map_lines(none, width=80, shades=SHADES))[1] == "r    0 % a"


def test_terminal_that_knows_no_shades(
    headwaiter: Run, serving: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shades are made of what the output's encoding has."""
    monkeypatch.setattr("headwaiter.cli_explain.SHADES", " \udcff\udcff\udcff\udcff")
    out = headwaiter("explain", "ab", "--attention", "--target", serving(generation("AA", "B")).target)[1]
    assert "B    50 % b    ****\n" in out


def test_drawings_hold_what_xml_can_hold(tmp_path: Path) -> None:
    """Control characters of tokens are replaced."""
    path = tmp_path / "map.svg"
    write_plot(HeatMap(("\x00",), ("\n",), [[1.0]]), "t\x07", path)
    assert [text.text for text in ET.parse(path).iter(f"{SVG}text")] == ["t\ufffd", "\ufffd", "\ufffd"]  # noqa: S314
