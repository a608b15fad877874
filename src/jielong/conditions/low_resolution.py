"""The picture or clip of an earlier stage as a condition of super-resolution, with noise whose level the network reads.

Cascaded diffusion (arXiv 2106.15282, sections 3 and 4.2) and Imagen (2205.11487, section 2.4): the low-resolution picture is upsampled and
concatenated with the noisy picture on channels. Here its channels go through a convolution of their own, which is added behind the first
one of the network: the same map. In training Gaussian noise of a random level corrupts the picture ("conditioning augmentation"), so that
the errors of the earlier stage look like what was seen; in sampling the level is fixed. It is that of a diffusion with the cosine schedule:

    z = cos(pi l / 2) x + sin(pi l / 2) e,    l ~ U(0, 1)

Of a clip each frame is upsampled so, and stands at all frames until the next one (Imagen Video, arXiv 2210.02303, section 2.3): the earlier
stage may have fewer rows and columns, fewer frames a second, or both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.conditions.base import NO_CONTEXT, BuildContext
from jielong.conditions.inputs import ConditionInput
from jielong.conditions.picture import PictureReadingCondition, Source
from jielong.conditions.stage import PictureStageInput, StageReader
from jielong.core.medium import ALONG_FRAMES, ALONG_ROWS, Medium
from jielong.core.rng import Draws
from jielong.core.tokens import Tokens
from jielong.networks.conditioning import Conditioning
from jielong.networks.denoiser import SINUSOID, sinusoid
from jielong.networks.embedding import cell_convolution

if TYPE_CHECKING:
    from jielong.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class LowResolution:
    """Pictures or clips of the earlier stage."""

    pictures: Tensor  # (B, C, h, w) or (B, C, t, h, w), with the noise of their levels
    levels: Tensor  # (B,) in [0, 1]


class LowResolutionInput(PictureStageInput):
    """A picture or a clip, which is resized to the earlier stage's; clips as tensors ``(C, T, H, W)`` stand in a list."""

    name = "low_resolution"
    noun = "the low-resolution picture or clip of an earlier stage"
    help = "Picture or clip to enlarge, in place of the earlier stage's; repeatable."


def shown_frames(stage: Medium, media: Medium) -> list[int]:
    """Of each frame of a clip, the frame of the earlier stage that is shown at its time.

    Raises:
        ValueError: if the earlier stage ends before, or has more frames a second.
    """
    share = (stage.rate or 1) / (media.rate or 1)
    if share > 1:
        raise ValueError(
            f"the condition low_resolution: the stage draws {stage}, more frames a second than {media}: change data.frame_rate"
        )
    found = [math.floor(frame * share + 1e-9) for frame in range(media.frames)]
    if found[-1] >= stage.frames:
        raise ValueError(
            f"the condition low_resolution: the stage draws {stage}, and the last frames of {media} come after its last: give the stage "
            f"{found[-1] + 1} frames, or these data {math.ceil(stage.frames / share - 1e-9)}"
        )
    return found


class LowResolutionCondition(PictureReadingCondition[LowResolution]):
    """The stage's picture upsampled bilinearly as vectors along positions, and the level of its noise as the pooled vector and one state.

    Of a clip it is each frame, repeated until the next; tokens must be of one frame then.

    Args:
        stage: The earlier stage's tokenizer.
        tokenizer: The generator's; its positions must be a grid of rows and columns, of each frame where they are of clips.
        settings: The settings.

    Raises:
        ValueError: if the positions are no such grid, or the stage draws something else than pictures or clips like these, or ends earlier.
    """

    kept_by_guidance = True
    positioned = True

    def __init__(self, stage: Tokenizer, tokenizer: Tokenizer, settings: LowResolutionSettings) -> None:
        super().__init__(stage, settings.width, settings.cfg_dropout)
        layout, media = tokenizer.layout, tokenizer.media
        of_clips = media.axes == ALONG_FRAMES
        if not stage.media.axes == media.axes == layout.axes in (ALONG_ROWS, ALONG_FRAMES) or layout.scales:
            raise ValueError(
                f"the condition {settings.name} adds a picture to a grid of rows and columns, but these tokens have {layout.describe()}"
                f" and the stage draws {stage.media}: choose a tokenizer such as patches"
            )
        if of_clips and layout.grid[0] != media.frames:
            raise ValueError(
                f"the condition {settings.name} adds a frame of the earlier stage to the tokens of each frame, and these have "
                f"{layout.grid[0]} times for {media.frames} frames: choose a tokenizer whose tokens are of one frame, such as patches"
            )
        self.media, self.size, self.noise_level = media, media.size[-2:], settings.noise_level
        self.shown = torch.tensor(shown_frames(stage.media, media)) if of_clips else None
        # Reads each token's pixels and those of its neighbours, as a 3x3 convolution over tokens does.
        self.input = cell_convolution(stage.media.channels, settings.width, self.size, layout.grid[-2:])
        self.of_level = nn.Sequential(nn.Linear(SINUSOID, settings.width), nn.SiLU(), nn.Linear(settings.width, settings.width))

    def tokens_of(self, value: Source) -> Tensor:
        """Token values ``(N, C)``; of a clip at this generator's frames, those that the earlier stage has are taken."""
        if self.shown is not None and isinstance(value, Tensor) and tuple(value.shape[1:]) == self.media.size:
            value = value[:, first_shown(self.shown)]
        return super().tokens_of(value)

    @torch.no_grad()
    def prepare(self, values: Sequence[Source]) -> LowResolution:
        """Values, one per item, to pictures without noise. Raises ``ValueError`` if an item is of no training data."""
        values_of_tokens = self.encoded(values)
        device = next(self.tokenizer.parameters(), values_of_tokens).device
        pictures = self.tokenizer.decode(Tokens(values_of_tokens.to(device), self.tokenizer.layout)).cpu()
        return LowResolution(pictures, torch.zeros(len(pictures)))

    def noised(self, prepared: LowResolution, draws: Draws) -> LowResolution:
        """Noise of a random level in training, and of the settings' level otherwise; none where that is ``None``."""
        if self.noise_level is None:
            return prepared
        pictures = prepared.pictures
        levels = draws.uniform() if self.training else torch.full((len(pictures),), self.noise_level)
        angles = (levels * (math.pi / 2)).view(-1, *(1 for _ in pictures.shape[1:]))
        noise = draws.normal(*pictures.shape[1:])
        return LowResolution(angles.cos() * pictures + angles.sin() * noise, levels)

    def embed(self, prepared: LowResolution) -> Conditioning:
        """``(B, C, h, w)``, or ``(B, C, t, h, w)`` of clips, and their levels to a state an item and vectors along positions."""
        pictures, levels = (each.to(self.null.device, self.null.dtype) for each in (prepared.pictures, prepared.levels))
        frames = pictures if self.shown is None else pictures.transpose(1, 2).flatten(0, 1)
        upsampled = F.interpolate(frames, size=self.size, mode="bilinear", align_corners=False)
        vectors: Tensor = self.input(upsampled).flatten(2).mT
        if self.shown is not None:
            vectors = vectors.unflatten(0, (len(pictures), -1))[:, self.shown.to(vectors.device)].flatten(1, 2)
        return Conditioning.single(self.of_level(sinusoid(levels))).positioned(vectors)


def first_shown(shown: Tensor) -> Tensor:
    """The first frame at which each frame of the earlier stage is shown, of :func:`shown_frames`; those never shown are left out."""
    return torch.cat([shown.new_tensor([True]).bool(), shown[1:] != shown[:-1]]).nonzero()[:, 0]


class LowResolutionSettings(StageReader, family="condition", name="low_resolution"):
    """Settings of the condition on the picture or clip of an earlier stage, for super-resolution in a cascade.

    Attributes:
        noise_level: Level of the noise that corrupts the picture in sampling, in [0, 1]: 0 leaves the picture as it is, 1 is noise alone.
            In training the level is drawn uniformly. ``null`` adds none at any time.
    """

    input: ClassVar[ConditionInput] = LowResolutionInput()
    one_vector: ClassVar[bool] = True
    noise_level: float | None = Field(default=0.1, ge=0, le=1)

    def build(self, context: BuildContext = NO_CONTEXT) -> LowResolutionCondition:
        """The condition. Raises ``ValueError`` without the stage or a tokenizer, or if they do not fit."""
        if context.tokenizer is None:
            raise ValueError("the condition low_resolution lies on the generator's tokens and needs its tokenizer")
        return LowResolutionCondition(self.stage_tokenizer(context), context.tokenizer, self)
