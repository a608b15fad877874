"""Sources of pairs by key in another file: the same rows as with their bytes, and every fault named."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jielong.data import open_data
from jielong.data.ledger import Cause
from jielong.data.pairs import source_identity, source_media, without_source
from jielong.data.source import DataError
from jielong.data.table import write_table


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 40, 200)).save(buffer, "PNG")
    return buffer.getvalue()


WORDS = {"item": "image", "caption": "caption", "label": "style", "key": ["name"]}
ITEMS = [{"image": picture(n), "caption": f"item {n}", "style": "s", "name": f"a-{n}"} for n in range(6)]


def pairs(sources: list[object]) -> list[dict[str, object]]:
    return [
        {"image": picture(100 + n), "source": source, "caption": "darker", "style": "s", "name": f"a-{n}"}
        for n, source in enumerate(sources)
    ]


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    write_table(tmp_path / "items.parquet", ITEMS, **WORDS)
    write_table(tmp_path / "pairs.parquet", pairs(["a-4", "a-0", "a-4"]), **WORDS, sources="items.parquet")
    return tmp_path / "pairs.parquet"


def test_rows_are_those_with_the_bytes_in_the_file(linked: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    write_table(whole, pairs([picture(4), picture(0), picture(4)]), **WORDS)
    one, other = open_data(linked), open_data(whole)
    assert one.columns == other.columns
    assert one.fingerprint == other.fingerprint
    assert source_identity(one) == source_identity(other)
    assert torch.equal(source_media(one, range(3)), source_media(other, range(3)))


def test_a_source_that_is_missing_is_recorded(linked: Path) -> None:
    write_table(linked, pairs(["a-4", "a-9", None]), **WORDS, sources="items.parquet")
    found = open_data(linked)
    assert without_source(found) == [1, 2]
    assert [entry.reason for entry in found.unused.by_cause()[Cause.MISSING]] == [
        "its source 'a-9' is no item of items.parquet, so it has none",
        "its source None is no item of items.parquet, so it has none",
    ]


def test_faults_of_the_other_file_are_named(linked: Path) -> None:
    items = linked.with_name("items.parquet")
    table = pq.read_table(items)
    pq.write_table(table.replace_schema_metadata({}), items)
    with pytest.raises(DataError, match=r"items of items.parquet, which cannot be used: it declares no key"):
        open_data(linked)
    items.write_bytes(items.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"items of items.parquet, which cannot be used"):
        open_data(linked)
    items.unlink()
    with pytest.raises(DataError, match=r"items of items.parquet, which is not beside it: keep both files in one folder"):
        open_data(linked)


@pytest.mark.parametrize("name", ["../items.parquet", "/etc/passwd", "items.txt", "", ".parquet", 3, ["items.parquet"]])
def test_only_a_file_beside_it_is_read(linked: Path, name: object) -> None:
    table = pq.read_table(linked)
    declared = json.loads(table.schema.metadata[b"jielong"]) | {"sources": name}
    pq.write_table(table.replace_schema_metadata({"jielong": json.dumps(declared)}), linked)
    with pytest.raises(DataError, match="not the name of a Parquet file beside it"):
        open_data(linked)
