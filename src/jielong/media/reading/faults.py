"""What is wrong with a file, and how much memory one may take: shared by pictures, sound and video."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jielong.media.reading.libraries import MissingLibraryError

BUDGET = "JIELONG_DECODED_MB"
"""Environment variable: megabytes that one decoded file may take."""
_DEFAULT_MB = 512.0
_LONGEST = 200
_PER_DECODED_BYTE = 8
"""An uncompressed sample takes at most 8 bytes in a file for 4 in memory; a larger file cannot fit the budget."""


class BrokenMediaError(ValueError):
    """A file cannot be read; the text names it and says why."""


class BrokenImageError(BrokenMediaError):
    """A file cannot be read as a picture."""


class BrokenAudioError(BrokenMediaError):
    """A file cannot be read as sound."""


class BrokenVideoError(BrokenMediaError):
    """A file cannot be read as a video."""


@contextmanager
def naming(name: str, fault: type[BrokenMediaError], what: str) -> Iterator[None]:
    """Turn whatever a decoder raises into ``fault(f"{name} {what}: {reason}")``.

    Parsers of formats raise what they meet: SyntaxError, struct.error, AttributeError, MemoryError, RecursionError, ...
    """
    try:
        yield
    except (BrokenMediaError, MissingLibraryError):
        raise
    except Exception as error:
        raise fault(f"{name} {what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    text = str(getattr(error, "strerror", None) or error).partition("\n")[0] or type(error).__name__
    return "not a known picture format" if text.startswith("cannot identify image file") else text[:_LONGEST]


def budget() -> int:
    """Bytes that one decoded file may take: ``$JIELONG_DECODED_MB`` megabytes, 512 by default.

    Raises:
        RuntimeError: if the variable is not a positive number.
    """
    text = os.environ.get(BUDGET) or str(_DEFAULT_MB)
    try:
        megabytes = float(text)
    except ValueError:
        megabytes = math.nan
    if not 0 < megabytes < math.inf:
        raise RuntimeError(f"{BUDGET} is the megabytes that one decoded file may take, such as {_DEFAULT_MB:.0f}, not {text!r}")
    return round(megabytes * 1e6)


def refuse_large(name: str, what: str, needed: int, fault: type[BrokenMediaError]) -> None:
    """Raise ``fault`` if ``needed`` bytes are beyond the budget; ``what`` says what takes them."""
    if needed > budget():
        raise fault(
            f"{name} is too large: {what} takes {math.ceil(needed / 1e6):,} MB decoded, more than the {budget() / 1e6:,.0f} MB "
            f"that one file may take; {BUDGET}={math.ceil(needed / 1e6)} in the environment admits it"
        )


def bytes_of(source: bytes | str | os.PathLike[str], name: str, fault: type[BrokenMediaError]) -> bytes:
    """The bytes of a file, which is not empty and no larger than anything that fits the budget."""
    if isinstance(source, bytes):
        data = source
    else:
        with naming(name, fault, "cannot be read"):
            refuse_large(name, "its file", Path(source).stat().st_size // _PER_DECODED_BYTE, fault)
            data = Path(source).read_bytes()
    if not data:
        raise fault(f"{name} is empty: a file of no bytes")
    return data
