"""The mixture-of-softmaxes head (arXiv 1711.03953): several softmaxes, and a gate that mixes their probabilities."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from jielong.config.registry import Part
from jielong.core.tokens import Layout
from jielong.heads.softmax import SoftmaxHead


class MixtureHead(SoftmaxHead):
    """``p(v | h) = sum_m pi_m(h) softmax(W tanh(A_m h))_v``: one softmax of width ``D`` cannot fit log-probabilities of rank above ``D``.

    Args:
        width: Width ``D`` of the hidden vectors.
        layout: The tokens to predict.
        components: Number ``M`` of softmaxes.
    """

    def __init__(self, width: int, layout: Layout, components: int) -> None:
        super().__init__(width, layout)
        self.components = components
        self.gate = nn.Linear(width, components, bias=False)
        self.contexts = nn.Linear(width, components * width)

    def scores(self, hidden: Tensor) -> Tensor:
        """Log-probabilities ``(..., K, V)`` of hidden vectors ``(..., D)``: logits that are normalised already."""
        contexts = self.contexts(hidden).unflatten(-1, (self.components, -1)).tanh()  # (..., M, D)
        each = super().scores(contexts).float().log_softmax(-1)  # (..., M, K, V)
        gate = self.gate(hidden).float().log_softmax(-1)  # (..., M)
        return (gate[..., None, None] + each).logsumexp(-3)


class Mixture(Part, family="head", name="mixture"):
    """Settings: ``components``, how many softmaxes are mixed."""

    components: int = Field(default=4, ge=1)

    def build(self, width: int, layout: Layout) -> MixtureHead:
        """The head for tokens of this layout."""
        return MixtureHead(width, layout, self.components)
