"""Training a tokenizer: the lecture's three meanings of "alike" (surface, perception, a discriminator) over one reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from jielong.core.medium import Medium
from jielong.data.sets import Batch
from jielong.losses.adversarial import Adversarial, AdversarialLoss
from jielong.losses.adversarial_sound import SoundAdversarial
from jielong.losses.distillation import Distillation, DistillationLoss
from jielong.losses.regression import LogitLaplaceLoss
from jielong.losses.spectral import SpectralSettings
from jielong.tokenizers.base import LearnedTokenizer, Reconstruction
from jielong.training.balancer import Balancer, carrying
from jielong.training.distill_teacher import WhisperTeacher
from jielong.training.objective import Losses, Objective, StepRNG
from jielong.training.settings import Balance

Similarity = Callable[[Tensor, Tensor], Tensor]
"""A loss of a reconstruction and its target, ``(B, C, H, W)`` each, to a scalar."""


class TokenizerObjective(Objective):
    """Reconstruct, and be told how well by every loss of the recipe.

    A tokenizer may learn in two stages (:attr:`LearnedTokenizer.reconstructs_from`): in the first its own losses alone count, and no loss
    of the recipe does, whenever it says it starts; the second begins from the averaged weights of the first.

    Args:
        model: The tokenizer.
        similarities: Losses between reconstruction and picture, by name, with their weights inside.
        starts: Samples seen before a loss joins, by name; from the beginning where it is not named.
        adversarial: A game that starts later; ``None`` for none.
        shown: Pictures of the sample sheet, ``(n, C, H, W)``.
        measure: Held-out figures of a tokenizer.
        pictures: This process's training pictures to calibrate the trained tokenizer on, batch by batch; read only if it asks for them.
        balance: Weigh losses by their gradients at the reconstruction; ``None`` adds them up as they are.
        taught: What a teacher asks of the first code; ``None`` for none.
    """

    model: LearnedTokenizer

    def __init__(
        self,
        model: LearnedTokenizer,
        similarities: Mapping[str, nn.Module],
        starts: Mapping[str, int],
        adversarial: AdversarialLoss | None,
        shown: Tensor,
        measure: Callable[[LearnedTokenizer], dict[str, Any]],
        pictures: Callable[[], Iterable[Tensor]] = tuple,
        *,
        balance: Balance | None = None,
        taught: DistillationLoss | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.similarities = nn.ModuleDict(similarities)
        self.starts = starts
        self.adversarial = adversarial
        self.taught = taught
        self.shown = shown
        self._measure, self._pictures = measure, pictures
        self._rebuilt: dict[tuple[int, int], Tensor] = {}
        games = adversarial.shares if adversarial is not None else {}
        self.balancer = None if balance is None else Balancer(balance, [*similarities, *games])

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        """The tokenizer, with what it is taught through, then the discriminator if there is one."""
        first: nn.Module = self.model if self.taught is None else nn.ModuleList([self.model, self.taught])
        return {"model": first} if self.adversarial is None else {"model": first, "discriminator": self.adversarial}

    def active(self, phase: str, samples_seen: int) -> bool:
        """The discriminator waits for its start, and for pictures to look at; and it may learn in some of the steps only."""
        if phase == "model":
            return True
        return self.adversarial is not None and self._playing(samples_seen) and self.adversarial.learns(samples_seen)

    def _playing(self, samples_seen: int) -> bool:
        return self.adversarial is not None and self.adversarial.active(samples_seen) and self.stage(samples_seen) > 0

    def stage(self, samples_seen: int) -> int:
        """1 where pictures are reconstructed, 0 before."""
        return int(samples_seen >= self.model.reconstructs_from)

    def lr_ratio(self, phase: str) -> float:
        """The discriminator has its own."""
        return self.adversarial.lr_ratio if phase == "discriminator" and self.adversarial is not None else 1.0

    def forward(self, batch: Batch, phase: str, samples_seen: int, draws: StepRNG) -> Losses:
        """The tokenizer's losses, or the discriminator's on the same pictures."""
        if phase == "discriminator":
            return self._discriminate(batch, samples_seen, draws)
        result = self.model(batch.media, generator=draws.shared, samples_seen=samples_seen, rng=draws.per_sample)
        if result.media is None:
            return Losses(torch.stack(list(result.losses.values())).sum(), {name: value.detach() for name, value in result.losses.items()})
        self._remember(batch, samples_seen, result.media)
        judged = self._added if self.balancer is None else self._balanced
        total, parts = judged(result, batch.media, samples_seen)
        total = total + sum(result.losses.values())
        parts |= result.losses | result.figures
        if self.taught is not None and samples_seen >= self.starts.get("distillation", 0):
            parts["distillation"] = self.taught(result.first, batch.media)
            total = total + parts["distillation"]
        return Losses(total, {name: value.detach() for name, value in parts.items()})

    def _joined(self, samples_seen: int) -> dict[str, nn.Module]:
        """The similarities that have started."""
        return {name: loss for name, loss in self.similarities.items() if samples_seen >= self.starts.get(name, 0)}

    def _added(self, result: Reconstruction, media: Tensor, samples_seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """All that is said of the reconstruction, added up, and each by name."""
        parts = {name: loss(_read_by(loss, result), media) for name, loss in self._joined(samples_seen).items()}
        total = alike = torch.stack(list(parts.values())).sum()
        if self.adversarial is not None and result.media is not None and self._playing(samples_seen):
            fooled = self.adversarial.generator_losses(result.media, media)
            weights = self.adversarial.weights(alike, fooled, self.model.last_layer)
            for name, loss in fooled.items():
                total = total + weights[name] * loss
                parts |= {name: loss, f"{name}_weight": weights[name]}
        return total, parts

    def _balanced(self, result: Reconstruction, media: Tensor, samples_seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, with gradients that stand in the ratio of the weights; the value is still the weighted sum."""
        if self.balancer is None or result.media is None:
            raise RuntimeError("there is nothing to balance")
        with torch.autocast(result.media.device.type, enabled=False):
            leaf = result.media.detach().float().requires_grad_()
            copied = replace(result, media=leaf)
            joined = self._joined(samples_seen)
            parts = {name: loss(_read_by(loss, copied), media) for name, loss in joined.items()}
            shares = {name: float(loss.weight) for name, loss in joined.items()}  # type: ignore[arg-type]
            total = torch.stack(list(parts.values())).sum().detach()
            if self.adversarial is not None and self._playing(samples_seen):
                fooled = self.adversarial.generator_losses(leaf, media)
                shares |= {name: self.adversarial.shares[name] for name in fooled}
                total = total + sum(shares[name] * loss.detach() for name, loss in fooled.items())
                parts |= fooled
            pulling = {name: loss for name, loss in parts.items() if shares[name] > 0}
            pulls = self.balancer(pulling, shares, leaf, samples_seen)
            return carrying(total, result.media, torch.stack(list(pulls.values())).sum(0)), parts

    def _remember(self, batch: Batch, samples_seen: int, media: Tensor) -> None:
        """Keep the reconstruction for the discriminator's phase of this step."""
        if self.adversarial is None or not self.adversarial.reuse_fakes:
            return
        if any(seen != samples_seen for seen, _ in self._rebuilt):
            self._rebuilt.clear()
        if self.active("discriminator", samples_seen):
            self._rebuilt[samples_seen, id(batch)] = media.detach()

    def _discriminate(self, batch: Batch, samples_seen: int, draws: StepRNG) -> Losses:
        if self.adversarial is None:
            raise RuntimeError("there is no discriminator to train")
        fake = self._rebuilt.pop((samples_seen, id(batch)), None)
        if fake is None:
            self.model.eval()  # the codebook must not learn from this second look at the batch
            with torch.no_grad():
                fake = self.model(batch.media, samples_seen=samples_seen, rng=draws.per_sample).media
            self.model.train()
        if fake is None:
            raise RuntimeError("there is no reconstruction for the discriminator to look at yet")
        parts = self.adversarial.discriminator_loss(batch.media, fake)
        return Losses(parts["total"], {f"discriminator_{name}": value.detach() for name, value in parts.items()})

    @torch.no_grad()
    def sheet(self, model: nn.Module) -> Tensor:
        """Pictures or sound, each with its reconstruction behind it."""
        device = next(model.parameters()).device
        rebuilt = model.decode(model.encode(self.shown.to(device))).cpu()  # type: ignore[operator]
        return torch.stack([self.shown, rebuilt], dim=1).flatten(0, 1)

    def statistics(self) -> dict[str, float]:
        """Codebook usage and perplexity."""
        return self.model.statistics()

    def advice(self) -> str | None:
        """What to try when the codebook collapses."""
        return self.model.advice()

    def finish(self, model: nn.Module) -> None:
        """Calibrate the tokenizer that is kept."""
        model.calibrate(self._pictures())  # type: ignore[operator]

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Held-out PSNR and codebook usage."""
        return self._measure(model)  # type: ignore[arg-type]


def _read_by(loss: nn.Module, result: Reconstruction) -> Tensor | None:
    """What a loss compares with the picture: the reconstruction, or the distribution it was taken from."""
    if not isinstance(loss, LogitLaplaceLoss):
        return result.media
    if result.likelihood is None:
        raise ValueError("the loss logit_laplace needs a tokenizer that predicts a distribution, such as vq: {likelihood: logit_laplace}")
    return result.likelihood


@dataclass(frozen=True)
class Judges:
    """A recipe's losses, built.

    Attributes:
        similarities: Those between two pictures or two sounds, by name.
        starts: Samples seen before a loss joins, by name.
        adversarial: The game, if there is one.
        taught: What a teacher asks of the first code, if there is one.
    """

    similarities: dict[str, nn.Module]
    starts: dict[str, int]
    adversarial: AdversarialLoss | None = None
    taught: DistillationLoss | None = None


def judges_of(losses: Sequence[Any], media: Medium, dim: int | None = None) -> Judges:
    """Build a recipe's losses.

    Args:
        losses: Their settings.
        media: What they judge.
        dim: Width of what the first code gives, where a loss reads it.

    Raises:
        ValueError: if clips are too short for a loss.
        MissingLibraryError: if a teacher is not installed.
    """
    similarities: dict[str, nn.Module] = {}
    adversarial: AdversarialLoss | None = None
    taught = None
    for loss in losses:
        if isinstance(loss, Adversarial):
            adversarial = loss.build(media.channels)
        elif isinstance(loss, SoundAdversarial):
            adversarial = loss.build(channels=media.channels, samples=media.frames)
        elif isinstance(loss, Distillation):
            if media.axes != loss.axes or dim is None:
                raise ValueError("the loss distillation is for the first code of an audio tokenizer such as vq, which this is not")
            teacher = WhisperTeacher(media.sample_rate)
            taught = loss.build(teacher=teacher, dim=dim, width=teacher.width)
        elif isinstance(loss, SpectralSettings):
            if media.axes != loss.axes:
                raise ValueError(f"the loss {loss.name} is for audio, not {media}")
            similarities[loss.name] = loss.build(samples=media.frames, rate=media.sample_rate)
        else:
            similarities[loss.name] = loss.build()
    starts = {loss.name: loss.start_samples for loss in losses if hasattr(loss, "start_samples")}
    return Judges(similarities, starts, adversarial, taught)
