"""``python -m gecaso``."""

from __future__ import annotations

import sys

from gecaso.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
