"""A set names its judge and the sizes of its items; evaluation reports the judge's figures of made and of real items."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from jielong.data import open_data
from jielong.data.joined import Joined
from jielong.data.opening import open_source
from jielong.data.source import DataError
from jielong.data.table import write_table
from jielong.evaluation.attributes import JudgeError
from jielong.evaluation.judges import base
from jielong.evaluation.judges.base import Judge, JudgedItems, judge_called, judged, share
from jielong.evaluation.provenance import Measurement


def picture(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def table(path: Path, **more: float | str) -> Path:
    rows = [{"image": picture(20 * n), "caption": f"grey {n}", "label": "grey", "level": 20 * n, "name": f"{n:02d}"} for n in range(12)]
    write_table(path, rows, item="image", caption="caption", label="label", key=["name"], size=8, **more)
    return path


class Levels(Judge):
    """Whether pictures have the level of their row, within 2 of 255."""

    columns: ClassVar = ("level",)
    names: ClassVar = ("level",)

    def figures(self, items: JudgedItems) -> dict[str, Measurement]:
        levels = ((items.made.mean((1, 2, 3)) + 1) * 127.5).tolist()
        return {"level": share("level", [abs(a - row["level"]) <= 2 for a, row in zip(levels, items.rows, strict=True)], "within 2")}


def context(path: Path) -> SimpleNamespace:
    media = open_data(path)
    rows = list(range(len(media)))
    return SimpleNamespace(media=media, rows=rows, real=media.media(rows), system=SimpleNamespace(generator=None))


def test_a_file_declares_its_judge_and_what_its_items_are(tmp_path: Path) -> None:
    source = open_source(str(table(tmp_path / "a.parquet", judge="levels", frames=17, frame_rate=8.0, channels=1)))
    assert (source.judge, source.channels) == ("levels", 1)
    assert source.native == {"size": 8, "frames": 17, "frame_rate": 8.0}
    assert open_source(f"{tmp_path / 'a.parquet'}?level=20").judge == "levels"
    plain = open_source(str(table(tmp_path / "b.parquet")))
    assert plain.judge is None
    assert Joined([source, source], ["a", "c"]).judge == "levels"
    assert Joined([source, plain], ["a", "b"]).judge is None
    assert open_data(tmp_path / "a.parquet").medium.channels == 1


@pytest.mark.parametrize(("name", "value"), [("frames", 0), ("frame_rate", -1.0), ("channels", "one"), ("judge", 3)])
def test_what_is_no_such_value_is_named(tmp_path: Path, name: str, value: float | str) -> None:
    with pytest.raises(DataError, match=f"declares (the )?{name} .*{value}"):
        open_source(str(table(tmp_path / "a.parquet", **{name: value})))


def test_a_file_declares_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"declares size, frames, .*, not colour"):
        table(tmp_path / "a.parquet", colour="red")


def test_figures_are_of_made_and_of_real_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "judge_called", lambda name: {"levels": Levels()}[name])
    given = context(table(tmp_path / "a.parquet", judge="levels"))
    made = given.real.clone()
    made[:3] = made[3:6]
    found = judged(given, made)  # type: ignore[arg-type]
    assert {name: (each.value, each.n) for name, each in found.figures.items()} == {"level": (0.75, 12), "level_real": (1.0, 12)}
    assert found.figures["level_real"].name == "level_real"
    assert not judged(context(table(tmp_path / "b.parquet")), made).figures  # type: ignore[arg-type]


def test_what_cannot_be_judged_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = context(table(tmp_path / "a.parquet", judge="levels"))
    assert "no judge called 'levels'" in judged(given, given.real).omitted["levels"]  # type: ignore[arg-type]
    monkeypatch.setattr(base, "judge_called", lambda name: Levels())
    del given.media.columns["level"]
    assert "lacks the column 'level'" in judged(given, given.real).omitted["level"]  # type: ignore[arg-type]
    with pytest.raises(JudgeError, match="anything that level judges"):
        share("level", [], "within 2")
    with pytest.raises(JudgeError, match=r"no judge called '\.\./x'"):
        judge_called("../x")


def test_a_share_has_the_standard_error_of_a_proportion() -> None:
    found = share("hits", [True] * 3 + [False], "named")
    assert found.value == 0.75
    assert found.number("standard_error") == pytest.approx(float(torch.tensor([1.0, 1, 1, 0]).std(correction=0)) / 2)
