"""Which weights a run keeps: those of the best held-out figure, or the last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from jielong.config.registry import RecipeError, nearest
from jielong.core.json import JSON
from jielong.training.ema import Ema
from jielong.training.objective import Objective
from jielong.training.settings import TrainSettings
from jielong.training.state import Counters
from jielong.training.step import broadcast_from_first
from jielong.training.summary import Kept

Model = TypeVar("Model", bound=nn.Module)
OVERFITTING = 1.02
"""Ratio of the held-out loss to its lowest value at which a run warns."""


@dataclass(frozen=True)
class Selection:
    """The held-out figure that a run follows, and what it does by it.

    Attributes:
        figure: Name of the figure.
        higher: Whether higher is better.
        keeps_best: Whether the checkpoint holds the best weights.
        patience: Evaluations without a better figure after which the run ends; ``None`` for no end.
    """

    figure: str
    higher: bool
    keeps_best: bool
    patience: int | None

    def better(self, value: float, than: float) -> bool:
        """Whether a figure is better than another; anything is better than NaN."""
        return math.isnan(than) or (value > than if self.higher else value < than)


def selection_of(settings: TrainSettings, figures: Mapping[str, bool], keeps_best: bool) -> Selection | None:
    """What a run follows; ``None`` without held-out figures.

    Args:
        settings: The recipe's ``train`` section.
        figures: Held-out figures, and whether higher is better; none where no items are held out.
        keeps_best: What ``keep: auto`` means.

    Raises:
        RecipeError: if the settings need held-out figures and there are none, or name another figure.
    """
    asked = {"keep: best": settings.keep == "best", "patience": settings.patience is not None, "best_by": settings.best_by is not None}
    if not figures:
        if words := [f"train.{key}" for key, given in asked.items() if given]:
            raise RecipeError(f"{words[0]} needs held-out items, and none are measured: hold some out, or leave it out (train.keep: last)")
        return None
    if settings.best_by is not None and settings.best_by not in figures:
        raise RecipeError(
            f"train.best_by: there is no held-out figure {settings.best_by!r} of this model; {nearest(settings.best_by, figures)}"
        )
    figure = settings.best_by or next(iter(figures))
    best = settings.keep == "best" or (settings.keep == "auto" and (keeps_best or settings.best_by is not None))
    return Selection(figure, figures[figure], best, settings.patience)


def kept_words(kept: Kept) -> str:
    """Which weights a run kept, in a line for the log."""
    by, last, best = kept["by"], kept["last"], kept.get("best")
    words = {"last": f"{last[by]:.4g} at {int(last['samples']):,} samples"}
    if best is not None:
        words["best"] = f"{best[by]:.4g} at {int(best['samples']):,} samples"
    if kept["weights"] == "best":
        return f"kept the best weights, {by} {words['best']}; the last have {words['last']}"
    return f"kept the last weights, {by} {words['last']}" + (f"; the best before had {words['best']}" if "best" in words else "")


class BestWeights(Generic[Model]):
    """The EMA weights of the best held-out figure so far, where the run keeps them.

    Attributes:
        tensors: Weights and buffers, in the process that measures; empty before the first evaluation, and where the last are kept.

    Args:
        selection: What is followed, if anything.
        objective: Measures and calibrates.
        ema: The weights.
        counters: Progress of the run.
        accelerator: The processes.
    """

    def __init__(
        self, selection: Selection | None, objective: Objective[Model], ema: Ema[Model], counters: Counters, accelerator: Accelerator
    ) -> None:
        self.selection, self.tensors = selection, dict[str, Tensor]()
        self._objective, self._ema, self._counters, self._accelerator = objective, ema, counters, accelerator

    @property
    def figure(self) -> str | None:
        """Name of the figure that is followed."""
        return None if self.selection is None else self.selection.figure

    @property
    def kept(self) -> bool:
        """Whether the checkpoint may hold them."""
        return self.selection is not None and self.selection.keeps_best

    @property
    def exhausted(self) -> bool:
        """Whether too many evaluations had no better figure."""
        patience = None if self.selection is None else self.selection.patience
        return patience is not None and self._counters.since_best >= patience

    def forget(self) -> None:
        """Begin anew."""
        self._counters.best, self._counters.since_best, self.tensors = [], 0, {}

    def follow(self, figures: Mapping[str, float]) -> None:
        """Count an evaluation of the current EMA weights, and keep them if they are the best."""
        counters, selection = self._counters, self.selection
        value = None if selection is None else figures.get(selection.figure)
        if selection is None or value is None:
            return
        if counters.best and not selection.better(value, counters.best[0]):
            counters.since_best += 1
            return
        counters.best, counters.since_best = [value, counters.samples], 0
        if selection.keeps_best:
            self.tensors = self._ema.copied()

    def overfitting(self, figures: Mapping[str, float]) -> str | None:
        """A warning if the held-out loss is followed and has risen."""
        loss, best = figures.get("heldout_loss"), self._counters.best
        if loss is None or not best or self.figure != "heldout_loss" or loss <= best[0] + (OVERFITTING - 1) * abs(best[0]):
            return None
        found = f"the held-out loss was lowest at {best[1]:,.0f} samples, {best[0]:.4g}, and is {loss:.4g} now"
        kept = "those weights are kept; " if self.tensors else ""
        return f"{found}: overfitting; {kept}lower train.samples, raise the dropout, or use more data"

    def choose(self, evaluate: bool) -> tuple[Model, JSON, Kept]:
        """The calibrated model of the weights that are kept, its held-out figures, and :attr:`Summary.kept`; called once, at the end."""
        model, counters, selection = self._ema.model(), self._counters, self.selection
        self._objective.finish(model)
        figures = self._objective.evaluate(model) if evaluate else {}
        value = None if selection is None else figures.get(selection.figure)
        if selection is None or not isinstance(value, float):
            return model, figures, Kept()
        kept: Kept = {"weights": "last", "by": selection.figure, "last": {"samples": counters.samples, selection.figure: value}}
        if counters.best:
            kept["best"] = {"samples": int(counters.best[1]), selection.figure: counters.best[0]}
        earlier = bool(self.tensors) and counters.best[1] != counters.samples and not selection.better(value, counters.best[0])
        if self._from_first(earlier):  # another process has none of them
            self._load(model)
            self._objective.finish(model)
            kept["weights"], figures = "best", self._objective.evaluate(model)
        return model, figures, kept

    def _from_first(self, answer: bool) -> bool:
        """The first process's answer."""
        flag = torch.tensor([float(answer)], device=self._accelerator.device)
        if self._accelerator.num_processes > 1:
            broadcast_from_first([flag])
        return bool(flag.item())

    @torch.no_grad()
    def _load(self, model: Model) -> None:
        """Set a model's weights and buffers to the best, in every process."""
        state = model.state_dict()
        for name, value in self.tensors.items():
            state[name].copy_(value)
        if self._accelerator.num_processes > 1:
            broadcast_from_first([*state.values()])
