"""Drives a real Chromium over its devtools protocol, through a pair of pipes: no port, no driver, no package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Longer than a page is waited for.
_PATIENCE_SECONDS = 60.0
# Chromium reads its commands from descriptor 3 and answers on 4.
_START = """
import os, sys
reading, writing, *command = sys.argv[1:]
os.dup2(int(reading), 3)
os.dup2(int(writing), 4)
os.execv(command[0], command)
"""
_FLAGS = (
    "--headless",
    "--no-sandbox",  # tests may run as root, and open nothing but this project's own pages
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--no-default-browser-check",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """A browser of which each page is a profile of its own."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        """Talk over two descriptors."""
        self._out = os.fdopen(to_browser, "wb", buffering=0)
        self._in = os.fdopen(from_browser, "rb")
        self._lock = threading.Lock()
        self._number = 0
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._reader = threading.Thread(target=self._read, name="chromium", daemon=True)
        self._reader.start()

    def page(self, url: str, *, width: int = 1440, height: int = 900, dark: bool = False, scale: float = 1) -> Page:
        """Open a page in a window of its own, with nothing stored.

        Args:
            url: Its address.
            width: Of the window, in CSS pixels.
            height: Of the window, in CSS pixels.
            dark: Whether the system asks for dark pages.
            scale: Device pixels to one of CSS.
        """
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height, scale)
        page.prefer("dark" if dark else "light")
        page.open(url)
        return page

    def call(self, method: str, session: str | None = None, /, **parameters: object) -> dict[str, Any]:
        """Give a command and wait for its result."""
        answers: queue.Queue[dict[str, Any]] = queue.Queue()
        with self._lock:
            self._number += 1
            number = self._number
            self._answers[number] = answers
            message = {"id": number, "method": method, "params": parameters}
            if session:
                message["sessionId"] = session
            self._out.write(json.dumps(message).encode() + b"\0")
        answer = answers.get(timeout=_PATIENCE_SECONDS)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """End the browser."""
        self.call("Browser.close")
        self._reader.join(_PATIENCE_SECONDS)
        self._out.close()
        self._in.close()

    def _read(self) -> None:
        pending = b""
        while data := os.read(self._in.fileno(), 1 << 16):
            *messages, pending = (pending + data).split(b"\0")
            for message in map(json.loads, messages):
                if answers := self._answers.pop(message.get("id"), None):
                    answers.put(message)
                elif page := self._pages.get(message.get("sessionId")):
                    page.events.append((message["method"], message["params"]))


class Page:
    """One page."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        """Name the page by its session; everything that happens to it is in `events`."""
        self._browser, self._session, self._context = browser, session, context
        self.events: list[tuple[str, dict[str, Any]]] = []

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Give a command to this page."""
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Go to an address; returns when the page's document and scripts are loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """Give the window a size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def prefer(self, scheme: str) -> None:
        """Have the system ask for `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401 - whatever the page says
        """The value of an expression in the page; of a promise what it brings."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Wait until a condition holds in the page, and fail if it never does."""
        met = self.evaluate(
            f"""new Promise((resolve) => {{
                const end = performance.now() + {seconds * 1000};
                const look = () => {{
                    let met = false;
                    try {{ met = Boolean({condition}); }} catch {{}}
                    if (met || performance.now() > end) resolve(met); else setTimeout(look, 20);
                }};
                look();
            }})"""
        )
        assert met, f"never true on the page: {condition}; it shows:\n{self.evaluate('document.body.innerText')}"

    def text(self, selector: str) -> str:
        """The visible text of the first element that a selector finds."""
        text: str = self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
        return text

    def click(self, selector: str) -> None:
        """Click the middle of an element, as a mouse does."""
        x, y = self.evaluate(
            f"""(() => {{
                const element = document.querySelector({json.dumps(selector)});
                element.scrollIntoView({{block: "center"}});
                const box = element.getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key that has no text, by its name: `ArrowLeft`, `Tab`."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key])

    def screenshot(self, path: Path) -> None:
        """Write what the window shows to a PNG file."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """Errors and warnings that the browser or the page's scripts have told of."""
        found = []
        for method, event in self.events:
            if method == "Runtime.exceptionThrown":
                found.append(json.dumps(event["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and event["type"] in {"error", "warning", "assert"}:
                found.append(json.dumps(event["args"]))
            elif method == "Log.entryAdded" and event["entry"]["level"] in {"error", "warning"}:
                found.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
        return found

    def requested(self) -> list[str]:
        """Addresses of everything the page has asked for."""
        return [event["request"]["url"] for method, event in self.events if method == "Network.requestWillBeSent"]

    def close(self) -> None:
        """Close the page and forget what it stored."""
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)


_KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "End": 35, "Escape": 27, "Home": 36, "Tab": 9}


@contextmanager
def running_browser(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in a folder; killed in the end if it does not end by itself."""
    command = shutil.which("chromium")
    assert command is not None, "Chromium is needed: apt-get install chromium"
    read_end, to_browser = _high_pipe()
    from_browser, write_end = _high_pipe()
    with subprocess.Popen(
        [
            sys.executable,
            "-IS",
            "-c",
            _START,
            str(read_end),
            str(write_end),
            command,
            *_FLAGS,
            f"--user-data-dir={folder}",
        ],
        pass_fds=(read_end, write_end),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(read_end)
        os.close(write_end)
        try:
            browser = Browser(to_browser, from_browser)
            yield browser
            browser.close()
            process.wait(_PATIENCE_SECONDS)
        finally:
            process.kill()


def _high_pipe() -> tuple[int, int]:
    """A pipe whose descriptors are none of those that the browser's get."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]
