"""The mixture-of-softmaxes head (arXiv 1711.03953): several softmaxes whose probabilities a gate mixes."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from jielong.core.tokens import Layout
from jielong.heads.base import HeadSettings
from jielong.heads.softmax import SoftmaxHead


class Mixture(HeadSettings, family="head", name="mixture"):
    """Settings of the mixture-of-softmaxes head.

    Attributes:
        components: Number ``M`` of softmaxes.
    """

    components: int = Field(default=4, ge=1)

    def build(self, width: int, layout: Layout) -> MixtureHead:
        """See :meth:`HeadSettings.build`."""
        return MixtureHead(width, layout, self)


class MixtureHead(SoftmaxHead):
    """``p(v | h) = sum_m pi_m(h) softmax(W tanh(A_m h))_v``: one softmax fits log-probabilities of rank ``D`` at most."""

    def __init__(self, width: int, layout: Layout, settings: Mixture) -> None:
        super().__init__(width, layout)
        self.components = settings.components
        self.gate = nn.Linear(width, self.components, bias=False)
        self.contexts = nn.Linear(width, self.components * width)

    def scores(self, hidden: Tensor) -> Tensor:
        """Log-probabilities ``(..., K, V)`` of hidden vectors ``(..., D)``: logits that are already normalised."""
        contexts = self.contexts(hidden).unflatten(-1, (self.components, -1)).tanh()  # (..., M, D)
        each = super().scores(contexts).float().log_softmax(-1)  # (..., M, K, V)
        gate = self.gate(hidden).float().log_softmax(-1)  # (..., M)
        return (gate[..., None, None] + each).logsumexp(-3)
