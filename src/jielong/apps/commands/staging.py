"""Writing several files into a folder so that a failure on the way leaves none of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A hidden scratch folder inside ``folder``; its files move up when the block ends well, and vanish when it does not.

    Files of the same name are replaced; others stay. Folders that were made for nothing are removed.
    """
    folder = folder.absolute()
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".unfinished-"))
    try:
        yield scratch
        for file in sorted(scratch.iterdir()):
            os.replace(file, folder / file.name)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody else's files are in there by now
            for each in missing:
                each.rmdir()
        raise
    scratch.rmdir()
