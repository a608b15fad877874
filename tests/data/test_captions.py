"""Words are read one way, whatever file they stand in."""

import codecs
import csv
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jielong.data.ledger import Ledger
from jielong.data.opening import open_quietly, open_source
from jielong.data.source import DataError, Source
from jielong.data.text import decode_text, lines_of, text_of
from jielong.data.words import read_metadata
from jielong.media.images import encode

PNG = encode(Image.new("RGB", (8, 8), (9, 9, 9)))
WORDS = "ein Käfer, 一只甲虫\u2028\x0b\x85 end"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marks_are_recognised(encoding):
    assert decode_text(WORDS.encode(encoding), "a.txt") == WORDS


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"one\ncaf\xe9", "a.txt is not UTF-8 text: line 2 has the byte 0xe9; save it as UTF-8"),
        ("ab".encode("utf-16-le"), "zero bytes, as UTF-16 without a byte order mark"),
        (codecs.BOM_UTF16_LE + b"a", "a.txt is not UTF-16 text"),
    ],
)
def test_other_encodings_are_named(data, fault):
    with pytest.raises(DataError, match=fault):
        decode_text(data, "a.txt")


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)), st.sampled_from(["\n", "\r\n"]))
def test_lines_end_at_line_ends_alone(lines, end):
    assert lines_of(end.join(lines)) == lines
    assert lines_of("".join(line + end for line in lines)) == lines


def test_values_are_texts():
    values = [
        (None, None),
        (7, "7"),
        (7.0, "7"),
        (7.5, "7.5"),
        (float("nan"), None),
        (" ", None),
        (" 007 ", "007"),
        (b"caf\xc3\xa9", "café"),
    ]
    for value, text in values:
        assert text_of(value, "x") == text
    with pytest.raises(DataError, match="x is an object, not text"):
        text_of({"en": "a cat"}, "x")


def each_way(root: Path, words: str, mark: bytes = b"") -> list[Source]:
    """One picture with the words in every kind of file."""
    for name in ("txt", "json", "csv", "jsonl"):
        (root / name).mkdir()
        (root / name / "a.png").write_bytes(PNG)
    sidecar = json.dumps({"text": words}).encode()
    (root / "txt" / "a.txt").write_bytes(mark + words.encode())
    (root / "json" / "a.json").write_bytes(mark + sidecar)
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["file_name", "text"], ["a.png", words]])
    (root / "csv" / "metadata.csv").write_bytes(mark + buffer.getvalue().encode())
    (root / "jsonl" / "metadata.jsonl").write_bytes(mark + json.dumps({"file_name": "a.png", "text": words}, ensure_ascii=False).encode())
    for name, ending, data in (("shard", "txt", words.encode()), ("structured", "json", sidecar)):
        with tarfile.open(root / f"{name}.tar", "w") as archive:
            for member, content in (("a.png", PNG), (f"a.{ending}", mark + data)):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    pq.write_table(pa.table({"image": [PNG], "text": [mark + words.encode()]}), root / "bytes.parquet")
    pq.write_table(pa.table({"image": [PNG], "text": [words]}), root / "text.parquet")
    return [open_source(path) for path in sorted(root.iterdir())]


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("words", [WORDS, 'a "quoted" word,\nand a line', "x" * 200_000])
def test_all_files_say_the_same(tmp_path, words, mark):
    sources = each_way(tmp_path, words, mark)
    assert len(sources) == 8
    for source in sources:
        assert [item.caption for item in source.items] == [words], source.name
        assert not source.unused


@pytest.mark.parametrize(
    ("rows", "read", "bad"),
    [
        (["a.png,a cat, sitting,x", "b.png,a dog,y"], ["b.png"], {"metadata.csv, line 2": "4 fields, but the header has 3"}),
        (['a.png,"a cat,x', "b.png,a dog,y"], ["b.png"], {"metadata.csv, line 2": "unexpected end of data"}),
        (['a.png,"a cat,x', 'b.png,"a dog",y', "c.png,a cow,z"], ["b.png", "c.png"], {"metadata.csv, line 2": "expected after"}),
        (['a.png,"a ""cat"",\nsitting",x', 'b.png,"a" dog,y', "c.png,z"], ["a.png", "c.png"], {"metadata.csv, line 4": "expected after"}),
        ([",a cat,x", "b.png,a dog,y"], ["b.png"], {"metadata.csv, line 2": "no file is named"}),
        (["a.png,a cat,x\rb.png,a dog,y", "c.png,a cow,z"], ["c.png"], {"metadata.csv, line 2": r"not in \r alone"}),
    ],
)
def test_a_bad_row_costs_itself_alone(tmp_path, rows, read, bad):
    path, unused = tmp_path / "metadata.csv", Ledger()
    path.write_text("\n".join(["file_name,text,label", *rows]))
    assert [row["file_name"] for _, row in read_metadata(path, unused)] == read
    assert [entry.name for entry in unused] == list(bad)
    for entry in unused:
        assert bad[entry.name] in entry.reason
        assert f"{path}, line" in entry.reason


def test_a_bad_sidecar_costs_its_item_alone(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(PNG)
    (tmp_path / "a.json").write_text("{oops")
    (tmp_path / "b.json").write_text("[" * 100_000)
    source = open_source(tmp_path)
    assert [item.key for item in source.items] == ["c.png"]
    assert {entry.name: entry.cause.value for entry in source.unused} == {"a.png": "unreadable caption", "b.png": "unreadable caption"}


def test_of_several_captions_training_draws_one_and_all_else_takes_the_first(tmp_path):
    captions = ["a cat", "a kitten", "an animal"]
    for name in ("list", "object", "rows"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(PNG)
        (tmp_path / name / "b.png").write_bytes(PNG)
    (tmp_path / "list" / "a.json").write_text(json.dumps(captions))
    (tmp_path / "object" / "a.json").write_text(json.dumps({"caption": captions}))
    rows = [{"file_name": "a.png", "text": captions}, {"file_name": "b.png", "text": []}]
    (tmp_path / "rows" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.table({"image": [PNG, PNG], "text": [captions, None]}), tmp_path / "t.parquet")
    for path in tmp_path.iterdir():
        images = open_quietly(path, size=8)
        assert images.captions == ["a cat", ""]
        assert images.every_caption == [*captions, ""]
        assert images.batch([0, 1]).captions == ["a cat", ""]
        rows, positions = [0] * 300 + [1], range(301)
        drawn = images.crops(rows, positions, seed=3).captions
        assert drawn == images.tokenised(rows, torch.zeros(301, 1, 1), positions, seed=3).captions
        assert drawn[7] == images.crops([0], [7], seed=3).captions[0]
        assert drawn != images.crops(rows, positions, seed=4).captions
        counts = Counter(drawn)
        assert counts[""] == 1
        assert all(60 < counts[caption] < 140 for caption in captions)  # 100 expected, deviation 8


def test_further_captions_are_part_of_the_fingerprint(tmp_path):
    prints = set()
    for number, words in enumerate(('"a"', '["a"]', '["a", "b"]')):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.png").write_bytes(PNG)
        (tmp_path / str(number) / "a.json").write_text(words)
        prints.add(open_quietly(tmp_path / str(number), size=8).fingerprint)
    assert len(prints) == 2
