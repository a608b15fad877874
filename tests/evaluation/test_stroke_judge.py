"""The judge of strokes: real clips are all right, and each fault lowers its own figure to the value expected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.evaluation.attributes import JudgeError
from jielong.evaluation.judges.base import JudgedItems, judge_called
from jielong.evaluation.judges.strokes import read_writing
from jielong_zoo.builders.strokes.drawing import Stroke, allotted, arrivals, written

SIZE, FRAMES, RATE = 32, 17, 8.0
MEDIUM = Medium("video", 1, ALONG_FRAMES, (FRAMES, SIZE, SIZE), RATE)


def bar(x0: float, y0: float, x1: float, y1: float) -> Stroke:
    """A straight stroke, 120 units wide, in units of 1024 with y upwards."""
    start, end = np.array([x0, y0]), np.array([x1, y1])
    along = (end - start) / np.linalg.norm(end - start)
    across = 60 * np.array([-along[1], along[0]])
    return Stroke(np.stack([start + across, end + across, end - across, start - across]), np.stack([start, (start + end) / 2, end]))


CROSS = [bar(100, 400, 900, 400), bar(500, 800, 500, 0)]  # 十: the second one crosses the first
BARS = [bar(100, 700, 900, 700), bar(100, 400, 900, 400), bar(100, 100, 900, 100)]  # 三
CHARACTERS = [CROSS, BARS]


def clip(strokes: list[Stroke], order: list[int] | None = None, backwards: bool = False) -> tuple[Tensor, list[int]]:
    """A clip ``(1, T, H, W)`` in [-1, 1], and the frames at which its strokes end."""
    counts = allotted([stroke.length for stroke in strokes], 15)
    order = list(range(len(strokes))) if order is None else order
    drawn = [replace(stroke, median=stroke.median[::-1]) if backwards else stroke for stroke in strokes]
    reached = [arrivals(drawn[place], 4 * SIZE) for place in order]
    frames = written(reached, [counts[place] for place in order], FRAMES)
    return torch.from_numpy(frames).float()[None] / 127.5 - 1, np.cumsum(counts).tolist()


def items(made: list[Tensor]) -> JudgedItems:
    real = [clip(strokes) for strokes in CHARACTERS]
    rows: list[JSON] = [{"ends": [end / RATE for end in ends]} for _, ends in real]
    return JudgedItems(torch.stack(made), torch.stack([each for each, _ in real]), rows, MEDIUM)


def figures(made: list[Tensor]) -> dict[str, float]:
    return {name: each.value for name, each in judge_called("strokes").figures(items(made)).items()}


def test_real_clips_are_all_right() -> None:
    found = figures([clip(strokes)[0] for strokes in CHARACTERS])
    assert found == {"stroke_order": 1.0, "character_right": 1.0, "stroke_direction": 1.0, "character_overlap": 1.0}


def test_two_exchanged_strokes_are_one_pair_of_three() -> None:
    found = figures([clip(CROSS)[0], clip(BARS, [0, 2, 1])[0]])
    assert found["stroke_order"] == pytest.approx(2 / 3)  # 1 < 3 > 2: of two pairs the second is wrong
    assert found["character_right"] == 0.5
    assert (found["stroke_direction"], found["character_overlap"]) == (1.0, 1.0)


def test_the_reverse_order_has_no_pair_right() -> None:
    found = figures([clip(CROSS, [1, 0])[0], clip(BARS, [2, 1, 0])[0]])
    assert (found["stroke_order"], found["character_right"], found["character_overlap"]) == (0.0, 0.0, 1.0)


def test_strokes_drawn_backwards_are_in_order_and_against_their_direction() -> None:
    found = figures([clip(strokes, backwards=True)[0] for strokes in CHARACTERS])
    assert (found["stroke_order"], found["stroke_direction"]) == (1.0, 0.0)


def test_a_character_that_stands_there_from_the_first_frame_is_not_written() -> None:
    still = [clip(strokes)[0][:, -1:].expand(1, FRAMES, -1, -1) for strokes in CHARACTERS]
    found = figures(still)
    assert (found["stroke_order"], found["character_right"], found["character_overlap"]) == (0.0, 0.0, 1.0)
    assert "stroke_direction" not in found  # nothing is seen to grow


def test_a_missing_stroke_and_blank_paper() -> None:
    short = clip(BARS)[0].clone()
    short[:, :, 22:] = 1.0  # the third bar
    seen = read_writing(short[0], clip(BARS)[0][0], clip(BARS)[1])
    assert seen.drawn[2] is None
    assert seen.pairs == [True, False]
    assert not seen.right
    assert seen.overlap == pytest.approx(2 / 3, abs=0.02)
    blank = figures([torch.ones(1, FRAMES, SIZE, SIZE)] * 2)
    assert blank == {"stroke_order": 0.0, "character_right": 0.0, "character_overlap": 0.0}


def test_noise_of_a_decoder_changes_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    noisy = [(each := clip(strokes)[0]) + 0.3 * torch.randn(each.shape, generator=rng) for strokes in CHARACTERS]
    assert figures(noisy)["stroke_order"] == 1.0


def test_a_medium_too_short_or_too_slow_is_refused() -> None:
    given = items([clip(strokes)[0] for strokes in CHARACTERS])
    cut = replace(given, made=given.made[:, :, :12], real=given.real[:, :, :12], medium=MEDIUM.resized("time", 12))
    with pytest.raises(JudgeError, match=r"finished in frame 16, but 12 are read: set data\.frames to 16"):
        judge_called("strokes").figures(cut)
    with pytest.raises(JudgeError, match="two strokes end in one frame"):
        judge_called("strokes").figures(replace(given, medium=replace(MEDIUM, rate=0.5)))
