"""Training a tokenizer: the lecture's three meanings of "alike" (surface, perception, a critic) over one reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jielong.data.sets import Batch
from jielong.losses.adversarial import AdversarialLoss
from jielong.losses.regression import LogitLaplaceLoss
from jielong.tokenizers.base import LearnedTokenizer, Reconstruction
from jielong.training.objective import Draws, Losses, Objective

Similarity = Callable[[Tensor, Tensor], Tensor]
"""A loss of a reconstruction and its target, ``(B, C, H, W)`` each, to a scalar."""


class TokenizerObjective(Objective):
    """Reconstruct, and be told how well by every loss of the recipe.

    A tokenizer may learn in two stages (:attr:`LearnedTokenizer.reconstructs_from`): in the first its own losses alone count, and no loss
    of the recipe does, whenever it says it starts; the second begins from the averaged weights of the first.

    Args:
        model: The tokenizer.
        similarities: Losses between reconstruction and picture, by name, with their weights inside.
        starts: Samples seen before a similarity joins, by name; from the beginning where it is not named.
        adversarial: A discriminator that starts later; ``None`` for none.
        shown: Pictures of the sample sheet, ``(n, C, H, W)``.
        measure: Held-out figures of a tokenizer.
        pictures: This process's training pictures to calibrate the trained tokenizer on, batch by batch; read only if it asks for them.
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
    ) -> None:
        super().__init__()
        self.model = model
        self.similarities = nn.ModuleDict(similarities)
        self.starts = starts
        self.adversarial = adversarial
        self.shown = shown
        self._measure, self._pictures = measure, pictures

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        """The tokenizer, then the discriminator if there is one."""
        return {"model": self.model} if self.adversarial is None else {"model": self.model, "discriminator": self.adversarial}

    def active(self, phase: str, samples_seen: int) -> bool:
        """The discriminator waits for its start, and for pictures to look at."""
        if phase == "model":
            return True
        return self.adversarial is not None and self.adversarial.active(samples_seen) and self.stage(samples_seen) > 0

    def stage(self, samples_seen: int) -> int:
        """1 where pictures are reconstructed, 0 before."""
        return int(samples_seen >= self.model.reconstructs_from)

    def lr_ratio(self, phase: str) -> float:
        """The discriminator has its own."""
        return self.adversarial.lr_ratio if phase == "discriminator" and self.adversarial is not None else 1.0

    def forward(self, batch: Batch, phase: str, samples_seen: int, draws: Draws) -> Losses:
        """The tokenizer's losses, or the discriminator's on the same pictures."""
        if phase == "discriminator":
            return self._discriminate(batch.media, samples_seen, draws)
        result = self.model(batch.media, generator=draws.shared, samples_seen=samples_seen, noise=draws.noise)
        if result.media is None:
            return Losses(torch.stack(list(result.losses.values())).sum(), {name: value.detach() for name, value in result.losses.items()})
        joined = {name: loss for name, loss in self.similarities.items() if samples_seen >= self.starts.get(name, 0)}
        parts = {name: loss(_read_by(loss, result), batch.media) for name, loss in joined.items()}
        alike = torch.stack(list(parts.values())).sum()
        total = alike + sum(result.losses.values())
        parts |= result.losses | result.figures
        if self.adversarial is not None and self.active("discriminator", samples_seen):
            fooled = self.adversarial.generator_loss(result.media)
            weight = self.adversarial.adaptive_weight(alike, fooled, self.model.last_layer)
            total = total + weight * fooled
            parts |= {"adversarial": fooled, "adversarial_weight": weight}
        return Losses(total, {name: value.detach() for name, value in parts.items()})

    def _discriminate(self, media: Tensor, samples_seen: int, draws: Draws) -> Losses:
        if self.adversarial is None:
            raise RuntimeError("there is no discriminator to train")
        self.model.eval()  # the codebook must not learn from this second look at the batch
        with torch.no_grad():
            fake = self.model(media, samples_seen=samples_seen, noise=draws.noise).media
        self.model.train()
        if fake is None:
            raise RuntimeError("there is no reconstruction for the discriminator to look at yet")
        parts = self.adversarial.discriminator_loss(media, fake)
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


def similarities_of(losses: Sequence[Any], channels: int) -> tuple[dict[str, nn.Module], dict[str, int], AdversarialLoss | None]:
    """Build a recipe's losses: those between two pictures and when they start, by name, and the adversarial one."""
    similarities = {loss.name: loss.build() for loss in losses if loss.name != "adversarial"}
    starts = {loss.name: loss.starts_at for loss in losses if loss.name in similarities and hasattr(loss, "starts_at")}
    adversarial = next((loss.build(channels) for loss in losses if loss.name == "adversarial"), None)
    return similarities, starts, adversarial
