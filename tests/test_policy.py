"""The options of a cached function, checked once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from gecaso import Cache, MemoryStorage, cached
from gecaso.errors import ConfigurationError, UnknownOption
from gecaso.policy import Policy, unknown_option


def test_the_defaults() -> None:
    policy = Policy.make()
    assert policy.ttl is None
    assert policy.lease_seconds == 10.0
    assert policy.wait_timeout is None
    assert policy.on_storage_error == "load"
    assert policy.invalidate_timeout == 2.0
    assert policy.params == {}


def test_options_are_those_given_and_for_the_rest_those_of_the_base() -> None:
    base = Policy.make(ttl="1m", lease_seconds=3, params={"a": 1})
    policy = Policy.make(base, ttl=timedelta(seconds=5), wait_timeout="2s")
    assert (base.ttl, policy.ttl) == (60.0, 5.0)
    assert (policy.lease_seconds, policy.wait_timeout) == (3.0, 2.0)
    assert policy.params == {"a": 1}


def test_a_policy_cannot_be_changed_by_what_was_given() -> None:
    params = {"a": 1}
    policy = Policy.make(params=params)
    params["a"] = 2
    assert policy.params == {"a": 1}
    with pytest.raises(TypeError):
        policy.params["a"] = 2  # type: ignore[index]  # pyright: ignore[reportIndexIssue] - meant to be wrong


@pytest.mark.parametrize("option", ["lease_seconds", "wait_timeout", "invalidate_timeout"])
def test_times_must_be_above_zero(option: str) -> None:
    for bad in (0, -1, float("nan"), "0s"):
        with pytest.raises(ValueError, match=f"{option} must be above zero"):
            Policy.make(**{option: bad})
    with pytest.raises(TypeError, match=f"{option} must be seconds"):
        Policy.make(**{option: [1]})


@pytest.mark.parametrize(
    ("option", "choices"),
    [("on_storage_error", ("load", "raise")), ("on_invalidate_error", ("raise", "journal"))],
)
def test_choices_are_named_when_there_is_no_such_choice(option: str, choices: Any) -> None:
    for choice in choices:
        assert getattr(Policy.make(**{option: choice}), option) == choice
    with pytest.raises(ConfigurationError, match=f"{option} must be one of .*'raise'") as caught:
        Policy.make(**{option: "ignore"})
    assert "not 'ignore'" in str(caught.value)


def test_a_condition_must_be_a_function() -> None:
    with pytest.raises(TypeError, match="condition must be a function of the value"):
        Policy.make(condition=True)


def by_value(value: str) -> Any:
    return {"a": "5m", "b": None}.get(value, 7)


def test_a_ttl_may_be_a_function_of_the_value() -> None:
    policy = Policy.make(ttl=by_value)
    assert [policy.ttl_of(value) for value in "abc"] == [300.0, None, 7.0]
    for bad, error in [(0, ValueError), (True, TypeError), ("soon", ValueError)]:
        policy = Policy.make(ttl={None: bad}.get)
        with pytest.raises(error, match="ttl must"):
            policy.ttl_of(None)


def test_an_unknown_option_names_the_nearest_and_where_the_rest_goes() -> None:
    with pytest.raises(UnknownOption, match="Did you mean lease_seconds") as caught:
        Policy.make(lease_second=3)
    assert (caught.value.option, caught.value.nearest) == ("lease_second", "lease_seconds")
    assert "params={...}" in str(caught.value)
    far = unknown_option("zzz", {"ttl"})
    assert far.nearest is None
    assert "Did you mean" not in str(far)


def test_what_is_wrong_is_found_at_decoration() -> None:
    decorate: Any = cached
    for options in (
        {"lease_seconds": 0},
        {"condition": "yes"},
        {"on_storage_error": "ignore"},
        {"ttl": -1},
        {"params": {"colour": 1}},
    ):
        for storage in (MemoryStorage(), Cache()):
            with pytest.raises((ValueError, TypeError)):
                decorate(storage, **options)
