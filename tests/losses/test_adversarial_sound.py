"""The game of sound: closed forms, shapes, and which side learns from what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.losses.adversarial_sound import (
    SoundAdversarial,
    SoundAdversarialLoss,
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from jielong.losses.base import LossContext
from jielong.media.kinds.audio import audio_medium
from jielong.networks.waveform_discriminators import (
    Discriminator,
    DiscriminatorOutput,
    PeriodDiscriminator,
    SpectrumDiscriminator,
    WaveDiscriminator,
)

ALL = {
    "stft": {"windows": [256, 64], "channels": 4},
    "period": {"periods": [2, 3], "channels": 2},
    "wave": {"scales": [1, 2], "channels": 2},
}


def game(**settings: Any) -> SoundAdversarialLoss:
    torch.manual_seed(0)
    return SoundAdversarial.model_validate({"discriminators": ALL} | settings).build(LossContext(audio_medium(1, 1_000, 16_000)))


def sound(seed: int, batch: int = 3) -> Tensor:
    return 0.3 * torch.randn(batch, 1, 1_000, generator=torch.Generator().manual_seed(seed))


def says(*logits: float, features: float = 1.0) -> list[DiscriminatorOutput]:
    return [DiscriminatorOutput(torch.full((2, 5), float(each)), [torch.full((2, 3, 4), float(features))]) for each in logits]


def test_hinge_losses_of_known_logits() -> None:
    assert hinge_discriminator_loss(says(0, 0), says(0, 0)) == 2
    assert hinge_generator_loss(says(0, 0)) == 1
    assert hinge_discriminator_loss(says(1.5, 2), says(-1.5, -2)) == 0
    assert hinge_generator_loss(says(1, 3)) == 0
    # An average over discriminators: one knows, the other is wrong on both sides by 2.
    assert hinge_discriminator_loss(says(1, -1), says(-1, 1)) == 2
    assert hinge_generator_loss(says(-1, 1)) == 1


def test_features_are_compared_in_relation_to_their_size() -> None:
    assert feature_matching_loss(says(0, features=2), says(0, features=2)) == 0
    assert feature_matching_loss(says(0, features=2), says(0, features=3)).item() == pytest.approx(0.5)
    assert feature_matching_loss(says(0, features=200), says(0, features=300)).item() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["stft", "period", "wave"])
def test_a_kind_of_discriminator_trains_alone(kind: str) -> None:
    loss = game(discriminators={kind: ALL[kind]})
    x, y = sound(1), sound(2)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    history = []
    for _ in range(12):
        total = loss.discriminator_loss(x, 0.5 * y)["total"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(float(total.detach()))
    assert history[0] == pytest.approx(2, abs=0.4)
    assert history[-1] < 0.8 * history[0]  # quieter noise is told apart
    fake = (0.5 * y).requires_grad_()
    losses = loss.generator_losses(fake, x)
    assert losses["adversarial"] > 1
    (gradient,) = torch.autograd.grad(sum(losses.values()), fake)  # type: ignore[arg-type]
    assert torch.isfinite(gradient).all()
    assert gradient.any()


def test_each_side_trains_only_itself() -> None:
    loss, fake = game(), sound(1).requires_grad_()
    sum(loss.generator_losses(fake, sound(2)).values()).backward()  # type: ignore[union-attr]
    assert fake.grad is not None
    assert fake.grad.any()
    assert all(weight.grad is None for weight in loss.parameters())
    fake.grad = None
    loss.discriminator_loss(sound(2), fake)["total"].backward()
    assert fake.grad is None
    assert all(weight.grad is not None for weight in loss.parameters())


def test_losses_are_float32_means_over_discriminators_and_zero_at_the_sound_itself() -> None:
    loss, x = game(), sound(1)
    assert loss.generator_losses(x, x)["features"] == 0
    outputs = loss.judge(x)
    assert len(outputs) == 6
    each = [hinge_discriminator_loss([a], [b]) for a, b in zip(outputs, loss.judge(sound(2)), strict=True)]
    torch.testing.assert_close(loss.discriminator_loss(x, sound(2))["total"], torch.stack(each).mean())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss.judge(x)[0].logits, outputs[0].logits)
    assert set(game(features=0).generator_losses(sound(2), x)) == {"adversarial"}


@pytest.mark.parametrize(
    ("discriminator", "shape", "features"),
    [
        (SpectrumDiscriminator(2, 4, 256), (3, 1, 16, 17), 5),  # 1 + 1000 // 64 frames; 129, 65, 33, 17 frequencies
        (PeriodDiscriminator(2, 2, 7), (3, 1, 2, 7), 5),  # 143 rows, cut to a third four times
        (WaveDiscriminator(2, 4, 2), (3, 1, 2), 6),  # 500 samples, cut to a quarter four times
    ],
)
def test_shapes(discriminator: Discriminator, shape: tuple[int, ...], features: int) -> None:
    output = discriminator(torch.randn(3, 2, 1_000))
    assert output.logits.shape == shape
    assert len(output.features) == features


def test_what_a_period_discriminator_sees_apart() -> None:
    """A change of one sample changes the logits of its own phase alone."""
    discriminator, x = PeriodDiscriminator(1, 2, 5).eval(), sound(1, batch=1)
    changed = x.clone()
    changed[..., 503] += 1  # phase 3
    apart = (discriminator(changed).logits - discriminator(x).logits).abs().amax((0, 1, 2))
    assert apart[3] > 0
    assert not apart[[0, 1, 2, 4]].any()


def test_spectra_are_those_of_torch() -> None:
    discriminator, x = SpectrumDiscriminator(1, 2, 128), sound(1)
    expected = torch.stft(x[:, 0], 128, 32, window=torch.hann_window(128), pad_mode="constant", return_complex=True)
    expected = expected / torch.hann_window(128).square().sum().sqrt()
    torch.testing.assert_close(discriminator.prepare(x), torch.stack([expected.real, expected.imag], dim=1).mT)


def test_discriminators_wait_and_then_learn_in_a_share_of_the_steps() -> None:
    loss = game(start_samples=640, updates=0.5)
    assert [loss.active(seen) for seen in (0, 639, 640)] == [False, False, True]
    assert not any(loss.learns(seen) for seen in range(0, 640, 32))
    drawn = [loss.learns(640 + 32 * step) for step in range(1_000)]
    assert 420 < sum(drawn) < 580  # five standard deviations
    again, always = game(start_samples=640, updates=0.5), game(updates=1.0)
    assert drawn == [again.learns(640 + 32 * step) for step in range(1_000)]
    assert all(always.learns(seen) for seen in range(0, 640, 32))


@pytest.mark.parametrize(
    ("discriminators", "message"),
    [
        ({"stft": {"windows": [2048]}}, "no longer than a clip of 1000"),
        ({"period": {"periods": [2, 1009]}}, "period of 1009"),
        ({"wave": {"scales": [64]}}, "needs clips of 1024 samples"),
    ],
)
def test_clips_too_short_for_a_discriminator_are_refused(discriminators: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        game(discriminators=discriminators)


def test_discriminators_fit_their_windows_to_short_clips() -> None:
    discriminators = game(discriminators={"stft": {"channels": 2}}).discriminators
    assert [discriminator.window for discriminator in discriminators] == [512, 256, 128]
