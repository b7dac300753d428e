"""Which versions serve, as settings, configurations and callers say it."""

from __future__ import annotations

import pytest
from headwaiter_server.config.version_policy import VersionPolicies, VersionPolicy
from headwaiter_server.errors import InvalidRequestError, UnsupportedError
from headwaiter_server.lifecycle.version_override import parse_override


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("latest:1", [9]),
        ("latest:2", [3, 9]),
        ("latest:99", [1, 3, 9]),
        ("all", [1, 3, 9]),
        ("specific:3,1", [1, 3]),
        ("specific:4", [4]),  # which is not there: whoever loads it says so
    ],
)
def test_policy_chooses(text: str, chosen: list[int]) -> None:
    """Versions come ascending, and the policy says itself as it was said."""
    policy = VersionPolicy.parse(text)
    assert policy.chosen([9, 1, 3]) == chosen
    assert VersionPolicy.parse(str(policy)) == policy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latest",
        "latest:0",
        "latest:-1",
        "latest:1,2",
        "specific:",
        "specific:0",
        "specific:01",
        "none",
        "all:1",
        "1",
    ],
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    """With what there is to choose from."""
    with pytest.raises(ValueError, match="expected latest:COUNT, all, or specific:VERSION"):
        VersionPolicy.parse(text)


def test_policies_by_model() -> None:
    """The setting for one model wins over its folder, and that over the setting for all."""
    policies = VersionPolicies.parse("latest:2, a=specific:1,3, b=all")
    folder = VersionPolicy(latest=5)
    assert str(policies.of("a", folder)) == "specific:1,3"
    assert str(policies.of("b", folder)) == "all"
    assert policies.of("c", folder) == folder
    assert str(policies.of("c", None)) == "latest:2"
    assert str(VersionPolicies.parse("a=all").of("c", None)) == "latest:1"


@pytest.mark.parametrize("text", ["all,latest:1", "a=all,a=latest:1", "a=", "=all", "a=b=all", "1,2"])
def test_what_are_no_policies_is_refused(text: str) -> None:
    """Nothing of it is guessed."""
    with pytest.raises(ValueError, match=r"expected|twice|two policies"):
        VersionPolicies.parse(text)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ('{"version_policy": {"specific": {"versions": [3, 1]}}}', "specific:1,3"),
        ('{"version_policy": {"specific": {"versions": ["1"]}}}', "specific:1"),
        ('{"versionPolicy": {"latest": {"numVersions": 2}}}', "latest:2"),
        ('{"version_policy": {"latest": {}}}', "latest:1"),
        ('{"name": "m", "version_policy": {"all": {}}}', "all"),
    ],
)
def test_call_may_choose_versions(text: str, policy: str) -> None:
    """In the JSON of a model's configuration, as Triton takes it."""
    assert str(parse_override(text, "m")) == policy


def test_call_may_say_nothing() -> None:
    """Then what settings and folder say holds."""
    assert parse_override("{}", "m") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no JSON"),
        ("[]", "is no JSON"),
        ('{"nonsense": 1}', "nonsense"),
        ('{"name": "other"}', "is for model 'other', the call loads 'm'"),
        ('{"version_policy": {}}', "version_policy is empty"),
        ('{"version_policy": {"specific": {}}}', "version_policy: versions are numbers from 1 on"),
        ('{"version_policy": {"specific": {"versions": [0]}}}', "from 1 on"),
        ('{"version_policy": {"specific": {"versions": [-1]}}}', "from 1 on"),
        ('{"version_policy": {"latest": {"num_versions": -1}}}', "is no JSON"),
        ("[" * 10_000, "is no JSON"),
        (" " * 70_000, "has 70000 characters"),
    ],
)
def test_call_with_no_configuration_is_refused(text: str, words: str) -> None:
    """With the parameter's name."""
    with pytest.raises(InvalidRequestError, match=words) as refused:
        parse_override(text, "m")
    assert refused.value.field == "parameters[config]"


def test_call_that_sets_more_is_refused_by_name() -> None:
    """What would be without effect is not accepted."""
    with pytest.raises(UnsupportedError, match="sets backend, max_batch_size; of a configuration"):
        parse_override('{"backend": "onnxruntime", "max_batch_size": 4}', "m")
