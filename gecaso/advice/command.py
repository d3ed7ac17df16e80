"""The command ``python -m gecaso advise``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence

from gecaso.advice.reading import read
from gecaso.advice.report import Advice, advise, text_of
from gecaso.durations import seconds

__all__ = ["add_arguments", "run"]

HELP = "How large should the memory be? Reads recordings, or keys as text or CSV."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.description = HELP
    add("files", nargs="+", metavar="FILE", help="recordings, merged by time; or keys, one a line")
    add("--sizes", type=_size, nargs="+", metavar="N", help="numbers of entries to look at")
    add("--ttl", type=_ttl, nargs="+", metavar="TIME", help='such as "30s" or "5m": their effect')
    add("--sample", type=_part, metavar="PART", help="of the keys, such as 0.01; default: enough")
    add(
        "--format",
        choices=("auto", "recording", "text", "csv"),
        default="auto",
        help="of the files; CSV has a column key, and perhaps time and size (bytes)",
    )
    add("--plot", metavar="FILE", help="draw the curves into a picture, such as sizes.png")


def run(options: argparse.Namespace) -> int:
    """Read, simulate, print; return 0. Raises `ValueError` and `OSError` for files."""
    draw = _drawing() if options.plot else None
    trace = read(options.files, format=options.format, sample=options.sample)
    advice: Advice = advise(trace, sizes=options.sizes, ttls=options.ttl, progress=_progress)
    sys.stdout.write(text_of(advice))
    if draw is not None:
        draw(advice, options.plot)
    return 0


def _drawing() -> Callable[[Advice, str], None]:
    try:
        from gecaso.advice.plot import plot  # matplotlib is an extra
    except ImportError:
        raise ValueError(
            "--plot needs matplotlib: pip install 'gecaso[advice]'; without --plot the curves are "
            "drawn as text"
        ) from None
    return plot


def _progress(sizes: Sequence[int]) -> Iterable[int]:
    """Go through the sizes with a progress bar, where there is one to be had and to be seen."""
    if not sys.stderr.isatty():
        return sizes
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]  # it comes without types
    except ImportError:
        return sizes
    shown: Iterable[int] = tqdm(sizes, desc="sizes", leave=False, delay=1.0)
    return shown


def _size(text: str) -> int:
    size = int(text.replace(",", "").replace("_", ""))
    if size < 1:
        raise argparse.ArgumentTypeError(f"a size is at least 1, not {text}")
    return size


def _part(text: str) -> float:
    part = float(text)
    if not 0 < part <= 1:
        raise argparse.ArgumentTypeError(f"a part is above 0 and at most 1, not {text}")
    return part


def _ttl(text: str) -> float:
    try:
        return seconds(float(text) if text.replace(".", "", 1).isdigit() else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
