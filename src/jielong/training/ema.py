"""The moving average of a model's weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of the trained weights: ``a <- d a + (1 - d) w`` with ``d = min(decay, (1 + t) / (10 + t))``.

    ``t`` counts the steps before this one, so the average forgets the random start within a few dozen steps. Weights that are frozen
    are shared with the model, not copied; buffers (statistics, codebooks) are taken as they are when the average is used.

    Args:
        model: The model, before training starts.
        decay: ``d`` in the long run; 0 makes the average the model itself.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
        self._model = copy.deepcopy(model, shared).eval()
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        twins = dict(self._model.named_parameters())
        self._averages = {name: twins[name].requires_grad_(False) for name in trained}
        self._weights = list(trained.values())
        self._source = model

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights; ``step`` is the number of updates before this one."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self._averages:
            torch._foreach_lerp_(list(self._averages.values()), [weight.detach() for weight in self._weights], 1 - decay)

    @torch.no_grad()
    def model(self) -> nn.Module:
        """The averaged model, in evaluation mode, with the source's present buffers."""
        present = dict(self._source.named_buffers())
        for name, buffer in self._model.named_buffers():
            buffer.copy_(present[name])
        return self._model

    @torch.no_grad()
    def adopt(self) -> None:
        """Let the model itself go on from its averages; the optimizers' moments stay."""
        for weight, average in zip(self._weights, self._averages.values(), strict=True):
            weight.copy_(average)

    def state(self) -> dict[str, Tensor]:
        """The averages by name."""
        return dict(self._averages)

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take averages back from :meth:`state`."""
        for name, average in self._averages.items():
            average.copy_(state[name])
