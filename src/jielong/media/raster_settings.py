"""Keys of the `data:` section that pictures and the frames of videos share."""

from __future__ import annotations

from typing import Annotated

from PIL import ImageColor
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from jielong.config.data import DataSettings
from jielong.core.medium import Medium
from jielong.media.reading.pictures import WHITE


def grid_of(medium: Medium) -> tuple[int, int]:
    """Rows and columns."""
    return medium.along("rows"), medium.along("columns")


def size_key(medium: Medium) -> int | list[int]:
    """The key `size` of a medium: the side of squares, or height and width."""
    rows, columns = grid_of(medium)
    return rows if rows == columns else [rows, columns]


def _colour(given: object) -> object:
    """A colour without transparency."""
    try:
        colour = ImageColor.getrgb(given) if isinstance(given, str) else ()
    except ValueError:
        colour = ()
    if len(colour) != 3:
        raise PydanticCustomError("colour", "write a colour, such as white, or its hexadecimal numbers in quotes, such as '#808080'")
    return given


Side = Annotated[int, Field(ge=4)]
_SIDE: TypeAdapter[int] = TypeAdapter(Side)


def _sides(given: object) -> object:
    """A side or ``[height, width]``; a square is its side. Errors name what a side must be, whichever form is written."""
    if isinstance(given, list | tuple) and len(given) != 2:
        raise PydanticCustomError("size", "write the side of squares, such as 64, or [height, width], such as [48, 64]")
    try:
        sides = tuple(_SIDE.validate_python(side) for side in (given if isinstance(given, list | tuple) else [given]))
    except ValidationError as error:
        raise PydanticCustomError("size", error.errors()[0]["msg"]) from None
    return sides[0] if len(set(sides)) == 1 else sides


class RasterData(DataSettings):
    """Keys of what has rows and columns of pixels.

    Attributes:
        size: Side of square pictures in pixels, or ``[height, width]``.
        background: The colour behind what is transparent: a name of CSS, or its hexadecimal numbers in quotes, such as ``"#808080"``.
    """

    size: Annotated[Side | tuple[Side, Side], BeforeValidator(_sides)] = 64
    background: Annotated[str, BeforeValidator(_colour)] = WHITE

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def background_of(settings: DataSettings) -> str:
    """The colour behind what is transparent."""
    return settings.background if isinstance(settings, RasterData) else WHITE


def background_words(settings: DataSettings) -> str:
    """The background for the description of how items are read; empty if it is white."""
    colour = ImageColor.getrgb(background_of(settings))
    return "" if colour == ImageColor.getrgb(WHITE) else f"; over {colour}"
