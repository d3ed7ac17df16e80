"""Print the lowest version that pyproject.toml allows of each thing that gecaso needs, for pip.

python scripts/lowest.py > constraints.txt
pip install --constraint constraints.txt 'gecaso[all]'
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

TOOLS = {"all", "bench", "dev", "test"}  # not for users: what the project itself works with
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,.-]+\])?\s*>=\s*(?P<version>[\w.]+)(\s*;.*)?")


def lowest(requirement: str) -> str:
    """Return ``name==version`` for ``name[extra]>=version``.

    >>> lowest("redis[hiredis]>=5.2")
    'redis==5.2'
    """
    match = REQUIREMENT.fullmatch(requirement)
    if match is None:
        raise SystemExit(f"pyproject.toml: {requirement!r} has no lowest version, or an upper cap")
    return f"{match['name']}=={match['version']}"


def main() -> None:
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]
    requirements: list[str] = list(project["project"]["dependencies"])
    for name in extras.keys() - TOOLS:
        requirements += extras[name]
    print("\n".join(sorted(map(lowest, requirements))))


if __name__ == "__main__":
    main()
