"""GAN: a network maps noise and the condition to all tokens of an item in one evaluation, against a discriminator (arXiv 1406.2661).

``s_x`` and ``s_g`` are the discriminator's logits of real tokens ``x`` and generated ones ``g`` with the item's condition, ``s_w`` and
``s_v`` those of ``x`` and ``g`` with the condition of another item (matching-aware: GAN-CLS, arXiv 1605.05396):

    non_saturating  D: (softplus(-s_x) + M(softplus(s_g), softplus(s_w), softplus(s_v))) / 2      G: softplus(-s_g)
    hinge           D: (relu(1 - s_x) + M(relu(1 + s_g), relu(1 + s_w), relu(1 + s_v))) / 2       G: -s_g
    relativistic    D: M(softplus(s_g - s_x), softplus(s_w - s_x), softplus(s_v - s_x))           G: softplus(s_x - s_g)

``M`` is the mean with weights 1, ``mismatched`` and ``mismatched_generated``. To the discriminator's loss are added
``r1 / 2 |grad_x s_x|^2`` and ``r2 / 2 |grad_g s_g|^2`` (R1: arXiv 1801.04406; relativistic with both: R3GAN, arXiv 2501.05441). All is of
each item alone: a generated item is paired with the real one of its condition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, SerializeAsAny
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import OfFamily
from jielong.core.phases import MAIN
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

    def __init__(self, settings: GAN, sizes: BlockSizes) -> None:
        super().__init__()
        self.encoder = settings.discriminator.build(sizes)
        width, features, concatenated = settings.condition, self.encoder.features, settings.reads == "concatenation"
        self.pooled = None if sizes.condition is None else PooledCondition(sizes.condition, width)
        self.projection, self.joined = None, None
        if self.pooled is not None:
            self.projection = None if concatenated else nn.Linear(width, features, bias=False)
            self.joined = nn.Linear(features + width, features) if concatenated else None
        self.logit = nn.Linear(features, 1)

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

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> GANHead:
        """See :meth:`HeadSettings.build`."""
        if condition_width is None and (self.mismatched or self.mismatched_generated):
            raise ValueError("gan: mismatched compares conditions, and this recipe has none: add condition, or set mismatched to 0")
        return GANHead(self.sizes(width, layout, condition_width), self)


class GANHead(WholeBlockHead):
    """Samples all tokens of an item in one evaluation, without likelihood; see :mod:`jielong.heads.gan`."""

    loss_ranks_weights = False  # the discriminator moves

    def __init__(self, sizes: BlockSizes, settings: GAN) -> None:
        super().__init__(settings.generator.build(settings.noise, sizes))
        self.discriminator, self.settings = Discriminator(settings, sizes), settings
        self.mismatches = settings.mismatches if settings.mismatched or settings.mismatched_generated else 0

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        """The discriminator's."""
        return {DISCRIMINATOR: self.discriminator}

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """The loss of each item ``(B,)`` in a phase: the generator's, or the discriminator's with its penalties."""
        main, discriminator = context.phase == MAIN, self.discriminator
        noise = context.streams(hidden).normal(2, self.generator.size)[:, 0 if main else 1]
        with torch.set_grad_enabled(main and torch.is_grad_enabled()):
            fake = self.decode(noise, hidden, context)
        real = targets.detach().to(fake.dtype)
        with torch.autocast(fake.device.type, enabled=False):
            if not main:
                return self._discriminate(real, fake, context)
            logits, paired = discriminator(fake, context.condition), self.settings.loss == "relativistic"
            if not paired and self.training:
                return generator_loss_of(logits, self._kind)
            with torch.no_grad():
                of_real = discriminator(real, context.condition)
            if not self.training:
                context.on_figure("discriminator_real", of_real)
                context.on_figure("discriminator_fake", logits.detach())
            return F.softplus(of_real - logits) if paired else generator_loss_of(logits, self._kind)

    @property
    def _kind(self) -> Literal["non_saturating", "hinge"]:
        return "hinge" if self.settings.loss == "hinge" else "non_saturating"

    def _discriminate(self, real: Tensor, fake: Tensor, context: HeadContext) -> Tensor:
        """The discriminator's loss of real and generated tokens."""
        settings, score = self.settings, self.discriminator
        real, fake = real.requires_grad_(settings.r1 > 0), fake.detach().requires_grad_(settings.r2 > 0)
        vector, of_real, of_fake = score.vector(context.condition), score.encoder(real), score.encoder(fake)
        logits, of_wrong = score.logits(of_real, vector), score.logits(of_fake, vector)
        context.on_figure("discriminator_real", logits.detach())
        context.on_figure("discriminator_fake", of_wrong.detach())
        loss = self._against(logits, of_wrong)
        context.on_figure("discriminator_adversarial", loss.detach())
        if self.mismatches:
            loss = self._mismatched(loss, logits, of_real, of_fake, context)
        for name, strength, tokens, each in (("r1", settings.r1, real, logits), ("r2", settings.r2, fake, of_wrong)):
            if strength:
                penalty = gradient_penalty(each, tokens)
                context.on_figure(f"discriminator_{name}", penalty.detach())
                loss = loss + strength / 2 * penalty
        return loss

    def _mismatched(self, loss: Tensor, logits: Tensor, real: Tensor, fake: Tensor, context: HeadContext) -> Tensor:
        """The weighted mean of a loss and those of features with conditions of other items; items without one keep theirs."""
        if context.mismatch is None:
            raise ValueError("gan: mismatched compares conditions of different items: give HeadContext(mismatch=...)")
        vectors, paired = self.discriminator.vector(context.mismatch.condition), context.mismatch.paired.to(loss)
        settings, total = self.settings, torch.ones_like(loss)
        for name, features, weight in (("real", real, settings.mismatched), ("fake", fake, settings.mismatched_generated)):
            if weight:
                wrong = self.discriminator.logits(features.repeat_interleave(self.mismatches, 0), vectors).view_as(paired)
                context.on_figure(f"discriminator_mismatched_{name}", wrong.detach().mean(1))
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
        if figures.get("discriminator_adversarial", math.inf) >= WON:
            return None
        return (
            "the discriminator separates nearly all generated items from real ones, and the generator learns little from it: raise "
            "head.gan.r1 and r2, take a smaller discriminator, or loss: relativistic"
        )
