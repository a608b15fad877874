"""Base of decoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

from torch import Tensor, nn


class Decoder(nn.Module, ABC):
    """Features to media, ``(B, D, h, w)`` to ``(B, C, H, W)``, unbounded: clamp to [-1, 1] for display."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """The media."""

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last layer, where adversarial weights compare gradients (arXiv 2012.09841, eq. 7)."""
        return cast("nn.Parameter", self.get_submodule("out").weight)
