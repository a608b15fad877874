"""What a set holds and does not use is counted and named: used and not used are all that was found."""

import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.core.json import JSON, to_text
from jielong.data.folder import FolderSource
from jielong.data.inspecting import inspect
from jielong.data.opening import open_data, open_quietly, open_source
from jielong.data.source import DataError
from jielong.data.table import write_table
from jielong.media.images import encode
from jielong.media.kinds.base import kind_of

PNG = encode(Image.new("RGB", (8, 8), (9, 9, 9)))


def shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def causes(path: Path) -> dict[str, str]:
    return {entry.name: entry.cause.value for entry in open_source(path).unused}


def test_each_cause_is_named(tmp_path):
    for name, data in {
        "a.PNG": PNG,
        "a.TXT": b"a cat",
        "sub/b.png": PNG,
        "bad.png": b"no picture",
        "lonely.txt": b"of nothing",
        "notes.md": b"x",
        "README": b"x",
        "song.wav": b"x",
        ".hidden.png": PNG,
        ".cache/c.png": PNG,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "alias.png").symlink_to("a.PNG")
    os.mkfifo(tmp_path / "pipe.png")
    source = open_source(tmp_path)
    assert [item.key for item in source.items] == ["a.PNG", "alias.png", "sub/b.png"]
    assert source.items[0].caption == "a cat"
    assert causes(tmp_path) == {
        "bad.png": "broken",
        "lonely.txt": "caption without an item",
        "notes.md": "unknown ending",
        "README": "unknown ending",
        "song.wav": "other kind of media",
        "dangling.png": "link",
        "loop.png": "link",
        "again": "link",
        "pipe.png": "not a regular file",
    }


def test_files_that_the_metadata_lacks_are_named(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one\ngone.png,two\n")
    (tmp_path / "a.txt").write_text("not read")
    assert causes(tmp_path) == {"b.png": "unlisted", "gone.png": "missing", "a.txt": "caption without an item"}


def test_folders_without_items_do_not_hide_the_splits(tmp_path):
    for name in ("train/a.png", "test/b.png", "docs/notes.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(PNG)
    assert [item.split for item in open_source(tmp_path).items] == ["heldout", "train"]
    assert causes(tmp_path) == {"docs/notes.md": "unknown ending"}


def test_files_beside_both_splits_do_not_turn_them_into_classes(tmp_path):
    for name in ("train/a.png", "test/b.png", "loose.png", "extra/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    source = open_source(tmp_path)
    assert [(item.key, item.split) for item in source.items] == [("test/b.png", "heldout"), ("train/a.png", "train")]
    assert causes(tmp_path) == {"loose.png": "outside of the splits", "extra/c.png": "outside of the splits"}
    (tmp_path / "test/b.png").unlink()  # `train` alone beside others is a class
    assert [item.label for item in open_source(tmp_path).items] == ["extra", None, "train"]


NAMES = st.text(st.sampled_from("ab1é .-\udce9"), min_size=1, max_size=3).filter(lambda text: text.strip(". ") == text)
ENDINGS = st.sampled_from([".png", ".PNG", ".jpg", ".txt", ".TXT", ".json", ".md", ".wav", "", ".tar.gz"])
CONTENTS = st.sampled_from([PNG, b"", b"words", PNG[:30]])


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.tuples(st.sampled_from(["", "cat", "dog/deep", "train", "test"]), NAMES, ENDINGS), CONTENTS, max_size=8),
    st.sets(st.tuples(NAMES, st.sampled_from([".png", ".md", ""]), st.sampled_from(["cat", "nowhere", "."])), max_size=2),
)
def test_used_and_not_used_are_all_that_was_found(files, links):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for (folder, stem, ending), data in files.items():
            path = root / folder / (stem + ending)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b'{"text": "x"}' if ending == ".json" else data)
        for stem, ending, target in links:
            if not os.path.lexists(root / (stem + ending)):
                (root / (stem + ending)).symlink_to(target)
        found = [Path(top) / file for top, _, names in os.walk(root) for file in names]
        found += [Path(top) / folder for top, folders, _ in os.walk(root) for folder in folders if (Path(top) / folder).is_symlink()]
        pictures = {path.with_suffix("") for path in found if path.suffix.lower() in (".png", ".jpg") and path.is_file()}
        words = {(path.with_suffix(""), path.suffix.lower()) for path in found if path.suffix.lower() in (".txt", ".json")}
        beside = sum(stem in pictures for stem, _ in words)
        if not pictures:
            with pytest.raises(DataError, match="holds no pictures"):
                FolderSource(root, kind_of("image"))
            return
        source = FolderSource(root, kind_of("image"))
        assert len(source.items) + len(source.unused) + beside == len(found)


def test_names_in_shards_may_hold_dots(tmp_path):
    rates = [f"tone 22.{cents:02}" for cents in (5, 10, 15)]
    members = [(f"{rate}{ending}", PNG if ending == ".png" else rate.encode()) for rate in rates for ending in (".png", ".txt")]
    source = open_source(shard(tmp_path / "s.tar", members))
    assert [item.key for item in source.items] == rates
    assert [item.caption for item in source.items] == rates
    assert not source.unused


def test_an_ending_of_several_parts_belongs_to_the_sample_beside_it(tmp_path):
    path = shard(tmp_path / "s.tar", [("x/a.seg.png", b"mask"), ("x/a.png", PNG), ("x/a.caption.txt", b"a cat"), ("x/b.c.png", PNG)])
    source = open_source(path)
    assert [(item.key, item.caption) for item in source.items] == [("x/a", "a cat"), ("x/b.c", None)]
    assert causes(path) == {"x/a.seg.png": "further member"}


def test_samples_used_and_not_used_are_all_samples(tmp_path):
    members = [
        ("a.png", PNG),
        ("b.txt", b"no picture"),
        ("c.png", b"broken"),
        ("c.txt", b"x"),
        ("d.bin", b"x"),
        (".d.png", PNG),
        ("a.png", PNG),
    ]
    path = shard(tmp_path / "s.tar", [*members, members[0]])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("e.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(link)
    assert [item.key for item in open_source(path).items] == ["a"]
    assert causes(path) == {"b": "no item", "c": "broken", "d": "no item", "a.png": "further member", "e.png": "link"}


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
def test_files_beside_shards_and_tables_are_named(tmp_path, ending):
    (tmp_path / "below").mkdir()
    for path in (tmp_path / f"a{ending}", tmp_path / "below" / f"b{ending}"):
        if ending == ".tar":
            shard(path, [("0.png", PNG)])
        else:
            pq.write_table(pa.table({"image": [PNG]}), path)
    (tmp_path / "README.md").write_text("words")
    (tmp_path / f"gone{ending}").symlink_to(tmp_path / "nowhere")
    assert causes(tmp_path) == {f"gone{ending}": "link", "README.md": "unknown ending", f"below/b{ending}": "unlisted"}
    assert len(open_source(tmp_path).items) == 1
    assert len(open_source(f"{tmp_path}/**/[ab]{ending}").items) == 2


def test_a_row_may_spell_the_path_of_its_file_otherwise(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "metadata.csv").write_text("file_name\n./below/../a.png\na.png\n")
    assert [item.key for item in open_source(tmp_path).items] == ["a.png"]
    assert causes(tmp_path) == {"metadata.csv, line 3": "bad row"}


def test_a_broken_clip_is_counted_once_whatever_takes_its_place(tmp_path):
    for name, samples in (("a", [float("nan")] * 8), ("b", [0.1] * 4_000), ("c", [0.1] * 800)):
        sf.write(tmp_path / f"{name}.au", np.array(samples), 4_000, subtype="FLOAT")
    with pytest.warns(UserWarning, match="not finite"):
        clips = open_quietly(tmp_path, sample_rate=4_000, duration=0.5, whole=True)
    assert clips.keys == ["c.au"]
    assert {entry.name: entry.cause.value for entry in clips.unused} == {"a.au": "broken", "b.au": "too long"}


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
def test_items_of_files_of_the_same_name_have_keys_of_their_own(tmp_path, ending):
    for folder in ("a", "b"):
        path = tmp_path / folder / f"0{ending}"
        path.parent.mkdir()
        if ending == ".tar":
            shard(path, [("0.png", PNG)])
        else:
            pq.write_table(pa.table({"image": [PNG]}), path)
    of = {".tar": ["a/0.tar:0", "b/0.tar:0"], ".parquet": ["a/0.parquet#0.0", "b/0.parquet#0.0"]}
    assert [item.key for item in open_source(f"{tmp_path}/**/*{ending}").items] == of[ending]


def test_rows_of_one_key_are_counted_each(tmp_path):
    rows: list[JSON] = [{"image": data, "name": "same", "caption": "", "label": ""} for data in (PNG, PNG[:-20], PNG)]
    write_table(tmp_path / "t.parquet", rows, item="image", caption="caption", label="label", key=["name"])
    report = inspect(tmp_path / "t.parquet", size=8)
    assert (report.count, report.decoded, len(report.unused)) == (2, 2, 1)


def test_opening_says_once_what_is_not_used(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.md").write_text("x")
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"6 not used: 1 broken \(b.png\), 5 unknown ending \(0.md, 1.md, 2.md, \.\.\.\)") as met:
        open_data(tmp_path, size=8)
    assert len(met) == 1


def test_inspection_counts_and_names_each_cause(tmp_path):
    for name in ("a.png", "1.md", "2.md", "3.md", "4.md"):
        (tmp_path / name).write_bytes(PNG)
    rows = dict(inspect(tmp_path, size=8)._table())
    assert rows["unknown ending"] == "4: 1.md, 2.md, 3.md, ..."
    assert rows["not used"] == "4"


def test_json_is_valid_whatever_the_names(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(PNG)
    with open(name + b".md", "wb") as file:
        file.write(b"x")
    result = CliRunner().invoke(app, ["data", "inspect", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert report["unused"]["unknown ending"]["count"] == 1
    assert open_quietly(tmp_path).keys == ["caf\\udce9.png"]
    assert json.loads(to_text({"a": float("nan"), "\udce9": [float("inf"), "\udce9"]})) == {"a": None, "\\udce9": [None, "\\udce9"]}


def test_a_set_without_a_usable_item_says_why(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no usable picture: 1 broken \(bad.png\)\. .*bad.png"):
        open_data(tmp_path)
    (tmp_path / "bad.png").rename(tmp_path / "bad.md")
    with pytest.raises(DataError, match=r"holds no pictures; expected"):
        open_data(tmp_path)
