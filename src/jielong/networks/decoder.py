"""What every decoder of pictures offers beside its forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Decoder(nn.Module, ABC):
    """Features to pictures, ``(B, D, h, w)`` to ``(B, C, H, W)``, unbounded: clamp to [-1, 1] when showing."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """The pictures."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The weight in front of the picture, where adversarial weights compare gradients (arXiv 2012.09841, eq. 7)."""
