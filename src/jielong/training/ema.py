"""The exponential moving average (EMA) of a model's weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from jielong.training.sharding import divided_as, local, whole

Model = TypeVar("Model", bound=nn.Module)


class Ema(Generic[Model]):
    """EMA of the trained weights: ``a <- d a + (1 - d) w`` with ``d = min(decay, (1 + t) / (10 + t))``.

    ``t`` counts the steps before this one, so the initial weights are forgotten within a few dozen steps. Frozen weights are shared with
    the model, not copied; buffers (statistics, codebooks) are the model's current ones.

    Args:
        model: The model, before training starts.
        decay: ``d`` in the long run; 0 makes the average the model itself.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
        self._model: Model = copy.deepcopy(model, shared).eval()
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        copies = dict(self._model.named_parameters())
        self._averages = {name: copies[name].requires_grad_(False) for name in trained}
        self._weights = list(trained.values())
        self._source = model
        self._divided, self._filled_by = False, ""

    @torch.no_grad()
    def divide(self) -> None:
        """Keep of each average what this process holds of its weight, once the model's weights are divided."""
        current, self._divided = dict(self._source.named_parameters()), True
        self._weights = [current[name] for name in self._averages]
        self._averages = {name: divided_as(average.detach(), current[name]) for name, average in self._averages.items()}
        self._fill({}, by="nothing")

    def _fill(self, values: Mapping[str, Tensor], by: str) -> None:
        """Give the copy of the model these weights, or none; every process must call this, but to fill it with what is there already."""
        if by == self._filled_by:
            return
        self._filled_by = by
        for name, parameter in self._model.named_parameters():
            if name in self._averages:
                parameter.data = whole(values[name].detach()) if name in values else parameter.data.new_empty(0)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights; ``step`` is the number of updates before this one."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self._averages:
            averages = [local(average) for average in self._averages.values()]
            torch._foreach_lerp_(averages, [local(weight.detach()) for weight in self._weights], 1 - decay)
        if self._divided:
            self._fill({}, by="nothing")

    @torch.no_grad()
    def model(self) -> Model:
        """The model with EMA weights, in evaluation mode, with the current buffers; every process must call this.

        Where weights are divided, it is a whole copy until the next update.
        """
        if self._divided:
            self._fill(self._averages, by="averages")
        current = dict(self._source.named_buffers())
        for name, buffer in self._model.named_buffers():
            buffer.copy_(current[name])
        return self._model

    @torch.no_grad()
    def raw_model(self) -> Model:
        """The model itself, or where its weights are divided a whole copy of it, as :meth:`model` gives one."""
        if not self._divided:
            return self._source
        model = self.model()
        self._fill(dict(zip(self._averages, self._weights, strict=True)), by="weights")
        return model

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Set the model's weights to their EMA; the optimizers' moments stay."""
        for weight, average in zip(self._weights, self._averages.values(), strict=True):
            local(weight.detach()).copy_(local(average))

    @torch.no_grad()
    def copied(self) -> dict[str, Tensor]:
        """A copy of the EMA weights and current buffers, on the CPU; without frozen weights."""
        trained = {id(weight) for weight in self._weights}
        frozen = {name for name, weight in self._source.named_parameters(remove_duplicate=False) if id(weight) not in trained}
        return {name: value.to("cpu", copy=True) for name, value in self.model().state_dict().items() if name not in frozen}

    def state(self) -> dict[str, Tensor]:
        """EMA weights by name."""
        return dict(self._averages)

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore EMA weights from :meth:`state`."""
        for name, average in self._averages.items():
            average.copy_(state[name])
