"""What a body is: an encoder and the decoder that mirrors it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from jielong.config.registry import Medium, Part, parts_of
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
        medium: What its networks read; ``None`` for any medium.
    """

    medium: ClassVar[Medium | None] = None

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
        self.check_medium("sound" if len(size) == 1 else "pictures")
        return check_grid(size, reduction)

    def check_medium(self, medium: Medium) -> None:
        """Raise ``ValueError`` when the data are of another medium, with the bodies that read them."""
        if self.medium not in (None, medium):
            fitting = [name for name, part in parts_of(self.family).items() if getattr(part, "medium", None) in (None, medium)]
            raise ValueError(f"the body {self.name} reads {self.medium}, and the data are {medium}: choose one of {', '.join(fitting)}")
