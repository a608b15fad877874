"""Shared code of continuous heads that evaluate a small network several times per token (diffusion, flows).

The network (:mod:`jielong.networks.denoiser`) reads rows of noisy tokens ``(M, C)``, times and prepared hidden vectors. In training each
token gives several rows with their own times and noise, while the backbone runs once ("diffusion batch multiplier", MAR, arXiv 2406.11838,
section 3.2); in sampling the conditional and unconditional branches are one call.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from jielong.config.registry import OfFamily
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput, ignore_state
from jielong.networks.denoiser import MLP, AnyDenoiser, JointDenoiser, NetworkSettings


class Predict(Protocol):
    """The network with prepared hidden vectors, at the noisy copies of a loss.

    With a joint network a copy is a whole block of ``n`` tokens, so ``C`` is ``n C``. Outputs of several numbers per value are ordered by
    number first, then by value.
    """

    def __call__(self, x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
        """Predictions ``(m, outputs)`` for noisy tokens ``(m, C)``, times ``(m, T)`` and copies ``rows`` (all by default)."""


def check_continuous(head: str, layout: Layout) -> None:
    """Raises a ``ValueError`` if the tokens are discrete."""
    if layout.discrete:
        raise ValueError(f"a {head} head needs continuous tokens; this tokenizer's are codes: choose a head such as softmax")


def total(errors: Tensor, mask: Tensor | None) -> Tensor:
    """Sum over the values selected by ``mask`` ``(M, C)``: errors ``(M, C)`` to ``(M,)``."""
    return errors.sum(-1) if mask is None else errors.masked_fill(~mask, 0).sum(-1)


def mean(errors: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the values selected by ``mask``; see :func:`total`."""
    return errors.mean(-1) if mask is None else total(errors, mask) / mask.sum(-1).clamp(min=1)


def upcast(x: Tensor) -> Tensor:
    """Cast to float32, unless it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class GuidedDenoiser:
    """The network with classifier-free guidance, at the hidden vectors of one draw; they are prepared once.

    With guidance, both branches read the same noisy tokens in one call of twice the rows.

    ``hidden``: hidden vectors ``(B, n, D)``; ``context``: guidance, and for a joint network the positions' coordinates.
    """

    def __init__(self, network: AnyDenoiser, hidden: Tensor, context: HeadContext = NO_CONTEXT) -> None:
        self.network, self.shape = network, hidden.shape[:2]
        self.guidance, self.on_state = context.guidance, context.on_state
        null, mask = context.unconditional, context.mask
        self.joined = null is not None
        rows = hidden if null is None else torch.cat([hidden, null])
        self._predict: Callable[[Tensor, Tensor | None], Tensor]
        if isinstance(network, JointDenoiser):
            states = network.prepare(rows, _coords(context), mask.repeat(2, 1) if self.joined and mask is not None else mask)
            self._predict = lambda x, times: network.predict(x, times, states)
        else:
            flat = network.prepare(rows.flatten(0, 1))
            self._predict = lambda x, times: network.predict(x, times, flat)

    def branches(self, x: Tensor, *times: float) -> tuple[Tensor, Tensor | None]:
        """The conditional and, with guidance, the unconditional prediction ``(B, n, outputs)``, float32; ``times`` are for all rows."""
        rows = x if isinstance(self.network, JointDenoiser) else x.flatten(0, 1)
        when = torch.tensor([times], dtype=x.dtype, device=x.device) if times else None
        out = upcast(self._predict(torch.cat([rows, rows]) if self.joined else rows, when))
        conditional, null = out.chunk(2) if self.joined else (out, None)
        return conditional.reshape(*self.shape, -1), None if null is None else null.reshape(*self.shape, -1)

    def guide(self, conditional: Tensor, null: Tensor | None) -> Tensor:
        """``null + guidance (conditional - null)``."""
        return conditional if null is None else null + self.guidance * (conditional - null)

    def __call__(self, x: Tensor, *times: float) -> Tensor:
        """The guided prediction ``(B, n, outputs)`` in float32; see :meth:`branches`."""
        return self.guide(*self.branches(x, *times))


def _coords(context: HeadContext) -> Tensor:
    if context.coords is None:
        raise ValueError("a joint network draws the tokens of a block together and needs their coordinates: give HeadContext(coords=...)")
    return context.coords


class IterativeSettings(HeadSettings):
    """Settings that iterative heads share, for continuous tokens of unit standard deviation.

    Attributes:
        network: Network that is evaluated in every step.
        steps: Network evaluations per draw, unless ``num_inference_steps`` is given.
        diffusion_batch_mul: Noisy copies of each token in a loss; the backbone runs once for all of them.
    """

    network: Annotated[SerializeAsAny[NetworkSettings], OfFamily("network")] = MLP()
    steps: int = Field(ge=1)
    diffusion_batch_mul: int = Field(default=4, ge=1)

    def denoiser(self, width: int, layout: Layout, *, outputs: int = 1, times: int = 1) -> AnyDenoiser:
        """The network, which predicts ``outputs`` numbers per value and reads ``times`` scalars per row."""
        channels, axes = layout.channels, len(layout.extents)
        return self.network.build(inputs=channels, outputs=outputs * channels, hidden=width, times=times, axes=axes)


class IterativeHead(Head):
    """A head of continuous tokens whose network is evaluated several times a draw. Raises ``ValueError`` if the tokens are discrete.

    A subclass implements the loss of noisy copies (:meth:`loss_of_copies`) and the sampler (:meth:`draw`). With a joint network it is a
    joint head: a copy is a whole block with one time.
    """

    discrete = False
    iterative = True

    def __init__(self, network: AnyDenoiser, layout: Layout, settings: IterativeSettings) -> None:
        super().__init__()
        check_continuous(settings.name, layout)
        self.network, self.channels = network, layout.channels
        self.steps, self.diffusion_batch_mul = settings.steps, settings.diffusion_batch_mul

    @property
    def joint(self) -> bool:
        """See :attr:`Head.joint`: whether the network is joint."""
        return isinstance(self.network, JointDenoiser)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Mean loss of the noisy copies of each token, ``(M,)``, or of each block, ``(B,)``; see :meth:`Head.loss`."""
        copies, draws = self.diffusion_batch_mul, context.streams(hidden).copies(self.diffusion_batch_mul)
        if isinstance(self.network, JointDenoiser):
            each = self._loss_of_blocks(self.network, hidden, upcast(targets), context, draws)
        else:
            prepared = upcast(self.network.prepare(hidden)).repeat(copies, 1)

            def predict(x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
                return upcast(self.network.predict(x, times, prepared if rows is None else prepared[rows]))

            each = self.loss_of_copies(upcast(targets).repeat(copies, 1), draws, predict)
        return each.view(copies, -1).mean(0)

    def _loss_of_blocks(self, network: JointDenoiser[Any], hidden: Tensor, targets: Tensor, context: HeadContext, draws: Draws) -> Tensor:
        """Losses of all copies of each block, of ``n C`` values each."""
        copies, shape = self.diffusion_batch_mul, targets.shape[1:]
        prepared, mask = network.prepare(hidden, _coords(context), context.mask).repeat(copies), None
        if context.mask is not None:
            targets = targets.masked_fill(~context.mask[..., None], 0)
            mask = context.mask[..., None].expand(targets.shape).flatten(1).repeat(copies, 1)

        def predict(x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
            out = network.predict(x.unflatten(-1, shape), times, prepared if rows is None else prepared.rows(rows))
            return upcast(out).unflatten(-1, (-1, shape[1])).transpose(1, 2).flatten(1)  # (m, n, kinds C) to (m, kinds n C)

        return self.loss_of_copies(targets.flatten(1).repeat(copies, 1), draws, predict, mask)

    @abstractmethod
    def loss_of_copies(self, targets: Tensor, draws: Draws, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """Loss ``(M,)`` of tokens ``(M, C)``, over the values selected by ``mask``; times and noise come from ``draws``."""

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw tokens ``(B, n, C)``, without confidence; see :meth:`Head.sample`."""
        self.check_sampling(sampling)
        steps = sampling.num_inference_steps_at(context.known_fraction, self.steps)
        if not self.joint:  # only the states of whole blocks are reported
            context = replace(context, on_state=ignore_state)
        evaluate = GuidedDenoiser(self.network, hidden, context)
        return SampleOutput(self.draw(evaluate, rng, steps, sampling.temperature, sampling.sampler or ""))

    @abstractmethod
    def draw(self, evaluate: GuidedDenoiser, rng: PerSampleRNG, steps: int, temperature: float, sampler: str = "") -> Tensor:
        """From noise to tokens ``(B, n, C)`` in ``steps`` evaluations; ``evaluate.on_state`` receives each state, at unit deviation.

        ``sampler``: one of :attr:`Head.samplers`; empty for that of the settings.
        """

    def initial(self, evaluate: GuidedDenoiser, rng: PerSampleRNG) -> Tensor:
        """Standard normal noise, ``(B, n, C)``; the same with and without guidance."""
        return rng.normal(evaluate.shape[1], self.channels)
