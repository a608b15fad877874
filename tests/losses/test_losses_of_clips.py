"""Losses of pictures on clips: the frames that are compared, and two discriminators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jielong.config.recipe import parse
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.core.rng import PerSampleRNG
from jielong.losses.adversarial import (
    Adversarial,
    ClipCritic,
    PatchAdversarialLoss,
    discriminator_objective,
    generator_objective,
)
from jielong.losses.base import LossContext
from jielong.losses.frames import chosen, frames_of
from jielong.losses.perceptual import Perceptual
from jielong.media.kinds.image import image_medium
from jielong.networks.dropout import item_streams

CLIPS = Medium("video", 3, ALONG_FRAMES, (9, 32, 32), 8.0)
CPU = torch.device("cpu")


def clips(seed: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 9, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def critics(**settings: Any) -> PatchAdversarialLoss:
    torch.manual_seed(0)
    values = {"channels": 4, "layers": 1, "weight": 1.0, "clips": ClipCritic(channels=4, layers=1)} | settings
    return Adversarial(**values).build(LossContext(CLIPS))


def test_frames_are_drawn_for_each_clip_and_not_for_the_batch() -> None:
    assert chosen(2, 9, 3, CPU).tolist() == [[1, 4, 7]] * 2  # outside of training
    with item_streams(PerSampleRNG(3, range(10, 14)), CPU):
        whole = chosen(4, 9, 3, CPU)
        assert torch.equal(chosen(4, 9, 3, CPU), whole)
    for row in range(4):
        with item_streams(PerSampleRNG(3, [10 + row]), CPU):
            assert torch.equal(chosen(1, 9, 3, CPU), whole[row : row + 1])
    assert (whole[:, 1:] > whole[:, :-1]).all()
    with item_streams(PerSampleRNG(3, range(4000)), CPU):
        counts = torch.bincount(chosen(4000, 9, 3, CPU).flatten(), minlength=9)
    # Each of 9 frames in a third of 4,000 clips: 1,333 with a standard deviation of 30; six of them are passed once in 5e8.
    assert int((counts - 4000 / 3).abs().max()) < 180


def test_frames_are_those_of_their_clips() -> None:
    media = clips(0)
    assert torch.equal(frames_of(media, None), torch.cat([torch.stack(clip.unbind(1)) for clip in media]))
    assert torch.equal(frames_of(media, 3), torch.stack([clip[:, frame] for clip in media for frame in (1, 4, 7)]))
    assert torch.equal(frames_of(media[:, :, 0], 3), media[:, :, 0])


def test_the_perceptual_loss_of_a_clip_is_that_of_its_frames() -> None:
    ours, theirs = clips(1), clips(2)
    every, some = (Perceptual(stages={1: 1.0}, frames=count).build(LossContext(CLIPS)) for count in (None, 2))
    pictures = Perceptual(stages={1: 1.0}).build(LossContext(image_medium(3, (32, 32))))
    with torch.no_grad():
        torch.testing.assert_close(every(ours, theirs), pictures(frames_of(ours, None), frames_of(theirs, None)))
        with item_streams(PerSampleRNG(0, range(2)), CPU):
            drawn = pictures(frames_of(ours, 2), frames_of(theirs, 2))
            torch.testing.assert_close(some(ours, theirs), drawn)
        assert some(ours, ours) == 0
    with pytest.raises(ValueError, match=r"perceptual\.frames: 10 of 9 frames of a clip cannot be drawn: choose 9 or fewer"):
        Perceptual(frames=10).build(LossContext(CLIPS))
    with pytest.raises(ValueError, match=r"perceptual\.frames: these are frames of a clip, and the data are image of 3 x 32 x 32"):
        Perceptual(frames=1).build(LossContext(image_medium(3, (32, 32))))


def test_two_discriminators_share_the_loss() -> None:
    loss, real, fake = critics(frames=2), clips(1), clips(2)
    pairs = [(loss.discriminator, frames_of(real, 2), frames_of(fake, 2)), (loss.clips, real, fake)]
    assert isinstance(loss.clips, nn.Module)
    with torch.no_grad():
        wanted = [discriminator_objective(critic(x), critic(y), "hinge") for critic, x, y in pairs]
        torch.testing.assert_close(loss.discriminator_loss(real, fake)["total"], sum(wanted) / 2)
        wanted = [generator_objective(critic(y), "hinge") for critic, _, y in pairs]
        torch.testing.assert_close(loss.generator_loss(fake), sum(wanted) / 2)
        alone = critics(clips=None)
        torch.testing.assert_close(alone.generator_loss(fake), generator_objective(alone.discriminator(frames_of(fake, None)), "hinge"))


def test_each_side_trains_only_itself() -> None:
    loss, fake = critics(), clips(1).requires_grad_()
    loss.generator_loss(fake).backward()
    assert fake.grad is not None
    assert (fake.grad.flatten(3).abs().sum((0, 1, 3)) > 0).all()  # every frame
    assert all(weight.grad is None for weight in loss.parameters())
    fake.grad = None
    loss.discriminator_loss(clips(2), fake)["total"].backward()
    assert fake.grad is None
    assert all(weight.grad is not None for weight in loss.parameters())


def test_only_the_discriminator_of_clips_notices_their_order() -> None:
    loss, real = critics(), clips(1)
    turned = real.flip(2)
    with torch.no_grad():
        scores = [[critic(x).mean() for critic, x in loss._judged(media)] for media in (real, turned)]
    torch.testing.assert_close(scores[0][0], scores[1][0])
    assert abs(float(scores[0][1] - scores[1][1])) > 1e-6


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"needs clips of at least 12 frames and as many pixels a side, not \(9, 32, 32\); use fewer layers"
    ):
        critics(clips=ClipCritic(layers=2))
    with pytest.raises(ValueError, match=r"adversarial\.clips: a discriminator of clips has none to judge"):
        Adversarial(clips=ClipCritic()).build(LossContext(image_medium(3, (64, 64))))
    with pytest.raises(ValueError, match=r"adversarial\.frames: these are frames of a clip"):
        Adversarial(frames=2).build(LossContext(image_medium(3, (64, 64))))
    with pytest.raises(ValueError, match=r"the loss perceptual reads \(rows, columns\), but the data have \(time\)"):
        parse(
            "data: {set: prompts, sample_rate: 16000, duration: 0.64}\n"
            "tokenizer: {vq: {autoencoder: seanet}}\n"
            "losses: {regression: {}, perceptual: {}}\n"
            "train: {samples: 8}"
        )
