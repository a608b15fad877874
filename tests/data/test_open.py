"""A user's own pictures, in every layout that is recognised, whole and broken."""

import csv
import io
import json
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jielong.data.ledger import Cause
from jielong.data.opening import open_data
from jielong.data.sets import MediaSet
from jielong.data.source import DataError
from jielong.data.table import TableSource
from jielong.media.images import encode, to_bytes
from jielong.media.kinds.base import kind_of


def png(value: int, side: int = 8) -> bytes:
    return encode(Image.new("RGB", (side, side), (value, value, value)))


def noisy(side: int = 64) -> bytes:
    return encode(Image.fromarray(np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)))


def put(root: Path, **files: bytes | str) -> Path:
    for name, data in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def values(images: MediaSet) -> list[int]:
    """The grey level of each picture."""
    return to_bytes(images.media(range(len(images))))[:, 0, 4, 4].tolist()


def test_classes_are_the_sub_folders(tmp_path):
    put(tmp_path, cat__a_dot_png=png(1), cat__deep__b_dot_png=png(2), dog__c_dot_PNG=png(3), dog__notes_dot_md="x")
    images = open_data(tmp_path, size=8)
    assert images.keys == ["cat/a.png", "cat/deep/b.png", "dog/c.PNG"]
    assert images.classes == ["cat", "dog"]
    assert images.labels == [0, 0, 1]
    assert values(images) == [1, 2, 3]
    assert not images.has_captions


def test_captions_lie_beside_as_txt_or_json(tmp_path):
    put(
        tmp_path, a_dot_png=png(1), a_dot_txt=" a cat\n", b_dot_png=png(2), b_dot_json='{"text": "a dog", "label": "dog"}', c_dot_png=png(3)
    )
    images = open_data(tmp_path, size=8)
    assert images.captions == ["a cat", "a dog", ""]
    assert images.has_captions
    assert images.labels == [None, 0, None]
    batch = images.batch([0, 2])
    assert batch.captions == ["a cat", ""]
    assert batch.labels is None
    assert images[2].captions == [""]


def test_metadata_csv_and_jsonl_say_the_same(tmp_path):
    rows = [{"file_name": "x/a.png", "text": "a cat, sitting", "label": "cat"}, {"file_name": "b.png", "text": "a dog", "label": "dog"}]
    for kind in ("csv", "jsonl"):
        root = put(tmp_path / kind, x__a_dot_png=png(1), b_dot_png=png(2), unlisted_dot_png=png(9))
        if kind == "csv":
            with open(root / "metadata.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, rows[0].keys())
                writer.writeheader()
                writer.writerows(rows)
        else:
            (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        images = open_data(root, size=8)
        assert images.captions == ["a cat, sitting", "a dog"]
        assert images.classes == ["cat", "dog"]
        assert values(images) == [1, 2]


def test_a_file_that_the_metadata_names_but_is_missing_is_named_not_fatal(tmp_path):
    put(tmp_path, a_dot_png=png(1), metadata_dot_csv="file_name,caption\na.png,one\ngone.png,two\n")
    images = open_data(tmp_path, size=8)
    assert len(images) == 1
    assert "does not exist" in images.unused.reasons(Cause.MISSING)["gone.png"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name,caption\na.png,x\n", "line 2: no file is named"),
        ("file_name,caption\n../secret.png,x\n", "outside"),
    ],
)
def test_bad_metadata_is_refused(tmp_path, text, word):
    put(tmp_path, a_dot_png=png(1), metadata_dot_csv=text)
    with pytest.raises(DataError, match=word):
        open_data(tmp_path)


def test_of_two_rows_for_one_file_the_first_counts(tmp_path):
    put(tmp_path, a_dot_png=png(1), metadata_dot_csv="file_name,caption\na.png,x\na.png,y\n")
    images = open_data(tmp_path, size=8)
    assert images.captions == ["x"]
    assert "twice" in images.unused.reasons(Cause.ROW)["metadata.csv, line 3"]


def test_conflicting_metadata_is_refused(tmp_path):
    put(tmp_path, a_dot_png=png(1), metadata_dot_csv="file_name\na.png\n", metadata_dot_jsonl='{"file_name": "a.png"}')
    with pytest.raises(DataError, match="keep one"):
        open_data(tmp_path)
    put(tmp_path / "bad", metadata_dot_jsonl='{"file_name": "a.png"}\n{oops\n')
    with pytest.raises(DataError, match=r"line 2.* is not JSON"):
        open_data(tmp_path / "bad")


def test_split_folders_are_splits(tmp_path):
    put(tmp_path, train__cat__a_dot_png=png(1), train__dog__b_dot_png=png(2), test__cat__c_dot_png=png(3), test__dog__d_dot_png=png(4))
    assert values(open_data(tmp_path, size=8, split="train")) == [1, 2]
    heldout = open_data(tmp_path, size=8, split="heldout")
    assert values(heldout) == [3, 4]
    assert heldout.classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("folder", "split", "other"), [("train", "train", "heldout"), ("test", "heldout", "train"), ("val", "heldout", "train")]
)
def test_one_split_folder_alone_is_a_split_and_no_class(tmp_path, folder, split, other):
    put(tmp_path, **{f"{folder}__cat__a_dot_png": png(1), f"{folder}__dog__b_dot_png": png(2)})
    opened = open_data(tmp_path, split)
    assert (len(opened), opened.classes) == (2, ["cat", "dog"])
    with pytest.raises(DataError, match=f"marks no item as '{other}': all 2 are '{split}'"):
        open_data(tmp_path, other)


def test_without_declared_splits_some_are_held_out_and_stay_so(tmp_path):
    for n in range(200):
        put(tmp_path, **{f"p{n}_dot_png": png(n)})
    heldout = set(open_data(tmp_path, size=8, split="heldout").keys)
    train = set(open_data(tmp_path, size=8, split="train").keys)
    assert not heldout & train
    assert len(heldout | train) == 200
    assert 1 <= len(heldout) <= 25  # binomial(200, 0.05): beyond 25 with probability below 1e-5; the hash is fixed anyway
    put(tmp_path, new_dot_png=png(7))
    assert set(open_data(tmp_path, size=8, split="heldout").keys) - {"new.png"} == heldout
    put(tmp_path / "two", a_dot_png=png(1), b_dot_png=png(2))
    assert len(open_data(tmp_path / "two", split="heldout")) == len(open_data(tmp_path / "two", split="train")) == 1


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_webdataset_shards_by_folder_file_and_pattern(tmp_path):
    shard(tmp_path / "s-000.tar", {"a.png": png(1), "a.txt": b"one", "a.cls": b"3", "b.json": b'{"caption": "two"}', "b.png": png(2)})
    shard(tmp_path / "s-001.tar", {"a.png": png(3), "a.txt": b"three", "x/lonely.txt": b"no picture"})
    for name in (tmp_path, f"{tmp_path}/s-{{000..001}}.tar", f"{tmp_path}/s-*.tar", f"{tmp_path}/s-{{000,001}}.tar"):
        images = open_data(name, size=8)
        assert images.keys == ["s-000.tar:a", "s-000.tar:b", "s-001.tar:a"]
        assert images.captions == ["one", "two", "three"]
        assert images.classes == ["3"]
        assert values(images) == [1, 2, 3]
        assert "no picture" in images.unused.reasons(Cause.NO_ITEM)["s-001.tar:x/lonely"]
    assert values(open_data(tmp_path / "s-001.tar", size=8)) == [3]
    with pytest.raises(DataError, match="no file matches"):
        open_data(f"{tmp_path}/s-{{000..002}}.tar")


def test_truncated_shard_keeps_what_is_whole(tmp_path):
    path = shard(tmp_path / "s.tar", {"a.png": png(1), "b.png": noisy(64)})
    path.write_bytes(path.read_bytes()[:4000])
    images = open_data(path, size=8)
    assert values(images) == [1]
    assert any("cut off" in reason or "truncated" in reason for reason in images.broken.values())


def test_what_is_no_tar_is_refused(tmp_path):
    put(tmp_path, s_dot_tar=b"\x1f\x8b" + b"not a tar" * 100)
    with pytest.raises(DataError, match="not an uncompressed tar"):
        open_data(tmp_path / "s.tar")


@pytest.mark.parametrize("nested", [False, True])
def test_parquet(tmp_path, nested):
    pictures = [png(n) for n in (1, 2, 3)]
    table = pa.table(
        {
            "image": [{"bytes": p, "path": None} for p in pictures] if nested else pictures,
            "text": ["one", None, "three"],
            "label": [1, 0, 1],
        }
    )
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    for name in (tmp_path, tmp_path / "a.parquet", f"{tmp_path}/*.parquet"):
        images = open_data(name, size=8)
        assert images.captions == ["one", "", "three"]
        assert images.classes == ["cat", "dog"]
        assert images.labels == [1, 0, 1]
        assert values(images) == [1, 2, 3]


def test_row_groups_that_do_not_fit_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("jielong.data.table.KEPT_BYTES", 1)
    monkeypatch.setattr("jielong.data.sets.MEMORY_BYTES", 0)
    pq.write_table(pa.table({"image": [png(n) for n in range(6)]}), tmp_path / "a.parquet", row_group_size=2)
    images = open_data(tmp_path, size=8)
    assert to_bytes(images.media([5, 0, 3, 4, 1, 2]))[:, 0, 0, 0].tolist() == [5, 0, 3, 4, 1, 2]
    assert len(images.source._kept) == 1


def test_bad_parquet_is_refused(tmp_path):
    put(tmp_path, bad_dot_parquet="PAR1 no")
    with pytest.raises(DataError, match="not a whole Parquet"):
        open_data(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"words": ["a"]}), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"no column of pictures.*words"):
        open_data(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "bad.parquet")
    pq.write_table(pa.table({"image": [b"x"], "text": ["a"]}), tmp_path / "more.parquet")
    with pytest.raises(DataError, match="other columns"):
        open_data(tmp_path)


def test_broken_files_are_left_out_at_opening_and_named(tmp_path):
    put(tmp_path, a_dot_png=png(1), b_dot_png=b"no picture", c_dot_png=b"")
    images = open_data(tmp_path, size=8)
    assert images.keys == ["a.png"]
    assert set(images.broken) == {"b.png", "c.png"}
    assert "b.png" in images.broken["b.png"]


def test_broken_pixels_are_replaced_by_the_next_good_picture_with_its_words(tmp_path):
    cut = noisy()[:4000]  # the header is whole, the pixels are not
    put(tmp_path, a_dot_png=png(1), b_dot_png=cut, c_dot_png=cut, d_dot_png=png(4), z_dot_png=cut)
    put(tmp_path, **{f"{n}_dot_txt": n for n in "abcdz"})
    images = open_data(tmp_path, size=8)
    assert len(images) == 5
    with pytest.warns(UserWarning, match="takes its place"):
        batch = images.batch(range(5))
    assert to_bytes(batch.media)[:, 0, 4, 4].tolist() == [1, 4, 4, 4, 1]
    assert batch.captions == ["a", "d", "d", "d", "a"]
    assert set(images.broken) == {"b.png", "c.png", "z.png"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each is warned of once
        again = images.batch([4, 3, 2, 1, 0])
    assert again.captions == batch.captions[::-1]
    fresh = open_data(tmp_path, size=8)
    with pytest.warns(UserWarning, match="takes its place"):
        backwards = fresh.batch([4, 3, 2, 1, 0])
    assert backwards.captions == again.captions  # whatever the order of reading


def test_a_set_without_one_good_picture_says_so(tmp_path):
    put(tmp_path / "cut", a_dot_png=noisy()[:4000])
    with pytest.raises(DataError, match="not one of 1"), pytest.warns(UserWarning, match="decoded"):
        open_data(tmp_path / "cut", size=8).media([0])
    put(tmp_path / "bad", a_dot_png=b"x")
    with pytest.raises(DataError, match=r"no usable picture.*1 broken"):
        open_data(tmp_path / "bad")


@pytest.mark.parametrize("content", [{}, {"notes_dot_md": "x"}])
def test_empty_folder_is_refused(tmp_path, content):
    put(tmp_path, **content)
    with pytest.raises(DataError, match="holds no pictures"):
        open_data(tmp_path)


def test_unknown_names_and_conflicts_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"'emojy'.*did you mean 'emoji'"):
        open_data("emojy")
    with pytest.raises(DataError, match="split is"):
        open_data(tmp_path, split="test")
    with pytest.raises(DataError, match="this one is empty"):
        open_data(" ")
    shard(tmp_path / "a.tar", {"a.png": png(1)})
    pq.write_table(pa.table({"image": [png(1)]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="both Parquet files and tar"):
        open_data(tmp_path)
    (tmp_path / "a.tar").unlink()
    put(tmp_path, cat__a_dot_png=png(1))
    with pytest.raises(DataError, match="loose pictures beside its Parquet"):
        open_data(tmp_path)
    put(tmp_path, a_dot_txt="x")
    with pytest.raises(DataError, match="is not a data set"):
        open_data(tmp_path / "a.txt")


def test_fingerprint_follows_content_words_and_preprocessing_not_place_or_time(tmp_path):
    def fingerprint(name: str, size: int = 8, **files: bytes | str) -> str:
        return open_data(put(tmp_path / name, **files), size=size).fingerprint

    same = {"a_dot_png": png(1), "b_dot_png": png(2), "a_dot_txt": "one"}
    first = fingerprint("first", **same)
    assert fingerprint("copy", **same) == first
    others = [
        fingerprint("size", size=4, **same),
        fingerprint("pixels", **{**same, "b_dot_png": png(3)}),
        fingerprint("words", **{**same, "a_dot_txt": "two"}),
        fingerprint("more", **same, c_dot_png=png(2)),
    ]
    assert len({first, *others}) == 5


def test_a_batch_equals_its_items(tmp_path):
    put(tmp_path, cat__a_dot_png=png(1), cat__a_dot_txt="x", dog__b_dot_png=png(2))
    images = open_data(tmp_path, size=8)
    batch, items = images.batch([1, 0]), [images[-1], images[0]]
    assert torch.equal(torch.cat([item.media for item in items]), batch.media)
    assert batch.captions == ["", "x"] == [item.captions[0] for item in items]
    assert torch.equal(torch.cat([item.labels for item in items]), batch.labels)
    assert batch.keys == [item.keys[0] for item in items]
    with pytest.raises(IndexError):
        images[2]


def test_large_sets_are_decoded_each_time_to_the_same(tmp_path, monkeypatch):
    put(tmp_path, a_dot_png=png(1), b_dot_png=png(2), c_dot_png=noisy()[:4000])
    monkeypatch.setattr("jielong.data.sets.MEMORY_BYTES", 0)
    images = open_data(tmp_path, size=8)
    with pytest.warns(UserWarning, match="takes its place"):
        assert values(images) == [1, 2, 1]
    assert values(images) == [1, 2, 1]


def test_tokens_keep_the_words_of_the_picture_they_were_made_of(tmp_path):
    put(tmp_path, a_dot_png=noisy()[:4000], b_dot_png=png(2), a_dot_txt="a", b_dot_txt="b")
    images = open_data(tmp_path, size=8)
    with pytest.warns(UserWarning, match="takes its place"):
        images.media([0, 1])
    assert images.tokenised([0, 1], torch.zeros(2, 4, 1)).captions == ["b", "b"]


def test_table_needs_a_file():
    with pytest.raises(DataError, match="no Parquet"):
        TableSource([], "nothing", kind_of("image"))
