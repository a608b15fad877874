"""What a recipe comes to before it is run: every size that follows from it, and from which part it follows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from jielong.generation.generator import Generator
from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.tokenizers.base import Tokenizer
from jielong.training.experiment import Experiment

STATE_NUMBERS = 5
"""Numbers kept a parameter while training: weight, gradient, two moments, average."""


@dataclass(frozen=True)
class Size:
    """A derived size.

    Attributes:
        name: What it is.
        value: A number, or a few in words.
        unit: ``""`` for a count.
        source: The part it follows from.
    """

    name: str
    value: float | str
    unit: str
    source: str


@dataclass(frozen=True)
class Cost:
    """What one forward pass of one item takes.

    Attributes:
        flops: Floating-point operations, two a multiplication and addition.
        saved: Bytes kept for the backward pass, parameters not counted.
    """

    flops: int
    saved: int


def cost(model: nn.Module, run: Callable[[], object]) -> Cost:
    """Count a forward pass by running it once."""
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()  # noqa: F841  held until all is counted, so that no storage's address is given to another
    return Cost(counter.get_total_flops(), sum(kept.values()))


def sizes(experiment: Experiment) -> list[Size]:
    """Every derived size of an experiment, in the order of the parts. Runs one forward pass of one empty item."""
    settings, model = experiment.recipe.train.resolved(), experiment.model
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    spent = cost(*_forward(experiment))
    micro = settings.micro_batch or settings.batch
    return [
        *_data(experiment),
        *_tokens(experiment.tokenizer),
        *(_generator(experiment.generator, _states(experiment)) if experiment.generator is not None else ()),
        Size("parameters", parameters, "", "tokenizer" if experiment.generator is None else "condition, backbone, head"),
        Size("a picture, forward", spent.flops, "FLOP", "one pass, counted"),
        Size("training, all of it", 3.0 * spent.flops * settings.samples, "FLOP", "three passes a sample"),
        Size("training steps", math.ceil(settings.samples / settings.batch), "", "train"),
        Size("epochs", settings.samples / len(experiment.data), "", "train"),
        Size("memory, weights and optimizer", 4.0 * STATE_NUMBERS * parameters, "B", f"{STATE_NUMBERS} float32 numbers a parameter"),
        Size("memory, activations", float(spent.saved * micro), "B", f"one pass, counted, times {micro} pictures"),
    ]


def _data(experiment: Experiment) -> list[Size]:
    return [
        Size(f"training {experiment.data.kind.noun[1]}", len(experiment.data), "", "data"),
        Size(f"held-out {experiment.heldout.kind.noun[1]}", len(experiment.heldout), "", "data"),
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
        return [*grid, Size("numbers a position", layout.channels, "", "tokenizer")]
    return [
        *grid,
        Size("codebooks", layout.channels, "", "tokenizer"),
        Size("vocabulary", layout.vocabulary, "", "tokenizer"),
        Size("bits a picture", layout.bits, "bit", "tokenizer"),
        Size("bits a pixel", layout.bits / math.prod(tokenizer.media.size), "bit", "tokenizer"),
    ]


def _generator(model: Generator, states: int) -> list[Size]:
    plan, order = model.plan, model.order
    layout = plan.layout
    steps = sum(1 for start, stop in plan.spans for _ in order.steps(stop - start, None))
    told = f"{states} states of {model.condition.width}" if model.condition is not None else "none"
    return [
        Size("sampling steps", steps, "", "order"),
        Size("blocks", len(plan.spans), "", "order"),
        Size("condition, at most", told, "", "condition"),
        Size("cache a picture", model.backbone.cache_bytes(1, layout.positions, states), "B", "backbone, tokenizer, condition"),
    ]


def _states(experiment: Experiment) -> int:
    """Most states that the condition hands over: a text's length, one of a class."""
    if experiment.generator is None or experiment.generator.condition is None:
        return 0
    return int(getattr(experiment.generator.condition, "length", 1))


def _forward(experiment: Experiment) -> tuple[nn.Module, Callable[[], object]]:
    """A copy of the model in evaluation mode (so that the experiment stays as it is), and a forward pass of it with gradients."""
    model = copy.deepcopy(experiment.model).eval()
    if not isinstance(model, Generator):
        return model, lambda: model(torch.zeros(1, *experiment.media.shape))
    layout, states = model.plan.layout, _states(experiment)
    condition = None
    if model.condition is not None:
        given = torch.zeros(1, states, model.condition.width)
        condition = Conditioning(given, torch.ones(1, states, dtype=torch.bool), given[:, 0])
    values = torch.zeros(1, layout.positions, layout.channels, dtype=torch.long if layout.discrete else torch.float32)

    everything = torch.ones(1, layout.positions, dtype=torch.bool)

    def run() -> object:
        inputs = torch.zeros(1, layout.positions, model.backbone.width).requires_grad_()
        hidden = model.backbone(BackboneInputs(inputs, model.plan.coords, model.plan.blocks, condition, everything))
        if model.head.joint:
            spans = [slice(*span) for span in model.plan.spans]
            return [model.head.loss(hidden[:, s], values[:, s], model.plan.head_context(s, everything)) for s in spans]
        return model.head.loss(hidden.flatten(0, 1), values.flatten(0, 1))

    return model, run
