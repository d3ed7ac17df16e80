"""How large a memory should be: from what was asked for, to the hit ratio of every size.

``python -m gecaso advise trace.bin``; the same from Python:

>>> from gecaso.advice.reading import trace_of
>>> from gecaso.advice.report import advise
>>> advise(trace_of("abcabcabc"), sizes=[1, 2, 3]).knee.size
3

A storage that is recorded imports `gecaso.advice.recording`, and nothing else of this.
"""

from __future__ import annotations

__all__: list[str] = []
