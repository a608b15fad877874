"""Adversarial loss of images with a PatchGAN discriminator (VQGAN: Esser et al., arXiv 2012.09841).

Of clips it judges frames as images, and with a second discriminator whole clips, whose patches span time (as in Open-Sora 2.0, 2503.09642).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from jielong.config.registry import Config
from jielong.core.medium import ALONG_ROWS, Axes
from jielong.core.whole_batch import mean_over_batch
from jielong.losses.base import AdversarialLoss, AdversarialSettings, LossContext, check_same_shape
from jielong.losses.frames import check_count, frames_of
from jielong.networks.discriminator import Norm, PatchDiscriminator
from jielong.quantizers.parallel import mean_over_processes

Kind = Literal["hinge", "non_saturating"]


def loss_of_real(logits: Tensor, kind: Kind) -> Tensor:
    """The discriminator's loss of each logit of a real item: ``relu(1 - D(x))`` (hinge) or ``softplus(-D(x))`` (non-saturating)."""
    return F.relu(1 - logits) if kind == "hinge" else F.softplus(-logits)


def loss_of_fake(logits: Tensor, kind: Kind) -> Tensor:
    """The discriminator's loss of each logit of a generated item: ``relu(1 + D(x^))`` or ``softplus(D(x^))``."""
    return F.relu(1 + logits) if kind == "hinge" else F.softplus(logits)


def generator_loss_of(logits: Tensor, kind: Kind) -> Tensor:
    """The generator's loss of each logit: ``-D(x^)`` or ``softplus(-D(x^))``."""
    return -logits if kind == "hinge" else F.softplus(-logits)


def discriminator_objective(real: Tensor, fake: Tensor, kind: Kind) -> Tensor:
    """Hinge: ``(E relu(1 - D(x)) + E relu(1 + D(x^))) / 2``; non-saturating: ``(E softplus(-D(x)) + E softplus(D(x^))) / 2``."""
    return (loss_of_real(real, kind).mean() + loss_of_fake(fake, kind).mean()) / 2


def generator_objective(fake: Tensor, kind: Kind) -> Tensor:
    """The decoder's loss from the discriminator's logits: ``-E D(x^)`` (hinge) or ``E softplus(-D(x^))`` (non-saturating)."""
    return generator_loss_of(fake, kind).mean()


def gradient_penalty(logits: Tensor, tokens: Tensor) -> Tensor:
    """``|grad_x D(x)|^2`` of each item (R1, R2: Mescheder et al., arXiv 1801.04406), with a gradient to the discriminator.

    ``logits``: ``(B,)``, each of its own item; ``tokens``: ``(B, ...)``, which required gradients before the logits were computed.
    """
    (slope,) = torch.autograd.grad(logits.sum(), tokens, create_graph=True)
    return slope.square().flatten(1).sum(1)


class PatchAdversarialLoss(AdversarialLoss):
    """A PatchGAN discriminator and both sides' losses, in float32.

    A step, once ``active(samples_seen)``::

        adversarial = loss.generator_loss(fake)
        total = reconstruction + loss.adaptive_weight(reconstruction, adversarial, last_layer) * adversarial
        total.backward(); decoder_optimizer.step()
        loss.discriminator_loss(real, fake.detach())["total"].backward(); discriminator_optimizer.step()
    """

    def __init__(self, settings: Adversarial, in_channels: int = 3) -> None:
        super().__init__(settings)
        self.weight, self.kind, self.adaptive = settings.weight, settings.kind, settings.adaptive
        self.frames, critic = settings.frames, settings.clips
        self.discriminator = PatchDiscriminator(in_channels, settings.channels, settings.layers, settings.norm)
        self.clips = None if critic is None else PatchDiscriminator(in_channels, critic.channels, critic.layers, settings.norm, 3)

    def generator_losses(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """:meth:`generator_loss` as ``adversarial``."""
        return {"adversarial": self.generator_loss(fake)}

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of ``adversarial``."""
        return {"adversarial": self.weight}

    def weights(self, reconstruction_loss: Tensor, losses: Mapping[str, Tensor], last_layer: nn.Parameter) -> dict[str, Tensor]:
        """:meth:`adaptive_weight`."""
        return {"adversarial": self.adaptive_weight(reconstruction_loss, losses["adversarial"], last_layer)}

    def generator_loss(self, fake: Tensor) -> Tensor:
        """The decoder's unweighted scalar loss for reconstructions ``(B, C, H, W)`` or ``(B, C, T, H, W)``, averaged over discriminators;
        their weights get no gradient."""
        with torch.autocast(fake.device.type, enabled=False):
            losses = []
            for critic, judged in self._judged(fake.float()):
                constant = {name: parameter.detach() for name, parameter in critic.named_parameters()}
                losses.append(generator_objective(functional_call(critic, constant, (judged,)), self.kind))
            return torch.stack(losses).mean()

    def _judged(self, media: Tensor) -> list[tuple[PatchDiscriminator, Tensor]]:
        """Each discriminator with what it sees of the media."""
        critics = [(self.discriminator, frames_of(media, self.frames))]
        return critics if self.clips is None else [*critics, (self.clips, media)]

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The discriminator's loss.

        Args:
            real: Images ``(B, C, H, W)`` or clips ``(B, C, T, H, W)``.
            fake: Their reconstructions; detached here.

        Returns ``total``, to minimise, and the mean logits ``real`` and ``fake`` (detached), which drift apart when it wins; each is the
        average over discriminators.
        """
        check_same_shape(fake, real)
        parts: dict[str, list[Tensor]] = {"total": [], "real": [], "fake": []}
        with torch.autocast(real.device.type, enabled=False):
            pairs = zip(self._judged(real.detach().float()), self._judged(fake.detach().float()), strict=True)
            for (critic, ours), (_, theirs) in pairs:
                # Two passes, not one over both batches: batch norm would otherwise mix their statistics.
                logits_real, logits_fake = critic(ours), critic(theirs)
                parts["total"].append(discriminator_objective(logits_real, logits_fake, self.kind))
                parts["real"].append(logits_real.detach().mean())
                parts["fake"].append(logits_fake.detach().mean())
            return {name: torch.stack(values).mean() for name, values in parts.items()}

    def adaptive_weight(self, reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: nn.Parameter) -> Tensor:
        """Factor that gives both losses equal gradient norms at the decoder's last layer ``W`` (2012.09841, equation 7).

        ``weight * lambda`` with ``lambda = |grad_W L_rec| / (|grad_W L_adv| + 1e-4)`` clipped to [0, 1e4] and detached; ``weight`` alone
        when ``adaptive`` is off. Gradients are those of the whole batch, over processes and micro-batches (which costs a second forward
        pass). ``lambda`` at the cap means that the adversarial gradient has vanished. Raises ``ValueError`` if ``last_layer`` is frozen, or
        gradients are off.
        """
        if not self.adaptive:
            return torch.tensor(self.weight, device=adversarial_loss.device)
        if not (last_layer.requires_grad and reconstruction_loss.requires_grad and adversarial_loss.requires_grad):
            raise ValueError("the adaptive weight needs gradients at the decoder's last layer: do not freeze it, or set adaptive: false")
        with torch.autocast(last_layer.device.type, enabled=False):
            (reconstruction,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
            (adversarial,) = torch.autograd.grad(adversarial_loss, last_layer, retain_graph=True)
            gradients = {"reconstruction": reconstruction.float(), "adversarial": adversarial.float()}
            sizes = {name: mean_over_batch(mean_over_processes(each)).norm() for name, each in gradients.items()}
            return self.weight * (sizes["reconstruction"] / (sizes["adversarial"] + 1e-4)).clamp(0.0, 1e4).detach()


class ClipCritic(Config):
    """Settings of the discriminator of clips: 4x4x4 convolutions, so that a patch is as many frames long as it is pixels wide.

    Attributes:
        channels: Width of its first layer.
        layers: Its layers of stride 2, along time as well.
    """

    channels: PositiveInt = 32
    layers: PositiveInt = 2


class Adversarial(AdversarialSettings, family="loss", name="adversarial"):
    """Settings of the PatchGAN loss.

    The defaults are VQGAN's for 256 pixels. At 64, two layers of 32 channels cost a quarter and judge patches of half an image. Started
    at once it tends to collapse the codebook: see ``start_samples``.

    Attributes:
        kind: ``hinge`` or ``non_saturating``.
        adaptive: Whether its gradient is balanced against the reconstruction's.
        channels: Width of the discriminator's first layer.
        layers: Its layers of stride 2; a patch is 16, 34, 70 or 142 pixels wide for 1 to 4.
        norm: ``group``, ``none``, or ``batch`` (as published), whose statistics are those of what one process computes at once.
        frames: Frames of a clip that it judges, drawn anew for each clip in each step; all if not given.
        clips: A second discriminator, of whole clips; the loss is then the mean of both.
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    of_frames: ClassVar[bool] = True
    weight: NonNegativeFloat = 0.8
    kind: Kind = "hinge"
    adaptive: bool = True
    channels: PositiveInt = 64
    layers: PositiveInt = 3
    norm: Norm = "group"
    frames: PositiveInt | None = None
    clips: ClipCritic | None = None

    def build(self, context: LossContext) -> PatchAdversarialLoss:
        """The loss for media of the medium's channels. Raises ``ValueError`` if they are too small for a discriminator, or no clips where
        the settings speak of them."""
        medium = context.medium
        check_count(self.name, self.frames, medium)
        loss = PatchAdversarialLoss(self, medium.channels)
        loss.discriminator.check_size(medium.size[-2:])
        if loss.clips is not None:
            if not medium.timed:
                raise ValueError(
                    f"losses.{self.name}.clips: a discriminator of clips has none to judge, the data are {medium}: leave it out"
                )
            loss.clips.check_size(medium.size)
        return loss
