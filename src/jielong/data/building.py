"""Sets that are built in the user's cache, because their size or licence keeps them out of the distribution."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
import pyarrow.parquet as pq

from jielong.config import nearest
from jielong.data.emoji import SIZE, Concept, Drawing, concept_key, encode_drawing, write_set
from jielong.data.npm import BuildError, install
from jielong.data.prompts import LICENCE as PROMPTS_LICENCE
from jielong.data.prompts import download, prompts, unpack
from jielong.data.samples import LICENCE as SAMPLES_LICENCE
from jielong.data.samples import PACKAGE as SAMPLES
from jielong.data.samples import samples
from jielong.data.sound_sources import write_sounds
from jielong.data.source import DataError
from jielong.media.images import write_bytes

OPENMOJI = "openmoji@17.0.0"
FLUENT = "@lobehub/fluent-emoji-3d@1.1.0"
LICENCE = f"""# The drawings in `emoji-full.parquet`

The rows of styles `Noto` and `Twemoji` are those of the built-in set `emoji`; see `LICENSE-emoji.md` of jielong-zoo. Besides:

- `OpenMoji`: by the OpenMoji project of HfG Schwaebisch Gmuend and its contributors (https://openmoji.org), under CC BY-SA 4.0
  (https://creativecommons.org/licenses/by-sa/4.0/); taken from npm `{OPENMOJI}`, `color/svg`.
- `Fluent 3D`: by Microsoft (https://github.com/microsoft/fluentui-emoji), packaged by LobeHub, both under MIT;
  taken from npm `{FLUENT}`, without flags.

What was changed: drawings were rendered or resized to {SIZE} x {SIZE} pixels, laid over white, and stored as lossless WebP.
The OpenMoji drawings are share-alike: whoever passes them on, changed or not, does so under CC BY-SA 4.0.
"""

Progress = Callable[[int], None]


def cache_folder() -> Path:
    """Where built things are kept: ``$JIELONG_CACHE``, or the user's cache of this system."""
    return Path(os.environ.get("JIELONG_CACHE") or platformdirs.user_cache_path("jielong", appauthor=False))


def built_path(name: str) -> Path:
    """Where a built set is kept: ``<cache>/data/<name>.parquet``."""
    return cache_folder() / "data" / f"{name}.parquet"


def build_set(name: str, packages: Path | None = None, progress: Progress | None = None) -> Path:
    """Build a set into the user's cache, whole or not at all, with its licence beside it.

    Args:
        name: ``emoji-full``, ``prompts`` or ``sounds``.
        packages: a folder with the unpacked npm packages (a ``node_modules``), for ``prompts`` with Debian's packages (``.deb`` files, or
            what is in them, unpacked); fetched with ``npm`` or ``apt-get`` if not given.
        progress: called with the number of items done so far.

    Returns:
        The Parquet file.

    Raises:
        DataError: if there is no such set to build.
        BuildError: if something that building needs is missing; nothing is written then.
    """
    if name not in BUILDERS:
        raise DataError(f"there is no set called {name!r} to build; {nearest(name, list(BUILDERS))}")
    return BUILDERS[name](packages, progress)


def _build_emoji_full(packages: Path | None, progress: Progress | None) -> Path:
    rasterise = _rasteriser()  # before the download, so that a missing extra costs nothing
    target = built_path("emoji-full")
    drawings = list(_built_in())
    concepts = {d.concept.hexcode: d.concept for d in drawings}
    with tempfile.TemporaryDirectory() as scratch:
        packages = packages or install([OPENMOJI, FLUENT], Path(scratch))
        for more in (_openmoji(packages / "openmoji", concepts, rasterise), _fluent(packages / "@lobehub" / "fluent-emoji-3d", concepts)):
            for drawing in more:
                drawings.append(drawing)
                if progress is not None:
                    progress(len(drawings))
    write_bytes(target.with_name("LICENSE-emoji-full.md"), LICENCE.encode())
    write_set(target, drawings)
    return target


def _built_in() -> Iterator[Drawing]:
    try:
        zoo = importlib.import_module("jielong_zoo")
    except ImportError as error:
        raise BuildError("'emoji-full' extends the set 'emoji' of the distribution jielong-zoo, which is not installed") from error
    for row in pq.read_table(Path(zoo.path()) / "data" / "emoji.parquet").to_pylist():
        names = (row["hexcode"], row["label"], row["caption_zh"], tuple(row["tags"]), row["group"], row["subgroup"], row["skin_tone"])
        yield Drawing(Concept(*names), row["style"], row["image"])


def _openmoji(folder: Path, concepts: dict[str, Concept], rasterise: Callable[[str], bytes]) -> Iterator[Drawing]:
    for key, path in _files(folder / "color" / "svg", ".svg", concepts):
        yield Drawing(concepts[key], "OpenMoji", encode_drawing(rasterise(path.read_text("utf-8"))))


def _fluent(folder: Path, concepts: dict[str, Concept]) -> Iterator[Drawing]:
    for key, path in _files(folder / "assets", ".webp", concepts):
        if concepts[key].group != "flags":
            yield Drawing(concepts[key], "Fluent 3D", encode_drawing(path.read_bytes()))


def _files(folder: Path, suffix: str, concepts: dict[str, Concept]) -> list[tuple[str, Path]]:
    if not folder.is_dir():
        raise BuildError(f"{folder} is missing; the unpacked npm packages {OPENMOJI} and {FLUENT} are needed")
    files: dict[str, Path] = {}
    for path in sorted(folder.glob(f"*{suffix}")):
        files.setdefault(concept_key(path.stem), path)
    return [(key, path) for key, path in files.items() if key in concepts]


def _rasteriser() -> Callable[[str], bytes]:
    try:
        resvg = importlib.import_module("resvg_py")
    except ImportError as error:
        raise BuildError("building 'emoji-full' renders SVG drawings with resvg-py; pip install 'jielong[emoji-full]'") from error
    return lambda svg: bytes(resvg.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True))


def _build_prompts(packages: Path | None, progress: Progress | None) -> Path:
    target = built_path("prompts")
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack(packages or download(Path(scratch) / "debs"), Path(scratch) / "files")
        rows = list(prompts(folder, progress))
    write_bytes(target.with_name("LICENSE-prompts.md"), PROMPTS_LICENCE.encode())
    write_sounds(target, rows, caption="text", label="speaker", key=["language", "name"])
    return target


def _build_sounds(packages: Path | None, progress: Progress | None) -> Path:
    target = built_path("sounds")
    with tempfile.TemporaryDirectory() as scratch:
        rows = list(samples((packages or install([SAMPLES], Path(scratch))) / SAMPLES.partition("@")[0], progress))
    write_bytes(target.with_name("LICENSE-sounds.md"), SAMPLES_LICENCE.encode())
    write_sounds(target, rows, caption="caption", label="kind", key=["name"])
    return target


BUILDERS: dict[str, Callable[[Path | None, Progress | None], Path]] = {
    "emoji-full": _build_emoji_full,
    "prompts": _build_prompts,
    "sounds": _build_sounds,
}
