"""What type checkers see of cached methods."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Self, assert_type

from gecaso import Key, MemoryStorage, Stats, cached

storage = MemoryStorage()


class Repo:
    @cached
    async def bare(self, id: int) -> str:
        raise NotImplementedError

    @cached(storage, ttl=60)
    async def get(self, id: int, *, lang: str = "en") -> str:
        raise NotImplementedError

    @cached(storage, ttl=60)
    def get_plain(self, id: int, *, lang: str = "en") -> str:
        raise NotImplementedError

    @classmethod
    @cached(storage)
    async def made(cls, id: int) -> str:
        raise NotImplementedError

    @staticmethod
    @cached
    def twice(x: int) -> int:
        raise NotImplementedError

    @cached(storage)
    def me(self) -> Self:
        raise NotImplementedError


class SubRepo(Repo):
    async def upper(self, id: int) -> str:
        assert_type(await super().get(id), str)
        return (await self.get(id)).upper()


async def calls(repo: Repo, sub: SubRepo) -> None:
    assert_type(await repo.bare(7), str)
    assert_type(await repo.get(7, lang="de"), str)
    assert_type(await sub.get(id=7), str)
    assert_type(await Repo.get(repo, 7), str)
    assert_type(repo.get_plain(7), str)
    assert_type(Repo.get_plain(repo, 7, lang="de"), str)
    # Neither checker can tell a class method from the descriptor alone: an error that is none.
    assert_type(await Repo.made(7), str)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportAssertTypeFailure]
    assert_type(await repo.made(7), str)  # pyright: ignore[reportCallIssue, reportAssertTypeFailure]
    assert_type(Repo.twice(2), int)
    # mypy takes a static method looked up on an instance for a method.
    assert_type(repo.twice(2), int)  # type: ignore[call-arg]


async def operations(repo: Repo) -> None:
    assert_type(await repo.get.peek(7), str)
    assert_type(await repo.get.refresh(7, lang="de"), str)
    await repo.get.put("row", 7)
    await repo.get.invalidate(7)
    await repo.get.clear()
    assert_type(repo.get.key(7), Key)
    assert_type(repo.get.stats, Stats)
    assert_type(repo.get.future(7), Future[str])
    assert_type(await repo.get.uncached(7), str)
    assert_type(repo.get_plain.peek(7), str)
    repo.get_plain.invalidate(7)
    assert_type(repo.get_plain.uncached(7), str)
    await Repo.get.invalidate(repo, 7)
    assert_type(Repo.twice.peek(2), int)


async def wrong(repo: Repo) -> None:
    await repo.get("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await repo.get()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await Repo.get(7)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    await repo.get.invalidate("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await repo.get.put(7, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    repo.get_plain(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Repo.twice("2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def keep(*unused: Any) -> None:
    raise NotImplementedError
