"""What heads of continuous tokens share when they draw a token in several evaluations of a small network (diffusion, flows).

A network (:mod:`jielong.networks.denoiser`) sees rows: noisy tokens ``(M, C)``, times, and what it prepared from the hidden vectors. Here
stands how rows are made of hidden vectors: in training each token gives several, with times and noise of their own, while the backbone
runs once (MAR, arXiv 2406.11838, section 3.2 and its "diffusion batch multiplier"); in sampling the conditional and the unconditional half
are one call.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from jielong.config.registry import OfFamily
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput, SamplingConfig
from jielong.networks.denoiser import MLP, AnyDenoiser, JointDenoiser, NetworkSettings


class Predict(Protocol):
    """The network at the noisy copies of a loss.

    Where the network is joint, a copy is a whole block, its ``n`` tokens one after the other: what is written ``C`` is then ``n C``, and
    outputs of several numbers a value keep them apart, as always: the first of all values come first.
    """

    def __call__(self, x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
        """Noisy tokens ``(m, C)`` and times ``(m, T)`` to predictions ``(m, outputs)``, in float32 at least.

        ``rows`` are the indices of the copies asked for, where it is not all of them.
        """


def check_continuous(head: str, layout: Layout) -> None:
    """Refuse a layout of codes.

    Raises:
        ValueError: if the tokens are discrete.
    """
    if layout.discrete:
        raise ValueError(f"a {head} head needs continuous tokens; this tokenizer's are codes: choose a head such as softmax")


def total(errors: Tensor, real: Tensor | None) -> Tensor:
    """The sum over the values, of those that are real: errors ``(M, C)`` and ``(M, C)`` bool to ``(M,)``."""
    return errors.sum(-1) if real is None else errors.masked_fill(~real, 0).sum(-1)


def mean(errors: Tensor, real: Tensor | None) -> Tensor:
    """The mean over the values that are real; see :func:`total`."""
    return errors.mean(-1) if real is None else total(errors, real) / real.sum(-1).clamp(min=1)


def widened(x: Tensor) -> Tensor:
    """In float32, or float64 where it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Evaluations:
    """The network at the tokens of one draw, to be called at any noisy tokens and times; guided, if there is anything to guide.

    The hidden vectors are prepared once. Guided, both halves read the same noisy tokens and are one call of twice the rows.

    Args:
        network: The network.
        hidden: Hidden vectors ``(B, n, D)``.
        context: Guidance, and for a joint network the positions' coordinates.
    """

    def __init__(self, network: AnyDenoiser, hidden: Tensor, context: HeadContext = NO_CONTEXT) -> None:
        self.network, self.shape = network, hidden.shape[:2]
        self.guidance, self.on_state = context.guidance, context.on_state
        null, mask = context.unconditional, context.mask
        self.joined = null is not None
        rows = hidden if null is None else torch.cat([hidden, null])
        self.prepared: Any
        if isinstance(network, JointDenoiser):
            self.prepared = network.prepare(rows, _coords(context), mask.repeat(2, 1) if self.joined and mask is not None else mask)
        else:
            self.prepared = network.prepare(rows.flatten(0, 1))

    def halves(self, x: Tensor, *times: float) -> tuple[Tensor, Tensor | None]:
        """The conditional and, where there is guidance, the unconditional prediction, each ``(B, n, outputs)`` in float32.

        Args:
            x: Noisy tokens ``(B, n, C)``.
            times: What the network takes, the same for all rows.
        """
        rows = x if isinstance(self.network, JointDenoiser) else x.flatten(0, 1)
        when = torch.tensor([times], dtype=x.dtype, device=x.device) if times else None
        out = widened(self.network.predict(torch.cat([rows, rows]) if self.joined else rows, when, self.prepared))
        conditional, null = out.chunk(2) if self.joined else (out, None)
        return conditional.reshape(*self.shape, -1), None if null is None else null.reshape(*self.shape, -1)

    def guide(self, conditional: Tensor, null: Tensor | None) -> Tensor:
        """``null + guidance (conditional - null)``."""
        return conditional if null is None else null + self.guidance * (conditional - null)

    def __call__(self, x: Tensor, *times: float) -> Tensor:
        """The guided prediction ``(B, n, outputs)`` in float32, for heads that guide all of it; see :meth:`halves`."""
        return self.guide(*self.halves(x, *times))


def _coords(context: HeadContext) -> Tensor:
    if context.coords is None:
        raise ValueError("a joint network draws the tokens of a block together and needs their coordinates: give HeadContext(coords=...)")
    return context.coords


class IterativeSettings(HeadSettings):
    """Settings that iterative heads share, for continuous tokens of unit standard deviation.

    Attributes:
        network: The network.
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
    """A head of continuous tokens whose network is evaluated several times a draw.

    A subclass says what one noisy copy of a token costs (:meth:`loss_of_copies`) and how noise becomes tokens (:meth:`draw`). With a joint
    network it becomes a joint head: a copy is a whole block with one time, and a draw has the correlations that the network has learned.

    Args:
        network: The network.
        layout: The tokens to predict.
        settings: See :class:`IterativeSettings`.

    Raises:
        ValueError: if the tokens are discrete.
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
        """Whether it draws all tokens of a block together: with a network that sees them together."""
        return isinstance(self.network, JointDenoiser)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Mean loss of the noisy copies of each token, ``(M,)``, or of each block, ``(B,)``; see :meth:`Head.loss`."""
        copies = self.diffusion_batch_mul
        if isinstance(self.network, JointDenoiser):
            each = self._loss_of_blocks(self.network, hidden, widened(targets), context)
        else:
            prepared = widened(self.network.prepare(hidden)).repeat(copies, 1)

            def predict(x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
                return widened(self.network.predict(x, times, prepared if rows is None else prepared[rows]))

            each = self.loss_of_copies(widened(targets).repeat(copies, 1), predict)
        return each.view(copies, -1).mean(0)

    def _loss_of_blocks(self, network: JointDenoiser[Any], hidden: Tensor, targets: Tensor, context: HeadContext) -> Tensor:
        """Losses of all copies of each block, of ``n C`` values each."""
        copies, shape = self.diffusion_batch_mul, targets.shape[1:]
        prepared, real = network.prepare(hidden, _coords(context), context.mask).repeat(copies), None
        if context.mask is not None:
            targets = targets.masked_fill(~context.mask[..., None], 0)
            real = context.mask[..., None].expand(targets.shape).flatten(1).repeat(copies, 1)

        def predict(x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
            out = network.predict(x.unflatten(-1, shape), times, prepared if rows is None else prepared.rows(rows))
            return widened(out).unflatten(-1, (-1, shape[1])).transpose(1, 2).flatten(1)  # (m, n, kinds C) to (m, kinds n C)

        return self.loss_of_copies(targets.flatten(1).repeat(copies, 1), predict, real)

    @abstractmethod
    def loss_of_copies(self, targets: Tensor, predict: Predict, real: Tensor | None = None) -> Tensor:
        """Loss of tokens ``(M, C)``, each with a time and noise of its own from torch's global generator, to ``(M,)``.

        Only values that are ``real``, ``(M, C)`` bool, count; all of them by default.
        """

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw tokens ``(B, n, C)``; there is no likelihood of a draw to be confident by. See :meth:`Head.sample` and :attr:`Head.joint`.

        Raises:
            ValueError: if top-k or top-p is asked for.
        """
        self.check_sampling(sampling)
        steps = sampling.num_inference_steps_at(context.known_fraction, self.steps)
        evaluate = Evaluations(self.network, hidden, context)
        return SampleOutput(self.draw(evaluate, rng, steps, sampling.temperature))

    @abstractmethod
    def draw(self, evaluate: Evaluations, rng: PerSampleRNG, steps: int, temperature: float) -> Tensor:
        """From noise to tokens ``(B, n, C)`` in so many steps.

        After each, ``evaluate.see`` is told of the state reached, in units of the tokens' standard deviation: mostly noise at first, the
        tokens in the end. Where a step takes two evaluations, what lies between is not told.
        """

    def initial(self, evaluate: Evaluations, rng: PerSampleRNG) -> Tensor:
        """Standard normal noise where a draw begins, ``(B, n, C)``; guided or not, it is the same."""
        return rng.normal(evaluate.shape[1], self.channels)
