"""A storage whose client library is not installed says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("storage", "library", "extra"),
    [
        ("RedisStorage", "redis", "redis"),
        ("MemcachedStorage", "aiomcache", "memcached"),
        ("PostgresStorage", "asyncpg", "postgres"),
    ],
)
def test_a_missing_client_library_is_named_with_the_extra_to_install(
    storage: str, library: str, extra: str
) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; from gecaso.storages import {storage}"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: {storage} needs {library}: pip install gecaso[{extra}]"
    )
