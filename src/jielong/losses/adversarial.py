"""Adversarial loss: alike means that a discriminator cannot tell (VQGAN: Esser et al., arXiv 2012.09841)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from jielong.core.medium import ALONG_ROWS, Axes
from jielong.losses.base import LossSettings
from jielong.losses.regression import same_shape
from jielong.networks.discriminator import Norm, PatchDiscriminator

Kind = Literal["hinge", "non_saturating"]


def discriminator_objective(real: Tensor, fake: Tensor, kind: Kind) -> Tensor:
    """What the discriminator minimises, from its logits.

    Hinge: ``(E relu(1 - D(x)) + E relu(1 + D(x^))) / 2``; non-saturating: ``(E softplus(-D(x)) + E softplus(D(x^))) / 2``.
    """
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def generator_objective(fake: Tensor, kind: Kind) -> Tensor:
    """What the decoder minimises, from the discriminator's logits: ``-E D(x^)`` (hinge) or ``E softplus(-D(x^))`` (non-saturating)."""
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


class AdversarialLoss(nn.Module, ABC):
    """An adversarial loss: discriminators, whose weights are its parameters, against a decoder.

    Attributes:
        lr_ratio: The discriminators' learning rate over the tokenizer's.
        reuse_fakes: Whether the discriminators' step uses the reconstructions of the tokenizer's step, and not new ones.
    """

    lr_ratio: float
    reuse_fakes: ClassVar[bool] = False

    @abstractmethod
    def active(self, samples_seen: int) -> bool:
        """Whether the warm-up is over; before it neither side of the game is played."""

    def learns(self, samples_seen: int) -> bool:
        """Whether the discriminators learn in this step."""
        return self.active(samples_seen)

    @abstractmethod
    def generator_losses(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """The decoder's scalar losses by name, before their weights; the discriminators are held constant.

        Args:
            fake: Reconstructions, with a gradient.
            real: What they should be.
        """

    @property
    @abstractmethod
    def shares(self) -> dict[str, float]:
        """The weights of these losses, by name."""

    def weights(self, alike: Tensor, losses: Mapping[str, Tensor], last_layer: nn.Parameter) -> dict[str, Tensor]:
        """The weights of this step.

        Args:
            alike: All that the decoder is otherwise told of the reconstruction, a scalar.
            losses: Of :meth:`generator_losses`.
            last_layer: The decoder's last weight.
        """
        return {name: alike.new_tensor(self.shares[name]) for name in losses}

    @abstractmethod
    def discriminator_loss(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The discriminators' loss ``total``, to minimise, and figures to log; nothing of it reaches the decoder."""


class PatchAdversarialLoss(AdversarialLoss):
    """A PatchGAN discriminator and both sides of its game. Its parameters are the discriminator's.

    A step, after ``active(samples_seen)`` has become true::

        adversarial = loss.generator_loss(fake)
        total = reconstruction + loss.adaptive_weight(reconstruction, adversarial, last_layer) * adversarial
        total.backward(); decoder_optimizer.step()
        loss.discriminator_loss(real, fake.detach())["total"].backward(); discriminator_optimizer.step()
    """

    def __init__(self, settings: Adversarial, in_channels: int = 3) -> None:
        super().__init__()
        self.settings, self.weight, self.lr_ratio = settings, settings.weight, settings.lr_ratio
        self.discriminator = PatchDiscriminator(in_channels, settings.channels, settings.layers, settings.norm)

    def active(self, samples_seen: int) -> bool:
        """Whether the warm-up is over; before it neither side of the game is played."""
        return samples_seen >= self.settings.start_samples

    def generator_losses(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """:meth:`generator_loss` as ``adversarial``."""
        return {"adversarial": self.generator_loss(fake)}

    @property
    def shares(self) -> dict[str, float]:
        """Its weight."""
        return {"adversarial": self.weight}

    def weights(self, alike: Tensor, losses: Mapping[str, Tensor], last_layer: nn.Parameter) -> dict[str, Tensor]:
        """:meth:`adaptive_weight`."""
        return {"adversarial": self.adaptive_weight(alike, losses["adversarial"], last_layer)}

    def generator_loss(self, fake: Tensor) -> Tensor:
        """The decoder's scalar loss for reconstructions ``(B, C, H, W)``, in float32, before :meth:`adaptive_weight`.

        The discriminator is held constant: its parameters receive no gradient from here.
        """
        with torch.autocast(fake.device.type, enabled=False):
            constant = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
            return generator_objective(functional_call(self.discriminator, constant, (fake.float(),)), self.settings.kind)

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The discriminator's loss, in float32.

        Args:
            real: Pictures ``(B, C, H, W)``.
            fake: Their reconstructions, of the same shape; detached here, so that nothing reaches the decoder.

        Returns:
            ``total``, to minimise, and the mean logits ``real`` and ``fake`` (detached), to log: they drift apart when it wins.
        """
        same_shape(fake, real)
        with torch.autocast(real.device.type, enabled=False):
            # Two passes, not one over both batches: batch norm would otherwise mix their statistics.
            logits_real, logits_fake = self.discriminator(real.detach().float()), self.discriminator(fake.detach().float())
            total = discriminator_objective(logits_real, logits_fake, self.settings.kind)
        return {"total": total, "real": logits_real.detach().mean(), "fake": logits_fake.detach().mean()}

    def adaptive_weight(self, reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: nn.Parameter) -> Tensor:
        """The factor that makes both losses pull equally hard at the decoder's last layer ``W`` (2012.09841, equation 7).

        ``weight * lambda`` with ``lambda = |grad_W L_rec| / (|grad_W L_adv| + 1e-4)`` clipped to [0, 1e4] and detached; ``weight`` alone
        when ``adaptive`` is off. Log it: ``lambda`` at the cap means that the adversarial gradient has vanished.

        Raises:
            ValueError: if ``last_layer`` is frozen, or gradients are off.
        """
        if not self.settings.adaptive:
            return torch.tensor(self.weight, device=adversarial_loss.device)
        if not (last_layer.requires_grad and reconstruction_loss.requires_grad and adversarial_loss.requires_grad):
            raise ValueError("the adaptive weight needs gradients at the decoder's last layer: do not freeze it, or set adaptive: false")
        with torch.autocast(last_layer.device.type, enabled=False):
            (pull,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
            (push,) = torch.autograd.grad(adversarial_loss, last_layer, retain_graph=True)
            return self.weight * (pull.float().norm() / (push.float().norm() + 1e-4)).clamp(0.0, 1e4).detach()


class Adversarial(LossSettings, family="loss", name="adversarial"):
    """A discriminator that learns beside the tokenizer.

    The defaults are VQGAN's for 256 pixels. At 64, two layers of 32 channels cost a quarter and judge patches of half a picture.

    Attributes:
        weight: Its share of the objective.
        start_samples: Samples seen before the game begins. Started at once it tends to collapse the codebook.
        kind: ``hinge`` or ``non_saturating``.
        adaptive: Whether to balance its gradient against the reconstruction's.
        channels: Width of the discriminator's first layer.
        layers: Its layers of stride 2; a patch is 16, 34, 70 or 142 pixels wide for 1 to 4.
        norm: ``group``, ``batch`` (as published) or ``none``.
        lr_ratio: The discriminator's learning rate over the tokenizer's.
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    weight: NonNegativeFloat = 0.8
    start_samples: NonNegativeInt = 0
    kind: Kind = "hinge"
    adaptive: bool = True
    channels: PositiveInt = 64
    layers: PositiveInt = 3
    norm: Norm = "group"
    lr_ratio: PositiveFloat = 1.0

    def build(self, in_channels: int = 3) -> PatchAdversarialLoss:
        """The game for pictures of ``in_channels`` channels."""
        return PatchAdversarialLoss(self, in_channels)
