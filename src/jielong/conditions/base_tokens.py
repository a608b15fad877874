"""The tokens of a cascade's base, of which a super-resolution generator makes finer ones (MUSE, arXiv 2301.00704, section 2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from jielong.conditions.inputs import ConditionInput
from jielong.conditions.stage import StageCondition, StageConditionSettings, StageInput
from jielong.core.rng import Draws
from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.embedding import PositionEmbedding, embedding_of
from jielong.networks.transformer import Transformer, TransformerConfig

if TYPE_CHECKING:
    from jielong.tokenizers.base import Tokenizer


class BaseTokensInput(StageInput):
    """Token values of the base."""

    name = "base_tokens"
    noun = "the tokens of the base"
    help = "Tokens of the base."
    generated = True


class BaseTokens(StageConditionSettings, family="condition", name="base_tokens"):
    """Settings of the condition on the base's tokens.

    Attributes:
        stage: The base's name in the recipe's ``stages``.
        layers: Self-attention layers over its tokens.
        heads: Attention heads of a layer.
        noise: Share of its codes that training replaces by codes drawn evenly: the super-resolution learns from tokens of real pictures
            and is then given generated ones, which are not free of faults.
        cfg_dropout: Fraction of items without them in training; 0 by default, since the base always runs.
    """

    input: ClassVar[ConditionInput] = BaseTokensInput()
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    noise: float = Field(default=0.0, ge=0, lt=1)
    cfg_dropout: float = Field(default=0.0, ge=0, lt=1)

    def build_on(self, tokenizer: Tokenizer) -> StageCondition:
        """The condition. Raises ``ValueError`` for noise on tokens that are no codes, or heads that do not divide the width."""
        if self.noise and not tokenizer.layout.discrete:
            raise ValueError("base_tokens: noise replaces codes by others, and this stage's tokens are continuous: leave noise out")
        return BaseTokensCondition(tokenizer, self)


class BaseTokensCondition(StageCondition):
    """Tokens through a table of their own and self-attention layers: a state each.

    Guidance compares with the base's tokens alone, so that it acts on the text.
    """

    kept_by_guidance = True

    def __init__(self, tokenizer: Tokenizer, settings: BaseTokens) -> None:
        super().__init__(tokenizer, settings.width, settings.cfg_dropout)
        layout = tokenizer.layout
        self.length, self.noise = layout.positions, settings.noise
        self.embedding = embedding_of(layout, settings.width)
        self.places = PositionEmbedding(layout.extents, settings.width)
        self.coordinates = layout.coordinates()
        config = TransformerConfig(layers=settings.layers, width=settings.width, heads=settings.heads)
        self.attention = Transformer(config, axes=self.coordinates.shape[1])

    def noised(self, prepared: Tensor, draws: Draws) -> Tensor:
        """Codes ``(B, N, K)``, of which training draws a share :attr:`noise` anew from all codes, evenly."""
        size = self.tokenizer.layout.vocabulary
        if not self.training or self.noise == 0 or size is None:
            return prepared
        shape = prepared.shape[1:]
        replaced, others = draws.uniform(*shape) < self.noise, (draws.uniform(*shape) * size).long()
        return torch.where(replaced.to(prepared.device), others.to(prepared.device), prepared)

    def embed(self, prepared: Tensor) -> Conditioning:
        """Token values ``(B, N, C)`` to ``N`` states."""
        vectors: Tensor = self.embedding(prepared.to(self.null.device, self.null.dtype if prepared.is_floating_point() else prepared.dtype))
        inputs = vectors + self.places(self.coordinates)
        blocks = torch.zeros(len(self.coordinates), dtype=torch.long)
        states: Tensor = self.attention(BackboneInputs(inputs, self.coordinates, blocks))
        return Conditioning(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device), states.mean(1))
