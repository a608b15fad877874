"""Fetching the Debian packages that some sets are made of, with the user's own ``apt-get``; nothing is installed."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from jielong.data.built import BuildError


def download(packages: Sequence[str], folder: Path, name: str) -> Path:
    """Fetch Debian packages into a folder with ``apt-get download``.

    Args:
        packages: Their names.
        folder: Where to put the ``.deb`` files.
        name: The set they are for, as an error calls it.

    Raises:
        BuildError: if there is no ``apt-get``, or it fails.
    """
    apt = shutil.which("apt-get")
    if apt is None:
        raise BuildError(
            f"building this set fetches Debian packages with `apt-get`, which is not here; download {', '.join(packages)} "
            f"from packages.debian.org and give their folder: jielong data build {name} --packages FOLDER"
        )
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([apt, "download", *packages], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise BuildError(f"apt-get could not download the packages; try `apt-get update` first: {last}")
    return folder


def unpack(packages: Sequence[str], given: Path, folder: Path, holds: Path) -> Path:
    """The tree of files in a folder's ``.deb`` packages, unpacked below ``folder``; the given folder itself where it is unpacked already.

    Args:
        packages: Names of the packages that are needed; others beside them are left alone.
        given: A folder of ``.deb`` files, or of what is in them.
        folder: Where to unpack.
        holds: A folder, relative to the tree's root, that only an unpacked tree has.

    Raises:
        BuildError: if it holds neither, or a file is no package.
    """
    if (given / holds).is_dir():
        return given
    archives = [path for path in sorted(given.glob("*.deb")) if path.name.partition("_")[0] in packages]
    if not archives:
        raise BuildError(f"{given} holds no .deb files of {', '.join(packages)}, and no {holds}; these packages are needed")
    for archive in archives:
        try:
            with tarfile.open(fileobj=io.BytesIO(_member(archive.read_bytes(), "data.tar"))) as files:
                files.extractall(folder, filter="data")
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise BuildError(f"{archive} cannot be unpacked ({error}); unpack it with `dpkg-deb -x` and give that folder") from error
    return folder


def _member(archive: bytes, start: str) -> bytes:
    """The member of an ``ar`` archive, which a ``.deb`` is, whose name starts so."""
    if not archive.startswith(b"!<arch>\n"):
        raise ValueError("it is not a Debian package")
    place = 8
    while place + 60 <= len(archive):
        header = archive[place : place + 60]
        length = int(header[48:58])
        if header[:16].decode("ascii", "replace").strip().startswith(start):
            return archive[place + 60 : place + 60 + length]
        place += 60 + length + length % 2
    raise ValueError(f"it has no {start}")
