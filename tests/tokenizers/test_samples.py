"""The mu-law scale by its closed forms, and samples that come back."""

from __future__ import annotations

import math

import pytest
import torch

from jielong.core.tokens import Layout, Tokens
from jielong.media.kinds.audio import audio_medium
from jielong.media.kinds.image import image_medium
from jielong.tokenizers.samples import Samples, compress, expand

SOUND = audio_medium(1, 1_000, 8_000)


def test_the_scale_is_the_closed_form() -> None:
    x = torch.linspace(-1, 1, 2_001, dtype=torch.float64)
    y = compress(x, 255)
    torch.testing.assert_close(y[[0, 1_000, -1]], torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
    assert float(compress(torch.tensor(1 / 255, dtype=torch.float64), 255)) == pytest.approx(math.log(2) / math.log(256))
    assert float(compress(torch.tensor(-15 / 255, dtype=torch.float64), 255)) == pytest.approx(-0.5)  # ln 16 / ln 256
    torch.testing.assert_close(expand(y, 255), x)
    torch.testing.assert_close(y, -compress(-x, 255))
    assert bool((y.diff() > 0).all())


def test_levels_survive_the_round_trip_and_errors_are_half_a_step() -> None:
    tokenizer = Samples().build(SOUND)
    assert tokenizer.layout == Layout((1_000,), 1, 256)
    levels = (torch.arange(1_000) % 256).view(1, -1, 1)
    media = tokenizer.decode(Tokens(levels, tokenizer.layout))
    assert torch.equal(tokenizer.encode(media).values, levels)
    assert (float(media.min()), float(media.max())) == (-1.0, 1.0)
    x = torch.rand(4, 1, 1_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    error = (tokenizer.decode(tokenizer.encode(x)) - x).abs()
    # d x / d y = ln(256) (1 + 255 |x|) / 255, and a step of y is 2 / 255.
    half_step = math.log(256) * (1 + 255 * x.abs()) / 255 / 255
    assert bool((error <= 1.02 * half_step + 1e-6).all())


def test_silence_stays_nearly_silent_and_quiet_sound_is_kept_better_than_by_even_levels() -> None:
    tokenizer = Samples().build(SOUND)
    silence = tokenizer.decode(tokenizer.encode(torch.zeros(1, 1, 1_000)))
    assert float(silence.abs().max()) < 1e-4
    quiet = 0.01 * torch.randn(1, 1, 1_000, generator=torch.Generator().manual_seed(0))
    even = (quiet * 127.5).round() / 127.5
    kept = tokenizer.decode(tokenizer.encode(quiet))
    assert float((kept - quiet).square().mean()) < 0.05 * float((even - quiet).square().mean())


def test_channels_are_codebooks_and_a_position_is_a_sample() -> None:
    tokenizer = Samples(levels=16).build(audio_medium(2, 6, 8_000))
    media = torch.rand(3, 2, 6) * 2 - 1
    tokens = tokenizer.encode(media)
    assert tokens.values.shape == (3, 6, 2)
    assert tokenizer.hop_length == 1
    left = Samples(levels=16).build(audio_medium(1, 6, 8_000)).encode(media[:, :1])
    assert torch.equal(tokens.values[..., :1], left.values)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="choose tokenizer: pixels"):
        Samples().build(image_medium(3, (8, 8)))
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        Samples(levels=1)
    with pytest.raises(ValueError, match=r"reads \(channels, time\) = \(1, 1000\), not"):
        Samples().build(SOUND).encode(torch.zeros(1, 1, 999))
