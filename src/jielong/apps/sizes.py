"""Sizes derived from a recipe (tokens, parameters, FLOPs, memory), each with the part that determines it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from jielong.generation.generator import Generator
from jielong.networks.conditioning import Conditioning
from jielong.tokenizers.base import Tokenizer
from jielong.training.experiment import Experiment

STATE_NUMBERS = 5
"""float32 values per parameter in training: weight, gradient, two moments, EMA weight."""


@dataclass(frozen=True)
class Size:
    """A derived size.

    Attributes:
        name: Name.
        value: Number or text.
        unit: Unit; ``""`` for a count.
        source: Part that determines it.
    """

    name: str
    value: float | str
    unit: str
    source: str


@dataclass(frozen=True)
class Cost:
    """Cost of a forward pass of one item.

    Attributes:
        flops: FLOPs, two per multiply-add.
        saved: Bytes saved for the backward pass, without parameters.
    """

    flops: int
    saved: int


def cost(model: nn.Module, run: Callable[[], object]) -> Cost:
    """Measure a forward pass by running it once."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()  # noqa: F841  kept alive while counting, so that no storage address is reused
    return Cost(counter.get_total_flops(), sum(kept.values()))


def sizes(experiment: Experiment) -> list[Size]:
    """Derived sizes of an experiment, from one forward pass of one item of zeros."""
    settings, model = experiment.recipe.train.resolved(), experiment.model
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    spent = cost(*_forward(experiment))
    micro = settings.micro_batch or settings.batch
    return [
        *_data(experiment),
        *_tokens(experiment.tokenizer),
        *(_generator(experiment.generator, _states(experiment)) if experiment.generator is not None else ()),
        Size("parameters", parameters, "", "tokenizer" if experiment.generator is None else "condition, backbone, head"),
        Size("FLOPs per item, forward", spent.flops, "FLOP", "counted"),
        Size("total training FLOPs", 3.0 * spent.flops * settings.samples, "FLOP", "three passes per sample"),
        Size("training steps", math.ceil(settings.samples / settings.batch), "", "train"),
        Size("epochs", settings.samples / len(experiment.data), "", "train"),
        Size("memory, weights and optimizer", 4.0 * STATE_NUMBERS * parameters, "B", f"{STATE_NUMBERS} float32 values per parameter"),
        Size("memory, activations", float(spent.saved * micro), "B", f"one pass, counted, times a batch of {micro}"),
    ]


def _data(experiment: Experiment) -> list[Size]:
    return [
        Size(f"training {experiment.data.kind.noun[1]}", len(experiment.data), "", "data"),
        Size(f"held-out {experiment.heldout.kind.noun[1]}", len(experiment.heldout) if experiment.sets.measured else 0, "", "data"),
        Size(f"one {experiment.data.kind.noun[0]}", " x ".join(map(str, experiment.media.shape)), "", "data"),
    ]


def _tokens(tokenizer: Tokenizer) -> list[Size]:
    layout = tokenizer.layout
    grid = [
        Size("token grid", " x ".join(map(str, layout.grid)), "", "tokenizer"),
        *([Size("scales", ", ".join("x".join(map(str, scale)) for scale in layout.scales), "", "tokenizer")] if layout.scales else []),
        Size("positions", layout.positions, "", "tokenizer"),
    ]
    if layout.vocabulary is None or layout.bits is None:
        return [*grid, Size("channels per position", layout.channels, "", "tokenizer")]
    return [
        *grid,
        Size("codebooks", layout.channels, "", "tokenizer"),
        Size("vocabulary", layout.vocabulary, "", "tokenizer"),
        Size("bits per item", layout.bits, "bit", "tokenizer"),
        Size("bits per pixel or sample", layout.bits / math.prod(tokenizer.media.size), "bit", "tokenizer"),
    ]


def _generator(model: Generator, states: int) -> list[Size]:
    plan, order = model.plan, model.order
    layout = plan.layout
    steps = sum(1 for start, stop in plan.spans for _ in order.steps(stop - start, None))
    condition = f"{states} states of {model.condition.width}" if model.condition is not None else "none"
    return [
        Size("sampling steps", steps, "", "order"),
        Size("blocks", len(plan.spans), "", "order"),
        Size("condition, at most", condition, "", "condition"),
        Size("cache per item", model.backbone.cache_bytes(1, layout.positions, states), "B", "backbone, tokenizer, condition"),
    ]


def _states(experiment: Experiment) -> int:
    """Largest number of condition states: the text length, or one."""
    if experiment.generator is None or experiment.generator.condition is None:
        return 0
    return int(getattr(experiment.generator.condition, "length", 1))


def _forward(experiment: Experiment) -> tuple[nn.Module, Callable[[], object]]:
    """A copy of the model in evaluation mode, and its forward pass with gradients."""
    model = copy.deepcopy(experiment.model).eval()
    if not isinstance(model, Generator):
        return model, lambda: model(torch.zeros(1, *experiment.media.shape))
    layout, states = model.plan.layout, _states(experiment)
    condition = None
    if model.condition is not None:
        zeros = torch.zeros(1, states, model.condition.width)
        condition = Conditioning(zeros, torch.ones(1, states, dtype=torch.bool), zeros[:, 0])
    values = torch.zeros(1, layout.positions, layout.channels, dtype=torch.long if layout.discrete else torch.float32)

    everything = torch.ones(1, layout.positions, dtype=torch.bool)

    def run() -> object:
        inputs = torch.zeros(1, layout.positions, model.backbone.width).requires_grad_()
        own = None if model.condition is None or not model.condition.loss_weight else model.condition
        chain = replace(model.plan.inputs(inputs), conditioning=condition, known=everything, keep_prefix=own is not None)
        hidden, predicted = model.backbone(chain), list[object]()
        if own is not None:
            predicted, hidden = [own.predict(hidden[:, :states])], hidden[:, states:]
        if model.head.joint:
            spans = [slice(*span) for span in model.plan.spans]
            contexts = [model.plan.head_context(s, everything, condition=condition) for s in spans]
            losses = [model.head.loss(hidden[:, s], values[:, s], context) for s, context in zip(spans, contexts, strict=True)]
            return [*predicted, *losses]
        return [*predicted, model.head.loss(hidden.flatten(0, 1), values.flatten(0, 1))]

    return model, run
