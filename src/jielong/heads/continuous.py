"""Shared code of continuous heads that evaluate a small network several times per token (diffusion, flows).

The network (:mod:`jielong.networks.denoiser`) reads rows of noisy tokens ``(M, C)``, times and prepared hidden vectors. In training each
token gives several rows with their own times and noise, while the backbone runs once ("diffusion batch multiplier", MAR, arXiv 2406.11838,
section 3.2); in sampling the conditional and unconditional branches are one call.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, cast

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from jielong.config.registry import OfFamily
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput, ignore_state
from jielong.heads.scale_standard import ScaleStandard
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


T = TypeVar("T")


def upcast_states(states: T) -> T:
    """Prepared states, a dataclass of tensors, tuples and dataclasses, with all numbers cast by :func:`upcast`."""
    if isinstance(states, Tensor):
        return cast("T", upcast(states)) if states.is_floating_point() else states
    if isinstance(states, tuple):
        return cast("T", tuple(map(upcast_states, states)))
    if not is_dataclass(states) or isinstance(states, type):
        return states
    found = {each.name: getattr(states, each.name) for each in fields(states) if each.init}
    changed = {name: new for name, value in found.items() if (new := upcast_states(value)) is not value}
    return replace(states, **changed) if changed else states


class GuidedDenoiser:
    """The network with classifier-free guidance, at the hidden vectors of one draw; they are prepared once.

    With guidance, both branches read the same noisy tokens in one call of twice the rows, or in two where the second is a weaker model's
    (autoguidance); where the scale is 1, there is one branch.

    ``hidden``: hidden vectors ``(B, n, D)``; ``context``: guidance, and for a joint network the positions' coordinates.
    """

    def __init__(self, network: AnyDenoiser, hidden: Tensor, context: HeadContext = NO_CONTEXT) -> None:
        self.network, self.hidden, self.context, self.shape = network, hidden, context, hidden.shape[:2]
        self.on_state, self.null, self.source = context.on_state, context.unconditional, context.source
        self.joint = isinstance(network, JointDenoiser)

    def scale(self, share: float) -> float:
        """The scale where the noisy tokens are ``a x_0 + s e`` with the ``share`` ``a / (a + s)`` of signal."""
        return self.context.guidance if self.context.guidance_at is None else self.context.guidance_at(share)

    def branches(self, x: Tensor, *times: float, share: float = 0.0) -> tuple[Tensor, Tensor | None]:
        """The conditional and, with guidance, the unconditional prediction ``(B, n, outputs)``, float32; ``times`` are for all rows.

        With a scale for the source picture both are moved by what that adds (:meth:`HeadContext.beyond`), and so is what is guided.
        """
        rows = x if self.joint else x.flatten(0, 1)
        when = torch.tensor([times], dtype=x.dtype, device=x.device) if times else None
        if self.null is None or (self.scale(share) == 1.0 and self.context.blank is None):
            return self._shaped(self._conditional(rows, when)), None
        if self.context.weaker is not None:
            return self._shaped(self._conditional(rows, when)), self._shaped(self._weaker(rows, when))
        if self.context.blank is None:
            conditional, null = self._all(torch.cat([rows, rows]), when).chunk(2)
            return self._shaped(conditional), self._shaped(null)
        conditional, null, blank = map(self._shaped, self._all(torch.cat([rows, rows, rows]), when).chunk(3))
        added = self.context.beyond(null, blank)
        return conditional + added, null + added

    def guide(self, conditional: Tensor, null: Tensor | None, share: float = 0.0) -> Tensor:
        """``null + scale (conditional - null)``, rescaled (arXiv 2305.08891, equations 15 and 16)."""
        if null is None:
            return conditional
        guided, rescale = null + self.scale(share) * (conditional - null), self.context.rescale
        if rescale:
            guided = guided * (1 - rescale + rescale * self._deviation(conditional) / self._deviation(guided))
        return guided

    @property
    def strength(self) -> float:
        """:attr:`Source.strength`; 1 without a source."""
        return 1.0 if self.source is None else self.source.strength

    def steps(self, steps: int) -> int:
        """Of ``steps`` from noise to tokens those that an edit of this strength takes, as ``diffusers`` counts them, and at least one."""
        return max(1, round(self.strength * steps))

    def keeping(self, prediction: Tensor, exact: Callable[[Tensor], Tensor]) -> Tensor:
        """A prediction, with the exact one of the source's tokens ``(B, n, C)`` at those that are kept.

        So every sampler carries them along paths from noise to themselves, which is to replace them by their noised originals after each
        step (RePaint, arXiv 2201.09865), with the noise that they began with.
        """
        source = self.source
        return prediction if source is None else torch.where(source.kept[..., None], exact(source.values), prediction)

    def __call__(self, x: Tensor, *times: float, share: float = 0.0) -> Tensor:
        """The guided prediction ``(B, n, outputs)`` in float32; see :meth:`branches`."""
        return self.guide(*self.branches(x, *times, share=share), share)

    def _deviation(self, x: Tensor) -> Tensor:
        """Standard deviation of each block's values, ``(B, 1, 1)``."""
        if self.context.mask is None:
            return x.std(dim=(1, 2), keepdim=True)
        return torch.stack([block[real].std() for block, real in zip(x, self.context.mask, strict=True)])[:, None, None]

    def _shaped(self, out: Tensor) -> Tensor:
        return upcast(out).reshape(*self.shape, -1)

    @cached_property
    def _all(self) -> Prediction:
        """Of the conditional rows, those of the null, and with a scale for the source picture those without any condition."""
        context, null, mask = self.context, self.null, self.context.mask
        if null is None:
            return self._conditional
        hidden = [self.hidden, null, *([] if context.blank is None else [context.blank])]
        repeated = None if mask is None else mask.repeat(len(hidden), 1)
        return _prepared(self.network, torch.cat(hidden), replace(context, mask=repeated, condition=context.conditions))

    @cached_property
    def _conditional(self) -> Prediction:
        return _prepared(self.network, self.hidden, self.context)

    @cached_property
    def _weaker(self) -> Prediction:
        head, null = self.context.weaker, self.null
        if null is None or not isinstance(head, IterativeHead):
            raise ValueError("autoguidance compares with a head of the same kind")
        return _prepared(head.network, null, replace(self.context, condition=self.context.null_condition))


Prediction = Callable[[Tensor, Tensor | None], Tensor]
"""Noisy tokens and times to the network's output."""


def _prepared(network: AnyDenoiser, hidden: Tensor, context: HeadContext) -> Prediction:
    if isinstance(network, JointDenoiser):
        states = network.prepare(hidden, _coords(context), context.mask, context.condition)
        return lambda x, times: network.predict(x, times, states)
    flat = network.prepare(hidden.flatten(0, 1))
    return lambda x, times: network.predict(x, times, flat)


def _coords(context: HeadContext) -> Tensor:
    if context.coords is None:
        raise ValueError("a joint network draws the tokens of a block together and needs their coordinates: give HeadContext(coords=...)")
    return context.coords


def _scale(context: HeadContext) -> int:
    """The scale of a block of tokens that have several: the first of their coordinates."""
    return int(_coords(context)[0, 0])


def _standardised(context: HeadContext, standard: ScaleStandard) -> HeadContext:
    """The context of tokens at deviation 1; states are reported as they are restored."""
    scale, source, report = _scale(context), context.source, context.on_state
    if source is not None:
        source = replace(source, values=standard.standardised(upcast(source.values), scale))
    return replace(context, source=source, on_state=lambda state: report(standard.restored(state, scale)))


class IterativeSettings(HeadSettings):
    """Settings that iterative heads share, for continuous tokens of unit standard deviation.

    Attributes:
        network: Network that is evaluated in every step.
        steps: Network evaluations per draw, unless ``num_inference_steps`` is given.
        diffusion_batch_mul: Noisy copies of each token in a loss; the backbone runs once for all of them.
        standardize: ``scale``: a joint network reads and predicts the tokens of each scale at mean 0 and deviation 1 of every channel, as
            measured on training tokens before training. By default they stay as the tokenizer gives them.
    """

    gives_confidence: ClassVar[bool] = False
    meaning: ClassVar[tuple[str, ...]] = ()
    """Settings on which the meaning of the network's inputs and outputs depends."""
    network: Annotated[SerializeAsAny[NetworkSettings], OfFamily("network")] = MLP()
    steps: int = Field(ge=1)
    diffusion_batch_mul: int = Field(default=4, ge=1)
    standardize: Literal["scale"] | None = None

    def denoiser(self, width: int, layout: Layout, condition_width: int | None, *, outputs: int = 1, times: int = 1) -> AnyDenoiser:
        """The network, which predicts ``outputs`` numbers per value and reads ``times`` scalars per row; see :meth:`build`."""
        channels, axes = layout.channels, len(layout.extents)
        return self.network.build(
            inputs=channels, outputs=outputs * channels, hidden=width, times=times, axes=axes, condition=condition_width
        )


class IterativeHead(Head):
    """A head of continuous tokens whose network is evaluated several times a draw. Raises ``ValueError`` if the tokens are discrete.

    A subclass implements the loss of noisy copies (:meth:`loss_of_copies`) and the sampler (:meth:`draw`). With a joint network it is a
    joint head: a copy is a whole block with one time.
    """

    discrete = False
    iterative = True
    guides_inside = True
    guides_twice = True

    def __init__(self, network: AnyDenoiser, layout: Layout, settings: IterativeSettings) -> None:
        super().__init__()
        check_continuous(settings.name, layout)
        self.network, self.channels = network, layout.channels
        self.steps, self.diffusion_batch_mul = settings.steps, settings.diffusion_batch_mul
        self.meaning = {name: getattr(settings, name) for name in settings.meaning}
        if settings.standardize is not None and not self.joint:
            raise ValueError(
                f"head.{settings.name}.standardize: scale is of networks that draw a scale as one, and this one draws token by token: "
                "leave it out, or take the network dit"
            )
        self.standard = None if settings.standardize is None else ScaleStandard(settings.name, layout)

    @property
    def joint(self) -> bool:
        """See :attr:`Head.joint`: whether the network is joint."""
        return isinstance(self.network, JointDenoiser)

    @property
    def relative(self) -> bool:
        """See :attr:`Head.relative`: whether the network is."""
        return not isinstance(self.network, JointDenoiser) or self.network.relative

    @property
    def measures(self) -> bool:
        """See :attr:`Head.measures`: whether tokens are standardised."""
        return self.standard is not None

    def measure(self, tokens: Iterable[Tokens]) -> None:
        """Measure mean and deviation of each scale."""
        if self.standard is not None:
            self.standard.measure(tokens)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Mean loss of the noisy copies of each token, ``(M,)``, or of each block, ``(B,)``; see :meth:`Head.loss`."""
        copies, draws = self.diffusion_batch_mul, context.streams(hidden).copies(self.diffusion_batch_mul)
        if isinstance(self.network, JointDenoiser):
            targets = upcast(targets)
            if self.standard is not None:
                targets = self.standard.standardised(targets, _scale(context))
            each = self._loss_of_blocks(self.network, hidden, targets, context, draws)
        else:
            prepared = upcast(self.network.prepare(hidden)).repeat(copies, 1)

            def predict(x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
                return upcast(self.network.predict(x, times, prepared if rows is None else prepared[rows]))

            each = self.loss_of_copies(upcast(targets).repeat(copies, 1), draws, predict)
        return each.view(copies, -1).mean(0)

    def _loss_of_blocks(self, network: JointDenoiser[Any], hidden: Tensor, targets: Tensor, context: HeadContext, draws: Draws) -> Tensor:
        """Losses of all copies of each block, of ``n C`` values each."""
        copies, shape = self.diffusion_batch_mul, targets.shape[1:]
        prepared, mask = network.prepare(hidden, _coords(context), context.mask, context.condition).repeat(copies), None
        if context.mask is not None:
            targets = targets.masked_fill(~context.mask[..., None], 0)
        if (predicted := context.mask if context.predicted is None else context.predicted) is not None:
            mask = predicted[..., None].expand(targets.shape).flatten(1).repeat(copies, 1)

        def predict(x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
            states = prepared if torch.is_autocast_enabled(x.device.type) else upcast_states(prepared)
            out = network.predict(x.unflatten(-1, shape), times, states if rows is None else states.rows(rows))
            return upcast(out).unflatten(-1, (-1, shape[1])).transpose(1, 2).flatten(1)  # (m, n, kinds C) to (m, kinds n C)

        return self.loss_of_copies(targets.flatten(1).repeat(copies, 1), draws, predict, mask)

    def check_weaker(self, other: Head) -> None:
        """See :meth:`Head.check_weaker`: both are joint, of one kind, and what their networks predict is the same."""
        if not self.joint or not other.joint:
            super().check_weaker(other)
        if not isinstance(other, type(self)):
            raise ValueError(f"autoguidance compares predictions of one kind, not of a {type(self).__name__} and a {type(other).__name__}")
        for name, value in self.meaning.items():
            if (weaker := other.meaning[name]) != value:
                raise ValueError(f"autoguidance compares predictions of one kind: {name} is {value}, and {weaker} in the weaker model")

    @abstractmethod
    def loss_of_copies(self, targets: Tensor, draws: Draws, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """Loss ``(M,)`` of tokens ``(M, C)``, over the values selected by ``mask``; times and noise come from ``draws``."""

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw tokens ``(B, n, C)``, without confidence; see :meth:`Head.sample`."""
        self.check_sampling(sampling)
        steps = sampling.num_inference_steps_at(context.known_fraction, self.steps)
        if not self.joint:  # only the states of whole blocks are reported, and only their noise is of all tokens
            context = replace(context, on_state=ignore_state, guidance_at=None)
        standard = self.standard
        if standard is not None:
            context = _standardised(context, standard)
        drawn = self.draw(GuidedDenoiser(self.network, hidden, context), rng, steps, sampling.temperature, sampling.sampler or "")
        return SampleOutput(drawn if standard is None else standard.restored(drawn, _scale(context)))

    @abstractmethod
    def draw(self, evaluate: GuidedDenoiser, rng: PerSampleRNG, steps: int, temperature: float, sampler: str = "") -> Tensor:
        """From noise to tokens ``(B, n, C)`` in ``steps`` evaluations; ``evaluate.on_state`` receives each state, at unit deviation.

        ``sampler``: one of :attr:`Head.samplers`; empty for that of the settings.
        """

    def initial(self, evaluate: GuidedDenoiser, rng: PerSampleRNG) -> Tensor:
        """Standard normal noise, ``(B, n, C)``; the same with and without guidance."""
        return rng.normal(evaluate.shape[1], self.channels)
