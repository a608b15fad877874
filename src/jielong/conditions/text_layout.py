"""How the states of texts stand: on which side they are padded, whether they are read in order, and what stands for no text.

LlamaGen (arXiv 2406.06525) puts all states of a text encoder before the picture's tokens in one causal chain. Shorter texts are padded on
the left, so that every text ends next to the first token, and a text that is dropped is a learned table of as many vectors, which are
seen where the text has states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from jielong.conditions.base import Condition, Prepared
from jielong.core.rng import Draws
from jielong.networks.conditioning import Conditioning

Padding = Literal["right", "left"]
NullCondition = Literal["vector", "table"]


@dataclass(frozen=True)
class TextLayout:
    """How states stand.

    Attributes:
        padding: Behind a text, up to the longest of a batch, or before it, up to the condition's length.
        causal: Whether a state sees only those before it.
        null_condition: What takes the place of a dropped text: one vector, or a table of a vector for each state.
    """

    padding: Padding = "right"
    causal: bool = False
    null_condition: NullCondition = "vector"


class LaidOutTexts(Condition[str, Prepared]):
    """A condition on texts whose states stand as a :class:`TextLayout` says."""

    text_layout: TextLayout

    def set_layout(self, layout: TextLayout) -> None:
        """Take a layout, with a fresh table for no text if it asks for one."""
        self.text_layout = layout
        if layout.null_condition == "table":
            self.null = nn.Parameter(torch.randn(self.length, self.width) / self.width**0.5)

    def laid_out(self, given: Conditioning) -> Conditioning:
        """States that are padded on the right as the layout says."""
        given = replace(given, causal=self.text_layout.causal)
        return given if self.text_layout.padding == "right" else given.padded(self.length).ending()

    def with_nulls(self, conditioning: Conditioning, dropped: Tensor | None) -> Conditioning:
        """See :meth:`Condition.with_nulls`; a vector stands where texts end, a table where the text has states."""
        if dropped is None or self.text_layout.padding == "right":
            return super().with_nulls(conditioning, dropped)
        rows, mask = dropped.to(conditioning.states.device)[:, None], conditioning.mask
        pooled: Tensor = self.null
        if self.text_layout.null_condition == "table":
            pooled = pooled.mean(0)
        else:
            mask = torch.where(rows, torch.arange(mask.shape[1], device=mask.device) == mask.shape[1] - 1, mask)
        states = torch.where(rows[..., None], self.null.to(conditioning.states.dtype), conditioning.states)
        return replace(conditioning, states=states, mask=mask, pooled=torch.where(rows, pooled, conditioning.pooled))

    def unconditional(self, batch: int, device: torch.device | str | None = None) -> Conditioning:
        """The null vector, or the whole table, of every item."""
        if self.text_layout.null_condition == "vector":
            return self.laid_out(super().unconditional(batch, device))
        mask = torch.ones(batch, self.length, dtype=torch.bool, device=device or self.null.device)
        return Conditioning(self.null.expand(batch, -1, -1), mask, self.null.mean(0).expand(batch, -1), causal=self.text_layout.causal)

    def compared(self, values: Sequence[str], draws: Draws | None = None) -> Conditioning:
        """No text; of a table the vectors where the texts have states."""
        if self.text_layout.null_condition == "vector":
            return super().compared(values, draws)
        return self.with_nulls(self.embed(self.prepare(values)), torch.ones(len(values), dtype=torch.bool))
