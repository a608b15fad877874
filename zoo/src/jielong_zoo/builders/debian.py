"""Download of Debian packages with the user's ``apt-get``; nothing is installed."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from jielong.data.built import BuildError


def download(packages: Sequence[str], folder: Path, name: str) -> Path:
    """Download Debian packages with ``apt-get download``.

    Args:
        packages: Names of packages.
        folder: Folder for the ``.deb`` files.
        name: Name of the data set, for error messages.

    Raises:
        BuildError: if there is no ``apt-get``, or it fails.
    """
    apt = shutil.which("apt-get")
    if apt is None:
        raise BuildError(
            f"building {name} downloads Debian packages with `apt-get`, which is not installed; download {', '.join(packages)} "
            f"from packages.debian.org and pass their folder: jielong data build {name} --packages FOLDER"
        )
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([apt, "download", *packages], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise BuildError(f"apt-get could not download the packages; try `apt-get update` first: {last}")
    return folder


def unpack(packages: Sequence[str], source: Path, folder: Path, marker: Path) -> Path:
    """Unpack the ``.deb`` files of ``source`` below ``folder``; returns ``source`` itself if it is unpacked already.

    Args:
        packages: Names of the needed packages; other ``.deb`` files are ignored.
        source: Folder of ``.deb`` files, or of their unpacked contents; or one such file.
        folder: Folder to unpack to.
        marker: Relative path that exists in unpacked contents.

    Raises:
        BuildError: if ``source`` has neither, or a file is not a Debian package.
    """
    if (source / marker).is_dir():
        return source
    given = [source] if source.is_file() else sorted(source.glob("*.deb"))
    archives = [path for path in given if path.name.partition("_")[0] in packages]
    if not archives:
        raise BuildError(f"{source} has neither .deb files of {', '.join(packages)} nor {marker}: pass a folder with one of them")
    for archive in archives:
        try:
            with tarfile.open(fileobj=io.BytesIO(_member(archive.read_bytes(), "data.tar"))) as files:
                files.extractall(folder, filter="data")
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise BuildError(f"{archive} cannot be unpacked ({error}); unpack it with `dpkg-deb -x` and pass that folder") from error
    return folder


def _member(archive: bytes, start: str) -> bytes:
    """The member of an ``ar`` archive, the format of ``.deb`` files, whose name starts with ``start``."""
    if not archive.startswith(b"!<arch>\n"):
        raise ValueError("not a Debian package")
    offset = 8
    while offset + 60 <= len(archive):
        header = archive[offset : offset + 60]
        length = int(header[48:58])
        if header[:16].decode("ascii", "replace").strip().startswith(start):
            return archive[offset + 60 : offset + 60 + length]
        offset += 60 + length + length % 2
    raise ValueError(f"no member {start}")
