"""A step is that of its whole batch, however the batch is divided: into micro-batches, among processes, in any order of the samples.
An item that is generated is the same in any batch.

The oracle is linearity: a loss is a mean over samples, so the mean of the parts' losses and gradients is the whole's, up to rounding. That
is of float64.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from double_precision import double_precision
from torch import Tensor

from jielong.config.recipe import Recipe, load
from jielong.training import experiment
from jielong.training.objective import Objective
from jielong.training.prefetch import BatchPrefetcher
from jielong.training.settings import TrainSettings
from jielong.training.step import MicroBatches, Stepper
from jielong.training.stream import TrainingStream

RECIPES = Path(experiment.__file__).parents[1] / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*-tiny.yaml"))
BATCH = 4
# The entropy of all codes is gathered from real processes: see test_two_processes.py.
GATHERING = ("bsq-tiny", "lfq-tiny", "magvit2-tokenizer-tiny")
# A batch of these is not divided, since its items are compared with each other: see test_two_towers.py.
WHOLE = ("unclip-embedding-tiny",)
LATE = 2**20  # samples seen: every loss has begun


def train_stages_below(name: str) -> None:
    """Train the checkpoints that a recipe reads from ``runs/`` for a step, if they are not there yet."""
    for checkpoint in load(name).requires.values():
        below = checkpoint.removeprefix("runs/")
        if below != checkpoint and not Path("runs", below).exists():
            train_stages_below(below)
            base = load(below)
            settings = base.train.model_copy(update={"samples": base.train.batch, "warmup": 1, "precision": "fp32"})
            experiment.run(base.model_copy(update={"train": settings}), Path("runs", below), device="cpu", progress=False, evaluate=False)


@cache
def prepared(name: str, *overrides: str) -> tuple[Recipe, Objective, TrainingStream]:
    """A tiny recipe's objective and its stream of samples."""
    train_stages_below(name)
    recipe = load(name, overrides)
    with double_precision():
        parts = experiment.prepare(recipe)
        make = experiment.tokenizer_objective if parts.generator is None else experiment.generator_objective
        if parts.generator is not None and parts.generator.condition is not None:
            parts.generator.condition.precompute(parts.data, parts.heldout)
        objective = make(parts).double()
    objective.train()
    return recipe, objective, TrainingStream(parts.data, recipe.train.seed)


@dataclass
class Outcome:
    """Of a step's phases: figures, gradients and the state afterwards."""

    values: dict[str, float]
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]

    def check(self, other: Outcome) -> None:
        """Equal up to rounding of float64."""
        assert self.values.keys() == other.values.keys()
        for name, value in self.values.items():
            assert other.values[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        assert self.gradients.keys() == other.gradients.keys()
        for name, gradient in self.gradients.items():
            assert gradient.dtype == torch.float64
            assert float((gradient - other.gradients[name]).norm()) <= 1e-9 * float(gradient.norm()) + 1e-12, name
        for name, tensor in self.state.items():
            torch.testing.assert_close(other.state[name], tensor, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


class Divided:
    """A recipe's steps on the same samples, divided in several ways, from the same state."""

    def __init__(self, name: str, *overrides: str, seen: int = LATE) -> None:
        recipe, self.objective, self.stream = prepared(name, *overrides)
        update = {"clip": None, "precision": "fp32", "optimizer": "adamw"}
        self.settings = TrainSettings.model_validate(recipe.train.model_dump() | update)
        self.seen, self.state = seen, copy.deepcopy(self.objective.state_dict())
        self.accelerator = Accelerator(cpu=True)

    def step(self, *parts: tuple[int, int], shares: int = 1) -> Outcome:
        """All phases on the parts ``(first, count)`` of a batch, without moving weights, from the state of the beginning."""
        with double_precision():
            return self._step([(self.seen + first, self.stream.batch(self.seen + first, count)) for first, count in parts], shares)

    def _step(self, parts: MicroBatches, shares: int) -> Outcome:
        self.objective.load_state_dict(self.state)
        prefetcher = BatchPrefetcher(self.stream, BATCH, BATCH, 0, shares, self.settings.seed, torch.device("cpu"))
        stepper = Stepper(self.objective, self.settings, self.accelerator, prefetcher)
        values: dict[str, float] = {}
        gradients: dict[str, Tensor] = {}
        for phase in self.objective.phases:
            if self.objective.active(phase, self.seen):
                result = stepper.run(phase, parts, self.seen, self.seen, 0.0)
                assert result.finite
                values |= result.values
                gradients |= {
                    f"{phase}.{name}": weight.grad.clone() for name, weight in self.objective.named_parameters() if weight.grad is not None
                }
        stepper.release()
        return Outcome(values, gradients, copy.deepcopy(self.objective.state_dict()))

    def keep(self, outcome: Outcome) -> None:
        """Go on to the next batch with this state."""
        self.state, self.seen = outcome.state, self.seen + BATCH


def started(state: Mapping[str, Tensor]) -> set[str]:
    """Codebooks that have started."""
    return {name for name, value in state.items() if name.endswith("initialised") and bool(value)}


def mean(outcomes: Sequence[Outcome]) -> Outcome:
    """What processes make of their losses and gradients."""
    values = {name: sum(each.values[name] for each in outcomes) / len(outcomes) for name in ("loss",)}
    gradients = {name: torch.stack([each.gradients[name] for each in outcomes]).mean(0) for name in outcomes[0].gradients}
    return Outcome(values, gradients, {})


@pytest.mark.usefixtures("stages")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in WHOLE])
def test_shards_and_any_order_of_samples_are_the_whole_batch(name: str) -> None:
    divided = Divided(name)
    first = divided.step((0, 4))
    for parts in ([(0, 2), (2, 2)], [(0, 1), (1, 2), (3, 1)]):  # in order: starts of codebooks draw rows by number
        divided.step(*parts).check(first)
    divided.keep(first)
    whole = divided.step((0, 4))
    while started(whole.state) != started(divided.state):  # the codebook of a level that a step skips starts later, in order too
        divided.keep(whole)
        whole = divided.step((0, 4))
    for parts in ([(2, 2), (0, 2)], [(2, 1), (0, 1), (3, 1), (1, 1)], [(0, 1), (1, 2), (3, 1)]):
        divided.step(*parts).check(whole)
    if name not in GATHERING:
        shards = mean([divided.step((first, 2), shares=2) for first in (0, 2)])
        shards.check(Outcome({name: whole.values[name] for name in shards.values}, whole.gradients, {}))


@pytest.mark.usefixtures("stages")
@pytest.mark.parametrize("name", [name for name in NAMES if load(name).trains_generator])
def test_an_item_is_generated_alike_in_any_batch(name: str) -> None:
    train_stages_below(name)
    recipe = load(name)
    parts = experiment.prepare(recipe)
    model, values, generator = parts.generator, None, torch.Generator().manual_seed(0)
    assert model is not None
    for parameter in model.eval().parameters():  # weights that start at 0 would hide what they multiply
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    if model.condition is not None and recipe.condition is not None:
        model.condition.precompute(parts.data, parts.heldout)
        values = recipe.condition.from_batch(parts.heldout.batch(range(5)), parts.media)
    count, sampling = (None, recipe.sampling) if values is not None else (5, recipe.sampling.unconditional())
    start, given = None, model.order.given_positions(model.layout) if values is None else None
    if given is not None:
        start = parts.tokenizer.encode(parts.heldout.media(range(5)))
    for lengths in (None, [3, 5, 3, 7, 5]) if parts.tokenizer.hop_length is not None else (None,):
        whole, *others = [
            model.generate(values, count, seed=3, batch=batch, sampling=sampling, lengths=lengths, start=start, known=given)
            for batch in (5, 1, 2)
        ]
        # Continuous tokens of random weights grow with every step that reads the last ones, and rounding with them.
        allowed = 0.0 if whole.layout.discrete else 1e-3 * float(whole.values.std())
        for part in others:
            torch.testing.assert_close(part.values, whole.values, rtol=0, atol=allowed)
            torch.testing.assert_close(part.lengths, whole.lengths)
