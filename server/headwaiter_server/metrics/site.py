"""The live page's files and figures, as routes of the metrics port."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs

from headwaiter_server.metrics.live import answer
from headwaiter_server.metrics.messages import Request, Response, Route
from headwaiter_server.metrics.sampling import Sampler
from headwaiter_server.metrics.situation import Situation

_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",
}
# Nothing but this port's own files and figures: no other address, no script in the document, no frame around it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}


def routes(sampler: Sampler, situation: Callable[[], Situation]) -> dict[str, Route]:
    """The routes of the page: `/`, its files under `/page/`, and its figures at `/live.json`.

    Args:
        sampler: Has the samples.
        situation: Tells how the server is; called on other threads than the event loop's.
    """
    files = {
        f"/page/{path.relative_to(_FOLDER).as_posix()}": _file(path) for path in _FOLDER.rglob("*") if path.is_file()
    }
    document = files.pop("/page/index.html")
    return {**files, "/": document, "/live.json": Figures(sampler, situation)}


class Figures:
    """Answers for what is new since a sample: `/live.json?since=SAMPLE&model=NAME&run=RUN`."""

    def __init__(self, sampler: Sampler, situation: Callable[[], Situation]) -> None:
        """Take what is read at each request. See `routes`."""
        self._sampler = sampler
        self._situation = situation

    def __call__(self, request: Request) -> Response:
        """Answer with what is new; with everything there is to a page that knows another run of the server."""
        asked = {name: values[-1] for name, values in parse_qs(request.query).items()}
        situation = self._situation()
        try:
            since = float(asked.get("since", "0"))
        except ValueError:
            since = math.nan
        if not math.isfinite(since):
            return Response(b"since is no number\n", status=HTTPStatus.BAD_REQUEST)
        told = answer(
            self._sampler.samples(),
            situation,
            self._sampler.metrics.request_seconds.bounds,
            model=asked.get("model", ""),
            since=since if asked.get("run") == situation.run else 0.0,
        )
        body = json.dumps(told, separators=(",", ":"), allow_nan=False).encode()
        return Response(body, "application/json", headers={**_HEADERS, "Cache-Control": "no-store"})


def _file(path: Path) -> Route:
    """A route that answers with a file as it is now."""
    # Asked for again each time: after an upgrade, files of two versions do not go together.
    response = Response(path.read_bytes(), _TYPES[path.suffix], headers={**_HEADERS, "Cache-Control": "no-cache"})
    return lambda _request: response
