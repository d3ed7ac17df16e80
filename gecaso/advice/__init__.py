"""How large a memory should be: from what was asked for, to the hit ratio of every size.

``python -m gecaso advise trace.bin``; see `docs/choosing-a-size.md`.
"""

from __future__ import annotations

__all__: list[str] = []
