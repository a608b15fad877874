"""The set `icons`: pictures of an icon theme (https://specifications.freedesktop.org/icon-theme-spec), captioned by their names."""

from __future__ import annotations

import configparser
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jielong.core.files import write_bytes
from jielong.core.json import JSON
from jielong.data.built import BuildError, built_path
from jielong.data.table import write_table
from jielong.media.reading.faults import BrokenImageError
from jielong.media.reading.pictures import read_image
from jielong_zoo.builders.debian import download, unpack

SIZE = 64
THEME_FOLDERS = Path("usr/share/icons")
"""Of a package."""
LICENCES = Path("/usr/share/common-licenses")
"""Where Debian installs the licences that its packages name."""
_SEPARATORS = re.compile(r"[-_.+ ]+")
_UNSPOKEN = {"x", "vnd"}
"""Parts of media types' names that say nothing."""
_CONTEXTS = {"mimetypes": "file types", "apps": "applications", "emotes": "faces", "international": "flags"}

Progress = Callable[[int], None]
Name = tuple[str, str]
"""Context and name of an icon."""


@dataclass(frozen=True)
class Theme:
    """An icon theme of Debian.

    Attributes:
        package: The package that holds it.
        folder: Its folder in :data:`THEME_FOLDERS`.
        licence: Of its pictures.
        attribution: Whose they are.
    """

    package: str
    folder: str
    licence: str
    attribution: str


THEMES = {
    "oxygen": Theme("oxygen-icon-theme", "oxygen", "LGPL-3.0", "Oxygen icons, (c) 2007 the Oxygen team of KDE"),
    "gnome": Theme("gnome-icon-theme", "gnome", "GPL-2.0", "GNOME icon theme, (c) 2002-2008 the authors of gnome-icon-theme"),
}


@dataclass(frozen=True)
class Icons:
    """How `icons` is built.

    Attributes:
        theme: Of :data:`THEMES`.
        size: Side of the pictures in pixels.
    """

    theme: str = "oxygen"
    size: int = SIZE

    @property
    def name(self) -> str:
        """Of the set; another theme or size gives another set."""
        return "icons" + ("" if self.theme == "oxygen" else f"-{self.theme}") + ("" if self.size == SIZE else f"-{self.size}")


@dataclass
class Found:
    """What is in a theme.

    Attributes:
        files: The file of each icon.
        captions: Names of each file, those of the icons that are links to it among them.
        left_out: What is not used, and why.
    """

    files: dict[Name, Path] = field(default_factory=dict)
    captions: dict[Path, list[Name]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, reason: str) -> None:
        """Count what is not used."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


def words_of(name: str) -> str:
    """``document-open`` as ``document open``; ``application-x-java`` as ``application java``."""
    return " ".join(part for part in _SEPARATORS.split(name) if part and part not in _UNSPOKEN)


def context_of(directory: str, given: str) -> str:
    """The context that a theme gives a directory, in the words of captions."""
    context = (given or directory.rpartition("/")[2]).lower()
    return _CONTEXTS.get(context, context)


def directories(theme: Path) -> dict[Path, tuple[str, int]]:
    """Context and size of each directory of a theme, by its ``index.theme``.

    Raises:
        BuildError: if there is none, or it cannot be read.
    """
    index = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        index.read_string((theme / "index.theme").read_text("utf-8"))
        sections = [(name, index[name]) for name in index.sections() if name != "Icon Theme"]
        return {
            theme / name: (context_of(name, section.get("Context", "")), int(section["Size"]))
            for name, section in sections
            if section.get("Scale", "1") == "1" and (theme / name).is_dir()
        }
    except (OSError, ValueError, KeyError, configparser.Error) as error:
        raise BuildError(f"{theme / 'index.theme'} does not describe an icon theme: {error}") from error


def find_icons(theme: Path, size: int) -> Found:
    """The icons of a theme, each at the next size from ``size`` pixels, else at the largest that is at least half of it.

    Animations, which are strips of frames, are left out.

    A link is a further name of the icon that it leads to; so is a file of the same bytes.
    """
    places, sizes = directories(theme), dict[Name, dict[int, Path]]()
    for folder, (context, pixels) in places.items():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() == ".png":
                sizes.setdefault((context, path.stem), {}).setdefault(pixels, path)
    real = {folder.resolve(): context for folder, (context, _) in places.items()}
    found, links = Found(), dict[Name, Name]()
    for name, files in sorted(sizes.items()):
        best = min((pixels for pixels in files if pixels >= size), default=max(files))
        path = files[best].resolve()
        if name[0] == "animations":
            found.leave_out("animations")
        elif not path.is_file():
            found.leave_out("links that lead nowhere")
        elif files[best].is_symlink() and path.parent in real and (real[path.parent], path.stem) in sizes:
            links[name] = (real[path.parent], path.stem)
        elif 2 * best < size:
            found.leave_out(f"icons of less than {size // 2} pixels alone")
        else:
            found.files[name] = path
    return _named(found, links)


def _named(found: Found, links: Mapping[Name, Name]) -> Found:
    """With the names of each file, its own first; of files of the same bytes one is kept."""
    first: dict[bytes, Path] = {}
    for name, path in list(found.files.items()):
        kept = found.files[name] = first.setdefault(path.read_bytes(), path)
        found.captions.setdefault(kept, []).append(name)
    for name, target in links.items():
        seen = {name}
        while target in links and target not in seen:
            seen.add(target)
            target = links[target]
        if target in found.files:
            found.captions[found.files[target]].append(name)
        else:
            found.leave_out("links to what is not used")
    return found


def rows(found: Found, chosen: Theme, progress: Progress | None = None) -> Iterator[JSON]:
    """One row an icon: the theme's file, and a caption for each of its names."""
    for count, (path, names) in enumerate(found.captions.items(), start=1):
        data = path.read_bytes()
        try:
            read_image(data, str(path))
        except BrokenImageError:
            found.leave_out("files that cannot be decoded")
            continue
        context, name = names[0]
        if progress is not None:
            progress(count)
        yield {
            "image": data,
            "captions": list(dict.fromkeys(f"{context}: {words_of(name)}" for context, name in names)),
            "context": context,
            "name": f"{context}/{name}",
            "theme": chosen.folder,
            "licence": chosen.licence,
            "attribution": chosen.attribution,
        }


def licence_text(theme: Path, chosen: Theme, root: Path | None) -> str:
    """What goes beside the set: whose the pictures are, what was changed, and the texts that come with them.

    Args:
        theme: The theme's folder.
        chosen: The theme.
        root: The unpacked package; ``None`` where only the theme's folder is given.
    """
    folders = [theme] if root is None else [root / "usr" / "share" / "doc" / chosen.package, theme]
    texts = [
        path.read_text("utf-8", "replace")
        for folder in folders
        for path in sorted(folder.glob("*"))
        if path.is_file() and path.stem.lower() in ("copyright", "copying", "authors", "license")
    ]
    named = sorted(set(re.findall(rf"{LICENCES}/([\w.-]*\w)", "\n".join(texts))))
    texts += [(LICENCES / name).read_text("utf-8") for name in named if (LICENCES / name).is_file()]
    head = (
        f"# The pictures of the icon theme `{chosen.folder}`\n\n{chosen.attribution}; licence: {chosen.licence}. "
        f"Taken from Debian's package `{chosen.package}`.\n\nWhat was changed: nothing in the pictures, which are the theme's files. "
        "Whoever passes them on does so under the same licence, with this text.\n"
    )
    return "\n\n".join([head, *(f"```text\n{text.strip()}\n```" for text in texts)]) + "\n"


@contextmanager
def _unpacked(packages: Path | None, chosen: Theme, name: str) -> Iterator[tuple[Path, Path | None]]:
    """The theme's folder, and the folder of its unpacked package; ``None`` where the theme's folder alone is given."""
    if packages is not None and (packages / "index.theme").is_file():
        yield packages, None
        return
    with tempfile.TemporaryDirectory() as scratch:
        source = packages or download([chosen.package], Path(scratch) / "debs", name)
        root = unpack([chosen.package], source, Path(scratch) / "files", THEME_FOLDERS / chosen.folder)
        yield root / THEME_FOLDERS / chosen.folder, root


def build_icons(packages: Path | None, progress: Progress | None, wanted: Icons) -> Path:
    """Write the set, with its licence beside it, and warn once of what is not used.

    Args:
        packages: The theme's folder, a ``.deb`` file or a folder of it, or its unpacked contents; downloaded by default.
        progress: Called with the number of icons so far.
        wanted: Theme and size.

    Raises:
        BuildError: if the theme cannot be had, or has no such pictures.
    """
    chosen, target = THEMES[wanted.theme], built_path(wanted.name)
    with _unpacked(packages, chosen, wanted.name) as (theme, root):
        found = find_icons(theme, wanted.size)
        table, licence = list(rows(found, chosen, progress)), licence_text(theme, chosen, root)
    if not table:
        raise BuildError(f"{theme} has no icons in PNG of {wanted.size // 2} pixels or more; choose a smaller --size")
    write_bytes(target.with_name(f"LICENSE-{wanted.name}.md"), licence.encode())
    write_table(target, table, item="image", caption="captions", label="context", key=["name"], size=wanted.size)
    if found.left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(found.left_out.items()))
        warnings.warn(f"{wanted.name}: {sum(found.left_out.values())} of the theme's names are not used: {counts}", stacklevel=2)
    return target
