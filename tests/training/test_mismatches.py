"""Wrong conditions of items: never a right one, drawn for each item alone, and counted where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from jielong.conditions.text import Text
from jielong.config.recipe import load
from jielong.core.rng import PerSampleRNG
from jielong.data.opening import open_data
from jielong.data.sets import MediaSet
from jielong.training import experiment
from jielong.training.generator_objective import Recent
from jielong.training.mismatches import Mismatches

SETTINGS = Text(encoder="bytes")


def pictures(folder: Path, captions: list[str]) -> MediaSet:
    folder.mkdir()
    for index, caption in enumerate(captions):
        Image.new("RGB", (16, 16), (index, 0, 0)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption)
    return open_data(str(folder), size=16)


def test_a_wrong_condition_is_never_right(tmp_path: Path) -> None:
    data = pictures(tmp_path / "set", ["red", "green", "red", "blue"])
    batch = data.batch(range(4))
    values, seen = SETTINGS.from_batch(batch, data.medium), [set[object]() for _ in range(4)]
    for seed in range(40):
        wrong = Mismatches(data, SETTINGS, 2).draw(batch, values, PerSampleRNG(seed, range(4)))
        assert bool(wrong.paired.all())
        for row in range(4):
            seen[row] |= set(wrong.values[2 * row : 2 * row + 2])
    assert seen == [{"green", "blue"}, {"red", "blue"}, {"green", "blue"}, {"red", "green"}]


def test_an_item_draws_alone(tmp_path: Path) -> None:
    """In a batch of one it has the same wrong condition as among others."""
    data = pictures(tmp_path / "set", ["red", "green", "yellow", "blue", "black"])
    mismatches = Mismatches(data, SETTINGS, 3)

    def drawn(first: int, count: int) -> list[object]:
        batch = data.batch(range(first, first + count))
        return mismatches.draw(batch, SETTINGS.from_batch(batch, data.medium), PerSampleRNG(4, range(first, first + count))).values

    assert drawn(0, 5) == [value for row in range(5) for value in drawn(row, 1)]


@pytest.mark.parametrize(
    ("captions", "count", "names"),
    [(["red", "red"], "2 of 2", "'0.png', '1.png'"), (["red", "", "green"], "1 of 3", "'1.png'"), (["red", "green"], "", "")],
)
def test_items_without_a_wrong_condition_are_counted_and_named(tmp_path: Path, captions: list[str], count: str, names: str) -> None:
    data = pictures(tmp_path / "set", captions)
    mismatches, batch = Mismatches(data, SETTINGS), data.batch(range(len(captions)))
    said = mismatches.unpaired() or ""
    assert said.startswith(f"{count} items ({names}) have no condition" if count else "")
    wrong = mismatches.draw(batch, SETTINGS.from_batch(batch, data.medium), PerSampleRNG(0, range(len(captions))))
    assert int((~wrong.paired).sum()) == (int(count[0]) if count else 0)
    assert bool(said) == bool(count)


def test_the_objective_gives_them_to_the_discriminator_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load("dcgan-tiny", ["head.gan.mismatches=2"])
    parts = experiment.prepare(recipe)
    objective, given = experiment.generator_objective(parts).train(), []
    assert parts.generator is not None
    head = parts.generator.head
    loss = head.loss

    def spied(hidden: torch.Tensor, targets: torch.Tensor, context: object) -> torch.Tensor:
        given.append(context.mismatch)  # type: ignore[attr-defined]
        return loss(hidden, targets, context)  # type: ignore[arg-type]

    monkeypatch.setattr(head, "loss", spied)
    stream = experiment.TrainingStream(parts.data, 0)
    from jielong.training.objective import StepRNG

    for phase in objective.phases:
        found = objective(stream.batch(0, 3), phase, 0, StepRNG(PerSampleRNG(0, range(3)), torch.Generator()))
        assert found.total.ndim == 0
        assert all(part.ndim == 0 for part in found.parts.values())
    assert given[0] is None
    assert len(given[1].condition) == 6
    assert set(found.parts) >= {"discriminator_real", "discriminator_fake", "discriminator_mismatched_real"}


def test_advice_is_given_once_it_lasts() -> None:
    recent, said = Recent(lines=3), []
    for loss in (0.5, 0.1, 0.1, 0.5, 0.1, 0.1, 0.1, 0.1):
        recent.add({"loss": torch.tensor(loss - 0.05)})
        recent.add({"loss": torch.tensor(loss + 0.05)})
        said.append(recent.lasting(lambda means: "low" if means["loss"] < 0.2 else None))
    assert said == [None, None, None, None, None, None, "low", "low"]
