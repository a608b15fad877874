"""A head with a discriminator: two phases of a step, each with its own parameters and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import parse_part
from jielong.config.sampling import SamplingConfig
from jielong.core.phases import MAIN, phases_of, trained_parameters
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.data.order import ShuffledOrder
from jielong.data.sets import Batch
from jielong.generation.generator import Generator
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, SampleOutput
from jielong.media.kinds.image import image_medium
from jielong.orders.masked import Masked
from jielong.training.generator_objective import GeneratorObjective
from jielong.training.objective import StepRNG
from jielong.training.settings import TrainSettings
from jielong.training.state import latest_state
from jielong.training.step import Stepper
from jielong.training.trainer import Summary, train

MEDIA = image_medium(3, (8, 8))
SETTINGS = TrainSettings(samples=96, batch=8, lr=1e-2, warmup=8, ema=0.9, precision="fp32", log_every=8, save_every=8, sample_every=96)
PICTURES = torch.rand(40, *MEDIA.shape, generator=torch.Generator().manual_seed(5)) * 2 - 1


class AdversarialHead(Head):
    """``token = G(hidden, noise)``, against a discriminator of (hidden, token) pairs (arXiv 1411.1784)."""

    discrete = False

    def __init__(self, width: int, layout: Layout) -> None:
        super().__init__()
        self.draw = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, layout.channels))
        self.discriminator = nn.Sequential(nn.Linear(width + layout.channels, width), nn.SiLU(), nn.Linear(width, 1))

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        return {"discriminator": self.discriminator}

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        fake = self.draw(torch.cat([hidden, torch.randn_like(hidden)], -1))
        if context.phase == "discriminator":
            real = self._score(hidden, targets)
            return (F.softplus(-real) + F.softplus(self._score(hidden, fake.detach())))[..., 0]
        return F.softplus(-self._score(hidden, fake))[..., 0]

    def _score(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        scores: Tensor = self.discriminator(torch.cat([hidden, tokens], -1))
        return scores

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        noise = rng.normal(*hidden.shape[1:])
        return SampleOutput(self.draw(torch.cat([hidden, noise], -1)))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_objective() -> GeneratorObjective:
    torch.manual_seed(0)
    autoencoder = {"convolutional": {"channels": [8], "blocks": [1], "patch": 4}}
    tokenizer = parse_part("tokenizer", {"kl": {"autoencoder": autoencoder, "dim": 4}}).build(MEDIA)  # type: ignore[attr-defined]
    order = Masked(steps=2, choose="random").build()
    backbone = parse_part("backbone", {"transformer": {"layers": 1, "width": 16, "heads": 2}}).build(tokenizer.layout, None)  # type: ignore[attr-defined]
    head = AdversarialHead(backbone.width, tokenizer.layout)
    model = Generator(tokenizer.layout, order, backbone, head, None, order.embedding(tokenizer, backbone.width))

    def draw(generator: Generator, shown: object) -> Tokens:
        return generator.generate(None, 2, steps=2)

    return GeneratorObjective(model, tokenizer, lambda batch: None, None, draw, lambda generator: {})


class Stream:
    """Forty pictures in endless shuffled order."""

    def __init__(self) -> None:
        self.order = ShuffledOrder(40, seed=1)

    def batch(self, first: int, count: int) -> Batch:
        rows = self.order.at(first, count)
        return Batch(PICTURES[rows], None, None, [str(row) for row in rows])


def run(out: Path, optimizer: str = "adamw", stop_after: int | None = None) -> Summary:
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    recipe = f"train: {{optimizer: {optimizer}}}"
    return train(make_objective(), Stream(), settings, out, recipe_yaml=recipe, progress=False, device="cpu", stop_after=stop_after)


def test_the_phases_share_out_all_parameters() -> None:
    objective = make_objective()
    phases = objective.phases
    assert list(phases) == [MAIN, "discriminator"]
    moved = {name: {id(p) for p in parameters} for name, parameters in trained_parameters(phases).items()}
    assert moved["discriminator"] == {id(p) for p in objective.model.head.get_submodule("discriminator").parameters()}
    assert not moved[MAIN] & moved["discriminator"]
    assert moved[MAIN] | moved["discriminator"] == {id(p) for p in objective.model.parameters()}


class Fixed:
    """One micro-batch, as the prefetcher would give it."""

    local_batch = 8

    def rng(self, samples_seen: int, first: int, count: int) -> StepRNG:
        return StepRNG(PerSampleRNG(0, range(first, first + count)), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("phase", [MAIN, "discriminator"])
def test_each_phase_moves_its_parameters_alone_and_lowers_its_loss(phase: str) -> None:
    from accelerate import Accelerator

    objective = make_objective().train()
    stepper = Stepper(objective, SETTINGS, Accelerator(cpu=True), Fixed())  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    batches = [(0, Stream().batch(0, 8))]
    losses = []
    for _ in range(20):
        torch.manual_seed(0)
        outcome = stepper.run(phase, batches, 0, 0, 1e-2)
        losses.append(outcome.values["loss" if phase == MAIN else "discriminator_loss"])
    moved = {name for name, value in objective.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("head.discriminator.") == (phase == "discriminator") for name in moved)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, optimizer: str) -> None:
    if optimizer == "muon":
        pytest.importorskip("pytorch_optimizer")
    run(tmp_path / "whole", optimizer)
    run(tmp_path / "parts", optimizer, stop_after=40)
    run(tmp_path / "parts", optimizer)
    ends = [latest_state(tmp_path / name) for name in ("whole", "parts")]
    assert ends[0] is not None
    assert ends[1] is not None
    files = sorted(path.name for path in ends[0].glob("*.safetensors"))
    assert files == ["ema.safetensors", "objective.safetensors", "optimizer-discriminator.safetensors", "optimizer-model.safetensors"]
    for name in files:
        assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes(), name
    for name in ("model.safetensors", "summary.json"):
        assert (tmp_path / "whole" / name).exists()
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "parts/model.safetensors").read_bytes()


def test_the_average_follows_both_phases_once_a_step(tmp_path: Path) -> None:
    """One step of the average is ``d = 1 / 10`` of the start and the rest of the weights after it."""
    start = make_objective().model.state_dict()
    assert run(tmp_path, stop_after=8).steps == 1
    state = latest_state(tmp_path)
    assert state is not None
    raw, averages = load_file(state / "objective.safetensors"), load_file(state / "ema.safetensors")
    assert any(name.startswith("head.discriminator.") for name in averages)
    for name, average in averages.items():
        torch.testing.assert_close(average, start[name].lerp(raw[f"model.{name}"], 0.9), msg=lambda text, name=name: f"{name}: {text}")


def test_two_parts_cannot_declare_the_same_phase() -> None:
    layout = Layout(grid=(2, 2), channels=4)
    pair = nn.ModuleList([AdversarialHead(8, layout), AdversarialHead(8, layout)])
    with pytest.raises(ValueError, match="1 declares the phase 'discriminator', which there is already"):
        phases_of(pair)
