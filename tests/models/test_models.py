"""A model answers as the real server does: to the byte, over random commands."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models import memcached_steps, redis_steps, wrong_memcached, wrong_redis
from tests.models.patches import Patch

STEPS = 40  # in a sequence


class Model(NamedTuple):
    """How a model is compared with a server: random steps in, the first difference out."""

    first_difference: Callable[[Any, random.Random, int], str | None]
    sequences: int  # that show no difference, and within which a wrong model is found out
    wrong: Mapping[str, Patch]


MODELS = {
    "redis": Model(redis_steps.first_difference, 150, wrong_redis.WRONG),
    "memcached": Model(memcached_steps.first_difference, 250, wrong_memcached.WRONG),
}
WRONG = [(kind, name) for kind, model in MODELS.items() for name in model.wrong]


def server_of(kind: str, request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{kind}_server")


@pytest.mark.parametrize("kind", MODELS)
def test_the_model_answers_every_sequence_of_commands_as_the_server_does(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server, model = server_of(kind, request), MODELS[kind]
    for seed in range(model.sequences):
        told = model.first_difference(server, random.Random(seed), STEPS)
        assert told is None, f"seed {seed}, {told}"


@pytest.mark.parametrize("kind", MODELS)
@given(choose=st.randoms(use_true_random=False), steps=st.integers(1, STEPS))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_short_sequence_of_commands_tells_them_apart(
    choose: random.Random, steps: int, kind: str, request: pytest.FixtureRequest
) -> None:
    told = MODELS[kind].first_difference(server_of(kind, request), choose, steps)
    assert told is None, told


@pytest.mark.parametrize(("kind", "wrong"), WRONG)
def test_a_wrong_model_is_found_out(
    kind: str, wrong: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, model = server_of(kind, request), MODELS[kind]
    model.wrong[wrong](monkeypatch)
    seeds = range(model.sequences)
    found = (model.first_difference(server, random.Random(seed), STEPS) for seed in seeds)
    assert any(told is not None for told in found)
