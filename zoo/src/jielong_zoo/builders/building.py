"""Data sets that are built in the user's cache, since size or licence keeps them out of the distribution."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from jielong.config.registry import nearest
from jielong.core.files import write_bytes
from jielong.core.locks import one_writer
from jielong.data.built import BuildError, built_path
from jielong.data.source import DataError
from jielong.data.table import write_table
from jielong_zoo.builders.avatars.dataset import Avatars, build_avatars
from jielong_zoo.builders.debian import download, unpack
from jielong_zoo.builders.digits import build_digits
from jielong_zoo.builders.emoji import SIZE, Concept, Drawing, concept_key, encode_drawing, write_set
from jielong_zoo.builders.faces.build import Faces, build_faces
from jielong_zoo.builders.icons import THEMES, Icons, build_icons
from jielong_zoo.builders.missions.build import Missions, build_missions
from jielong_zoo.builders.npm import install
from jielong_zoo.builders.prompts import LICENCE as PROMPTS_LICENCE
from jielong_zoo.builders.prompts import PACKAGES as PROMPTS
from jielong_zoo.builders.prompts import SOUNDS, prompts
from jielong_zoo.builders.samples import LICENCE as SAMPLES_LICENCE
from jielong_zoo.builders.samples import PACKAGE as SAMPLES
from jielong_zoo.builders.samples import samples
from jielong_zoo.builders.spoken_words import LICENCE as SPOKEN_LICENCE
from jielong_zoo.builders.spoken_words import PACKAGES as SPOKEN
from jielong_zoo.builders.spoken_words import STAMPS, spoken_words
from jielong_zoo.builders.strokes.dataset import Strokes, build_strokes
from jielong_zoo.builders.synthetic_speech import LICENCE as SYNTHETIC_LICENCE
from jielong_zoo.builders.synthetic_speech import MINUTES, read_texts, synthetic_speech

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
SYNTHETIC = "synthetic-speech"
FACES = "faces"
ICONS = "icons"
STROKES = "strokes"
AVATARS = "avatars"
MISSIONS = "missions"


@dataclass(frozen=True)
class Speech:
    """Settings of ``synthetic-speech``.

    Attributes:
        minutes: Minutes of speech.
        synthesizers: ``espeak``, ``piper``, ``kokoro``.
        texts: File of sentences, one per line; those of the project by default.
    """

    minutes: float = MINUTES
    synthesizers: tuple[str, ...] = ("espeak",)
    texts: Path | None = None


def build_set(
    name: str,
    packages: Path | None = None,
    progress: Progress | None = None,
    speech: Speech | None = None,
    faces: Faces | None = None,
    icons: Icons | None = None,
    strokes: Strokes | None = None,
    avatars: Avatars | None = None,
    missions: Missions | None = None,
) -> Path:
    """Build a data set in the user's cache, with its licence beside it; a file is replaced only once it is complete.

    Args:
        name: One of :data:`BUILDERS`, ``avatars``, ``faces``, ``icons``, ``missions``, ``strokes`` or ``synthetic-speech``.
        packages: Folder of unpacked npm packages (a ``node_modules``), or of Debian packages (``.deb`` files, or their unpacked contents);
            of ``icons`` also the folder of the theme. By default they are downloaded with ``npm`` or ``apt-get``.
        progress: Called with the number of items so far.
        speech: Settings of ``synthetic-speech``; for no other set.
        faces: Settings of ``faces``; for no other set.
        icons: Settings of ``icons``; for no other set.
        strokes: Settings of ``strokes``; for no other set.
        avatars: Settings of ``avatars``; for no other set.
        missions: Settings of ``missions``; for no other set.

    Returns:
        The Parquet file.

    Raises:
        DataError: if there is no such set, or an argument is not for it.
        BuildError: if a requirement is missing; nothing is written.
    """
    if faces is not None and name == ICONS:
        raise DataError(f"count is for the set {FACES!r}; {name!r} holds as many as its theme")
    if faces is not None and name != FACES:
        raise DataError(
            f"count is for the sets {AVATARS!r}, {FACES!r} and {MISSIONS!r}, pairs for {FACES!r}, size for {FACES!r} and {ICONS!r}; "
            f"{name!r} takes none of them"
        )
    if icons is not None and name != ICONS:
        raise DataError(f"themes and their sizes are for the set {ICONS!r}; {name!r} takes none of them")
    if avatars is not None and name != AVATARS:
        raise DataError(f"the count of clips is for the set {AVATARS!r}; {name!r} does not take it")
    if strokes is not None and name != STROKES:
        raise DataError(f"the most strokes of a character are for the set {STROKES!r}; {name!r} does not take them")
    if icons is not None and icons.theme not in THEMES:
        raise DataError(f"there is no theme called {icons.theme!r}; {nearest(icons.theme, [*THEMES])}")
    if missions is not None and name != MISSIONS:
        raise DataError(f"a seed is for the set {MISSIONS!r}; {name!r} takes none")
    if packages is not None and name in (SYNTHETIC, MISSIONS):
        raise DataError(f"{name!r} needs no packages: it is {'synthesized' if name == SYNTHETIC else 'played'}; omit packages")
    if name == SYNTHETIC:
        with one_writer(built_path(name)):
            return _build_synthetic(speech or Speech(), progress)
    known = [*BUILDERS, FACES, ICONS, MISSIONS, STROKES, AVATARS, SYNTHETIC]
    if name not in known:
        raise DataError(f"there is no set called {name!r} to build; {nearest(name, known)}")
    if speech is not None:
        raise DataError(f"minutes, synthesizers and texts are for the set {SYNTHETIC!r}; {name!r} takes none of them")
    faces, icons, strokes = faces or Faces(), icons or Icons(), strokes or Strokes()
    if name == AVATARS:
        avatars = avatars or Avatars()
        with one_writer(built_path(avatars.name)):
            return build_avatars(packages, progress, avatars)
    if name == STROKES:
        with one_writer(built_path(strokes.name)):
            return build_strokes(packages, progress, strokes)
    if name == MISSIONS:
        missions = missions or Missions()
        with one_writer(built_path(missions.name)):
            return build_missions(progress, missions)
    if name == ICONS:
        with one_writer(built_path(icons.name)):
            return build_icons(packages, progress, icons)
    with one_writer(built_path(faces.name if name == FACES else name)):
        return build_faces(packages, progress, faces) if name == FACES else BUILDERS[name](packages, progress)


def _build_emoji_full(packages: Path | None, progress: Progress | None) -> Path:
    rasterise = _rasteriser()  # before the download, so that a missing extra costs nothing
    target = built_path("emoji-full")
    drawings = list(_built_in())
    concepts = {d.concept.hexcode: d.concept for d in drawings}
    with tempfile.TemporaryDirectory() as scratch:
        packages = packages or install([OPENMOJI, FLUENT], Path(scratch))
        for added in (_openmoji(packages / "openmoji", concepts, rasterise), _fluent(packages / "@lobehub" / "fluent-emoji-3d", concepts)):
            for drawing in added:
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
    with _unpacked("prompts", PROMPTS, packages, SOUNDS) as folder:
        rows = list(prompts(folder, progress))
    return _write("prompts", rows, PROMPTS_LICENCE, caption="text", label="speaker", key=["language", "name"])


def _build_spoken_words(packages: Path | None, progress: Progress | None) -> Path:
    with _unpacked("spoken-words", SPOKEN, packages, STAMPS) as folder:
        rows = list(spoken_words(folder, progress))
    return _write("spoken-words", rows, SPOKEN_LICENCE, caption="text", label="language", key=["language", "name"])


def _build_synthetic(speech: Speech, progress: Progress | None) -> Path:
    texts = None if speech.texts is None else read_texts(speech.texts)
    rows = list(synthetic_speech(speech.minutes, speech.synthesizers, texts, progress))
    return _write(SYNTHETIC, rows, SYNTHETIC_LICENCE, caption="text", label="voice", key=["name"])


@contextmanager
def _unpacked(name: str, wanted: Sequence[str], packages: Path | None, holds: Path) -> Iterator[Path]:
    """Temporary folder with the unpacked files of Debian packages, from a folder or downloaded."""
    with tempfile.TemporaryDirectory() as scratch:
        yield unpack(wanted, packages or download(wanted, Path(scratch) / "debs", name), Path(scratch) / "files", holds)


def _write(name: str, rows: list[dict[str, Any]], licence: str, *, caption: str, label: str, key: list[str]) -> Path:
    target = built_path(name)
    write_bytes(target.with_name(f"LICENSE-{name}.md"), licence.encode())
    write_table(target, rows, item="audio", caption=caption, label=label, key=key)
    return target


def _build_sounds(packages: Path | None, progress: Progress | None) -> Path:
    with tempfile.TemporaryDirectory() as scratch:
        rows = list(samples((packages or install([SAMPLES], Path(scratch))) / SAMPLES.partition("@")[0], progress))
    return _write("sounds", rows, SAMPLES_LICENCE, caption="caption", label="kind", key=["name"])


BUILDERS: dict[str, Callable[[Path | None, Progress | None], Path]] = {
    "digits": build_digits,
    "emoji-full": _build_emoji_full,
    "prompts": _build_prompts,
    "sounds": _build_sounds,
    "spoken-words": _build_spoken_words,
}
