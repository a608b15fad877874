"""Training several heads side by side (benchmarks/heads.py): each is independent of the others and has an EMA."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jielong.backbones.transformer import Transformer
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.data.sets import Batch
from jielong.generation.generator import Generator
from jielong.heads.base import Head, HeadContext
from jielong.heads.diffusion import Diffusion
from jielong.heads.energy import Energy
from jielong.heads.gaussian_mixture import GaussianMixture
from jielong.networks.denoiser import MLP
from jielong.orders.masked import Masked
from jielong.training.settings import TrainSettings
from jielong.training.trainer import train
from running_scripts import ROOT, module_of

LAYOUT, WIDTH = Layout((2, 2), channels=3), 8
SETTINGS = TrainSettings(samples=48, batch=8, lr=1e-2, warmup=8, ema=0.9, precision="fp32", save_every=16)


@pytest.fixture
def benchmark() -> Any:
    return module_of(ROOT / "benchmarks" / "heads_training.py")


def heads(*names: str) -> dict[str, Head]:
    parts = {"diffusion": Diffusion(network=MLP(layers=1, width=8)), "energy": Energy(layers=1, width=8), "mixture": GaussianMixture()}
    built = {}
    for name in names:
        torch.manual_seed(1)
        built[name] = parts[name].build(WIDTH, LAYOUT)
    return built


class Stream:
    def batch(self, first: int, count: int) -> Batch:
        return Batch(torch.full((count, 1, 2, 2), first / 100), None, None, [str(first + i) for i in range(count)])


def targets(benchmark: Any, batch: Batch, rng: PerSampleRNG) -> Any:
    """Four positions per picture, two of weight 1 and two of weight 1/2."""
    hidden = torch.randn(4 * len(batch), WIDTH, generator=torch.Generator().manual_seed(int(batch.keys[0])))
    return benchmark.TrainingTargets(hidden, hidden[:, :3].sin(), torch.tensor([0.5, 1.0, 1.0, 0.5]).repeat(len(batch)))


def trained(benchmark: Any, out: Path, *names: str, stop_after: int | None = None) -> dict[str, Tensor]:
    objective = benchmark.HeadsObjective(heads(*names), partial(targets, benchmark), tokens=3)
    summary = train(objective, Stream(), SETTINGS, out, recipe_yaml="a: 1", progress=False, evaluate=False, stop_after=stop_after)
    return load_file(out / "model.safetensors") if summary.finished else {}


def test_heads_train_independently(benchmark: Any, tmp_path: Path) -> None:
    together = trained(benchmark, tmp_path / "three", "mixture", "diffusion", "energy")
    for name in ("mixture", "diffusion", "energy"):
        alone = trained(benchmark, tmp_path / name, name)
        assert alone
        assert all(torch.equal(value, together[key]) for key, value in alone.items())


def test_saved_heads_are_ema_weights(benchmark: Any, tmp_path: Path) -> None:
    saved, start = trained(benchmark, tmp_path, "mixture", "energy"), heads("mixture", "energy")
    for name, head in start.items():
        moved = [not torch.equal(saved[f"{name}.{key}"], value) for key, value in head.named_parameters()]
        assert all(moved)


def test_resume_equals_uninterrupted(benchmark: Any, tmp_path: Path) -> None:
    whole = trained(benchmark, tmp_path / "whole", "diffusion", "energy")
    assert not trained(benchmark, tmp_path / "parts", "diffusion", "energy", stop_after=24)
    resumed = trained(benchmark, tmp_path / "parts", "diffusion", "energy")
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_untrained_residual_network_is_the_identity(benchmark: Any) -> None:
    head, hidden = heads("mixture")["mixture"], torch.randn(2, 4, WIDTH)
    for weight in head.parameters():
        torch.nn.init.normal_(weight)  # an untrained mixture reads nothing
    deep = benchmark.ResidualHead(head, MLP(layers=2, width=8).build(inputs=WIDTH, outputs=WIDTH, hidden=WIDTH, times=0))
    rows, targets = hidden.flatten(0, 1), torch.randn(8, 3)
    assert torch.equal(deep.loss(rows, targets), head.loss(rows, targets))
    sampling: tuple[Any, ...] = (SamplingConfig(temperature=0.5), HeadContext(torch.randn(2, 4, WIDTH), 2.0))
    assert torch.equal(
        deep.sample(hidden, PerSampleRNG(0, [0, 1]), *sampling).values, head.sample(hidden, PerSampleRNG(0, [0, 1]), *sampling).values
    )
    torch.nn.init.normal_(deep.network.output.weight)
    assert not torch.equal(deep.loss(rows, targets), head.loss(rows, targets))
    with pytest.raises(ValueError, match="num_inference_steps"):
        deep.check_sampling(SamplingConfig(num_inference_steps=3))


def test_weighted_loss_equals_generator_loss(benchmark: Any) -> None:
    layout = Layout((3, 3), channels=3)
    torch.manual_seed(0)
    backbone = Transformer(layers=1, width=WIDTH, heads=2).build(layout, None)
    model = Generator(layout, Masked(choose="random").build(), backbone, GaussianMixture().build(WIDTH, layout)).eval()
    torch.nn.init.normal_(model.head.parameters_of.weight)  # type: ignore[attr-defined]
    tokens, noise = Tokens(torch.randn(5, 9, 3), layout), range(5)
    chosen = benchmark.targets_of(model.training_states(tokens, rng=PerSampleRNG(3, noise)))
    assert len(set(chosen.weights.tolist())) > 1  # pictures have different numbers of masked positions
    loss = (model.head.loss(chosen.hidden, chosen.targets) * chosen.weights).sum() / 5
    torch.testing.assert_close(loss, model.loss(tokens, rng=PerSampleRNG(3, noise)), rtol=0, atol=0)
