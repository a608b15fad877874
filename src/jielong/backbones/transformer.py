"""Settings of the transformer."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from jielong.backbones.base import BackboneSettings
from jielong.core.tokens import Layout
from jielong.networks import transformer as network
from jielong.networks.chain_start import Start
from jielong.networks.embedding import Positions
from jielong.networks.rope import RotaryAt


class Transformer(network.TransformerConfig, BackboneSettings, family="backbone", name="transformer"):
    """A block-causal transformer with rotary positions, for every order.

    Attributes:
        start: What stands at the first position, which reads no token: the learned ``placeholder``, the ``condition`` in its place
            (LlamaGen), or their ``sum`` (VAR). The condition is its pooled vector there, through a linear map unless it has the width of
            the backbone; with ``condition: prefix`` it is the last of its states.
        rotary_at: Whose coordinates rotate queries and keys: the ``position``'s, where a token is predicted, or those of the ``token`` that
            it reads, in raster order the one before. Then what reads no token, the start and a prefix, has queries and keys of zero, so
            that all attend to it alike, as in LlamaGen's released weights.
        positions: What is added to the inputs of a position: a sum of tables, one an axis (``axes``), or a free vector of the position and,
            with scales, one of its scale (``slots``, VAR), or nothing, so that rotation alone tells positions apart (``none``,
            LlamaGen). With ``rotary: false`` nothing else does.
    """

    start: Start = "placeholder"
    rotary_at: RotaryAt = "position"
    positions: Positions = "axes"

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        if self.positions == "none" and not self.rotary:
            raise ValueError("positions: none leaves it to rotation to tell positions apart, and rotary: false: leave one of them out")
        return self

    @model_validator(mode="after")
    def _rotated_at_all(self) -> Self:
        if self.rotary_at == "token" and not self.rotary:
            raise ValueError("rotary_at: token says whose coordinates rotate queries and keys, and rotary: false: leave one of them out")
        return self

    @property
    def prefixed(self) -> bool:
        """With ``condition: prefix``."""
        return self.condition == "prefix"

    @property
    def starts_with_condition(self) -> bool:
        """See :attr:`BackboneSettings.starts_with_condition`."""
        return self.start != "placeholder"

    def build(self, layout: Layout, condition_width: int | None) -> network.Transformer:
        """See :meth:`BackboneSettings.build`."""
        axes = layout.coordinates().shape[1]
        built = network.Transformer(self, axes=axes, condition_width=condition_width, start=self.start, rotary_at=self.rotary_at)
        built.positions = self.positions
        return built
