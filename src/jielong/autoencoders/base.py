"""What a body is: an encoder and the decoder that mirrors it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from jielong.config.registry import Part, parts_of
from jielong.core.medium import Axes, axes_text
from jielong.networks.decoder import Decoder


@dataclass(frozen=True)
class Autoencoder:
    """The networks on both sides of a bottleneck.

    Attributes:
        encoder: Pictures ``(B, C, H, W)`` to features ``(B, D, h, w)``, or to as many maps as it was built for.
        decoder: Features ``(B, D, h, w)`` to pictures ``(B, C, H, W)``, or to as many maps as it was built for.
        reduction: Pixels of a side that one position covers, ``f = H / h``.
    """

    encoder: nn.Module
    decoder: Decoder
    reduction: int


def check_grid(size: tuple[int, ...], reduction: int) -> tuple[int, ...]:
    """The grid that media of a size come to: ``(h, w)`` of pictures, ``(n,)`` of sound.

    Raises:
        ValueError: if they do not divide into squares of ``reduction`` pixels a side, or into stretches of as many samples.
    """
    if any(side % reduction for side in size):
        told = " x ".join(map(str, size))
        if len(size) == 1:
            raise ValueError(f"sound of {told} samples does not divide into tokens of {reduction} samples")
        raise ValueError(f"pictures of {told} pixels do not divide into tokens of {reduction} x {reduction} pixels")
    return tuple(side // reduction for side in size)


class AutoencoderSettings(Part):
    """What the settings of every body answer.

    Attributes:
        axes: Axes of the media its networks read; ``None`` for any.
    """

    axes: ClassVar[Axes | None] = None

    def build(
        self, *, channels: int, size: tuple[int, ...], dim: int, outputs: int | None = None, encoded: int | None = None
    ) -> Autoencoder:
        """The networks.

        Args:
            channels: Colour channels ``C`` of the pictures.
            size: Their height and width in pixels, or their length in samples.
            dim: Width ``D`` of the features on both sides of the bottleneck.
            outputs: Maps that the decoder gives; ``C`` when not given.
            encoded: Width of what the encoder gives, where a bottleneck makes ``D`` of it; ``D`` when not given.

        Raises:
            ValueError: if the media are of a kind that it does not read, or do not divide into tokens.
        """
        raise NotImplementedError(f"the settings {type(self).__name__} build no body")

    def grid(self, size: tuple[int, ...], reduction: int) -> tuple[int, ...]:
        """The grid that media of this size come to, as :func:`check_grid` has it.

        Raises:
            ValueError: as there, or if the body reads pictures and the media are sound, or the other way round.
        """
        if self.axes is not None and len(size) != len(self.axes):
            raise ValueError(f"{self._reads()}, not a size of {len(size)}: {self._choices(len(size))}")
        return check_grid(size, reduction)

    def check_axes(self, axes: Axes) -> None:
        """Raise ``ValueError`` when the data have other axes than the networks read; the message names autoencoders that fit."""
        if self.axes not in (None, axes):
            raise ValueError(f"{self._reads()}, but the data have {axes_text(axes)}: {self._choices(len(axes))}")

    def _reads(self) -> str:
        return f"the autoencoder {self.name} reads {axes_text(self.axes or ())}"

    def _choices(self, axes: int) -> str:
        parts = parts_of(self.family).items()
        fitting = [name for name, part in parts if (reads := getattr(part, "axes", None)) is None or len(reads) == axes]
        return f"choose one of {', '.join(fitting)}" if fitting else "no autoencoder here reads such media"
