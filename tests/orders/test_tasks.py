"""Regions that tasks give: closed forms on a small clip, weights, and masks. Statistics raise a false alarm with probability 1e-6."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.orders.masked import Masked
from jielong.orders.tasks import TASKS, Task, Tasks, known_region

ALARM = 1e-6
CLIP = Layout((3, 4, 6), vocabulary=5)
FRAMES: dict[Task, list[int]] = {"none": [0, 0, 0], "frame_prediction": [1, 0, 0], "interpolation": [1, 0, 1], "last_frame": [0, 0, 1]}
PLACES: dict[Task, list[str]] = {
    "central_inpainting": ["######", "#...##", "#...##", "######"],
    "central_outpainting": ["......", ".###..", ".###..", "......"],
    "vertical_outpainting": [".###..", ".###..", ".###..", ".###.."],
    "horizontal_outpainting": ["......", "######", "######", "......"],
    "upper": ["######", "######", "......", "......"],
    "lower": ["......", "......", "######", "######"],
    "left": ["###...", "###...", "###...", "###..."],
    "right": ["...###", "...###", "...###", "...###"],
}


@pytest.mark.parametrize("task", TASKS)
def test_what_a_task_gives(task: Task) -> None:
    known = known_region(CLIP, task).view(3, 4, 6)
    if task in FRAMES:
        expected = torch.tensor(FRAMES[task], dtype=torch.bool)[:, None, None].expand(3, 4, 6)
    else:
        expected = torch.tensor([[place == "#" for place in row] for row in PLACES[task]]).expand(3, 4, 6)
    assert torch.equal(known, expected)


def test_frames_of_a_prediction_are_as_many_as_told() -> None:
    assert known_region(CLIP, "frame_prediction", 2).view(3, 24).sum(1).tolist() == [24, 24, 0]
    with pytest.raises(ValueError, match="3 known frames leaves nothing to draw"):
        known_region(CLIP, "frame_prediction", 3)


def test_odd_sides_give_the_middle() -> None:
    known = known_region(Layout((5, 5), vocabulary=2), "central_outpainting").view(5, 5)
    assert known.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert known_region(Layout((5, 3), vocabulary=2), "upper").view(5, 3).sum(1).tolist() == [3, 3, 3, 0, 0]


@pytest.mark.parametrize(
    ("layout", "task", "message"),
    [
        (Layout((4, 4)), "interpolation", "of tokens on a grid with time"),
        (Layout((8,)), "upper", "of tokens on a grid with rows and columns"),
        (Layout((2, 4, 4)), "interpolation", "leaves nothing to draw"),
        (Layout((4, 1, 4)), "lower", "gives nothing"),
        (Layout((4, 4, 4)), "upside_down", "no task 'upside_down'"),
    ],
)
def test_tasks_without_a_meaning_are_refused(layout: Layout, task: Task, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        known_region(layout, task)


def test_settings_are_checked() -> None:
    for settings, message in [
        ({}, "all weights are 0"),
        ({"upper": -1}, "greater than or equal"),
        ({"upper": 1, "frames": [3, 2]}, "least"),
    ]:
        with pytest.raises(ValidationError, match=message):
            Tasks.model_validate(settings)
    assert Tasks.model_validate({"upper": 1, "frames": 2}).frames == (2, 2)
    with pytest.raises(ValueError, match="rows and columns"):
        Masked(tasks=Tasks(upper=1)).build().blocks(Layout((8,), vocabulary=3))
    Tasks(none=1).check(Layout((8,), vocabulary=3))


def test_tasks_are_drawn_by_weight_and_alone_as_in_a_batch() -> None:
    tasks = Tasks(none=1, frame_prediction=5, interpolation=2, frames=(1, 2))
    drawn = tasks.draw(CLIP, PerSampleRNG(0, range(4000))).view(4000, 3, 24).float().mean(2)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    kinds = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1]]
    counts = [int((drawn == torch.tensor(kind)).all(1).sum()) for kind in kinds]
    assert sum(counts) == 4000
    assert stats.chisquare(counts, [500, 1250, 1250, 1000]).pvalue > ALARM
    alone = torch.cat([tasks.draw(CLIP, PerSampleRNG(0, [row])) for row in range(5)])
    assert torch.equal(alone.view(5, 3, 24).float().mean(2), drawn[:5])


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.1])
def test_what_is_given_is_known_and_never_predicted(unmasked_weight: float) -> None:
    tasks = Tasks(frame_prediction=1, central_inpainting=1)
    order = Masked(tasks=tasks, unmasked_weight=unmasked_weight).build()
    view = order.view(CLIP, PerSampleRNG(2, range(64)))
    given = tasks.draw(CLIP, PerSampleRNG(2, range(64)))  # the same numbers come first
    assert bool(view.known[given].all())
    assert not bool(view.loss_mask[given].any())
    masked = ~view.known
    assert bool((view.loss_mask >= masked).all())
    if unmasked_weight:
        assert torch.equal(view.loss_mask, ~given)
    else:
        assert torch.equal(view.loss_mask, masked)
    assert int(masked.sum(1).min()) >= 1
    shares = masked.sum(1) / (~given).sum(1)
    assert float(shares.max()) > 0.9, "ratios are of what is not given"
