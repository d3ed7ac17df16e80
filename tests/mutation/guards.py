"""One guard, and what the code looks like without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mutant"]


@dataclass(frozen=True)
class Mutant:
    """``old`` in the module ``path`` becomes ``new``; one of ``tests`` must fail then.

    ``tests`` are what pytest is given, the most likely to notice first.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, root: Path) -> str:
        """Return the text of the module without its guard; raise unless ``old`` is there once."""
        text = (root / self.path).read_text()
        count = text.count(self.old)
        if count != 1:
            raise ValueError(
                f"the mutant {self.name!r} does not fit {self.path} any more: its text is there "
                f"{count} times; write down what the guard looks like now"
            )
        return text.replace(self.old, self.new)
