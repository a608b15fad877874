"""A condition on the dominant colour of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from PIL import ImageColor
from torch import Tensor, nn

from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings
from jielong.conditions.inputs import ConditionInput, HeldoutItems
from jielong.networks.conditioning import Conditioning

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch, MediaSet


def dominant_colours(images: Tensor) -> Tensor:
    """Mean colour in the fullest of 4 x 4 x 4 RGB bins: images ``(B, 3, H, W)`` to colours ``(B, 3)``, all in [-1, 1]."""
    pixels = images.flatten(2).mT  # (B, N, 3)
    bins = (((pixels + 1) * 2).long().clamp(0, 3) * torch.tensor([16, 4, 1])).sum(-1)  # (B, N)
    inside = (bins == bins.mode(1).values[:, None])[..., None]
    return (pixels * inside).sum(1) / inside.sum(1)


class ColourInput(ConditionInput):
    """A colour: its name, ``#rrggbb``, or ``(3,)`` in [-1, 1]. A data set supplies the keys of its pictures, in place of their colours."""

    name = "colour"
    noun = "a colour"
    help = "Dominant colour, as a name or #rrggbb; repeatable."

    def from_batch(self, batch: Batch, medium: Medium) -> list[str]:
        """Keys, since a batch of tokens has no pixels: :meth:`ColourCondition.precompute` knows their colours."""
        return batch.keys

    def from_heldout(self, items: HeldoutItems) -> list[Tensor]:
        """The colours of the held-out pictures."""
        return list(dominant_colours(items.batch.media))

    def check(self, data: MediaSet, source: str) -> None:
        """There must be coloured pictures."""
        if data.medium.kind != "image" or data.medium.channels != 3:
            raise ValueError(f"the recipe is conditioned on colour, but {source} holds {data.medium}: choose RGB pictures")

    def is_single(self, value: object) -> bool:
        """A name or a vector."""
        return isinstance(value, str) or (isinstance(value, Tensor) and value.ndim == 1)

    def parse(self, text: str) -> str:
        """A colour on the command line."""
        ImageColor.getrgb(text)  # raises ValueError for an unknown one
        return text

    def caption(self, value: object) -> str:
        """The name of the colour."""
        return value if isinstance(value, str) else ""


class ColourCondition(Condition[str | Tensor, Tensor]):
    """One state: a linear map of the colour."""

    def __init__(self, width: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        self.map = nn.Linear(3, width)
        self._colours: dict[str, Tensor] = {}  # by key

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """The dominant colour of every picture."""
        for data in (train, heldout):
            for first in range(0, len(data), 256):
                batch = data.batch(range(first, min(first + 256, len(data))))
                self._colours.update(zip(batch.keys, dominant_colours(batch.media), strict=True))

    def prepare(self, values: Sequence[str | Tensor]) -> Tensor:
        """Colours to ``(B, 3)`` in [-1, 1]."""
        return torch.stack([value if isinstance(value, Tensor) else self._colour(value) for value in values])

    def _colour(self, value: str) -> Tensor:
        if value in self._colours:
            return self._colours[value]
        return torch.tensor(ImageColor.getrgb(value)[:3]) / 127.5 - 1

    def embed(self, prepared: Tensor) -> Conditioning:
        """``(B, 3)`` to one state each, ``(B, 1, width)``."""
        return Conditioning.single(self.map(prepared.to(self.null.device)))

    def describe(self) -> dict[str, object]:
        """What a colour is."""
        return {"colour": "mean of the fullest of 64 RGB bins"}


class Colour(ConditionSettings, family="condition", name="colour"):
    """Settings of :class:`ConditionSettings`."""

    input: ClassVar[ConditionInput] = ColourInput()

    def build(self, context: BuildContext = NO_CONTEXT) -> ColourCondition:
        """The condition."""
        return ColourCondition(self.width, self.cfg_dropout)
