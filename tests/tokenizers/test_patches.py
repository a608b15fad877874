from __future__ import annotations

import math

import pytest
import torch

from jielong.core.medium import ALONG_FRAMES, ALONG_ROWS, Medium
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.media.kinds.image import image_medium
from jielong.tokenizers.patches import Patches

EIGHT_BIT = (torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12) * 37 % 256) / 127.5 - 1


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("scale", [{}, {"std": 1.0}, {"mean": 0.51, "std": 0.66}])
def test_pictures_come_back_at_any_patch_size(patch: int, scale: dict[str, float]) -> None:
    tokenizer = Patches(patch=patch, **scale).build(image_medium(3, (8, 12)))
    tokens = tokenizer.encode(EIGHT_BIT)
    assert tokens.layout == Layout((8 // patch, 12 // patch), 3 * patch * patch)
    torch.testing.assert_close(tokenizer.decode(tokens), EIGHT_BIT, rtol=0, atol=2e-7)
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode_to_cache(EIGHT_BIT)), EIGHT_BIT, rtol=0, atol=2e-7)
    mean, std = scale.get("mean", 0.0), scale.get("std", 0.5)
    torch.testing.assert_close(tokens.values.double().sort().values.mean(), (EIGHT_BIT.double().mean() - mean) / std)


def test_a_token_holds_row_column_channel_of_its_patch() -> None:
    tokenizer = Patches(patch=2, std=1.0).build(image_medium(3, (4, 6)))
    media = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    values = tokenizer.encode(media).values
    for place, (top, left) in enumerate(tokenizer.layout.coordinates().mul(2).tolist()):
        for row in range(2):
            for column in range(2):
                assert torch.equal(values[0, place, (row * 2 + column) * 3 :][:3], media[0, :, top + row, left + column])


def test_dequantisation_fills_a_level_and_stays_inside() -> None:
    settings = Patches(patch=2, mean=0.1, std=0.5, dequantize=True)
    tokenizer = settings.build(image_medium(1, (64, 64)))
    levels = torch.arange(2 * 64 * 64).view(2, 1, 64, 64) % 256
    cached = tokenizer.encode_to_cache(levels / 127.5 - 1)
    rng = PerSampleRNG(0, range(2))
    drawn = tokenizer.sample_cached(cached, rng)
    media = drawn.values * settings.std + settings.mean
    within = (media + 1) * 127.5 - cached.values
    assert float(within.abs().max()) < 0.5001
    assert abs(float(within.mean())) < 0.01
    assert float(within.std()) == pytest.approx(1 / math.sqrt(12), rel=0.02)  # of a uniform number
    assert torch.equal(media.add(1).mul(127.5).round().long(), cached.values)
    alone = tokenizer.sample_cached(Tokens(cached.values[1:], cached.layout), PerSampleRNG(0, [1]))
    assert torch.equal(alone.values[0], drawn.values[1])  # each item's own noise
    assert torch.equal(tokenizer.encode(levels / 127.5 - 1).values, tokenizer.encode(levels / 127.5 - 1).values)


def test_without_dequantisation_training_reads_the_tokens_of_encode() -> None:
    tokenizer = Patches(patch=4).build(image_medium(3, (8, 12)))
    drawn = tokenizer.sample_cached(tokenizer.encode_to_cache(EIGHT_BIT), PerSampleRNG(0, range(2)))
    torch.testing.assert_close(drawn.values, tokenizer.encode(EIGHT_BIT).values)


@pytest.mark.parametrize("settings", [Patches(std=0.5), Patches(mean=0.3, std=0.7), Patches(logit=0.05, mean=-0.4, std=1.8)])
def test_the_volume_of_a_level_is_the_derivative_of_tokens(settings: Patches) -> None:
    tokenizer = settings.model_copy(update={"dequantize": True, "patch": 2}).build(image_medium(1, (4, 4)))
    levels = torch.tensor([0, 1, 60, 128, 200, 254, 255, 3] * 2).view(1, 1, 4, 4)
    step = 0.1
    above, below = (tokenizer.encode((levels + offset) / 127.5 - 1).values.double() for offset in (step, -step))
    volume = ((above - below) / (2 * step)).log().sum()  # ln of dt / dk, with k the level
    found = tokenizer.level_nats(tokenizer.encode(levels / 127.5 - 1))
    assert float(found[0]) == pytest.approx(float(volume), abs=0.05)


def test_logits_come_back_and_any_number_is_a_picture() -> None:
    tokenizer = Patches(patch=2, logit=0.05, mean=-0.5, std=2.0, dequantize=True).build(image_medium(3, (8, 12)))
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(EIGHT_BIT)), EIGHT_BIT, rtol=0, atol=2e-6)
    cached = tokenizer.encode_to_cache(EIGHT_BIT)
    drawn = tokenizer.sample_cached(cached, PerSampleRNG(0, range(2)))
    media = tokenizer.decode(drawn)
    assert torch.equal(media.add(1).mul(127.5).round().long(), EIGHT_BIT.add(1).mul(127.5).round().long())
    ends = tokenizer.decode(Tokens(torch.full_like(drawn.values, 50.0), drawn.layout))
    assert bool((ends == 1).all())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="8 x 10 do not divide into tokens of 4 x 4"):
        Patches(patch=4).build(image_medium(3, (8, 10)))
    tokenizer = Patches(patch=4).build(image_medium(3, (8, 12)))
    with pytest.raises(ValueError, match=r"reads \(channels, rows, columns\) = \(3, 8, 12\), not"):
        tokenizer.encode(torch.zeros(1, 3, 12, 8))
    with pytest.raises(ValueError, match="these tokens are not this tokenizer's"):
        tokenizer.decode(Tokens(torch.zeros(1, 6, 48), Layout((3, 2), 48)))


def test_a_patch_of_a_clip_is_that_of_its_frame() -> None:
    clips = torch.rand(2, 3, 4, 6, 8) * 2 - 1
    tokenizer = Patches(patch=2).build(Medium("video", 3, ALONG_FRAMES, (4, 6, 8), 8.0))
    tokens = tokenizer.encode(clips)
    assert (tokens.layout.grid, tokens.layout.axes) == ((4, 3, 4), ALONG_FRAMES)
    of_frame = Patches(patch=2).build(Medium("image", 3, ALONG_ROWS, (6, 8)))
    for frame in range(4):
        assert torch.equal(tokens.values[:, 12 * frame : 12 * frame + 12], of_frame.encode(clips[:, :, frame]).values)
    torch.testing.assert_close(tokenizer.decode(tokens), clips)
    with pytest.raises(ValueError, match="the tokenizer patches is for pictures and clips, not audio"):
        Patches().build(Medium("audio", 1, ("time",), (16,), 8000.0))
