"""From files to a trace: recordings of several processes, or keys as text or CSV."""

from __future__ import annotations

import csv
import heapq
import io
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from gecaso.advice import distinct, form

__all__ = ["Format", "Progress", "Trace", "read", "trace_of"]

Format = Literal["auto", "recording", "text", "csv"]
Progress = Callable[[Sequence[bytes]], Iterable[bytes]]
"""What shows how far a long run over requests is."""

ENOUGH = 30_000
"""Keys that a trace of keys is sampled down to, unless a part is asked for."""


@dataclass
class Trace:
    """Requests in order, of a sample of the keys.

    ``codes`` are the hashes of the keys, 8 bytes each; ``times`` are seconds, one for each request,
    or None where they are not known. ``total`` is the number of all requests, sampled or not.
    ``weights`` are bytes, by hash; ``ttls`` seconds, of what was stored with one. ``rate`` is the
    part of the keys that the sample came to have: about ``sample``, more or less by chance.
    """

    codes: list[bytes]
    sample: float
    total: int
    times: Sequence[float] | None = None
    weights: dict[bytes, int] = field(default_factory=dict[bytes, int])
    ttls: list[float] = field(default_factory=list[float])
    rate: float = 0.0

    def __post_init__(self) -> None:
        self.rate = self.rate or self.sample

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def mean_weight(self) -> float | None:
        """Bytes of a value; None where none is known."""
        return sum(self.weights.values()) / len(self.weights) if self.weights else None

    @property
    def span(self) -> float:
        """Seconds from the first request to the last; 0 where times are not known."""
        return self.times[-1] - self.times[0] if self.times else 0.0

    def only(self, sample: float) -> Trace:
        """Return the part of it with so much of the keys."""
        if sample >= self.sample:
            return self
        limit = form.limit_of(sample)
        places = [place for place, code in enumerate(self.codes) if code < limit]
        return Trace(
            [self.codes[place] for place in places],
            sample,
            self.total,
            None if self.times is None else array("d", [self.times[place] for place in places]),
            {code: weight for code, weight in self.weights.items() if code < limit},
            self.ttls,
            self.rate * _part_below(limit, self.codes),
        )


def trace_of(
    keys: Iterable[object], times: Iterable[float] | None = None, *, sample: float = 1.0
) -> Trace:
    """Return the trace of keys that are asked for in this order; ``str(key)`` tells them apart.

    >>> len(trace_of(["a", "b", "a"]))
    3
    """
    codes = [form.hash_of(str(key).encode("utf-8", "surrogatepass")) for key in keys]
    moments = None if times is None else array("d", times)
    return Trace(codes, 1.0, len(codes), moments).only(sample)


def read(
    paths: Sequence[str | Path], *, format: Format = "auto", sample: float | None = None
) -> Trace:
    """Return the trace that is in files; several recordings are merged by their times.

    ``sample`` is the part of the keys to look at; by default all that are recorded, and of a file
    of keys about 30,000. Raises `ValueError` for a file that is damaged, empty or of another kind,
    `OSError` for one that cannot be read.
    """
    contents = [(str(path), Path(path).read_bytes()) for path in paths]
    kinds: set[Format] = {_kind(name, data, format) for name, data in contents}
    if len(kinds) != 1:
        raise ValueError("some of the files are recordings and some are not; give one kind only")
    kind = kinds.pop()
    if kind == "recording":
        found = _recordings(contents)
    else:
        found = _merged_keys([_keys(name, data, kind) for name, data in contents])
        if sample is None:
            sample = min(1.0, ENOUGH / max(1, len(set(found.codes))))
    if sample is not None:
        found = found.only(sample)
    if not found.codes:
        raise ValueError(
            "there is no request in it: "
            + ("record for longer, or with a larger sample=" if found.total else "it is empty")
        )
    return found


def _kind(name: str, data: bytes, format: Format) -> Format:
    if format != "auto":
        if format == "recording" and not form.is_recording(data):
            raise ValueError(f"{name} is no recording; it does not begin as one")
        return format
    if form.is_recording(data):
        return "recording"
    if b"\x00" in data[:4096]:
        raise ValueError(
            f"{name} is neither a recording of gecaso nor text; a recording is made by "
            "`with storage.recording(path):`"
        )
    first = data.lstrip()[:1000].decode("utf-8-sig", "replace").partition("\n")[0]
    columns = _columns(first)
    if len(columns) == 1:  # which needs no name
        return "csv" if columns == ["key"] and name.lower().endswith(".csv") else "text"
    return "csv" if "key" in columns or name.lower().endswith(".csv") else "text"


def _part_below(limit: bytes, codes: Iterable[bytes]) -> float:
    different = set(codes)
    return sum(code < limit for code in different) / max(1, len(different))


# --- recordings -----------------------------------------------------------------------------------


def _recordings(contents: Iterable[tuple[str, bytes]]) -> Trace:
    parts: list[Iterator[tuple[float, bytes]]] = []
    headers: list[form.Header] = []
    trace = Trace([], 1.0, 0)
    seen: set[bytes] = set()
    registers = bytes(distinct.registers())
    for name, data in contents:
        for header, blocks in _split(form.blocks(data, name)):
            headers.append(header)
            parts.append(iter(_requests(header, blocks)))
            trace.total += max(
                (form.count_of(b.payload) for b in blocks if b.kind == form.TOTAL), default=0
            )
            _learn(trace, blocks)
            more, counted = _distinct(blocks)
            seen |= more
            registers = distinct.merged(registers, counted)
    times = array("d")
    for moment, code in heapq.merge(*parts):
        times.append(moment)
        trace.codes.append(code)
    trace.times = times
    lowest = min(header.sample for header in headers)
    trace.sample = max(header.sample for header in headers)
    trace.total = max(trace.total, len(trace.codes))
    limit = form.limit_of(lowest)
    trace.rate = trace.sample
    if keys := distinct.estimate(registers):
        trace = trace.only(lowest)
        trace.rate = min(1.0, sum(code < limit for code in seen) / keys)
    return trace.only(lowest)


def _distinct(blocks: Sequence[form.Block]) -> tuple[set[bytes], bytes]:
    """Return the keys of a sample up to when all keys were last counted, and that count."""
    last = max((n for n, block in enumerate(blocks) if block.kind == form.KEYS), default=-1)
    if last < 0:
        return set(), bytes(distinct.registers())
    seen: set[bytes] = set()
    for block in blocks[:last]:
        if block.kind == form.REQUESTS:
            seen |= set(_split_codes(form.times_of(block.payload)[2]))
        elif block.kind == form.FACTS:
            seen |= {fact.code for fact in form.facts(block.payload)}
    return seen, form.registers_of(blocks[last].payload)


def _split_codes(codes: bytes) -> list[bytes]:
    return [codes[place : place + 8] for place in range(0, len(codes), 8)]


def _split(
    things: Iterable[form.Header | form.Block],
) -> list[tuple[form.Header, list[form.Block]]]:
    found: list[tuple[form.Header, list[form.Block]]] = []
    for thing in things:
        if isinstance(thing, form.Header):
            found.append((thing, []))
        else:
            found[-1][1].append(thing)
    return found


def _requests(header: form.Header, blocks: Iterable[form.Block]) -> list[tuple[float, bytes]]:
    found: list[tuple[float, bytes]] = []
    for block in blocks:
        if block.kind != form.REQUESTS:
            continue
        begin, end, codes = form.times_of(block.payload)
        count = len(codes) // 8
        step = (end - begin) / max(1, count)
        first = header.start + begin
        found += [
            (first + number * step, codes[8 * number : 8 * number + 8]) for number in range(count)
        ]
    return found


def _learn(trace: Trace, blocks: Iterable[form.Block]) -> None:
    for block in blocks:
        if block.kind == form.FACTS:
            for code, weight, ttl in form.facts(block.payload):
                if weight is not None:
                    trace.weights[code] = weight
                if ttl is not None:
                    trace.ttls.append(ttl)


# --- keys as text ---------------------------------------------------------------------------------


@dataclass
class _Keys:
    keys: list[str]
    times: list[float] | None = None
    sizes: dict[str, int] = field(default_factory=dict[str, int])


def _keys(name: str, data: bytes, kind: Format) -> _Keys:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no text in UTF-8: {error}") from None
    if kind == "csv":
        return _csv(name, text)
    return _Keys([line for line in text.splitlines() if line])


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _columns(line: str) -> list[str]:
    """Return the names of the columns that a line gives, as they are meant."""
    return [name.strip().strip('"').lower() for name in line.split(_delimiter(line))]


def _csv(name: str, text: str) -> _Keys:
    lines = io.StringIO(text.lstrip("\r\n"), newline="")
    first = lines.readline()
    columns = _columns(first)
    rows = csv.DictReader(lines, columns, delimiter=_delimiter(first))
    if "key" not in columns:
        raise ValueError(
            f"{name} has no column 'key': its first line must name the columns, key and perhaps "
            f"time and size; it names {', '.join(columns)}"
        )
    found = _Keys([], [] if "time" in columns else None)
    try:
        for row in rows:
            if row["key"] is None:
                raise ValueError("the line ends before the key")
            if found.times is not None:
                found.times.append(_moment(row["time"]))
            if row.get("size"):
                found.sizes[row["key"]] = int(row["size"])
            found.keys.append(row["key"])
    except (TypeError, ValueError, csv.Error) as error:
        line = rows.line_num + (2 if isinstance(error, csv.Error) else 1)  # it was not counted yet
        raise ValueError(f"{name}, line {line}: {error}") from None
    return found


def _moment(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ValueError(
            f"time is a number of seconds or ISO 8601, such as 2024-05-01T12:00:00, not {text!r}"
        ) from None


def _merged_keys(parts: Sequence[_Keys]) -> Trace:
    weights: dict[bytes, int] = {}
    for part in parts:
        weights |= {form.hash_of(key.encode()): size for key, size in part.sizes.items()}
    if all(part.times is not None for part in parts):
        rows = heapq.merge(
            *[sorted(zip(part.times or [], part.keys, strict=True), key=_first) for part in parts],
            key=_first,
        )
        times, keys = array("d"), list[str]()
        for moment, key in rows:
            times.append(moment)
            keys.append(key)
        trace = trace_of(keys, times)
    else:
        if len(parts) > 1:
            raise ValueError(
                "the keys of several files can be merged by their times only: give CSV files "
                "with a column 'time', or one file"
            )
        trace = trace_of(parts[0].keys)
    trace.weights = weights
    return trace


def _first(row: tuple[float, str]) -> float:
    return row[0]
