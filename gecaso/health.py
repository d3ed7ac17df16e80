"""How a storage is: for a health check, and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gecaso.breaker import Breaker
from gecaso.trouble import trouble_of

if TYPE_CHECKING:
    from gecaso.base import EntryStorage

__all__ = ["Health", "State", "health_of"]

State = Literal["up", "failing", "down"]


@dataclass(frozen=True)
class Health:
    """What this process knows of a storage; asking costs nothing and asks no server.

    ``state`` is ``"up"``, ``"failing"`` (the last operations failed) or ``"down"`` (after several
    failures it is left alone, but for probes). ``failures`` are those in a row, ``last_error`` is
    what the last one said. ``pending`` counts the keys whose invalidation is not confirmed yet;
    this process does not read them. ``parts`` has the state of each server of a pool, and of each
    node of a cluster, that was used.
    """

    state: State
    failures: int
    last_error: str | None
    pending: int
    parts: Mapping[str, State]

    @property
    def ok(self) -> bool:
        """Whether the storage and all its parts are up, and every invalidation is confirmed."""
        return self.state == "up" and not self.pending and set(self.parts.values()) <= {"up"}


def health_of(storage: EntryStorage) -> Health:
    """Return how a storage is, as this process sees it."""
    trouble = trouble_of(storage)
    breakers = storage.guarded.breakers()
    return Health(
        state=_state(trouble.breaker),
        failures=trouble.breaker.failures,
        last_error=trouble.last_error,
        pending=len(trouble.pending),
        parts={part: _state(breaker) for part, breaker in breakers.items()},
    )


def _state(breaker: Breaker) -> State:
    if breaker.is_open:
        return "down"
    return "failing" if breaker.failures else "up"
