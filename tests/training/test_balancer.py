"""The balancer: closed forms of its ratios, accumulation and averages, and runs that stop in the middle."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch import distributed as dist

from jielong.core.rng import PerSampleRNG
from jielong.data.order import ShuffledOrder
from jielong.data.sets import Batch
from jielong.losses.adversarial_sound import SoundAdversarial
from jielong.losses.base import LossContext, LossTerms
from jielong.losses.regression import Regression
from jielong.losses.spectral import Mel
from jielong.media.kinds.audio import audio_medium
from jielong.tokenizers.base import LearnedTokenizer, Reconstruction
from jielong.training.balancer import Balancer, carrying
from jielong.training.checkpoint import read_tensors
from jielong.training.objective import StepRNG
from jielong.training.settings import Balance, TrainSettings
from jielong.training.tokenizer_objective import TokenizerObjective
from jielong.training.trainer import Summary, train


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_a_loss_a_hundred_times_as_loud_pulls_no_harder() -> None:
    """One L1 toward +1, one 100 times as large toward -1: balanced they cancel, added up they do not."""
    x = torch.zeros(1, 1, requires_grad=True)
    losses = {"up": (x - 1).abs().mean(), "down": 100 * (x + 1).abs().mean()}
    (plain,) = torch.autograd.grad(sum(losses.values()), x, retain_graph=True)  # type: ignore[arg-type]
    assert float(plain) == pytest.approx(99)
    pulls = Balancer(Balance(), ["up", "down"])(losses, {"up": 1.0, "down": 1.0}, x, 0)
    assert float(sum(pulls.values())) == pytest.approx(0, abs=1e-7)  # type: ignore[arg-type]


def test_norms_stand_in_the_ratio_of_the_weights_and_directions_stay() -> None:
    x, target = leaf(4, 2, 30), leaf(4, 2, 30, seed=1).detach()
    losses = {"l1": (x - target).abs().mean(), "l2": 50 * (x - target).square().mean(), "power": x.square().mean() * 1e-3}
    shares = {"l1": 1.0, "l2": 3.0, "power": 4.0}
    plain = {name: torch.autograd.grad(loss, x, retain_graph=True)[0] for name, loss in losses.items()}
    pulls = Balancer(Balance(norm=2.0), list(losses))(losses, shares, x, 0)
    for name, share in shares.items():
        norms = torch.linalg.vector_norm(4 * pulls[name].flatten(1), dim=1)  # of an item's own loss
        assert float(norms.mean()) == pytest.approx(2 * share / 8, rel=1e-5)
        cosine = torch.nn.functional.cosine_similarity(pulls[name].flatten(), plain[name].flatten(), dim=0)
        assert float(cosine) == pytest.approx(1, abs=1e-5)


def test_scales_follow_the_bias_free_average_of_the_steps_before() -> None:
    balancer, decay = Balancer(Balance(decay=0.9), ["a"]), 0.9
    sizes, scales = [2.0, 3.0, 10.0, 1.0], []
    for step, size in enumerate(sizes):
        x = torch.ones(1, 1, requires_grad=True)
        scales.append(float(balancer({"a": size * x.sum()}, {"a": 1.0}, x, 8 * step)["a"]) / size)
    assert scales[0] == pytest.approx(1 / 2)
    for step in (1, 2, 3):
        weights = [decay ** (step - 1 - k) for k in range(step)]
        average = sum(w * s for w, s in zip(weights, sizes, strict=False)) / sum(weights)
        assert scales[step] == pytest.approx(1 / average, rel=1e-6)


def test_a_loss_that_joins_later_begins_with_its_own_norm() -> None:
    balancer = Balancer(Balance(), ["a", "b"])
    for step in range(3):
        x = torch.ones(1, 1, requires_grad=True)
        losses = {"a": 5 * x.sum()} | ({"b": 0.01 * x.sum()} if step == 2 else {})
        pulls = balancer(losses, {"a": 1.0, "b": 3.0}, x, step)
        assert float(pulls["a"]) == pytest.approx(0.25 if step == 2 else 1.0)
    assert float(pulls["b"]) == pytest.approx(0.75)


def test_micro_batches_are_scaled_as_the_whole_batch() -> None:
    whole, parts = Balancer(Balance(decay=0.5), ["l1", "l2"]), Balancer(Balance(decay=0.5), ["l1", "l2"])
    shares = {"l1": 1.0, "l2": 2.0}

    def losses(x: Tensor) -> dict[str, Tensor]:
        return {"l1": x.abs().mean(), "l2": x.square().mean()}

    for step in range(4):
        x = leaf(6, 1, 20, seed=step)
        one = sum(whole(losses(x), shares, x, step).values())
        pieces = []
        for piece in x.detach().split(2):
            separate = piece.clone().requires_grad_()
            pieces.append(sum(parts(losses(separate), shares, separate, step).values()) / 3)  # type: ignore[operator]
        if step:  # in the first step nothing is known yet but what was seen so far
            torch.testing.assert_close(torch.cat(pieces), one)


def test_non_finite_gradients_are_not_counted_and_are_reported() -> None:
    balancer = Balancer(Balance(), ["a"])
    x = torch.ones(1, 1, requires_grad=True)
    assert not torch.isfinite(balancer({"a": x.sum() * torch.inf}, {"a": 1.0}, x, 0)["a"]).any()
    assert float(balancer({"a": 4 * x.sum()}, {"a": 1.0}, x, 1)["a"]) == pytest.approx(1)
    assert all(torch.isfinite(value).all() for value in balancer.state_dict().values())


def test_a_value_that_carries_a_gradient() -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    media = weight * torch.tensor([1.0, 2.0])
    total = carrying(torch.tensor(7.0), media, torch.tensor([0.5, 0.25]))
    total.backward()
    assert total == 7
    assert float(weight.grad) == 1.0  # type: ignore[arg-type]


# --- in training --------------------------------------------------------------------------------------------------------------------

MEDIA = audio_medium(1, 256, 8_000)
CLIPS = 0.3 * torch.randn(40, *MEDIA.shape, generator=torch.Generator().manual_seed(5))
DRAWS = StepRNG(PerSampleRNG(0, range(4)), torch.Generator())
SETTINGS = TrainSettings(
    samples=96, batch=8, micro_batch=4, lr=1e-2, warmup=8, ema=0.5, save_every=32, log_every=32, sample_every=96, precision="fp32"
)


class Squeeze(LearnedTokenizer):
    """A linear bottleneck without tokens: all that the objective asks of a tokenizer in training."""

    media = MEDIA

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv1d(1, 4, 16, 16), nn.ConvTranspose1d(4, 1, 16, 16)

    def forward(self, media: Tensor, generator: object = None, samples_seen: int = 0, rng: object = None) -> Reconstruction:
        code = self.down(media)
        return Reconstruction(self.up(code), {"small": 1e-3 * code.square().mean()})

    def encode(self, media: Tensor) -> Tensor:  # type: ignore[override]
        return self.down(media)  # type: ignore[no-any-return]

    def decode(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        return self.up(tokens)  # type: ignore[no-any-return]

    @property
    def last_layer(self) -> nn.Parameter:
        return self.up.weight


class Stream:
    def __init__(self) -> None:
        self.order = ShuffledOrder(40, seed=1)

    def batch(self, first: int, count: int) -> Batch:
        rows = self.order.at(first, count)
        return Batch(CLIPS[rows], None, None, [str(row) for row in rows])


def objective(balance: Balance | None = Balance(decay=0.9), features: float = 3.0) -> TokenizerObjective:
    torch.manual_seed(1)
    discriminators = SoundAdversarial.model_validate(
        {"features": features, "start_samples": 32, "updates": 0.5, "discriminators": {"stft": {"windows": [64], "channels": 2}}}
    )
    terms = LossTerms.of([Regression(weight=0.1), Mel(), discriminators], LossContext(MEDIA))
    built = TokenizerObjective(Squeeze(), terms, CLIPS[:2], lambda model: {}, balance=balance)
    built.rate = MEDIA.rate
    return built


def run(out: Path, stop_after: int | None = None) -> Summary:
    return train(objective(), Stream(), SETTINGS, out, recipe_yaml="a: 1", progress=False, device="cpu", stop_after=stop_after)


def run_alone_or_beside(out: Path) -> Summary:
    """Features' relative distance is no mean over items, so it is left out; and micro-batches are whole."""
    settings = SETTINGS.model_copy(update={"micro_batch": 8})
    return train(objective(features=0), Stream(), settings, out, recipe_yaml="a: 1", progress=False, device="cpu")


def process(rank: int, port: int, out: Path) -> None:
    """One of two, forked."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    assert run_alone_or_beside(out).processes == 2
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    assert run_alone_or_beside(tmp_path / "one").finished
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=process, args=(rank, port, tmp_path / "two")) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    found, expected = (read_tensors(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("stop", [24, 40, 48])
def test_a_resumed_run_equals_an_uninterrupted_one(stop: int, tmp_path: Path) -> None:
    """Before, in the middle of, and after the first steps of the game; two micro-batches a step."""
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=stop)
    parts = run(tmp_path / "parts")
    assert whole.finished
    assert whole.metrics["loss"] == parts.metrics["loss"]
    assert "features" in whole.metrics
    one, other = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_network_receives_the_balanced_gradient_once() -> None:
    """Weights' gradients equal those of the balanced pull at the reconstruction, plus the bottleneck's own loss."""
    trained = objective()
    batch = Stream().batch(0, 4)
    trained(batch, "model", 64, DRAWS).total.backward()
    gradient = trained.model.up.weight.grad.clone()  # type: ignore[union-attr, operator]
    other = objective()
    result = other.model(batch.media)
    x = result.media.detach().requires_grad_()
    losses = {name: loss(x, batch.media) for name, loss in other.terms.reconstruction.items()}
    losses |= other.adversarial.generator_losses(x, batch.media)  # type: ignore[union-attr]
    total = torch.zeros_like(x)
    shares = {"regression": 0.1, "mel": 1.0, "adversarial": 3.0, "features": 3.0}
    for name, loss in losses.items():
        (pull,) = torch.autograd.grad(loss, x, retain_graph=True)
        norms = torch.linalg.vector_norm(4 * pull.flatten(1), dim=1)
        total += pull / norms.mean() * shares[name] / 7.1
    (wanted,) = torch.autograd.grad((result.media * total).sum(), other.model.up.weight)  # type: ignore[union-attr]
    torch.testing.assert_close(gradient, wanted)


def test_discriminators_see_the_reconstruction_that_was_to_fool_them() -> None:
    trained, batch = objective(), Stream().batch(0, 4)
    seen = next(samples for samples in range(32, 1_000, 8) if trained.active("discriminator", samples))
    trained(batch, "model", seen, DRAWS)
    (kept,) = trained._fakes.values()
    assert torch.equal(kept, trained.model(batch.media).media)
    trained(batch, "discriminator", seen, DRAWS)
    assert not trained._fakes
    idle = next(samples for samples in range(32, 1_000, 8) if not trained.active("discriminator", samples))
    trained(batch, "model", idle, DRAWS)
    assert not trained._fakes


def test_without_a_balancer_losses_are_added_with_their_weights() -> None:
    trained, batch = objective(balance=None), Stream().batch(0, 4)
    losses = trained(batch, "model", 64, DRAWS)
    parts = losses.parts
    wanted = parts["regression"] + parts["mel"] + 3 * parts["adversarial"] + 3 * parts["features"] + parts["small"]
    torch.testing.assert_close(losses.total.detach(), wanted)
    balanced = objective()(batch, "model", 64, DRAWS)
    torch.testing.assert_close(balanced.total.detach(), wanted)
