"""The first or the last frame of a clip as a condition, for models whose tokens do not hold it apart (VideoGPT, arXiv 2104.10157).

A causal tokenizer keeps the first frame apart, so that it may be given as known tokens instead (``into: tokens``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings
from jielong.conditions.cache import cached
from jielong.conditions.framewise import check_grid_of_clip
from jielong.conditions.inputs import HeldoutItems
from jielong.conditions.picture import Into, PictureFileInput, Source, read_picture
from jielong.config.registry import RecipeError
from jielong.core.medium import ALONG_FRAMES, Axes, Medium
from jielong.core.progress import counting
from jielong.core.tokens import Tokens
from jielong.media.images import to_bytes, to_float
from jielong.media.kinds.base import kind_of
from jielong.media.kinds.image import image_medium
from jielong.networks.conditioning import Conditioning
from jielong.networks.convolutional import ResidualBlock
from jielong.networks.embedding import PositionEmbedding, cell_convolution

if TYPE_CHECKING:
    from jielong.data.sets import Batch, MediaSet
    from jielong.tokenizers.base import Tokenizer

_BATCH = 16
"""Clips that are read at a time."""


class FrameInput(PictureFileInput):
    """A frame: a path, an image, or a tensor ``(C, H, W)`` in [-1, 1]. A data set supplies the frames of its own clips."""

    frame: ClassVar[int]
    """Its index in a clip."""

    def from_batch(self, batch: Batch, medium: Medium) -> list[str]:
        """The items' keys, by which :meth:`FrameCondition.precompute` stores frames."""
        return batch.keys

    def from_heldout(self, items: HeldoutItems) -> list[Tensor]:
        """The frames of the real clips."""
        return list(items.batch.media[:, :, self.frame])

    def check(self, data: MediaSet, source: str) -> None:
        """There must be frames."""
        if data.medium.axes != ALONG_FRAMES:
            raise RecipeError(f"the recipe is conditioned on {self.noun}, but {source} holds no clips: remove that condition")


class FirstFrameInput(FrameInput):
    """See :class:`FrameInput`."""

    name = "first_frame"
    noun = "a first frame"
    help = "Picture with which the clip begins; repeatable."
    frame = 0


class LastFrameInput(FrameInput):
    """See :class:`FrameInput`."""

    name = "last_frame"
    noun = "a last frame"
    help = "Picture with which the clip ends; repeatable."
    frame = -1


class FrameCondition(Condition[Source, Tensor]):
    """A frame through a convolution, and residual blocks, that give a vector for each place of the token grid.

    As ``positions`` a place's vector is added to the inputs of its tokens at all times; as ``states`` they are a sequence that the backbone
    attends to. As ``tokens`` their mean is one state, and the clip begins with the frame's own tokens.

    Args:
        tokenizer: The generator's; its positions must be a grid of time, rows and columns.
        settings: The settings.

    Raises:
        ValueError: if the positions are no such grid, or the frame has no tokens of its own.
    """

    kept_by_guidance = True

    def __init__(self, tokenizer: Tokenizer, settings: FrameSettings) -> None:
        super().__init__(settings.width, settings.cfg_dropout)
        check_grid_of_clip(tokenizer, settings.name)
        layout, media = tokenizer.layout, tokenizer.media
        self.begins = settings.into == "tokens"
        if self.begins and (settings.input.frame != 0 or not getattr(tokenizer, "first_frame_alone", False)):
            raise ValueError(
                f"condition.{settings.name}.into: tokens begins a clip with the tokens of its first frame, and "
                + ("this is another frame" if settings.input.frame else "this tokenizer has no tokens of that frame alone")
                + ": take into: positions or states, or first_frame with a tokenizer with a causal autoencoder"
            )
        self._encoder = (tokenizer,)  # in a tuple, so that nn.Module does not register it
        self.frame, self.times = settings.input.frame, layout.grid[0]
        self.medium = image_medium(media.channels, (media.along("rows"), media.along("columns")))
        self.input = cell_convolution(media.channels, settings.width, self.medium.size, layout.grid[1:])
        self.blocks = nn.Sequential(*(ResidualBlock(settings.width, settings.width) for _ in range(settings.blocks)))
        self.positioned = settings.into == "positions"
        places = layout.grid[1:]
        self.places = PositionEmbedding(places, settings.width) if settings.into == "states" else None
        self.length = places[0] * places[1] if settings.into == "states" else 1
        self.known = dict[str, Tensor]()

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """Read the frames of both splits, or load them from the cache on disk."""
        for data in (train, heldout):
            key = [self.describe(), data.fingerprint, list(data.keys)]
            found = cached("frames", key, {"frames": (len(data), *self.medium.shape)}, partial(self._read_all, data))["frames"]
            self.known.update(zip(data.keys, found.unbind(), strict=True))

    def _read_all(self, data: MediaSet) -> dict[str, Tensor]:
        parts = list[Tensor]()
        with counting("reading frames", len(data), data.kind.noun[1]) as advance:
            for first in range(0, len(data), _BATCH):
                parts.append(to_bytes(data.media(range(first, min(first + _BATCH, len(data))))[:, :, self.frame]))
                advance(len(parts[-1]))
        return {"frames": torch.cat(parts)}

    def resolve(self, value: Source) -> Tensor:
        """The frame, ``(C, H, W)`` in [-1, 1] at the clips' size. Raises ``ValueError`` if it cannot be read."""
        if isinstance(value, str) and value in self.known:
            return to_float(self.known[value])
        if not isinstance(value, Tensor):
            return read_picture(value, self.medium)
        if value.ndim != 3 or value.shape[0] != self.medium.channels:
            raise ValueError(f"a frame is {self.medium.channels} x height x width, not {' x '.join(map(str, value.shape))}")
        value = value.cpu().float()
        return value if tuple(value.shape[1:]) == self.medium.size else kind_of(self.medium).fitted(value[None], self.medium)[0]

    def prepare(self, values: Sequence[Source]) -> Tensor:
        """Values, one per item, to ``(B, C, H, W)``."""
        return torch.stack([self.resolve(value) for value in values])

    @torch.no_grad()
    def start(self, values: Sequence[Source]) -> tuple[Tokens, Tensor] | None:
        """The tokens of the frames, each a clip of one frame; see :meth:`Condition.start`."""
        if not self.begins:
            return None
        (tokenizer,) = self._encoder
        weight, clips = next(tokenizer.parameters(), self.null), self.prepare(values)[:, :, None]
        parts = [tokenizer.encode(part.to(weight.device)) for part in clips.split(_BATCH)]
        found = torch.cat([part.values for part in parts])
        return Tokens(found, parts[0].layout), torch.ones(found.shape[1], dtype=torch.bool)

    def embed(self, prepared: Tensor) -> Conditioning:
        """``(B, C, H, W)`` to a state an item and vectors along positions, or to a state a place."""
        vectors: Tensor = self.blocks(self.input(prepared.to(self.null.device, self.null.dtype))).flatten(2).mT
        if self.begins:
            return Conditioning.single(vectors.mean(1))
        if self.places is None:
            return Conditioning.single(vectors.mean(1)).positioned(vectors.repeat(1, self.times, 1))
        rows, columns = self.medium.size[0] // self.input.stride[0], self.medium.size[1] // self.input.stride[1]
        states = vectors + self.places(torch.cartesian_prod(torch.arange(rows), torch.arange(columns)))
        return Conditioning(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device), states.mean(1))

    def describe(self) -> dict[str, object]:
        """Which frame, and its medium."""
        return {"frame": self.frame, "media": self.medium.to_json()}


class FrameSettings(ConditionSettings):
    """Settings of the condition on a frame.

    Attributes:
        into: ``positions`` adds it to the inputs place by place, at all times; ``states`` gives it to the backbone to attend to; ``tokens``
            begins the clip with its tokens, where a causal tokenizer has them apart, for orders that read given tokens.
        blocks: Residual blocks of 3x3 convolutions over the places, behind the first convolution (VideoGPT: a ResNet).
    """

    axes: ClassVar[Axes | None] = ALONG_FRAMES
    input: ClassVar[FrameInput]
    into: Into | Literal["tokens"] = "positions"
    blocks: int = Field(default=0, ge=0)

    @property
    def token_states(self) -> bool:
        """See :attr:`ConditionSettings.token_states`: those of the frame's places."""
        return self.into == "states"

    def build(self, context: BuildContext = NO_CONTEXT) -> FrameCondition:
        """The condition. Raises ``ValueError`` without a tokenizer, or if its tokens do not lie in a clip."""
        if context.tokenizer is None:
            raise ValueError(f"the condition {self.name} lies on the generator's tokens and needs its tokenizer")
        return FrameCondition(context.tokenizer, self)


class FirstFrame(FrameSettings, family="condition", name="first_frame"):
    """Settings of the condition on the first frame; see :class:`FrameSettings`."""

    input: ClassVar[FrameInput] = FirstFrameInput()


class LastFrame(FrameSettings, family="condition", name="last_frame"):
    """Settings of the condition on the last frame; see :class:`FrameSettings`."""

    input: ClassVar[FrameInput] = LastFrameInput()
