"""Building emoji-full from a fake folder of packages."""

import inspect
import shutil

import pyarrow.parquet as pq
import pytest
from PIL import Image

from jielong.data.built import BuildError, built_path
from jielong.data.opening import BUILT_IN, open_data
from jielong.data.source import DataError
from jielong.media.images import encode, to_bytes
from jielong_zoo.builders.building import build_set
from jielong_zoo.builders.npm import install

zoo = pytest.importorskip("jielong_zoo", reason="the built-in sets are in the distribution jielong-zoo")

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><rect width="36" height="72" fill="#ff0000"/></svg>'


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two OpenMoji and three Fluent drawings (one a flag, one unknown), and a built-in set of the first 300 rows."""
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    small = tmp_path / "zoo" / "data" / "emoji.parquet"
    small.parent.mkdir(parents=True)
    table = pq.read_table(zoo.path() / "data" / "emoji.parquet")
    pq.write_table(table.slice(0, 300), small)
    monkeypatch.setattr(zoo, "path", lambda: tmp_path / "zoo")
    monkeypatch.setitem(BUILT_IN, "emoji", inspect.unwrap(BUILT_IN["emoji"]))  # not the one that all tests share
    codes = list(dict.fromkeys(table.slice(0, 300)["hexcode"].to_pylist()))
    openmoji, fluent = tmp_path / "openmoji" / "color" / "svg", tmp_path / "@lobehub" / "fluent-emoji-3d" / "assets"
    openmoji.mkdir(parents=True)
    fluent.mkdir(parents=True)
    (openmoji / f"{codes[0]}.svg").write_text(SVG)
    (openmoji / f"{codes[1]}.svg").write_text(SVG)
    flag = next(row["hexcode"] for row in table.slice(0, 300).to_pylist() if row["group"] == "flags")
    for code in (codes[0].lower(), flag.lower(), "ffff"):
        (fluent / f"{code}.webp").write_bytes(encode(Image.new("RGBA", (256, 264), (0, 255, 0, 255)), "WEBP", lossless=True))
    return tmp_path


def test_adds_styles_to_the_built_in_set(packages):
    pytest.importorskip("resvg_py")
    before = open_data("emoji")
    with pytest.raises(DataError, match="jielong data build emoji-full"):
        open_data("emoji-full")
    counted: list[int] = []
    path = build_set("emoji-full", packages, counted.append)
    assert path == built_path("emoji-full")
    assert "CC BY-SA 4.0" in (path.parent / "LICENSE-emoji-full.md").read_text()
    images = open_data("emoji-full")
    assert len(images) == 303 == counted[-1]
    styles = images.columns["style"]
    assert (styles.count("OpenMoji"), styles.count("Fluent 3D")) == (2, 1)
    at = styles.index("OpenMoji")
    assert images.captions[at].endswith(", OpenMoji style")
    left, right = to_bytes(images.media([at]))[0, :, 32, [16, 48]].T.tolist()
    assert (left, right) == ([255, 0, 0], [255, 255, 255])
    split = dict(zip(images.keys, [images.source.items[i].split for i in images.indices], strict=True))
    assert all(split[item.key] == item.split for item in before.source.items)


def test_a_missing_package_or_program_is_named_and_nothing_is_written(packages, monkeypatch):
    pytest.importorskip("resvg_py")
    shutil.rmtree(packages / "@lobehub")
    with pytest.raises(BuildError, match="fluent-emoji-3d"):
        build_set("emoji-full", packages)
    assert not built_path("emoji-full").exists()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match="needs `npm`"):
        install(["x"], packages / "new")
    with pytest.raises(DataError, match="did you mean 'emoji-full'"):
        build_set("emoji-ful")


def test_failing_npm_is_reported(tmp_path, monkeypatch):
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'no such package' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/bin:/usr/bin")
    with pytest.raises(BuildError, match="no such package"):
        install(["left-pad@0"], tmp_path / "out")
