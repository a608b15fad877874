"""Actions and sound of a clip: which frames' tokens they reach, in which order, and what they refuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from jielong.conditions.actions import Actions, ActionsCondition
from jielong.conditions.base import BuildContext
from jielong.conditions.sound import BANDS, PER_FRAME, Sound, SoundCondition
from jielong.conditions.voice import Recording
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.core.tokens import Layout

NAMES = ("left", "right", "forward")


def context(frames: int, times: int, causal: bool) -> BuildContext:
    tokenizer: Any = SimpleNamespace(
        layout=Layout((times, 2, 3), vocabulary=8), media=Medium("video", 3, ALONG_FRAMES, (frames, 16, 24), 10.0), first_frame_alone=causal
    )
    return BuildContext(tokenizer=tokenizer)


def actions(frames: int = 9, times: int = 3, causal: bool = True, **settings: Any) -> ActionsCondition:
    built = Actions(width=8, **(settings or {"kinds": NAMES})).build(context(frames, times, causal))
    assert isinstance(built, ActionsCondition)
    return built


def along_time(built: Any, value: Any) -> Tensor:
    """The vectors of one item at each time, which all places share."""
    found = built.embed(built.prepare([value])).positions
    assert found is not None
    times = found[0].unflatten(0, (-1, built.places))
    assert torch.equal(times, times[:, :1].expand_as(times))
    return times[:, 0].detach()


def test_an_action_reaches_the_tokens_of_the_frame_that_it_leads_to() -> None:
    built, nothing = actions(), along_time(actions(), "")
    assert not nothing.any()
    for step in range(8):  # leads to the frame step + 1, of which four each have tokens behind the first
        changed = along_time(built, "left " * step + "right") - along_time(built, "left " * step)
        assert changed.any(1).tolist() == [False, step < 4, step >= 4]


def test_the_order_of_actions_inside_one_token_counts() -> None:
    built = actions()
    assert not torch.allclose(along_time(built, "left right"), along_time(built, "right left"))


def test_without_a_first_frame_of_its_own_groups_begin_at_the_first_frame() -> None:
    built = actions(frames=9, times=3, causal=False)
    one = along_time(built, "left")
    assert one.any(1).tolist() == [True, False, False]
    third = along_time(built, "left left left") - along_time(built, "left left")
    assert third.any(1).tolist() == [False, True, False]


def test_vectors_are_read_as_numbers() -> None:
    built = actions(kinds=2)
    given = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
    expected = built.map(given).detach()
    assert torch.equal(built.vectors(built.prepare([given]))[0, 1:3], expected)
    assert torch.equal(along_time(built, [[0.5, -1.0], [2.0, 0.0]]), along_time(built, given))


def test_texts_lists_and_keys_are_the_same_value() -> None:
    built = actions()
    built.known["a"] = built._read("left forward")
    found = built.prepare(["left forward", ["left", "forward"], "left, forward", "a"])
    assert all(torch.equal(found[0], each) for each in found)


@pytest.mark.parametrize(
    ("value", "message"),
    [("lefft", "no action 'lefft': did you mean 'left'"), ("left " * 9, "9 actions, and a clip of 9 frames has at most 8")],
)
def test_what_is_no_action_or_too_many_is_refused(value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        actions().prepare([value])


def test_vectors_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of 2 finite numbers"):
        actions(kinds=2).prepare([torch.zeros(3, 5)])


@pytest.mark.parametrize("kinds", [(), 0, ("a b",), ("a", "a")])
def test_settings_of_actions_are_checked(kinds: Any) -> None:
    with pytest.raises(ValidationError, match=r"each once|one word|greater than or equal to 1"):
        Actions(kinds=kinds)


def sound(frames: int = 8, times: int = 4, reach: int = 1) -> SoundCondition:
    built = Sound(width=8, context=reach).build(context(frames, times, False))
    assert isinstance(built, SoundCondition)
    return built


def recording(seconds: float, clicks: tuple[float, ...] = (), rate: int = 16_000) -> Recording:
    wave = torch.zeros(round(seconds * rate))
    for click in clicks:
        wave[round(click * rate) : round(click * rate) + 40] = 0.5
    return Recording(wave, rate)


def test_a_click_reaches_its_own_frame_and_those_around_it() -> None:
    built = sound()
    silence, click = (built.vectors(built.prepare([each]))[0] for each in (recording(0.8), recording(0.8, (0.45,))))
    changed = (silence - click).abs().amax(1) > 1e-6
    assert changed.tolist() == [False, False, False, True, True, True, False, False]  # frame 4 and one on either side


def test_the_spectrum_has_four_columns_a_frame_at_any_rate() -> None:
    built = sound()
    one, other = built.resolve(recording(0.8, (0.3,))), built.resolve(recording(0.8, (0.3,), 48_000))
    assert one.shape == (8 * PER_FRAME, BANDS)
    assert one.mean(1).argmax() == other.mean(1).argmax() == int(0.3 * 10 * PER_FRAME)
    assert torch.allclose(built.resolve(recording(0.8)), torch.full_like(one, -1.0))


def test_a_short_sound_is_followed_by_silence_and_a_long_one_is_refused() -> None:
    built = sound()
    assert torch.equal(built.resolve(recording(0.2, (0.05,))), built.resolve(recording(0.8, (0.05,))))
    with pytest.raises(ValueError, match=r"the sound takes 1\.20 s, and a clip has 8 frames in 0\.80 s"):
        built.resolve(recording(1.2))


def test_features_of_a_sound_are_taken_as_they_are() -> None:
    built = sound()
    found = built.resolve(recording(0.8, (0.3,)))
    assert torch.equal(built.prepare([found])[0], found)
    with pytest.raises(ValueError, match="features of a sound are 32 x 40 numbers"):
        built.resolve(torch.zeros(3, BANDS))
