"""How many network evaluations one item takes, counted while it is drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from jielong.config.sampling import SamplingConfig
from jielong.core.json import JSON
from jielong.generation.generator import Generator
from jielong.heads.base import Head
from jielong.networks.identity import Identity
from jielong.system import System
from jielong.system.inputs import gather, stage_names

PARTS = ("network", "generator", "depth", "flow")
"""Names of the networks of heads that are no denoisers: of an energy head, of a GAN or VAE, of a depth transformer, of a coupling flow."""
METHODS = ("predict", "inverse", "step", "forward")
"""What heads call of a network in sampling: the first that it has."""


@dataclass
class Evaluations:
    """Passes of networks for one item, of all stages of a cascade; under guidance the passes of each half count.

    Attributes:
        backbone: Of the backbone, whether it computes all positions or, with a cache, one; 0 where there is none.
        head: Of the network inside the head, for all the tokens that a step draws together; 0 for heads of a linear map. An inverse of a
            flow counts as one.
    """

    backbone: int = 0
    head: int = 0

    def to_json(self) -> JSON:
        """Both numbers."""
        return {"backbone": self.backbone, "head": self.head}


def count_evaluations(
    system: System,
    condition: object | None,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    given: Mapping[str, object] | None = None,
) -> Evaluations:
    """Draw one item of a generator, and count on the way.

    Args:
        system: A generator; that of its autoguidance counts too.
        condition: A raw value of its condition; ``None`` without one.
        sampling: Sampling parameters; the recipe's by default. Those of earlier stages are their own.
        seed: Of the random numbers.
        given: In place of ``condition`` the inputs of a call by keyword, of one item: then earlier stages are drawn of them, and count.
    """
    found = Evaluations()
    with contextlib.ExitStack() as stack:
        for model in _generators(system):
            stack.enter_context(_counting(model.backbone, model.head, found))
        if given is not None:
            condition = first_of(gather(system, given, None if given else 1, seed).conditions)
        system.generate_tokens(None if condition is None else [condition], 1, sampling=sampling, seed=seed)
    return found


def _generators(system: System) -> Iterator[Generator]:
    """That of a system, of its autoguidance, and of its earlier stages."""
    for each in (system, system.weaker):
        if each is not None and each.generator is not None:
            yield each.generator
    for name in stage_names(system.recipe):
        yield from _generators(system.stages[name])


@contextlib.contextmanager
def _counting(backbone: nn.Module, head: Head, found: Evaluations) -> Iterator[None]:
    """Count the passes of a backbone and a head."""

    def of_backbone(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.backbone += len(inputs[0].embeddings)

    with contextlib.ExitStack() as stack:
        if not isinstance(backbone, Identity):
            stack.callback(backbone.register_forward_pre_hook(of_backbone).remove)
        for each in (module for module in head.modules() if isinstance(module, Head)):
            stack.enter_context(_counting_head(each, found))
        yield


@contextlib.contextmanager
def _counting_head(head: Head, found: Evaluations) -> Iterator[None]:
    """Count the passes of the networks that a head holds itself."""
    rows = 1  # of one half: blocks of a joint head, tokens of others

    def of_head(sample: Callable[..., object], hidden: Tensor, *rest: object, **named: object) -> object:
        nonlocal rows
        rows = len(hidden) if head.joint else hidden.shape[:-1].numel()
        return sample(hidden, *rest, **named)

    def of_network(call: Callable[..., object], *given: object, **named: object) -> object:
        first = given[0]  # noisy tokens, noise, or hidden vectors: of both halves under guidance
        found.head += -(-len(first) // rows) if isinstance(first, Tensor) else 1
        return call(*given, **named)

    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(head, "sample", partial(of_head, head.sample)))
        for network in (getattr(head, name) for name in PARTS if isinstance(getattr(head, name, None), nn.Module)):
            method = next(name for name in METHODS if hasattr(network, name))
            stack.enter_context(_replaced(network, method, partial(of_network, getattr(network, method))))
        yield


@contextlib.contextmanager
def _replaced(module: nn.Module, name: str, function: Callable[..., object]) -> Iterator[None]:
    """A module with another method."""
    vars(module)[name] = function
    try:
        yield
    finally:
        del vars(module)[name]


def first_of(conditions: Sequence[object] | None) -> object | None:
    """The first condition; ``None`` without any."""
    return None if conditions is None else conditions[0]
