"""The live page in a real browser: what it shows against what was sent, and how it bears what happens to the server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

import pytest
from headwaiter import Client, HeadwaiterError

from .chromium import Browser, Page, running_browser
from .process import ServerProcess, running_server

# The figures of the page are held to what was sent within seconds.
pytestmark = pytest.mark.alone

# In a quarter of an hour there are nine hundred.
_MOST_POINTS = 1000
LIVE = "document.querySelector('#status-text').textContent === 'Live'"
# What stands in the legends of the charts: a name and a figure of each entry.
LEGENDS = """
[...document.querySelectorAll(".chart")].flatMap((chart) =>
  [...chart.querySelectorAll(".legend li:not([hidden])")]
    .filter((entry) => entry.querySelector("b"))
    .map((entry) => [
      `${chart.querySelector(".plot").dataset.chart} ${entry.childNodes[1].data}`,
      entry.querySelector("b").textContent,
    ]),
)
"""
# Calls and errors of the last seconds by the server's own account, and what the tiles show: the figure and the lines
# below it. A moment may lie between the two; `same` if both are of one sample.
MEANS = """
fetch("live.json").then((response) => response.json()).then(({ now }) => {
  const tiles = [...document.querySelectorAll("[data-tile]")].map((each) => [
    each.dataset.tile,
    [".figure b", ".more.first", ".more:last-child"].map((part) => each.querySelector(part)?.textContent ?? ""),
  ]);
  const shown = Object.fromEntries(tiles);
  return {
    shown,
    same: Math.abs(Number(shown.calls[0]) - now.calls) < 0.006,
    seconds: now.seconds,
    calls: Math.round(now.calls * now.seconds),
    errors: Math.round(now.errors * now.seconds),
  };
})
"""
# Every visible text whose contrast to the ground it stands on is below what WCAG asks for, with its contrast.
FAINT_TEXTS = """
(() => {
  const parse = (text) => {
    const [red, green, blue, alpha = 1] = text.match(/[\\d.]+/g).map(Number);
    return { rgb: [red, green, blue], alpha };
  };
  const luminance = (rgb) => {
    const [red, green, blue] = rgb
      .map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const { rgb, alpha } = parse(getComputedStyle(each).backgroundColor);
      if (alpha === 1) return rgb;
    }
    throw new Error("the page has no ground");
  };
  const contrast = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const faint = [];
  const seen = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.getClientRects().length) continue;
    for (let each = element; each; each = each.parentElement) {
      if (getComputedStyle(each).opacity !== "1") throw new Error(`seen through: ${texts.currentNode.data}`);
    }
    const found = contrast(parse(getComputedStyle(element).color).rgb, ground(element));
    seen.push(found);
    if (found < 4.5) faint.push([texts.currentNode.data, found]);
  }
  const card = ground(document.querySelector(".chart"));
  for (const mark of document.querySelectorAll(".legend i, .tile progress")) {
    const found = contrast(parse(getComputedStyle(mark).color).rgb, card);
    if (found < 3) faint.push([mark.className, found]);
  }
  return { faint, seen: seen.length };
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def two_models(models_dir: Path, tmp_path: Path) -> Path:
    """A repository that holds the same model under two names."""
    for name in ("alpha", "beta"):
        (tmp_path / name).symlink_to((models_dir / "pronounce").resolve())
    return tmp_path


@contextmanager
def serving(models: Path, *arguments: str) -> Iterator[ServerProcess]:
    with running_server("--models", str(models), "--lame-duck-seconds", "0", *arguments) as process:
        yield process


@contextmanager
def opened(
    browser: Browser, address: str, *, complaints: str = "", width: int = 1440, height: int = 900
) -> Iterator[Page]:
    """The page of a server; in the end it must not have complained, nor asked anybody else.

    Args:
        browser: Where.
        address: Of the metrics port.
        complaints: A pattern of what the browser may have said.
        width: Of the window.
        height: Of the window.
    """
    page = browser.page(f"http://{address}/", width=width, height=height)
    try:
        page.wait(LIVE)
        yield page
        assert [each for each in page.complaints() if not complaints or not re.search(complaints, each)] == []
        assert [url for url in page.requested() if not url.startswith(f"http://{address}/")] == []
    finally:
        page.close()


def tile(page: Page, name: str) -> float:
    """The figure of a tile."""
    return float(page.text(f"[data-tile={name}] .figure b").replace(",", ""))


def wait_for_tile(page: Page, name: str, least: float, most: float) -> None:
    """Wait until a tile's figure lies between two bounds."""
    figure = f"Number(document.querySelector('[data-tile={name}] .figure b').textContent.replaceAll(',', ''))"
    page.wait(f"{figure} >= {least} && {figure} <= {most}")


def wait_for_means(page: Page, calls: Collection[int], errors: int = 0) -> tuple[int, float, dict[str, list[str]]]:
    """Wait until the tiles show the means of so many calls, over the ten seconds or so that the machine makes of them.

    Args:
        page: The page.
        calls: One of these numbers.
        errors: Those of them that fail.

    Returns:
        Which of the numbers; over how many seconds; and of each tile the figure and the lines below it.
    """
    until = time.monotonic() + 30
    while True:
        seen = page.evaluate(MEANS)
        is_whole = seen["calls"] in calls and seen["errors"] == errors
        # Never over more than 10.5; over less than 10 only where the samples were late.
        if seen["same"] and is_whole and 8 <= seen["seconds"] <= 10.5:
            return seen["calls"], seen["seconds"], seen["shown"]
        assert time.monotonic() < until, seen
        time.sleep(0.02)


def read_back(page: Page, server: ServerProcess) -> dict[str, float]:
    """What the rates in the legends add up to over the time of their points, which are read with the keyboard."""
    page.click("#pause")
    page.evaluate("document.querySelector('[data-chart=calls]').focus()")
    page.press("Home")
    said: list[str] = []
    figures: list[dict[str, float]] = []
    # Points of one second may be read alike; four times the same is the newest one.
    while said[-4:] != 4 * said[-1:] or not said:
        said.append(page.text("#reading"))
        known = [(name, figure.split()[0]) for name, figure in page.evaluate(LEGENDS) if figure[0].isdigit()]
        figures.append({name: float(figure.replace(",", "")) for name, figure in known})
        assert len(figures) < _MOST_POINTS
        page.press("ArrowRight")
    page.press("Escape")
    page.click("#pause")
    sums: dict[str, float] = {}
    lengths = seconds_of_points(server)
    # Since the page paused there may be more of them.
    assert len(figures) - 3 <= len(lengths)
    for point, seconds in zip(figures[:-3], lengths, strict=False):
        for name, figure in point.items():
            sums[name] = sums.get(name, 0.0) + seconds * figure
    return sums


def seconds_of_points(server: ServerProcess) -> list[float]:
    """Over how long each point's rates are; on a busy machine that is not always a second."""
    with urlopen(f"http://{server.metrics}/live.json?since=0", timeout=30) as response:
        answer = json.load(response)
    times, running = answer["times"], answer["points"]["saturation"]
    # Where it was far longer, a point that knows nothing stands in the middle of it.
    return [1.0] + [
        (after - before) * (1 if known is not None else 2)
        for (before, after), known in zip(pairwise(times), running, strict=False)
    ]


def approximately(value: float) -> object:
    """Figures are rounded, and the times of points are not quite those that their rates were reckoned with."""
    return pytest.approx(value, rel=0.05)


def test_from_the_first_call_to_figures_that_agree_with_what_was_sent(browser: Browser, two_models: Path) -> None:
    """Before the first call the page says how to send one, and that very command works; then its figures are right.

    Calls, texts and errors are those that were sent, of all models and of each.
    """
    with serving(two_models) as server, opened(browser, server.metrics) as page:
        assert page.text("#empty-title") == "No calls yet"
        commands = page.evaluate("[...document.querySelectorAll('#empty code')].map((code) => code.textContent)")
        assert len(commands) == 2
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run(commands[0], shell=True, env=environment, check=True, capture_output=True, timeout=120)  # noqa: S602 - as people do
        page.wait("document.querySelector('#empty').hidden")

        with Client(server.grpc) as client:
            for _ in range(29):
                client.generate(["hello", "world"], model="alpha")
            for _ in range(10):
                with pytest.raises(HeadwaiterError):
                    client.generate(["hello"], model="gamma")
        # On a slow machine the command's call is more than ten seconds ago when the last one is answered.
        calls, seconds, shown = wait_for_means(page, {39, 40}, errors=10)
        assert float(shown["texts"][0]) * seconds == pytest.approx(calls + 19, abs=0.4)
        assert float(shown["p50"][0]) > 0
        _, errors, worst = shown["calls"]
        assert errors.endswith(" not OK/s")
        assert float(errors.split()[0]) * seconds == pytest.approx(10, abs=0.15)
        assert worst == "not found"
        sums = read_back(page, server)
        assert sums["calls all"] == approximately(40)
        assert sums["calls not OK"] == approximately(10)
        assert sums["texts answered"] == approximately(59)

        choose(page, "beta")
        page.wait("document.querySelector('#empty-title').textContent === 'No calls to beta yet'")
        assert tile(page, "calls") == 0
        assert page.text("[data-chart=latency] .hint") == "No call in this time."
        choose(page, "alpha")
        page.wait("document.querySelector('#empty').hidden")
        sums = read_back(page, server)
        assert (sums["calls all"], sums["calls not OK"]) == (approximately(30), 0)


def test_figures_of_generation_are_shown_where_a_model_generates(
    browser: Browser, models_dir: Path, encoders_dir: Path, tmp_path: Path
) -> None:
    """First tokens, next tokens and the cache; of an encoder, which has none of them, they are not shown at all."""
    for name, source in (("pronounce", models_dir), ("embed", encoders_dir)):
        (tmp_path / name).symlink_to((source / name).resolve())
    seen = "[...document.querySelectorAll('[data-tile], .chart')].filter((each) => each.getClientRects().length).length"
    with serving(tmp_path) as server, opened(browser, server.metrics) as page, Client(server.grpc) as client:
        tokens = 0
        for _ in range(20):
            reply = client.generate(["hello", "world"], model="pronounce")
            tokens += sum(len(each.token_ids) for each in reply.generations)
        client.embed(["soup"], model="embed")
        _, _, shown = wait_for_means(page, {21})
        first_token, _, following = shown["first-token"]
        assert float(first_token) > 0
        assert following.startswith("next ")
        assert page.evaluate(seen) == 10 + 12
        sums = read_back(page, server)
        assert sums["tokens generated"] == approximately(tokens)
        assert sums["first-token p50"] > 0
        assert sums["next-tokens p99"] > 0
        assert "kv-cache in use" in sums
        wait_for_tile(page, "kv-cache", 0, 0)  # nobody is there any more
        choose(page, "embed")
        page.wait(f"{seen} === 8 + 9")
        choose(page, "pronounce")
        page.wait(f"{seen} === 10 + 12")
        # Charts that were hidden are drawn as wide as they are.
        page.wait("[...document.querySelectorAll('.plot canvas')].every((canvas) => canvas.clientWidth > 200)")


def choose(page: Page, model: str) -> None:
    page.evaluate(
        f"""(() => {{
            const select = document.querySelector("#model");
            select.value = "{model}";
            select.dispatchEvent(new Event("change"));
        }})()"""
    )


def test_a_browser_goes_in_with_the_token(browser: Browser, models_dir: Path, tmp_path: Path) -> None:
    """As the password of any name, with which all of the page comes; without it there is no page."""
    token, word = tmp_path / "token", "open-sesame-1234"
    token.write_text(word)
    with serving(models_dir, "--metrics-token-file", str(token)) as server:
        page = browser.page(f"http://anybody:{word}@{server.metrics}/")
        page.wait(LIVE)
        assert page.complaints() == []
        without = browser.page(f"http://{server.metrics}/")
        assert without.evaluate("document.querySelector('#status-text')") is None


def test_says_that_the_server_went_away_and_that_it_came_back(browser: Browser, two_models: Path) -> None:
    """While nobody answers the page says since when; when another server answers, it says so, and goes on by itself."""
    with serving(two_models) as server:
        address = server.metrics
        # Only what a browser says of a port that nobody listens on.
        with opened(browser, address, complaints="net::ERR_") as page:
            server.terminate()
            page.wait("document.querySelector('#notice').dataset.kind === 'lost'")
            assert "has not answered since" in page.text("#notice-text")
            assert page.text("#status-text").startswith("No answer for")
            assert page.evaluate(FAINT_TEXTS)["faint"] == []
            with running_server("--models", str(two_models), metrics=address) as again:
                page.wait(LIVE)
                assert "was restarted at" in page.text("#notice-text")
                assert "was restarted at" in page.evaluate("document.querySelector('#announcer').textContent")
                with Client(again.grpc) as client:
                    for _ in range(20):
                        client.generate(["hello"], model="alpha")
                wait_for_tile(page, "calls", 0.1, 20)


def test_goes_on_while_the_server_is_overloaded(browser: Browser, two_models: Path) -> None:
    """With far more texts than it can answer, the page moves each second all the same, and shows the queue."""
    stop = threading.Event()

    def call(target: str) -> None:
        with Client(target, timeout_seconds=60) as client:
            while not stop.is_set():
                client.generate(["antidisestablishmentarianism"] * 48, model="alpha")

    with serving(two_models, "--workers", "1") as server:
        threads = [threading.Thread(target=call, args=(server.grpc,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        try:
            with opened(browser, server.metrics) as page:
                wait_for_tile(page, "queue", 100, 6 * 48)
                wait_for_tile(page, "kv-cache", 0.1, 100)
                # Not all of its time: between two steps the worker waits for the event loop, which others want as well.
                page.wait(f"parseFloat({LEGENDS.strip()}.find(([name]) => name.startsWith('saturation'))[1]) > 50")
                before = len(page.requested())
                page.wait(f"performance.getEntriesByType('resource').length > {before + 3} && {LIVE}")
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_light_and_dark_can_be_read(browser: Browser, server: ServerProcess, dark: bool) -> None:  # noqa: FBT001
    """The page follows the system, and what its reader chooses; in each theme every text stands out from its ground."""
    theme = "document.documentElement.dataset.theme"
    system, other = ("dark", "light") if dark else ("light", "dark")
    with opened(browser, server.metrics) as page:
        page.prefer(system)
        page.wait(f"{theme} === '{system}'")
        grounds = []
        for expected in (system, other):
            assert page.evaluate(theme) == expected
            looked = page.evaluate(FAINT_TEXTS)
            assert looked["faint"] == []
            assert looked["seen"] > 50
            grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.click("#theme")
        assert len(set(grounds)) == 2

        page.click("#theme")
        page.open(f"http://{server.metrics}/")
        assert page.evaluate(theme) == other, "what was chosen stays"
        page.click("#theme")
        page.prefer(other)
        page.wait(f"{theme} === '{other}'")


def test_narrow_screens_scroll_one_way(browser: Browser, server: ServerProcess) -> None:
    """On a phone nothing is cut off at the side, and every chart is as wide as the screen lets it be."""
    with opened(browser, server.metrics, width=360, height=740) as page:
        page.wait("[...document.querySelectorAll('.plot canvas')].every((canvas) => canvas.clientWidth > 280)")
        assert page.evaluate("document.querySelectorAll('.plot canvas').length") == 12
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_can_be_used_without_a_mouse_and_without_seeing_it(browser: Browser, server: ServerProcess) -> None:
    """Everything that can be used is reached by the Tab key and has a name; charts say their figures."""
    with opened(browser, server.metrics) as page:
        reached = []
        for _ in range(40):
            page.press("Tab")
            reached.append(
                page.evaluate(
                    """(() => {
                        const at = document.activeElement;
                        return at.id || at.name || at.dataset.chart || at.tagName;
                    })()"""
                )
            )
        assert {"span", "pause", "theme", "calls", "latency", "saturation", "padding"} <= set(reached)
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
        roles = {"button", "combobox", "img", "image", "radio", "link"}
        named = [(node["role"]["value"], node["name"]["value"]) for node in nodes if node["role"]["value"] in roles]
        assert [role for role, name in named if not name] == []
        labels = "[...document.querySelectorAll('.plot')].map((plot) => plot.getAttribute('aria-label'))"
        page.wait(f"{labels}.every((label) => label.includes('Now: '))")
