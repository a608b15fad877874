"""Spectral losses: identities, a shift that nobody hears, the sums written out, and refusals."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.config.recipe import parse
from jielong.config.registry import RecipeError
from jielong.evaluation.sound.waveform import stft_distance
from jielong.losses.base import LossContext
from jielong.losses.regression import Regression, RegressionLoss
from jielong.losses.spectral import FLOOR, Mel, SpectralLoss, Stft
from jielong.media.kinds.audio import audio_medium
from jielong.media.mel import mel_filters

RATE = 16_000


def noise(samples: int = 4_000, batch: int = 2, channels: int = 1, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(batch, channels, samples, generator=torch.Generator().manual_seed(seed)).clamp(-3, 3)


LOSSES: list[Any] = [Stft(), Mel(), Mel(form="soundstream"), Mel(form="hifi_gan"), Mel(windows=(64, 500), bands=20)]


def built(settings: Any, samples: int = 4_000) -> SpectralLoss:
    return settings.build(LossContext(audio_medium(1, samples, RATE)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("settings", LOSSES)
def test_sound_is_like_itself_and_gradients_are_finite(settings: Any) -> None:
    loss, x = built(settings), noise(channels=2)
    assert loss(x, x) == 0
    for decoded in (torch.zeros_like(x), x.clone(), noise(channels=2, seed=1)):
        decoded.requires_grad_()
        loss(decoded, x).backward()
        assert decoded.grad is not None
        assert torch.isfinite(decoded.grad).all()
    assert loss(noise(channels=2, seed=1), x) > 0.05
    assert not loss.state_dict()


@pytest.mark.parametrize("settings", [Stft(), Mel(), Mel(form="soundstream")])
def test_a_shift_by_a_sample_changes_the_waveform_and_hardly_the_spectra(settings: Any) -> None:
    """Measured against the same loss at a sound as loud that is another one."""
    x, other = noise(8_000, 1), noise(8_000, 1, seed=1)
    shifted = x.roll(1, -1)
    regression, loss = RegressionLoss(Regression()), built(settings, 8_000)
    assert regression(shifted, x) > 0.9 * regression(other, x)
    assert loss(shifted, x) < 0.1 * loss(other, x)


def test_a_little_quieter_is_the_reverse() -> None:
    """In the waveform a shift is many times a tenth of the loudness; in the spectra of half a second it is less."""
    x = noise(8_000, 1)
    regression, loss = RegressionLoss(Regression()), built(Mel(windows=(2048,)), 8_000)
    assert regression(0.9 * x, x) < 0.1 * regression(x.roll(1, -1), x)
    assert loss(x.roll(1, -1), x) < 0.05 * loss(0.9 * x, x)


def test_encodecs_form_written_out() -> None:
    loss, x, y = built(Mel(windows=(256, 1024), bands=32)), noise(seed=1), noise(seed=2)
    total = 0.0
    for window in (256, 1024):
        hann = torch.hann_window(window)
        bands = []
        for sound in (x, y):
            magnitudes = torch.stft(sound[:, 0], window, window // 4, window=hann, pad_mode="constant", return_complex=True).abs()
            bands.append(mel_filters(RATE, window, 32).float() * RATE / window @ magnitudes / hann.square().sum().sqrt())
        kept = [each[:, mel_filters(RATE, window, 32).sum(1) > 0] for each in bands]
        logs = [each.clamp_min(FLOOR).log10() for each in kept]
        total += float((kept[0] - kept[1]).abs().mean() + (logs[0] - logs[1]).square().mean()) / 2 / 2
    assert float(loss(x, y)) == pytest.approx(total, rel=1e-4)


def test_hifi_gans_form_is_the_gain_in_nats_above_the_floor() -> None:
    x = noise(seed=1)
    assert float(built(Mel(form="hifi_gan"))(2 * x, x)) == pytest.approx(math.log(2), rel=1e-4)
    assert float(built(Mel(form="hifi_gan", floor=1e-3))(1e-9 * x, 0 * x)) == 0


def test_quiet_frames_weigh_less_in_logarithms_and_loud_ones_as_before() -> None:
    generator = torch.Generator().manual_seed(0)
    loud, silent = torch.randn(1, 1, 4096, generator=generator), torch.zeros(1, 1, 4096)
    hiss = 1e-3 * torch.randn(1, 1, 4096, generator=generator)
    plain, weighed = (
        Mel(form="hifi_gan", windows=(512,), quiet=quiet).build(LossContext(audio_medium(1, 4096, 16_000))) for quiet in (0.0, 1e-2)
    )
    torch.testing.assert_close(weighed(0.5 * loud, loud), plain(0.5 * loud, loud), rtol=0.02, atol=0)
    assert float(plain(hiss, silent)) > 3
    assert float(weighed(hiss, silent)) == 0
    faint = 1e-2 * loud / float(loud.square().mean().sqrt())  # as loud as weighs half
    assert float(weighed(0.5 * faint, faint) / plain(0.5 * faint, faint)) == pytest.approx(0.5, abs=0.02)


def test_soundstreams_form_of_one_band_is_a_gain() -> None:
    """Twice as loud: the linear part is the magnitude itself, the other sqrt(s / 2) ln 2 a band's root."""
    x = noise(seed=1)
    loss = built(Mel(form="soundstream", windows=(512,), bands=1))
    filters = loss.get_buffer("filters0")
    level = float((filters @ loss._magnitudes(x, 512)).mean())
    assert float(loss(2 * x, x)) == pytest.approx(level + math.sqrt(256) * math.log(2), rel=1e-4)


def test_the_multi_resolution_loss_is_the_figure_of_the_same_name() -> None:
    x, y = noise(8_000, 1, seed=1), noise(8_000, 1, seed=2)
    loss = built(Stft(windows=(2048, 512, 128)), 8_000)
    assert float(loss(x, y)) == pytest.approx(stft_distance([x[0]], [y[0]], RATE).value, rel=1e-3)


def test_white_noise_at_full_scale_has_magnitude_one() -> None:
    loss = built(Mel(windows=(512,)), 40_000)
    magnitudes = loss._magnitudes(torch.randn(1, 1, 40_000, generator=torch.Generator().manual_seed(0)), 512)
    assert float(magnitudes[..., 3:-3].square().mean()) == pytest.approx(1, rel=0.02)


def test_float32_whatever_the_autocast() -> None:
    loss, x, y = built(Mel()), noise(seed=1), noise(seed=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(x, y) == loss.cpu()(x, y)
    assert loss(x.bfloat16(), y).dtype == torch.float32


def test_windows_fit_the_clips_or_are_refused() -> None:
    assert built(Mel(), 1_000).windows == (32, 64, 128, 256, 512)
    assert built(Mel(form="soundstream"), 1_000).windows == (64, 128, 256, 512)
    with pytest.raises(ValueError, match="window of 2048 samples does not fit clips of 1000"):
        built(Mel(windows=(2048,)), 1_000)
    with pytest.raises(ValueError, match="clips of 100 samples are too short for the loss stft"):
        built(Stft(), 100)
    with pytest.raises(ValueError, match="compares sound"):
        built(Stft())(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="same shape"):
        built(Stft())(noise(), noise(3_999))


RECIPE = "data: {data}\ntokenizer: {vq: {autoencoder: BODY}}\nlosses: {losses}\ntrain: {samples: 64}\n"
OF_SOUND, OF_PICTURES = RECIPE.replace("BODY", "seanet"), RECIPE.replace("BODY", "convolutional")


@pytest.mark.parametrize(
    ("sound", "losses", "message"),
    [
        (
            True,
            "{mel: {}, perceptual: {}}",
            "reads (rows, columns), but the data have (time): choose among adversarial_sound, distillation",
        ),
        (True, "{mel: {}, adversarial: {}}", "the loss adversarial reads (rows, columns)"),
        (True, "{logit_laplace: {}}", "the loss logit_laplace reads (rows, columns)"),
        (
            False,
            "{regression: {}, mel: {}}",
            "mel reads (time), but the data have (rows, columns): choose among adversarial",
        ),
        (False, "{regression: {}, adversarial_sound: {}}", "the loss adversarial_sound reads (time)"),
        (True, "{adversarial_sound: {}}", "needs a loss on its reconstruction (mel, regression, stft)"),
        (False, "{perceptual: {}}", "needs a loss on its reconstruction (logit_laplace, regression)"),
    ],
)
def test_recipes_refuse_losses_of_the_other_medium(sound: bool, losses: str, message: str) -> None:
    recipe, data = (OF_SOUND, "{set: sounds, sample_rate: 16000}") if sound else (OF_PICTURES, "{set: emoji, size: 32}")
    text = recipe.replace("{data}", data).replace("{losses}", losses)
    with pytest.raises(RecipeError, match=re.escape(message)):
        parse(text)


def test_recipes_of_sound_take_spectral_losses_alone_and_keep_them() -> None:
    losses = (
        "{stft: {}, mel: {form: soundstream, windows: [64, 128]}, adversarial_sound: {discriminators: {wave: {}, period: {periods: [2]}}}}"
    )
    text = OF_SOUND.replace("{data}", "{set: sounds, sample_rate: 16000}").replace("{losses}", losses) + "balancer: {norm: 2.0}\n"
    recipe = parse(text)
    assert parse(recipe.to_yaml()) == recipe
    assert [kind.name for kind in recipe.losses[2].discriminators] == ["wave", "period"]  # type: ignore[attr-defined]
