"""Write several files into a folder, all or none."""

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
    """A hidden scratch folder inside ``folder`` whose files move up on success and are deleted on failure.

    Existing files of the same name are replaced; on failure, new folders are removed.
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
        with contextlib.suppress(OSError):  # a folder may hold other files by now
            for each in missing:
                each.rmdir()
        raise
    scratch.rmdir()
