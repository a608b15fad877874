"""Super-resolution of clips, in space and time: which frame of the earlier stage stands where, and what does not fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.conditions.low_resolution import LowResolution, LowResolutionCondition, LowResolutionSettings, first_shown, shown_frames
from jielong.core.medium import Medium
from jielong.core.rng import PerSampleRNG
from jielong.media.kinds.base import kind_of
from jielong.media.kinds.image import image_medium
from jielong.media.kinds.video import video_medium
from jielong.system import completing
from jielong.tokenizers.patches import Patches

SMALL, LARGE = video_medium(3, 3, (4, 4), 2.0), video_medium(3, 5, (8, 8), 4.0)


def clips(count: int, medium: Medium) -> Tensor:
    levels = torch.randint(256, (count, *medium.shape), generator=torch.Generator().manual_seed(1))
    return levels / 127.5 - 1


def condition(stage: Medium = SMALL, media: Medium = LARGE, patch: int = 2, tokenizer: Any = None) -> LowResolutionCondition:
    torch.manual_seed(0)
    earlier, own = Patches(patch=1, std=1.0).build(stage), tokenizer or Patches(patch=patch, std=1.0).build(media)
    return LowResolutionCondition(earlier, own, LowResolutionSettings(stage="base", width=8, noise_level=0.3)).eval()


def test_a_frame_is_shown_until_the_next_one() -> None:
    shown = shown_frames(video_medium(3, 5, (8, 8), 1.0), video_medium(3, 17, (8, 8), 4.0))
    assert shown == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4]
    assert first_shown(torch.tensor(shown)).tolist() == [0, 4, 8, 12, 16]
    assert shown_frames(LARGE, LARGE) == list(range(5))
    # 24 to 30 frames a second: frame n is that of n / 30 s.
    assert shown_frames(video_medium(3, 5, (8, 8), 24.0), video_medium(3, 6, (8, 8), 30.0)) == [0, 0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="give the stage 5 frames, or these data 16"):
        shown_frames(video_medium(3, 4, (8, 8), 1.0), video_medium(3, 17, (8, 8), 4.0))
    with pytest.raises(ValueError, match="more frames a second than"):
        shown_frames(video_medium(3, 9, (8, 8), 8.0), LARGE)


def test_each_frame_is_the_picture_that_is_shown_then() -> None:
    built, given = condition(), clips(2, SMALL)
    of_pictures = condition(image_medium(3, (4, 4)), image_medium(3, (8, 8)))
    of_pictures.load_state_dict(built.state_dict())
    levels = torch.tensor([0.1, 0.7])
    found = built.embed(LowResolution(given, levels)).positions
    assert found is not None
    for frame, shown in enumerate([0, 0, 1, 1, 2]):
        expected = of_pictures.embed(LowResolution(given[:, :, shown], levels)).positions
        torch.testing.assert_close(found.unflatten(1, (5, 16))[:, frame], expected)


def test_a_clip_of_this_stage_gives_the_frames_that_the_earlier_one_has() -> None:
    built, given = condition(), clips(2, LARGE)
    found = built.prepare(list(given)).pictures
    torch.testing.assert_close(found, kind_of(SMALL).fitted(given[:, :, [0, 2, 4]], SMALL))
    torch.testing.assert_close(built.prepare(list(found)).pictures, found)


def test_noise_is_of_the_clips_level_in_each_frame() -> None:
    built, given = condition(), clips(2, SMALL)
    clean = built.prepare(list(given))
    noisy = built.noised(clean, PerSampleRNG(0, range(2)).draws("condition"))
    assert noisy.levels.tolist() == pytest.approx([0.3, 0.3])
    angle = torch.tensor(0.3 * torch.pi / 2)
    noise = (noisy.pictures - angle.cos() * clean.pictures) / angle.sin()
    frames = noise.transpose(1, 2).flatten(2)
    assert float(frames.std(2).min()) > 0.5, "every frame has noise"
    assert not torch.allclose(frames[:, 0], frames[:, 1])


def test_a_completion_gives_the_earlier_stage_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    stage: Any = SimpleNamespace(tokenizer=SimpleNamespace(media=SMALL, hop_length=None))
    monkeypatch.setattr(completing, "completion", lambda stage, media, keep: {"media": media})
    (given,) = clips(1, LARGE)
    found = completing._of_stage(stage, given, LARGE, "interpolation")["media"]
    torch.testing.assert_close(found, kind_of(SMALL).fitted(given[None, :, [0, 2, 4]], SMALL)[0])


def test_what_does_not_fit_is_refused() -> None:
    spanning: Any = SimpleNamespace(media=LARGE, layout=SimpleNamespace(axes=LARGE.axes, scales=(), grid=(3, 4, 4)))
    with pytest.raises(ValueError, match="whose tokens are of one frame"):
        condition(tokenizer=spanning)
    with pytest.raises(ValueError, match="adds a picture to a grid of rows and columns"):
        condition(stage=image_medium(3, (4, 4)))
