"""What a head is: from a hidden vector to a distribution over the token that stands there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from jielong.noise import Noise


@dataclass(frozen=True)
class Draw:
    """Sampled tokens.

    Attributes:
        values: ``(B, n, C)``: codes (long) or numbers (float).
        confidence: ``(B, n)`` log-probability of what was drawn; ``None`` where the head has no likelihood.
    """

    values: Tensor
    confidence: Tensor | None = None


@dataclass(frozen=True)
class Sharpness:
    """How boldly to draw.

    Attributes:
        temperature: Divides the logits; 1 is the model's own distribution, 0 the most likely code.
        top_k: Keep the k most likely codes; 0 keeps all.
        top_p: Keep the smallest set of codes whose probability reaches p; 1 keeps all.

    Raises:
        ValueError: for a number out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:  # NaN too
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (all codes) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")


class Head(nn.Module, ABC):
    """Learns and samples the distribution of a token given a hidden vector."""

    discrete: bool
    """Whether it predicts code indices (and needs a tokenizer that has them)."""

    @abstractmethod
    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Loss of each selected position: hidden ``(M, D)``, targets ``(M, C)`` to ``(M,)``."""

    def nats_a_value(self, loss: float) -> float | None:
        """A mean loss as negative log-likelihood in nats a value (a code, a colour); ``None`` where the loss is something else."""
        return None

    @abstractmethod
    def sample(self, hidden: Tensor, noise: Noise, sharpness: Sharpness, null: Tensor | None = None, guidance: float = 1.0) -> Draw:
        """Draw tokens: hidden ``(B, n, D)``, and ``null`` the hidden vectors without condition.

        Guidance follows ``null + guidance (conditional - null)``: 1 is the conditional model, 0 the unconditional.
        """

    def mixture(
        self, hidden: Tensor, noise: Noise, sharpness: Sharpness, null: Tensor | None = None, guidance: float = 1.0, progress: float = 1.0
    ) -> Tensor:
        """Instead of a code, random weights over all codes, ``(B, n, K, V)``, for smooth sampling at ``progress`` in [0, 1] of the steps.

        Raises:
            ValueError: if the head has no codes.
        """
        raise ValueError(f"the {type(self).__name__} has no codes to mix; smooth sampling needs a softmax head")
