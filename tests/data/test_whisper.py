"""Whisper's weights are put together from two packages, in the cache or, where that cannot be written, for one process."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from jielong.data.whisper import assembled


@pytest.fixture(autouse=True)
def _packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        data = tmp_path / f"package{number}" / "data"
        data.mkdir(parents=True)
        (data / f"model.bin.part{number}").write_bytes(bytes([number]) * 10)
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            (data / name).write_text(name)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path / f"package{name[-1]}")])
    )


def test_it_is_put_together_once(tmp_path: Path) -> None:
    folder = assembled(tmp_path / "cache")
    assert (folder / "model.bin").read_bytes() == b"\1" * 10 + b"\2" * 10
    (folder / "model.bin").write_bytes(b"kept")
    assert assembled(tmp_path / "cache") == folder
    assert (folder / "model.bin").read_bytes() == b"kept"


def test_a_cache_without_room_is_gone_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=19))
    with pytest.warns(UserWarning, match=r"No space left on device \(20 bytes are needed, 19 bytes are free\).* in the temporary folder"):
        folder = assembled(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert (folder / "model.bin").stat().st_size == 20
    with pytest.warns(UserWarning, match="No space left"):
        assert assembled(tmp_path / "cache") == folder
