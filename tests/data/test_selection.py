"""Items of a set chosen by its columns, wherever a set is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jielong.data.opening import open_data, open_source
from jielong.data.source import DataError
from jielong.data.table import write_table
from jielong.media.audio import encode_audio


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six clips whose level tells their number, in two languages, by three speakers."""
    rows = [
        {
            "audio": encode_audio(torch.full((1, 400), (n + 1) / 16), 4_000, ".wav"),
            "text": f"clip {n}",
            "language": "en" if n < 4 else "fr",
            "speaker": "abc"[n % 3],
            "split": "heldout" if n in (1, 5) else "train",
            "name": str(n),
        }
        for n in range(6)
    ]
    write_table(tmp_path / "set.parquet", rows, item="audio", caption="text", label="language", key=("language", "name"))
    return tmp_path / "set.parquet"


def test_items_are_chosen_with_their_own_sound_and_words(table: Path) -> None:
    sounds = open_data(f"{table}?language=en&speaker=a", sample_rate=4_000, duration=0.1)
    assert sounds.captions == ["clip 0", "clip 3"]
    levels = sounds.batch([0, 1]).media.mean((1, 2))
    torch.testing.assert_close(levels, torch.tensor([1 / 16, 4 / 16]), rtol=0, atol=1e-3)
    several = open_data(f"{table}?speaker=a&speaker=c", sample_rate=4_000, duration=0.1, split="train")
    assert several.captions == ["clip 0", "clip 2", "clip 3"]
    assert open_data(f"{table}?language=fr", sample_rate=4_000, duration=0.1, split="heldout").captions == ["clip 5"]


def test_selections_distinguish_two_sets(table: Path) -> None:
    names = [str(table), f"{table}?language=en", f"{table}?language=fr"]
    prints = {open_data(name, sample_rate=4_000, duration=0.1).fingerprint for name in names}
    assert len(prints) == 3
    assert open_source(names[1]).name.endswith("?language=en")


@pytest.mark.parametrize(
    ("choice", "says"),
    [("tongue=en", "no column 'tongue' to choose by; it has"), ("language=de", "among others, language: en, fr"), ("=en&x", "by columns")],
)
def test_what_cannot_be_chosen_is_refused(table: Path, choice: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_source(f"{table}?{choice}")
