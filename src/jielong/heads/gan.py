"""GAN: a network maps noise and the condition to all tokens of an item in one evaluation, against a discriminator (arXiv 1406.2661).

``s_x`` and ``s_g`` are the discriminator's logits of real tokens ``x`` and generated ones ``g`` with the item's condition, ``s_w`` and
``s_v`` those of ``x`` and ``g`` with the condition of another item (matching-aware: GAN-CLS, arXiv 1605.05396):

    non_saturating  D: (softplus(-s_x) + M(softplus(s_g), softplus(s_w), softplus(s_v))) / 2      G: softplus(-s_g)
    hinge           D: (relu(1 - s_x) + M(relu(1 + s_g), relu(1 + s_w), relu(1 + s_v))) / 2       G: -s_g
    relativistic    D: M(softplus(s_g - s_x), softplus(s_w - s_x), softplus(s_v - s_x))           G: softplus(s_x - s_g)

``M`` is the mean with weights 1, ``mismatched`` and ``mismatched_generated``. To the discriminator's loss are added
``r1 / 2 |grad_x s_x|^2`` and ``r2 / 2 |grad_g s_g|^2`` (R1: arXiv 1801.04406; relativistic with both: R3GAN, arXiv 2501.05441). All is of
each item alone: a generated item is paired with the real one of its condition.

Of clips there may be a second discriminator, of single frames (arXiv 1707.04993, 1907.06571): its losses, the mean over the frames that it
reads of an item, are added to those of the first for both sides, with the same penalties and the same mismatched conditions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, SerializeAsAny, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import OfFamily
from jielong.core.medium import ALONG_FRAMES
from jielong.core.phases import MAIN
from jielong.core.rng import Draws
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, HeadContext
from jielong.heads.whole_block import WholeBlockHead, WholeBlockSettings
from jielong.losses.adversarial import generator_loss_of, gradient_penalty, loss_of_fake, loss_of_real
from jielong.networks.conditioning import Conditioning
from jielong.networks.vector_residual import ResidualFromTokens
from jielong.networks.vectors import BlockSizes, PooledCondition, VectorEncoderSettings

DISCRIMINATOR = "discriminator"
"""The phase of the discriminator."""
WON = 0.01
"""A loss below it, in nats or margins: the discriminator separates nearly all generated items from real ones."""


class Discriminator(nn.Module):
    """Tokens ``(B, n, C)`` and a condition to a logit, ``(B,)``; positive means "real, and of this condition"."""

    def __init__(self, settings: GAN, sizes: BlockSizes, encoder: VectorEncoderSettings | None = None) -> None:
        super().__init__()
        self.encoder = (encoder or settings.discriminator).build(sizes)
        width, features, concatenated = settings.condition, self.encoder.features, settings.reads == "concatenation"
        self.pooled = None if sizes.condition is None else PooledCondition(sizes.condition, width)
        self.projection, self.joined = None, None
        if self.pooled is not None:
            self.projection = None if concatenated else nn.Linear(width, features, bias=False)
            self.joined = nn.Linear(features + width, features) if concatenated else None
        self.logit = nn.Linear(features, 1)
        self.frames: Discriminator | None = None
        if encoder is None and settings.frame_discriminator is not None:
            self.frames = Discriminator(settings, replace(sizes, grid=sizes.grid[1:]), settings.frame_discriminator)

    def forward(self, tokens: Tensor, condition: Conditioning | None) -> Tensor:
        """``logits(encoder(tokens), vector(condition))``."""
        return self.logits(self.encoder(tokens), self.vector(condition))

    def vector(self, condition: Conditioning | None) -> Tensor | None:
        """A condition as one vector, without a gradient to it. Raises ``ValueError`` if it is missing."""
        if self.pooled is None:
            return None
        if condition is None:
            raise ValueError("the discriminator reads a condition: give HeadContext(condition=...)")
        alone = replace(condition, states=condition.states.detach(), pooled=condition.pooled.detach(), aligned_states=None)
        vector: Tensor = self.pooled(alone)
        return vector

    def logits(self, features: Tensor, vector: Tensor | None) -> Tensor:
        """``w f + (V c) f / sqrt(F)`` (projection, arXiv 1802.05637), or a hidden layer over both (concatenation)."""
        if vector is not None and self.joined is not None:
            features = F.leaky_relu(self.joined(torch.cat([features, vector], 1)), 0.2)
        logits: Tensor = self.logit(features)[:, 0]
        if vector is not None and self.projection is not None:
            logits = logits + (self.projection(vector) * features).sum(1) / math.sqrt(features.shape[1])
        return logits


@dataclass(frozen=True)
class Critic:
    """A discriminator and the pieces of each item that it reads: the whole, or some frames; ``B K`` pieces of ``K`` frames.

    Attributes:
        network: The discriminator.
        name: Of its figures.
        chosen: The frames, ``(B, K)`` long; ``None`` for the whole.
        count: Frames of an item.
    """

    network: Discriminator
    name: str
    chosen: Tensor | None = None
    count: int = 1

    def pieces(self, tokens: Tensor) -> Tensor:
        """``(B, n, C)`` to ``(B K, m, C)``."""
        if self.chosen is None:
            return tokens
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        return tokens.unflatten(1, (self.count, -1))[rows, self.chosen].flatten(0, 1)

    def repeated(self, x: Tensor) -> Tensor:
        """What belongs to items, ``(B, ...)``, for their pieces, ``(B K, ...)``."""
        return x if self.chosen is None else x.repeat_interleave(self.chosen.shape[1], 0)

    def mean(self, each: Tensor) -> Tensor:
        """Numbers of pieces ``(B K,)`` to their means over each item, ``(B,)``."""
        return each if self.chosen is None else each.view(self.chosen.shape).mean(1)

    def vector(self, condition: Conditioning | None) -> Tensor | None:
        """The condition's vector for all pieces; see :meth:`Discriminator.vector`."""
        vector = self.network.vector(condition)
        return None if vector is None else self.repeated(vector)


class GAN(WholeBlockSettings, family="head", name="gan"):
    """Settings of the GAN head, for continuous tokens and the order at_once.

    Attributes:
        discriminator: Network from all tokens to the features of a logit.
        loss: ``non_saturating``, ``hinge`` or ``relativistic``.
        r1: Weight of the gradient penalty at real tokens; it depends on how many numbers an item has.
        r2: Weight of the gradient penalty at generated tokens.
        mismatched: Weight of real tokens with another item's condition, as wrong as generated ones.
        mismatched_generated: Weight of generated tokens with another item's condition.
        mismatches: Conditions of other items that an item is compared with, of which the mean counts.
        reads: How the discriminator reads the condition: ``projection`` or ``concatenation``.
        condition: Numbers of the vector that it reduces the condition to.
        frame_discriminator: Of clips, network of a second discriminator, which reads single frames; none by default.
        frames: How many frames of a clip, drawn at random at each step, the second discriminator reads; all by default.
    """

    discriminator: Annotated[SerializeAsAny[VectorEncoderSettings], OfFamily("vector_encoder")] = ResidualFromTokens()
    loss: Literal["non_saturating", "hinge", "relativistic"] = "relativistic"
    r1: NonNegativeFloat = 1.0
    r2: NonNegativeFloat = 1.0
    mismatched: NonNegativeFloat = 0.0
    mismatched_generated: NonNegativeFloat = 0.0
    mismatches: int = Field(default=1, ge=1)
    reads: Literal["projection", "concatenation"] = "projection"
    condition: int = Field(default=128, ge=8)
    frame_discriminator: Annotated[SerializeAsAny[VectorEncoderSettings], OfFamily("vector_encoder")] | None = None
    frames: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _frames_of_a_discriminator(self) -> Self:
        if self.frames is not None and self.frame_discriminator is None:
            raise ValueError(
                f"frames: {self.frames} is of a second discriminator, and there is none: add frame_discriminator, or remove it"
            )
        return self

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> GANHead:
        """See :meth:`HeadSettings.build`."""
        if condition_width is None and (self.mismatched or self.mismatched_generated):
            raise ValueError("gan: mismatched compares conditions, and this recipe has none: add condition, or set mismatched to 0")
        if self.frame_discriminator is not None:
            if layout.axes != ALONG_FRAMES:
                raise ValueError(f"gan: frame_discriminator reads frames of clips, and these tokens have {layout.describe()}: remove it")
            if self.frames is not None and self.frames > layout.grid[0]:
                raise ValueError(f"gan: frames: clips have {layout.grid[0]} frames, not {self.frames}: leave it out to read all")
        return GANHead(self.sizes(width, layout, condition_width), self)


class GANHead(WholeBlockHead):
    """Samples all tokens of an item in one evaluation, without likelihood; see :mod:`jielong.heads.gan`."""

    loss_ranks_weights = False  # the discriminator moves

    def __init__(self, sizes: BlockSizes, settings: GAN) -> None:
        super().__init__(settings.generator.build(settings.noise, sizes))
        self.discriminator, self.settings = Discriminator(settings, sizes), settings
        self.clip = sizes.grid[0]  # frames, where the tokens are a clip
        self.mismatches = settings.mismatches if settings.mismatched or settings.mismatched_generated else 0

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        """The discriminator's."""
        return {DISCRIMINATOR: self.discriminator}

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """The loss of each item ``(B,)`` in a phase: the generator's, or the discriminator's with its penalties."""
        main, draws = context.phase == MAIN, context.streams(hidden)
        noise = draws.normal(2, self.generator.size)[:, 0 if main else 1]
        with torch.set_grad_enabled(main and torch.is_grad_enabled()):
            fake = self.decode(noise, hidden, context)
        real = targets.detach().to(fake.dtype)
        side = self._generate if main else self._discriminate
        with torch.autocast(fake.device.type, enabled=False):
            losses = [side(critic, real, fake, context) for critic in self._critics(draws, main)]
        return losses[0] if len(losses) == 1 else losses[0] + losses[1]

    def _critics(self, draws: Draws, main: bool) -> list[Critic]:
        """The discriminators with what they read; random frames are others in each phase."""
        whole = Critic(self.discriminator, "discriminator")
        if self.discriminator.frames is None:
            return [whole]
        keys = draws.uniform(2, self.clip)[:, 0 if main else 1]
        chosen = keys.argsort(1)[:, : self.settings.frames or self.clip]
        return [whole, Critic(self.discriminator.frames, "frame_discriminator", chosen, self.clip)]

    @property
    def _kind(self) -> Literal["non_saturating", "hinge"]:
        return "hinge" if self.settings.loss == "hinge" else "non_saturating"

    def _generate(self, critic: Critic, real: Tensor, fake: Tensor, context: HeadContext) -> Tensor:
        """The generator's loss against a discriminator."""
        network, paired = critic.network, self.settings.loss == "relativistic"
        logits = network.logits(network.encoder(critic.pieces(fake)), critic.vector(context.condition))
        if not paired and self.training:
            return critic.mean(generator_loss_of(logits, self._kind))
        with torch.no_grad():
            of_real = network.logits(network.encoder(critic.pieces(real)), critic.vector(context.condition))
        if not self.training:
            context.on_figure(f"{critic.name}_real", critic.mean(of_real))
            context.on_figure(f"{critic.name}_fake", critic.mean(logits.detach()))
        return critic.mean(F.softplus(of_real - logits) if paired else generator_loss_of(logits, self._kind))

    def _discriminate(self, critic: Critic, real: Tensor, fake: Tensor, context: HeadContext) -> Tensor:
        """A discriminator's loss of real and generated tokens."""
        settings, score = self.settings, critic.network
        real = critic.pieces(real).detach().requires_grad_(settings.r1 > 0)
        fake = critic.pieces(fake).detach().requires_grad_(settings.r2 > 0)
        vector, of_real, of_fake = critic.vector(context.condition), score.encoder(real), score.encoder(fake)
        logits, of_wrong = score.logits(of_real, vector), score.logits(of_fake, vector)

        def figure(name: str, each: Tensor) -> None:
            context.on_figure(f"{critic.name}_{name}", critic.mean(each.detach()))

        figure("real", logits)
        figure("fake", of_wrong)
        loss = self._against(logits, of_wrong)
        figure("adversarial", loss)
        if self.mismatches:
            loss = self._mismatched(critic, loss, logits, of_real, of_fake, context)
        for name, strength, tokens, each in (("r1", settings.r1, real, logits), ("r2", settings.r2, fake, of_wrong)):
            if strength:
                penalty = gradient_penalty(each, tokens)
                figure(name, penalty)
                loss = loss + strength / 2 * penalty
        return critic.mean(loss)

    def _mismatched(self, critic: Critic, loss: Tensor, logits: Tensor, real: Tensor, fake: Tensor, context: HeadContext) -> Tensor:
        """The weighted mean of a loss and those of features with conditions of other items; items without one keep theirs."""
        if context.mismatch is None:
            raise ValueError("gan: mismatched compares conditions of different items: give HeadContext(mismatch=...)")
        vectors, paired = critic.network.vector(context.mismatch.condition), critic.repeated(context.mismatch.paired.to(loss))
        if vectors is not None:
            vectors = critic.repeated(vectors.unflatten(0, (-1, self.mismatches))).flatten(0, 1)
        settings, total = self.settings, torch.ones_like(loss)
        for name, features, weight in (("real", real, settings.mismatched), ("fake", fake, settings.mismatched_generated)):
            if weight:
                wrong = critic.network.logits(features.repeat_interleave(self.mismatches, 0), vectors).view_as(paired)
                context.on_figure(f"{critic.name}_mismatched_{name}", critic.mean(wrong.detach().mean(1)))
                loss = loss + weight * (self._against(logits[:, None], wrong) * paired).mean(1)
                total = total + weight * paired.mean(1)
        return loss / total

    def _against(self, real: Tensor, wrong: Tensor) -> Tensor:
        """The discriminator's loss of a right pair's logits against a wrong one's."""
        if self.settings.loss == "relativistic":
            return F.softplus(wrong - real)
        return (loss_of_real(real, self._kind) + loss_of_fake(wrong, self._kind)) / 2

    def advice(self, figures: Mapping[str, float]) -> str | None:
        """See :meth:`Head.advice`."""
        won = [name for name in ("discriminator", "frame_discriminator") if figures.get(f"{name}_adversarial", math.inf) < WON]
        if not won:
            return None
        return (
            f"the {won[0].replace('_', ' ')} separates nearly all generated items from real ones, and the generator learns little from it: "
            "raise head.gan.r1 and r2, take a smaller discriminator, or loss: relativistic"
        )
