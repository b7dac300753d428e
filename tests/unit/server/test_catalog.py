"""Finding the model that a request names."""

from __future__ import annotations

from typing import Any, cast

import pytest
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.errors import UnknownModelError
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel

NOTHING = cast("Any", None)


def catalog(*models: tuple[str, int]) -> Catalog:
    result = Catalog()
    for name, version in models:
        result.add(ServedModel(name, version, "fp32", bundle_pb2.Manifest(), text_tokenizer=NOTHING, lane=NOTHING))
    return result


def found(models: Catalog, name: str, version: int) -> tuple[str, int]:
    model = models.find(name, version)
    return model.name, model.version


def refusal(models: Catalog, name: str, version: int) -> str:
    with pytest.raises(UnknownModelError) as caught:
        models.find(name, version)
    return str(caught.value)


def test_model_by_name_and_version() -> None:
    """A name with a version finds just that; version 0 finds the highest."""
    models = catalog(("a", 2), ("a", 10), ("a", 3), ("b", 1))
    assert found(models, "a", 3) == ("a", 3)
    assert found(models, "a", 0) == ("a", 10)
    assert found(models, "b", 0) == ("b", 1)


def test_only_model_needs_no_name() -> None:
    """Where one model is served, in whatever versions, a request need not name it."""
    models = catalog(("a", 2), ("a", 1))
    assert found(models, "", 0) == ("a", 2)
    assert found(models, "", 1) == ("a", 1)


def test_nameless_request_is_refused_where_it_is_ambiguous() -> None:
    """Of several models none is guessed; the error names them, sorted."""
    assert "b, c" in refusal(catalog(("c", 1), ("b", 1)), "", 0)
    assert "none" in refusal(catalog(), "", 0)


def test_refusal_names_at_most_ten() -> None:
    """Of many models or versions an error names ten, and says how many more there are."""
    names = [f"m{n:03}" for n in range(500)]
    for name in ("", "x"):
        message = refusal(catalog(*((each, 1) for each in names)), name, 0)
        assert ", ".join([*names[:10], "and 490 more"]) in message
        assert "m010" not in message
    message = refusal(catalog(*(("a", n) for n in range(1, 31))), "a", 99)
    assert message.endswith("holds 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, and 20 more")
    assert "more" not in refusal(catalog(*((each, 1) for each in names[:10])), "x", 0)


def test_unknown_model_is_refused_with_those_there_are() -> None:
    """An unknown name, also one that differs in case only, is told beside the known ones."""
    message = refusal(catalog(("a", 1), ("b", 1)), "A", 0)
    assert "'A'" in message
    assert "a, b" in message


def test_unknown_version_is_refused_with_those_there_are() -> None:
    """An unknown version is told beside the known ones, in order of number."""
    message = refusal(catalog(("a", 10), ("a", 9)), "a", 3)
    assert "no version 3" in message
    assert "9, 10" in message
    assert "no version -1" in refusal(catalog(("a", 1)), "a", -1)


def test_long_names_do_not_fill_the_error() -> None:
    """A name of a megabyte is cut in the error, which travels in headers."""
    assert len(refusal(catalog(("a", 1)), "x" * 1_000_000, 0)) < 500


def test_all_models_by_name_then_version() -> None:
    """Listings are in the same order every time, whatever the order of loading."""
    models = catalog(("b", 1), ("a", 10), ("a", 9))
    assert [(each.name, each.version) for each in models.all()] == [("a", 9), ("a", 10), ("b", 1)]


def test_task_is_named_as_people_say_it() -> None:
    """What a model does is a word, for messages."""
    described = bundle_pb2.Manifest(task=bundle_pb2.TASK_RERANK)
    assert ServedModel("a", 1, "fp32", described, NOTHING, NOTHING).task == "rerank"
