"""Training of a tokenizer: reconstruction, adversarial and codebook losses of a recipe on one reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor, nn

from jielong.core.json import JSON
from jielong.data.sets import Batch
from jielong.losses.base import AdversarialLoss, LossTerms, ReconstructionLoss
from jielong.media.kinds.base import kind_of
from jielong.media.results import ResultItem, Results
from jielong.tokenizers.base import LearnedTokenizer, Reconstruction
from jielong.training.balancer import Balancer, carrying
from jielong.training.objective import Losses, Objective, StepRNG
from jielong.training.settings import Balance

Loss = TypeVar("Loss", bound=nn.Module)


class TokenizerObjective(Objective[LearnedTokenizer]):
    """The sum of a tokenizer's own losses and those of the recipe, and a discriminator's loss.

    A tokenizer with two stages (:attr:`LearnedTokenizer.reconstructs_from`) has only its own losses in the first, whenever the others
    start; the second begins from the averaged weights of the first.

    Args:
        model: The tokenizer.
        terms: The recipe's losses.
        shown: Items of the sample grid, ``(n, C, ...)``.
        measure: Held-out figures of a tokenizer.
        pictures: This process's training media to calibrate the trained tokenizer on, batch by batch.
        balance: Balance losses by their gradients at the reconstruction; ``None`` adds them up.
        figures: Of :class:`Objective`; none of them measures all losses, so the last weights are kept if the recipe does not choose.
    """

    model: LearnedTokenizer

    def __init__(
        self,
        model: LearnedTokenizer,
        terms: LossTerms,
        shown: Tensor,
        measure: Callable[[LearnedTokenizer], JSON],
        pictures: Callable[[], Iterable[Tensor]] = tuple,
        *,
        balance: Balance | None = None,
        figures: Mapping[str, bool] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.model = model
        self.reconstruction, self.code = nn.ModuleDict(terms.reconstruction), nn.ModuleDict(terms.code)
        self.adversarial, self.terms = terms.adversarial, terms
        self.shown = shown
        self._measure, self._pictures = measure, pictures
        self.figures = figures
        self._fakes: dict[tuple[int, int], Tensor] = {}
        weights = terms.adversarial.loss_weights if terms.adversarial is not None else {}
        self.balancer = None if balance is None else Balancer(balance, [*terms.reconstruction, *weights])

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        """The tokenizer with the parameters of code losses, then the discriminator if there is one."""
        first: nn.Module = nn.ModuleList([self.model, *self.terms.code.values()]) if self.terms.code else self.model
        return {"model": first} if self.adversarial is None else {"model": first, "discriminator": self.adversarial}

    def active(self, phase: str, samples_seen: int) -> bool:
        """The discriminator waits for its start and for reconstructions, and may learn in some of the steps only."""
        if phase == "model":
            return True
        adversarial = self._adversarial(samples_seen)
        return adversarial is not None and adversarial.learns(samples_seen)

    def _adversarial(self, samples_seen: int) -> AdversarialLoss | None:
        """The adversarial loss, if it has started."""
        started = self.adversarial is not None and self.adversarial.active(samples_seen) and self.training_stage(samples_seen) > 0
        return self.adversarial if started else None

    def training_stage(self, samples_seen: int) -> int:
        """1 once media are reconstructed, 0 before."""
        return int(samples_seen >= self.model.reconstructs_from)

    def lr_ratio(self, phase: str) -> float:
        """The adversarial loss's for the discriminator."""
        return self.adversarial.lr_ratio if phase == "discriminator" and self.adversarial is not None else 1.0

    def forward(self, batch: Batch, phase: str, samples_seen: int, rng: StepRNG) -> Losses:
        """The tokenizer's losses, or the discriminator's on the same media."""
        if phase == "discriminator":
            return self._discriminate(batch, samples_seen, rng)
        captions = {"captions": batch.captions} if self.model.reads_captions else {}
        result = self.model(batch.media, generator=rng.shared, samples_seen=samples_seen, rng=rng.per_sample, **captions)
        if result.media is None:
            return Losses(torch.stack(list(result.losses.values())).sum(), {name: value.detach() for name, value in result.losses.items()})
        self._remember(batch, samples_seen, result.media)
        total, parts = (self._summed if self.balancer is None else self._balanced)(result, batch.media, samples_seen)
        total = total + sum(result.losses.values())
        parts |= result.losses | result.figures
        for name, loss in self._started(self.terms.code, samples_seen).items():
            parts[name] = loss(result.first, batch.media)
            total = total + parts[name]
        return Losses(total, {name: value.detach() for name, value in parts.items()})

    def _started(self, losses: Mapping[str, Loss], samples_seen: int) -> dict[str, Loss]:
        return {name: loss for name, loss in losses.items() if samples_seen >= self.terms.start_samples.get(name, 0)}

    def _reconstruction_losses(self, result: Reconstruction, media: Tensor, samples_seen: int) -> dict[str, Tensor]:
        return {name: loss(_input(loss, result), media) for name, loss in self._started(self.terms.reconstruction, samples_seen).items()}

    def _summed(self, result: Reconstruction, media: Tensor, samples_seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of all losses of the reconstruction, and each by name."""
        parts = self._reconstruction_losses(result, media, samples_seen)
        total = reconstruction = torch.stack(list(parts.values())).sum()
        adversarial = self._adversarial(samples_seen)
        if adversarial is not None and result.media is not None:
            losses = adversarial.generator_losses(result.media, media)
            weights = adversarial.weights(reconstruction, losses, self.model.last_layer)
            for name, loss in losses.items():
                total = total + weights[name] * loss
                parts |= {name: loss, f"{name}_weight": weights[name]}
        return total, parts

    def _balanced(self, result: Reconstruction, media: Tensor, samples_seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The same with balanced gradients; the value is still the weighted sum."""
        if self.balancer is None or result.media is None:
            raise RuntimeError("there is nothing to balance")
        with torch.autocast(result.media.device.type, enabled=False):
            leaf = result.media.detach().float().requires_grad_()
            parts = self._reconstruction_losses(replace(result, media=leaf), media, samples_seen)
            weights = {name: self.terms.reconstruction[name].weight for name in parts}
            total = torch.stack(list(parts.values())).sum().detach()
            adversarial = self._adversarial(samples_seen)
            if adversarial is not None:
                losses = adversarial.generator_losses(leaf, media)
                weights |= {name: adversarial.loss_weights[name] for name in losses}
                total = total + sum(weights[name] * loss.detach() for name, loss in losses.items())
                parts |= losses
            weighted = {name: loss for name, loss in parts.items() if weights[name] > 0}
            gradients = self.balancer(weighted, weights, leaf, samples_seen)
            return carrying(total, result.media, torch.stack(list(gradients.values())).sum(0)), parts

    def _remember(self, batch: Batch, samples_seen: int, media: Tensor) -> None:
        """Keep the reconstruction for the discriminator's phase of this step."""
        if self.adversarial is None or not self.adversarial.reuse_fakes:
            return
        if any(seen != samples_seen for seen, _ in self._fakes):
            self._fakes.clear()
        if self.active("discriminator", samples_seen):
            self._fakes[samples_seen, id(batch)] = media.detach()

    def _discriminate(self, batch: Batch, samples_seen: int, rng: StepRNG) -> Losses:
        if self.adversarial is None:
            raise RuntimeError("there is no discriminator to train")
        fake = self._fakes.pop((samples_seen, id(batch)), None)
        if fake is None:
            self.model.eval()  # the codebook must not learn from this second forward of the batch
            with torch.no_grad():
                fake = self.model(batch.media, samples_seen=samples_seen, rng=rng.per_sample).media
            self.train()
        if fake is None:
            raise RuntimeError("the tokenizer gives no reconstruction for the discriminator yet")
        parts = self.adversarial.discriminator_loss(batch.media, fake)
        return Losses(parts["total"], {f"discriminator_{name}": value.detach() for name, value in parts.items()})

    @torch.no_grad()
    def samples(self, model: LearnedTokenizer) -> Results[ResultItem]:
        """Items, each followed by its reconstruction."""
        rebuilt = model.decode(model.encode(self.shown.to(next(model.parameters()).device))).cpu()
        medium = model.media
        return kind_of(medium).wrap(torch.stack([self.shown, rebuilt], dim=1).flatten(0, 1), medium)

    def statistics(self) -> dict[str, float]:
        """The tokenizer's, such as codebook usage."""
        return self.model.statistics()

    def advice(self) -> str | None:
        """The tokenizer's."""
        return self.model.advice()

    def finish(self, model: LearnedTokenizer) -> None:
        """Calibrate the tokenizer that is saved."""
        model.calibrate(self._pictures())

    def evaluate(self, model: LearnedTokenizer) -> JSON:
        """Held-out figures."""
        return self._measure(model)


def _input(loss: ReconstructionLoss, result: Reconstruction) -> Tensor:
    """What a loss compares with the media.

    Raises:
        ValueError: if the tokenizer predicts no distribution and the loss needs one.
    """
    tensor = result.media if loss.reads == "media" else result.likelihood
    if tensor is None:
        raise ValueError(
            f"the loss {type(loss).__name__} needs a tokenizer that predicts a distribution, such as vq: {{likelihood: logit_laplace}}"
        )
    return tensor
