"""How fast to draw, on the command line."""

from __future__ import annotations

import pytest
import typer

from jielong.apps.commands.generating import speed_of
from jielong.config.speed import Lazy, TwoStage


def test_options_are_off_unless_they_are_given() -> None:
    assert speed_of(None, None, None) == {"schedule": None, "two_stage": None, "lazy": None}


def test_options_become_settings() -> None:
    said = speed_of("linear", 2, "3:0.5")
    assert said == {"schedule": "linear", "two_stage": TwoStage(detail_steps=2), "lazy": Lazy(refresh=3, share=0.5)}
    assert speed_of(None, None, "4")["lazy"] == Lazy(refresh=4)


@pytest.mark.parametrize(
    ("schedule", "lazy", "why"),
    [
        ("sqrt", None, "a schedule is one of cosine, arccos, linear"),
        (None, "0", "steps of 1 or more"),
        (None, "4:2", "a share from 0 to 1"),
        (None, "often", "written 4 or 4:0.25"),
    ],
)
def test_what_is_written_otherwise_is_refused_in_sentences(schedule: str | None, lazy: str | None, why: str) -> None:
    with pytest.raises(typer.BadParameter, match=why):
        speed_of(schedule, None, lazy)
