"""Lengths of time as users write them."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

from gecaso.errors import ConfigurationError

__all__ = ["Duration", "seconds", "until"]

Duration = float | timedelta | str
"""Seconds, a `datetime.timedelta`, or text such as ``"90s"``, ``"5m"``, ``"2h"``, ``"1d"``."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = r"(\d+(?:\.\d+)?)(ms|[smhdw])"


def seconds(duration: object, *, option: str = "ttl") -> float:
    """Return a positive duration in seconds.

    Raises `TypeError` for what is no duration and `ConfigurationError`, a `ValueError`, for what is
    not above zero; ``option`` is named in the message.

    >>> seconds("1h30m"), seconds(timedelta(minutes=5)), seconds(0.5)
    (5400.0, 300.0, 0.5)
    """
    result = _seconds(duration, option)
    if not result > 0:  # NaN too
        advice = "; to keep for ever use ttl=None, to keep nothing use a NullStorage"
        raise ConfigurationError(
            f"{option} must be above zero, not {duration!r}{advice if option == 'ttl' else ''}"
        )
    return result


def until(moment: datetime) -> float:
    """Return the seconds from now to a moment; 0 if it is past. Without a zone it is local time."""
    return max(0.0, (moment - datetime.now(moment.tzinfo)).total_seconds())


def _seconds(duration: object, option: str) -> float:
    if isinstance(duration, (int, float)) and not isinstance(duration, bool):
        return float(duration)
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, str):
        text = duration.strip().lower()
        if not re.fullmatch(rf"(?:{_PART})+", text):
            raise ConfigurationError(
                f'{option} must look like "90s", "5m" or "1h30m", not {duration!r}'
            )
        return math.fsum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))
    raise TypeError(
        f"{option} must be seconds, a timedelta or text such as '5m', not {type(duration).__name__}"
    )
