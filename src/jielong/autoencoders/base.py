"""Interface of autoencoders: an encoder and the decoder that mirrors it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from jielong.config.registry import Part, parts_of
from jielong.core.medium import Axes, axes_text
from jielong.networks.decoder import Decoder


@dataclass(frozen=True)
class Autoencoder:
    """The networks on both sides of a bottleneck."""

    encoder: nn.Module  # media (B, C, *size) to features (B, encoded, *grid)
    decoder: Decoder  # features (B, D, *grid) to maps (B, outputs, *size)
    reduction: tuple[int, ...]  # samples, frames or pixels per position along each axis, H / h
    first_frame_alone: bool = False  # the first position along the first axis, time, is that of one frame: t = 1 + (T - 1) / r
    any_size: bool = True  # the networks compute any number of rows and columns

    def grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """:func:`check_grid` of media of this size."""
        return check_grid(size, self.reduction, self.first_frame_alone)


def check_grid(size: tuple[int, ...], reduction: tuple[int, ...], first_frame_alone: bool = False) -> tuple[int, ...]:
    """Positions along each axis: the size over the reduction. Raises ``ValueError`` if it does not divide evenly.

    ``first_frame_alone``: the first of ``T`` frames has positions of its own, so that there are ``1 + (T - 1) / r`` along time.
    """
    alone = int(first_frame_alone)
    rest = (size[0] - alone, *size[1:])
    if len(size) != len(reduction) or any(side % factor for side, factor in zip(rest, reduction, strict=True)):
        sides, factors = " x ".join(map(str, size)), " x ".join(map(str, reduction))
        if len(size) == len(reduction) and alone and rest[0] % reduction[0]:
            below = rest[0] // reduction[0] * reduction[0] + 1
            raise ValueError(
                f"media of size {sides} do not divide into tokens of {factors}: the first of {size[0]} frames stands alone, and "
                f"{reduction[0]} each follow, so choose 1 + {reduction[0]} k frames, such as {below} or {below + reduction[0]}"
            )
        raise ValueError(f"media of size {sides} do not divide into tokens of {factors}: choose sizes that are multiples")
    return (rest[0] // reduction[0] + alone, *(side // factor for side, factor in zip(rest[1:], reduction[1:], strict=True)))


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes that a tokenizer fixes."""

    channels: int  # C of the media
    grid: tuple[int, ...]  # positions along each axis
    dim: int  # width D of the decoder's features
    encoded: int  # width of the encoder's features
    outputs: int  # maps that the decoder returns


class AutoencoderSettings(Part):
    """Settings of an autoencoder. ``first_frame_alone`` and ``any_size``: as in :class:`Autoencoder`."""

    first_frame_alone: ClassVar[bool] = False
    any_size: ClassVar[bool] = True

    @property
    def reduction(self) -> tuple[int, ...]:
        """Samples or pixels per position along each axis."""
        raise NotImplementedError(f"the settings {type(self).__name__} have no reduction")

    def networks(self, sizes: NetworkSizes) -> tuple[nn.Module, Decoder]:
        """Encoder and decoder."""
        raise NotImplementedError(f"the settings {type(self).__name__} build no autoencoder")

    def build(
        self, *, channels: int, size: tuple[int, ...], dim: int, outputs: int | None = None, encoded: int | None = None
    ) -> Autoencoder:
        """The networks. Raises ``ValueError`` if it reads media with other axes, or the size does not divide into positions.

        Args:
            size: Their size along each axis.
            dim: Width ``D`` of the features on both sides of the bottleneck.
            outputs: Maps that the decoder returns; ``C`` when not given.
            encoded: Width of the encoder's features; ``D`` when not given.
        """
        grid = self.grid(size, self.reduction)
        encoded, outputs = dim if encoded is None else encoded, channels if outputs is None else outputs
        networks = self.networks(NetworkSizes(channels, grid, dim, encoded, outputs))
        return Autoencoder(*networks, self.reduction, self.first_frame_alone, self.any_size)

    def grid(self, size: tuple[int, ...], reduction: tuple[int, ...]) -> tuple[int, ...]:
        """:func:`check_grid`, of a size with the right number of axes."""
        if self.axes is not None and len(size) != len(self.axes):
            raise ValueError(f"{self._reads()}, not a size of {len(size)}: {self._choices(len(size))}")
        return check_grid(size, reduction, self.first_frame_alone)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raise ``ValueError`` if a size does not divide into positions; settings without a :attr:`reduction` tell when they build."""
        if type(self).reduction is not AutoencoderSettings.reduction:
            self.grid(size, self.reduction)

    def check_axes(self, axes: Axes) -> None:
        """Raise ``ValueError`` when the data have other axes than the networks read, with autoencoders that fit."""
        if self.axes not in (None, axes):
            raise ValueError(f"{self._reads()}, but the data have {axes_text(axes)}: {self._choices(len(axes))}")

    def _reads(self) -> str:
        return f"the autoencoder {self.name} reads {axes_text(self.axes or ())}"

    def _choices(self, axes: int) -> str:
        parts = parts_of(self.family).items()
        fitting = [name for name, part in parts if (reads := getattr(part, "axes", None)) is None or len(reads) == axes]
        return f"choose one of {', '.join(fitting)}" if fitting else "no autoencoder here reads such media"
