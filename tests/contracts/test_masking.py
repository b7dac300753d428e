"""No code puts what a library raised into what callers are told, nor what callers send into the log."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from headwaiter_server import errors

SERVER = Path(__file__).resolve().parents[2] / "server" / "headwaiter_server"
MODULES = sorted(SERVER.rglob("*.py"))
REQUEST_ERRORS = {
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.RequestError)
}
# What becomes of a bundle; what a library said stands apart in it.
REFUSALS = {"BundleError", "Verdict", "within"}
# Parts of exceptions that are words of our own or the system's for a number, and numbers.
HARMLESS = {"colno", "description", "errno", "field", "lineno", "message", "retry_after_seconds", "strerror"}
# What a call brings along, under the names that it goes by here.
CONTENT = {
    *("arguments", "authorization", "body", "contents", "credential", "data", "fairness_key", "headers", "input"),
    *("inputs", "metadata", "password", "prompt", "query", "request", "secret", "text", "texts", "token", "values"),
}


def own_errors() -> set[str]:
    """Classes of exceptions that are made here."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in MODULES]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


OWN = own_errors()


def offences(source: str, own: set[str] = OWN) -> list[str]:
    """List where a foreign exception's text goes to callers, or a call's content to the log."""
    tree = ast.parse(source)
    found = []
    for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name):
        caught = _names(handler.type)
        for call in _calls(handler):
            name = _called(call)
            # What is meant for callers may be told on; what is only our own may be told to whoever runs the server.
            whole = (
                caught <= REQUEST_ERRORS if name in REQUEST_ERRORS else bool(caught) and caught <= own - {"BundleError"}
            )
            told = _told(call) if name in REQUEST_ERRORS | REFUSALS else []
            if not whole and any(_quotes(part, handler.name or "") for part in told):
                found.append(ast.unparse(call))
    found += [
        f"{ast.unparse(call.func)}({word.arg}=...)"
        for call in _calls(tree)
        if ast.unparse(call.func).startswith("_log.")
        for word in call.keywords
        if word.arg in CONTENT
    ]
    return found


def _names(kinds: ast.expr | None) -> set[str]:
    each = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds] if kinds is not None else []
    return {ast.unparse(kind) for kind in each}


def _calls(within: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(within) if isinstance(node, ast.Call))


def _called(call: ast.Call) -> str:
    """The name of what is called, whatever it is looked up in."""
    return ast.unparse(call.func).rpartition(".")[2]


def _told(call: ast.Call) -> list[ast.expr]:
    """The arguments that callers may come to see: of a bundle's error only the first."""
    given = call.args[:1] if _called(call) == "BundleError" else call.args
    # A request's error has no part that is for the log alone.
    return [*given, *(word.value for word in call.keywords if word.arg != "said" or _called(call) in REQUEST_ERRORS)]


def _quotes(part: ast.AST, name: str) -> bool:
    """Whether an expression says what an exception says; a harmless part of it is not that."""
    if isinstance(part, ast.Attribute) and part.attr in HARMLESS:
        return False
    if isinstance(part, ast.Name):
        return part.id == name
    return any(_quotes(each, name) for each in ast.iter_child_nodes(part))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SERVER)))
def test_module_tells_nobody_what_is_not_theirs(path: Path) -> None:
    """Whatever a library says goes to the log, and what callers send does not."""
    assert offences(path.read_text(encoding="utf-8")) == []


TRIED = "try:\n    work()\nexcept {} as error:\n    raise {} from error\n"


@pytest.mark.parametrize(
    "source",
    [
        TRIED.format("ValueError", "InvalidRequestError('text', f'is wrong: {error}')"),
        TRIED.format("Exception", "InvalidRequestError('text', str(error))"),
        TRIED.format("(DecodeError, OSError)", "ModelLoadError(repr(error))"),
        TRIED.format("OSError", "QueueFullError(f'{error.filename} is full', 1.0)"),
        TRIED.format("BundleError", "ModelLoadError(str(error))"),
        TRIED.format("Exception", "BundleError(f'{path}: {error}')"),
        TRIED.format("Exception", "BundleError(f'{path}: {type(error).__name__}')"),
        TRIED.format("BundleError", "BundleError(f'{path}: {error}')"),
        TRIED.format("ValueError", "BundleError('it does not run').within(str(error))"),
        TRIED.format("Exception", "Verdict(signature, f'it does not run: {error}')"),
        TRIED.format("ValueError", "errors.InvalidRequestError('text', str(error))"),
        "_log.info('answered', texts=texts)",
        "_log.warning('refused', metadata=context.invocation_metadata())",
        "def f():\n    _log.error('denied', authorization=value, client=name)",
    ],
)
def test_offence_is_found(source: str) -> None:
    """The search sees the ways in which it could happen."""
    assert len(offences(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        TRIED.format("OSError", "InvalidRequestError('key', f'cannot be opened: {error.strerror}')"),
        TRIED.format("InvalidRequestError", "InvalidRequestError('texts', error.description)"),
        TRIED.format("InvalidRequestError", "InvalidRequestError('texts', f'first: {error}')"),
        TRIED.format("Exception", "BundleError(f'{path}: it does not run', error)"),
        TRIED.format("Exception", "Verdict(signature, 'it does not run', said=str(error))"),
        TRIED.format("BundleError", "error.within(path)"),
        TRIED.format("BundleError", "ModelLoadError(tidy(error.message))"),
        TRIED.format("ValueError", "ConfigError(f'--listen: {error}')"),
        "_log.error('internal_error', error_id=number, exc_info=error)",
        "print(texts=texts)",
    ],
)
def test_innocent_is_let_through(source: str) -> None:
    """The search does not cry wolf."""
    assert offences(source) == []
