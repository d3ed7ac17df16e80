"""The model of Redis knows what the storage sends."""

from __future__ import annotations

from gecaso.storages import _redis_scripts as sent
from tests.models import redis_scripts


def test_every_script_that_the_storage_sends_is_known_to_the_model() -> None:
    constants = {name: value for name, value in vars(sent).items() if name[0].isupper()}
    texts = {text for text in constants.values() if isinstance(text, bytes) and b"redis." in text}
    assert texts == set(redis_scripts.SCRIPTS)
