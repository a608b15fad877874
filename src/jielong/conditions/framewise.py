"""Conditions with a value for every frame of a clip, added to the inputs of the tokens of these frames."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings, Value
from jielong.config.registry import RecipeError
from jielong.core.medium import ALONG_FRAMES, Axes
from jielong.networks.conditioning import Conditioning

if TYPE_CHECKING:
    from jielong.conditions.inputs import ConditionInput
    from jielong.data.sets import MediaSet
    from jielong.tokenizers.base import Tokenizer


def check_grid_of_clip(tokenizer: Tokenizer, name: str) -> None:
    """Raise ``ValueError`` unless tokens are a grid of time, rows and columns, which the condition ``name`` needs."""
    layout = tokenizer.layout
    if tokenizer.media.axes != ALONG_FRAMES or layout.axes != ALONG_FRAMES or layout.scales:
        raise ValueError(
            f"the condition {name} lies on a grid of time, rows and columns, but these tokens have {layout.describe()}: choose a tokenizer "
            "of clips, or remove the condition"
        )


class FramewiseCondition(Condition[Value, Tensor]):
    """A vector a frame becomes one for each position of the token grid along time, and is added to all positions of that time.

    Tokens of ``r`` frames get one linear map of the ``r`` vectors, so that their order is kept; with a causal tokenizer the first frame has
    tokens of its own. No value is a vector of zeros, which changes nothing.

    Args:
        tokenizer: The generator's; its positions must be a grid of time, rows and columns.
        settings: The settings.

    Raises:
        ValueError: if the positions are no such grid.
    """

    positioned = True

    def __init__(self, tokenizer: Tokenizer, settings: FramewiseSettings) -> None:
        super().__init__(settings.width, settings.cfg_dropout)
        check_grid_of_clip(tokenizer, settings.name)
        layout, media = tokenizer.layout, tokenizer.media
        self.frames, self.rate = media.frames, media.rate or 1.0
        times, alone = layout.grid[0], bool(getattr(tokenizer, "first_frame_alone", False))
        self.places = layout.positions // times
        self.group = max((media.frames - alone) // max(times - alone, 1), 1)
        self.missing = times * self.group - media.frames  # frames before the first that its tokens do not have
        self.merge = nn.Linear(self.group * settings.width, settings.width, bias=False)

    @abstractmethod
    def vectors(self, prepared: Tensor) -> Tensor:
        """Prepared values to a vector a frame, ``(B, T, width)``."""

    def embed(self, prepared: Tensor) -> Conditioning:
        """To the mean of the frames as a state, and vectors along positions."""
        vectors = F.pad(self.vectors(prepared.to(self.null.device)), (0, 0, self.missing, 0))
        merged: Tensor = self.merge(vectors.unflatten(1, (-1, self.group)).flatten(2))  # (B, t, width)
        return Conditioning.single(merged.mean(1)).positioned(merged.repeat_interleave(self.places, 1))


class FramewiseSettings(ConditionSettings):
    """Settings of a condition with a value for every frame."""

    axes: ClassVar[Axes | None] = ALONG_FRAMES
    one_vector: ClassVar[bool] = True

    def tokenizer_of(self, context: BuildContext = NO_CONTEXT) -> Tokenizer:
        """The generator's tokenizer. Raises ``ValueError`` without one."""
        if context.tokenizer is None:
            raise ValueError(f"the condition {self.name} lies on the generator's tokens and needs its tokenizer")
        return context.tokenizer


def check_column(each: ConditionInput, column: str, example: str, data: MediaSet, source: str) -> None:
    """Raise ``RecipeError`` unless a set has the column that supplies an input; ``example`` names a set that has it."""
    if column not in data.columns:
        raise RecipeError(
            f"the recipe is conditioned on {each.noun}, but {source} has no column {column!r}: choose a set with one, such as {example}, "
            "or remove the condition"
        )


def zeros_beyond(values: Tensor, count: int) -> Tensor:
    """``(n, ...)`` padded with zeros to ``count`` rows."""
    return torch.cat([values, values.new_zeros(count - len(values), *values.shape[1:])])
