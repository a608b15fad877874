"""Random crops and flips of training pictures."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from jielong.config.registry import Config

_LONGEST = 3.0
"""Times longer than the crop along one axis that a picture is kept; beyond, its centre is."""


class Augmentation(Config):
    """Changes of pictures that are drawn anew each time one is trained on.

    Attributes:
        flip: Mirror half of the pictures from left to right (torchvision's ``RandomHorizontalFlip``), except those whose captions or
            classes would become false.
        crop: Crop a part of the size's aspect anywhere, and resize it; its sides are drawn uniformly between this share and all of the
            largest such part (``min_crop_frac`` of ADM, Dhariwal and Nichol 2021, https://arxiv.org/abs/2105.05233; torchvision's
            ``RandomResizedCrop`` draws the area, and other aspects).
    """

    flip: bool = False
    crop: float = Field(default=1.0, ge=0.1, le=1)

    @property
    def crops(self) -> bool:
        """Whether it crops."""
        return self.crop < 1

    def canvas_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns in which the smallest crop still has as many pixels as ``size``."""
        return math.ceil(size[0] / self.crop), math.ceil(size[1] / self.crop)

    def canvas(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """A picture from which crops are resized: it covers :meth:`canvas_size` and is never enlarged."""
        rows, columns = self.canvas_size(size)
        scale = min(1.0, max(columns / image.width, rows / image.height))
        width, height = min(image.width, _LONGEST * columns / scale), min(image.height, _LONGEST * rows / scale)
        left, top = (image.width - width) / 2, (image.height - height) / 2
        target = max(1, round(width * scale)), max(1, round(height * scale))
        if target == image.size:
            return image
        return image.resize(target, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))

    def cropped(self, canvas: Tensor, size: tuple[int, int], draw: Callable[[str], float]) -> Tensor:
        """A random crop of a canvas.

        Args:
            canvas: ``(C, H, W)`` uint8.
            size: Rows and columns of the crop.
            draw: Uniform numbers in [0, 1) by purpose.

        Returns:
            ``(C, *size)`` uint8.
        """
        (height, width), (rows, columns) = canvas.shape[1:], size
        share = self.crop + (1 - self.crop) * draw("crop")
        factor = share * min(height / rows, width / columns)
        left, top = draw("left") * (width - factor * columns), draw("top") * (height - factor * rows)
        box = (left, top, min(width, left + factor * columns), min(height, top + factor * rows))
        planes = [Image.fromarray(plane).resize((columns, rows), Image.Resampling.LANCZOS, box=box) for plane in canvas.numpy()]
        return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))


def mirrored(media: Tensor) -> Tensor:
    """Pictures ``(..., H, W)`` from right to left."""
    return media.flip(-1)
