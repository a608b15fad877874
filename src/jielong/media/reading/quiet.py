"""Keep what libtiff and libmpg123 print by themselves from the terminal."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STANDARD_ERROR = 2
_LINES = re.compile(
    rb"\s*$|\[src/libmpg123|Note: |Warning: Xing"  # libmpg123, within libsndfile
    rb"|tempfile\.tif: |_?TIFF\w*: |More samples per pixel"  # libtiff, within Pillow
    rb"|\w+(Decode|Lib|Setup|Mode|Required|Predictor|Counts|Strip|Log)\w*: "
)
_lock = threading.Lock()


@contextmanager
def quiet(needed: bool) -> Iterator[None]:
    """Leave out lines of those libraries, where ``needed``; whatever else is printed meanwhile, by any thread, is printed afterwards."""
    if not needed:
        yield
        return
    with _lock, tempfile.TemporaryFile() as printed:
        try:
            terminal = os.dup(_STANDARD_ERROR)
        except OSError:  # a program without standard error
            terminal = None
        try:
            if terminal is not None:
                os.dup2(printed.fileno(), _STANDARD_ERROR)
            yield
        finally:
            if terminal is not None:
                os.dup2(terminal, _STANDARD_ERROR)
                os.close(terminal)
                printed.seek(0)
                for line in printed:
                    if not _LINES.match(line):
                        os.write(_STANDARD_ERROR, line)
