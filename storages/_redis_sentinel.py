"""Finding the master that Sentinel has appointed, at each connecting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from gecaso.errors import StorageError

from ._redis_dial import Dial, take_streams
from ._redis_errors import mapped

__all__ = ["SentinelDial"]


@dataclass(frozen=True, slots=True, eq=False)
class SentinelDial(Dial):
    """How to connect to the master called ``service``, of which the ``sentinels`` know.

    All of them are asked at once. As soon as most have answered, the answer of the latest
    configuration counts: one that was cut off during a fail-over may still name the old master.
    (`Sentinel client guidelines <https://redis.io/docs/latest/develop/reference/sentinel-clients/>`_
    ask one after the other.)
    """

    service: str
    sentinels: tuple[Dial, ...]

    @property
    def is_for_masters(self) -> bool:
        return True

    async def found(self) -> dict[str, Any]:
        tasks = {asyncio.ensure_future(self._ask(sentinel)) for sentinel in self.sentinels}
        try:
            answers = await self._most(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        _, host, port = max(answers)
        return {**self.options, "host": host, "port": port}

    async def _most(self, tasks: set[asyncio.Task[tuple[int, str, int]]]) -> list[Any]:
        answers: list[tuple[int, str, int]] = []
        error: StorageError | None = None
        for task in asyncio.as_completed(tasks):
            try:
                answers.append(await task)
            except StorageError as trouble:
                error = trouble
            if len(answers) > len(tasks) // 2:
                break
        if answers:
            return answers
        raise StorageError(
            f"no Sentinel says where the master of {self.service!r} is; is this its name, and do "
            f"the Sentinels run? ({error})"
        ) from error

    async def _ask(self, sentinel: Dial) -> tuple[int, str, int]:
        """Return the number of the configuration and the address of the master."""
        connection = sentinel.connection_class(**sentinel.options)
        with mapped(f"the Sentinel {sentinel.where}"):
            try:
                async with asyncio.timeout(self.connect_timeout / 2):
                    await connection.connect()
                    await connection.send_command("SENTINEL", "MASTER", self.service)
                    words = [word.decode() for word in await connection.read_response()]
                facts = dict(zip(words[::2], words[1::2], strict=True))
                return int(facts["config-epoch"]), facts["ip"], int(facts["port"])
            finally:
                writer = take_streams(connection)
                if writer is not None:
                    writer.transport.abort()
