"""The set `icons` from small themes: what is an item, which file it is, and what its captions are."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from jielong.data.built import BuildError, built_path
from jielong.data.licences import licence_of_weights, terms
from jielong.data.opening import open_data
from jielong.data.source import DataError
from jielong.media.images import encode

pytest.importorskip("jielong_zoo", reason="sets are built by the distribution jielong-zoo")
from jielong_zoo.builders.building import build_set
from jielong_zoo.builders.faces.build import Faces
from jielong_zoo.builders.icons import THEMES, Icons, find_icons, words_of

INDEX = """[Icon Theme]
Name=Small
Directories=16/actions,64/actions,128/actions,48/mimetypes,64@2/actions,64/animations,64/none

[16/actions]
Size=16
Context=Actions

[64/actions]
Size=64
Context=Actions

[128/actions]
Size=128

[48/mimetypes]
Size=48
Context=MimeTypes

[64@2/actions]
Size=64
Scale=2
Context=Actions

[64/animations]
Size=64
Context=Animations

[64/none]
Size=64
Context=Places
"""
COLOURS = {"open": "red", "save": "green", "text": "blue", "tiny": "black", "close": "white", "spinner": "yellow"}


def paint(path: Path, name: str, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(Image.new("RGBA", (size, size), COLOURS[name])))


@pytest.fixture
def theme(tmp_path: Path) -> Path:
    folder = tmp_path / "usr" / "share" / "icons" / "oxygen"
    paint(folder / "16/actions/document-open.png", "open", 16)
    paint(folder / "64/actions/document-open.png", "open", 64)
    paint(folder / "128/actions/document-open.png", "open", 128)
    paint(folder / "128/actions/document-save.png", "save", 128)
    paint(folder / "64/actions/window-close.png", "close", 64)
    paint(folder / "48/mimetypes/text-x-csrc.png", "text", 48)
    paint(folder / "16/actions/tiny.png", "tiny", 16)
    paint(folder / "64@2/actions/scaled.png", "tiny", 128)
    paint(folder / "64/animations/process.png", "spinner", 64)
    paint(folder / "48/mimetypes/text-plain.png", "text", 48)  # the same bytes as text-x-csrc
    (folder / "64/actions/folder-open.png").symlink_to("document-open.png")
    (folder / "64/actions/open.png").symlink_to("folder-open.png")  # a link to a link
    (folder / "64/actions/source.png").symlink_to("../../48/mimetypes/text-x-csrc.png")
    (folder / "64/actions/gone.png").symlink_to("nothing.png")
    (folder / "16/actions/small.png").symlink_to("tiny.png")
    (folder / "64/actions/notes.txt").write_text("no icon")
    (folder / "index.theme").write_text(INDEX)
    doc = tmp_path / "usr" / "share" / "doc" / "oxygen-icon-theme"
    doc.mkdir(parents=True)
    (doc / "copyright").write_text("Files: *\nLicense: LGPL-3+\n")
    return folder


def test_an_icon_is_one_item_with_all_its_names(theme: Path) -> None:
    found = find_icons(theme, 64)
    captions = {path.relative_to(theme).as_posix(): names for path, names in found.captions.items()}
    assert captions == {
        "64/actions/document-open.png": [("actions", "document-open"), ("actions", "folder-open"), ("actions", "open")],
        "128/actions/document-save.png": [("actions", "document-save")],
        "64/actions/window-close.png": [("actions", "window-close")],
        "48/mimetypes/text-plain.png": [("file types", "text-plain"), ("file types", "text-x-csrc"), ("actions", "source")],
    }
    assert found.left_out == {
        "animations": 1,
        "icons of less than 32 pixels alone": 1,
        "links that lead nowhere": 1,
        "links to what is not used": 1,
    }


@pytest.mark.parametrize(("size", "folder"), [(16, 16), (17, 64), (64, 64), (65, 128), (200, 128)])
def test_the_next_larger_size_is_taken(theme: Path, size: int, folder: int) -> None:
    assert find_icons(theme, size).files["actions", "document-open"].parent == theme / f"{folder}/actions"


def test_words_of_names() -> None:
    assert words_of("document-open_recent") == "document open recent"
    assert words_of("application-vnd.oasis.opendocument.text-template") == "application oasis opendocument text template"
    assert words_of("text-x-c++src") == "text c src"


def deb(root: Path, path: Path) -> Path:
    """A Debian package: an archive of ``ar`` with a ``data.tar``."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        archive.add(root / "usr", "./usr")
    members = [(b"debian-binary", b"2.0\n"), (b"data.tar.xz", data.getvalue())]
    heads = [name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"100644".ljust(8) + b"%-10d`\n" % len(body) for name, body in members]
    path.write_bytes(b"!<arch>\n" + b"".join(head + body + b"\n" * (len(body) % 2) for head, (_, body) in zip(heads, members, strict=True)))
    return path


@pytest.mark.parametrize("given", ["unpacked", "theme", "deb", "folder of debs"])
def test_the_set_is_the_same_whatever_is_given(theme: Path, tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "debs").mkdir()
    package = deb(tmp_path, tmp_path / "debs" / "oxygen-icon-theme_5.103_all.deb")
    source = {"unpacked": tmp_path, "theme": theme, "deb": package, "folder of debs": package.parent}[given]
    counted: list[int] = []
    with pytest.warns(UserWarning, match="icons: 4 of the theme's names are not used: 1 animations, 1 icons of less than 32 pixels alone"):
        path = build_set("icons", source, counted.append)
    assert (path, counted) == (built_path("icons"), [1, 2, 3, 4])
    icons = open_data("icons")
    assert sorted(icons.keys) == ["actions/document-open", "actions/document-save", "actions/window-close", "file types/text-plain"]
    row = icons.keys.index("actions/document-open")
    assert icons.captions_of_items[row] == ("actions: document open", "actions: folder open", "actions: open")
    assert icons.source.blob(icons.indices[row]) == (theme / "64/actions/document-open.png").read_bytes()
    assert icons.classes == ["actions", "file types"]
    assert icons.medium.size == (64, 64)
    assert icons.source.writing
    assert icons.media([row])[0, :, 5, 5].tolist() == [1, -1, -1]
    licence = path.with_name("LICENSE-icons.md").read_text("utf-8")
    assert "Oxygen icons" in licence
    assert ("License: LGPL-3+" in licence) == (given != "theme")
    assert licence_of_weights(terms("icons")) == "LGPL-3.0"


def test_other_themes_and_sizes_are_other_sets(theme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="icons-gnome-16"):
        path = build_set("icons", theme, icons=Icons("gnome", 16))
    assert path.name == "icons-gnome-16.parquet"
    assert len(open_data(path)) == 5
    assert Icons().name == "icons"


def test_what_cannot_be_built_is_said(theme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BuildError, match="has no icons in PNG of 500 pixels or more"):
        build_set("icons", theme, icons=Icons(size=1000))
    with pytest.raises(BuildError, match=r"neither \.deb files of gnome-icon-theme"):
        build_set("icons", tmp_path, icons=Icons("gnome"))
    with pytest.raises(DataError, match="there is no theme called 'oxigen'; did you mean 'oxygen'"):
        build_set("icons", theme, icons=Icons("oxigen"))
    with pytest.raises(DataError, match="themes and their sizes are for the set 'icons'"):
        build_set("faces", theme, icons=Icons())
    with pytest.raises(DataError, match="'icons' holds as many as its theme"):
        build_set("icons", theme, faces=Faces())
    (theme / "index.theme").write_text("nothing")
    with pytest.raises(BuildError, match=r"index\.theme does not describe an icon theme"):
        build_set("icons", theme)
    assert not built_path("icons").exists()
    with pytest.raises(DataError, match="jielong data build icons"):
        open_data("icons")
    assert {chosen.package for chosen in THEMES.values()} == {"oxygen-icon-theme", "gnome-icon-theme"}
