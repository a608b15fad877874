"""The picture of an earlier stage as a condition of super-resolution, with noise whose level the network reads.

Cascaded diffusion (arXiv 2106.15282, sections 3 and 4.2) and Imagen (2205.11487, section 2.4): the low-resolution picture is upsampled and
concatenated with the noisy picture on channels. Here its channels go through a convolution of their own, which is added behind the first
one of the network: the same map. In training Gaussian noise of a random level corrupts the picture ("conditioning augmentation"), so that
the errors of the earlier stage look like what was seen; in sampling the level is fixed. It is that of a diffusion with the cosine schedule:

    z = cos(pi l / 2) x + sin(pi l / 2) e,    l ~ U(0, 1)
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
from jielong.core.medium import ALONG_ROWS
from jielong.core.rng import Draws
from jielong.core.tokens import Tokens
from jielong.networks.conditioning import Conditioning
from jielong.networks.denoiser import SINUSOID, sinusoid
from jielong.networks.embedding import cell_convolution

if TYPE_CHECKING:
    from jielong.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class LowResolution:
    """Pictures of the earlier stage."""

    pictures: Tensor  # (B, C, h, w), with the noise of their levels
    levels: Tensor  # (B,) in [0, 1]


class LowResolutionInput(PictureStageInput):
    """A picture, which is resized to the earlier stage's."""

    name = "low_resolution"
    noun = "the low-resolution picture of an earlier stage"
    help = "Picture to enlarge, in place of the earlier stage's; repeatable."


class LowResolutionCondition(PictureReadingCondition[LowResolution]):
    """The stage's picture upsampled bilinearly as vectors along positions, and the level of its noise as the pooled vector and one state.

    Args:
        stage: The earlier stage's tokenizer.
        tokenizer: The generator's; its positions must be a grid of rows and columns.
        settings: The settings.

    Raises:
        ValueError: if the positions are no such grid, or the stage draws something else than pictures.
    """

    kept_by_guidance = True
    positioned = True

    def __init__(self, stage: Tokenizer, tokenizer: Tokenizer, settings: LowResolutionSettings) -> None:
        super().__init__(stage, settings.width, settings.cfg_dropout)
        layout, media = tokenizer.layout, tokenizer.media
        if stage.media.axes != ALONG_ROWS or media.axes != ALONG_ROWS or layout.axes != ALONG_ROWS or layout.scales:
            raise ValueError(
                f"the condition {settings.name} adds a picture to a grid of rows and columns, but these tokens have {layout.describe()}"
                f" and the stage draws {stage.media}: choose a tokenizer such as patches"
            )
        self.size, self.noise_level = media.size, settings.noise_level
        # Reads each token's pixels and those of its neighbours, as a 3x3 convolution over tokens does.
        self.input = cell_convolution(stage.media.channels, settings.width, media.size, layout.grid)
        self.of_level = nn.Sequential(nn.Linear(SINUSOID, settings.width), nn.SiLU(), nn.Linear(settings.width, settings.width))

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
        angles = (levels * (math.pi / 2))[:, None, None, None]
        noise = draws.normal(*pictures.shape[1:])
        return LowResolution(angles.cos() * pictures + angles.sin() * noise, levels)

    def embed(self, prepared: LowResolution) -> Conditioning:
        """``(B, C, h, w)`` and their levels to a state an item and vectors along positions."""
        pictures, levels = (each.to(self.null.device, self.null.dtype) for each in (prepared.pictures, prepared.levels))
        upsampled = F.interpolate(pictures, size=self.size, mode="bilinear", align_corners=False)
        vectors: Tensor = self.input(upsampled).flatten(2).mT
        return Conditioning.single(self.of_level(sinusoid(levels))).positioned(vectors)


class LowResolutionSettings(StageReader, family="condition", name="low_resolution"):
    """Settings of the condition on the picture of an earlier stage, for super-resolution in a cascade.

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
