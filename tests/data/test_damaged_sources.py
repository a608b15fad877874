"""A damaged row, page, file or sidecar never stops the opening of a set: it is counted and named."""

import contextlib
import io
import tarfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jielong.data.ledger import Cause
from jielong.data.opening import open_quietly, open_source
from jielong.data.source import DataError
from jielong.media.images import encode

PICTURES = [encode(Image.new("RGB", (8, 8), (n, n, n))) for n in range(6)]


def table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table({"image": PICTURES, **columns}), path, row_group_size=2, write_page_checksum=True, compression="none")
    return path


def damage(path: Path, group: int, column: int) -> None:
    """Flip the last byte of the pages of a column in a row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(column)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - (chunk.data_page_offset - chunk.dictionary_page_offset) - 1] ^= 1
    path.write_bytes(data)


def test_a_damaged_page_of_captions_costs_its_rows(tmp_path):
    path = table(tmp_path / "t.parquet", text=[f"caption {n}" for n in range(6)])
    damage(path, group=1, column=1)
    source = open_source(path)
    assert [item.caption for item in source.items] == ["caption 0", "caption 1", "caption 4", "caption 5"]
    assert [entry.name for entry in source.unused] == ["t.parquet, rows 3 to 4"]
    assert len(source.items) + len(source.unused) == 6
    assert [source.blob(index) for index in range(4)] == [PICTURES[n] for n in (0, 1, 4, 5)]
    assert len(set(source.content_hashes)) == 4


def test_a_damaged_page_of_pictures_costs_its_pictures(tmp_path):
    path = table(tmp_path / "t.parquet")
    damage(path, group=1, column=0)
    images = open_quietly(path, size=8)
    assert len(set(images.source.content_hashes)) == 6
    with pytest.warns(UserWarning, match="row group 1 of .*t.parquet cannot be read"):
        assert len(images.batch(range(6))) == 6
    assert list(images.broken) == ["t.parquet#1.0", "t.parquet#1.1"]


def test_a_damaged_page_of_sound_costs_its_clips(tmp_path):
    clip = io.BytesIO()
    sf.write(clip, np.zeros(2_000), 4_000, format="WAV")
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"audio": [clip.getvalue()] * 6}), path, row_group_size=2, write_page_checksum=True, compression="none")
    damage(path, group=1, column=0)
    with pytest.warns(UserWarning, match="row group 1 of .*t.parquet cannot be read"):
        clips = open_quietly(path, sample_rate=4_000, duration=0.5, whole=True)
    assert len(clips) == 4
    assert list(clips.broken) == ["t.parquet#1.0", "t.parquet#1.1"]


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
def test_a_damaged_first_file_does_not_decide_the_kind(tmp_path, ending):
    clip = io.BytesIO()
    sf.write(clip, np.zeros(2_000), 4_000, format="WAV")
    (tmp_path / f"a{ending}").write_bytes(b"damaged")
    if ending == ".tar":
        with tarfile.open(tmp_path / "b.tar", "w") as archive:
            info = tarfile.TarInfo("0.wav")
            info.size = clip.tell()
            archive.addfile(info, io.BytesIO(clip.getvalue()))
    else:
        pq.write_table(pa.table({"audio": [clip.getvalue()]}), tmp_path / "b.parquet")
    for kind in (None, "audio"):
        source = open_source(tmp_path, kind)
        assert (source.kind, len(source.items), len(source.broken)) == ("audio", 1, 1)


def test_items_that_vanish_say_why(tmp_path):
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "a.png")
    for path, file in ((tmp_path / "a.tar", tmp_path / "a.tar"), (tmp_path, tmp_path / "a.png")):
        source = open_source(path)
        file.unlink()
        with pytest.raises(DataError, match=r"a.* cannot be read: No such file"):
            source.blob(0)


def test_a_row_that_is_not_text_costs_itself(tmp_path):
    words = pa.Array.from_buffers(pa.utf8(), 6, pa.array([b"a", b"b", b"caf\xe9", b"d", b"e", b"f"]).buffers())
    source = open_source(table(tmp_path / "t.parquet", text=words))
    assert [item.caption for item in source.items] == ["a", "b", "d", "e", "f"]
    assert list(source.unused.reasons(Cause.ROW)) == ["t.parquet#1.0"]
    source = open_source(table(tmp_path / "b.parquet", text=[b"a", b"caf\xe9", None, b"", b"e", b"f"]))
    assert [item.caption for item in source.items] == ["a", None, None, "e", "f"]
    assert list(source.unused.reasons(Cause.ROW)) == ["b.parquet#0.1"]


def test_of_several_tables_a_damaged_one_is_left_out(tmp_path):
    table(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    source = open_source(tmp_path)
    assert len(source.items) == 6
    assert "not a whole Parquet file" in source.unused.reasons(Cause.BROKEN)["b.parquet"]


@pytest.mark.parametrize("declared", [b"{", b"[]", b'{"caption": "gone"}', b'{"key": 3}'])
def test_bad_declarations_of_columns_are_named(tmp_path, declared):
    pq.write_table(pa.table({"image": PICTURES}).replace_schema_metadata({"jielong": declared}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="metadata `jielong`"):
        open_source(tmp_path / "t.parquet")


def test_words_that_no_caption_can_be_are_named(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(PICTURES[0])
    (tmp_path / "a.txt").write_bytes(b"x" * 2_000_000)
    (tmp_path / "b.json").write_text('"\\ud800"')
    source = open_source(tmp_path)
    assert [item.key for item in source.items] == ["c.png"]
    reasons = source.unused.reasons(Cause.WORDS)
    assert "2,000,000 bytes" in reasons["a.png"]
    assert "surrogate" in reasons["b.png"]


def test_rows_of_words_that_are_no_text_are_left_out(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(PICTURES[0])
    rows = ('{"file_name": "\\ud800.png"}', '{"file_name": "a.png", "caption": "\\ud800"}', '{"file_name": "b.png", "caption": "b"}')
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    source = open_source(tmp_path)
    assert [item.key for item in source.items] == ["b.png"]
    assert list(source.unused.reasons(Cause.ROW)) == ["metadata.jsonl, line 1", "metadata.jsonl, line 2"]


@cache
def whole() -> dict[str, bytes]:
    """A table, a shard and a manifest, by name."""
    parquet, shard = io.BytesIO(), io.BytesIO()
    pq.write_table(pa.table({"image": PICTURES, "text": ["ab"] * 6}), parquet, row_group_size=2)
    with tarfile.open(fileobj=shard, mode="w") as archive:
        for name, data in (("a.png", PICTURES[0]), ("a.txt", b"one"), ("b.png", PICTURES[1]), ("b.json", b'{"text": "two"}')):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    manifest = b'file_name,text\na.png,"one, two"\nb.png,"three"\n'
    return {"t.parquet": parquet.getvalue(), "s.tar": shard.getvalue(), "metadata.csv": manifest}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["t.parquet", "s.tar", "metadata.csv"]), st.integers(0, 1 << 20), st.integers(1, 255), st.booleans())
def test_any_changed_byte_and_any_cut_is_survived(tmp_path_factory, name, place, flip, cut):
    folder, data = tmp_path_factory.mktemp("changed"), bytearray(whole()[name])
    data[place % len(data)] ^= flip
    (folder / name).write_bytes(data[: place % len(data)] if cut else data)
    for picture in "ab":
        if name == "metadata.csv":
            (folder / f"{picture}.png").write_bytes(PICTURES[0])
    with warnings.catch_warnings(), contextlib.suppress(DataError):
        warnings.simplefilter("ignore")
        images = open_quietly(folder if name == "metadata.csv" else folder / name, size=8)
        assert images.batch(range(len(images))).media.isfinite().all()
        assert images.fingerprint
