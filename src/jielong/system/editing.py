"""Editing: what an edit changes of a picture, checked before the work, and the picture with everything else as it was."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from jielong.conditions.picture import PICTURE
from jielong.core.tokens import Tokens
from jielong.generation.generator import Generator
from jielong.generation.inpainting import check_seen, drawn_positions
from jielong.media.images import fit, to_tensor
from jielong.media.masks import MaskLike, fit_mask, outpainted, picture_of, read_mask, region_mask
from jielong.media.raster_settings import background_of, grid_of
from jielong.media.results import ResultItem, Results
from jielong.system.completing import resized
from jielong.system.inputs import stage_names

if TYPE_CHECKING:
    from jielong.system.pipeline import System

Outside = Literal["original", "decoded", "drawn"]
PictureLike = str | os.PathLike[str] | Image.Image | Tensor
"""A file, an image, or ``(C, H, W)`` in [-1, 1] of the model's size."""


class EditError(ValueError):
    """An edit that cannot be made; :meth:`on_command_line` names options in place of arguments. ``message``: with ``{name}`` for each."""

    def __init__(self, message: str) -> None:
        self._message = message
        super().__init__(re.sub(r"\{(\w+)\}", r"`\1`", message))

    def on_command_line(self) -> str:
        """The message with options."""
        return re.sub(r"\{(\w+)\}", lambda match: f"--{match[1]}", self._message)


@dataclass(frozen=True)
class EditSettings:
    """What an edit changes.

    Attributes:
        mask: White where the picture may change; a file, an image of the picture's size, or ``(H, W)`` bool.
        region: Left, top, width and height in pixels of the picture, in place of a mask.
        outpaint: Pixels that the canvas has more on the left, on the right, above and below; fewer where negative.
        strength: How far it may differ from the picture, in (0, 1] (:meth:`Generator.generate`); by default 1 with a mask, and without one
            the order's (:attr:`Order.usual_strength`).
        outside: Pixels outside the mask: of the ``original``, of the original as ``decoded`` from its tokens, or as they are ``drawn``.
        instruction: What to do, for models that were trained on pairs of pictures; one or several.
    """

    mask: MaskLike | None = None
    region: Sequence[int] | None = None
    outpaint: Sequence[int] | None = None
    strength: float | None = None
    outside: Outside = "original"
    instruction: Sequence[str] | str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("mask", "region", "outpaint") if getattr(self, name) is not None]
        if len(given) > 1:
            raise EditError(f"{' and '.join(f'{{{name}}}' for name in given)} both say what changes: give one of them")
        for name, words in (("region", "left, top, width and height"), ("outpaint", "left, right, above and below")):
            numbers = getattr(self, name)
            if numbers is not None and (len(numbers) != 4 or any(not isinstance(number, int) for number in numbers)):
                raise EditError(f"{{{name}}} is four whole numbers of pixels, {words}, not {tuple(numbers)}")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise EditError(f"{{strength}} is above 0 (the picture as it is) and at most 1 (drawn anew), not {self.strength}")
        if self.outside not in ("original", "decoded", "drawn"):
            raise EditError(f"{{outside}} is original, decoded or drawn, not {self.outside!r}")

    @property
    def local(self) -> bool:
        """Whether it changes a part of the picture."""
        return any(each is not None for each in (self.mask, self.region, self.outpaint))


@dataclass(frozen=True, eq=False)
class Edit:
    """A checked edit of a picture by a system.

    Attributes:
        system: The system.
        picture: As the model reads it, ``(C, H, W)``.
        mask: Pixels that change, ``(H, W)`` bool; ``None`` for all.
        drawn: Positions that are drawn, ``(N,)`` bool.
        strength: See :class:`EditSettings`.
        outside: See :class:`EditSettings`.
        resized: Columns and rows of the picture before it was fitted; ``None`` where it was not.
        instruction: See :class:`EditSettings`.
    """

    system: System
    picture: Tensor
    mask: Tensor | None
    drawn: Tensor
    strength: float
    outside: Outside
    resized: tuple[int, int] | None = None
    instruction: Sequence[str] | str | None = None

    @staticmethod
    def of(system: System, picture: PictureLike, settings: EditSettings, names_change: bool = False) -> Edit:
        """Read a picture and check an edit of it.

        Args:
            system: A generator of pictures.
            picture: The picture.
            settings: What changes.
            names_change: Whether a text or a class says what a whole picture becomes.

        Raises:
            ValueError: if it cannot be made; nothing is computed yet.
        """
        generator = _generator(system)
        size, instructed = grid_of(system.tokenizer.media), PICTURE.name in system.inputs
        _check_words(system, instructed, settings, names_change)
        _check_order(generator, system, settings)
        if isinstance(picture, Tensor) and tuple(picture.shape) != system.tokenizer.media.shape:
            shape = system.tokenizer.media.shape
            raise EditError(
                f"a picture in a tensor is (C, H, W) = {shape} here, not {tuple(picture.shape)}: give its file, which is resized"
            )
        image = picture_of(picture, background_of(system.recipe.data), size)
        before, mask = image.size, None
        if settings.mask is not None:
            mask = fit_mask(read_mask(settings.mask, image.size), size)
        elif settings.region is not None:
            mask = fit_mask(region_mask(settings.region, image.size), size)
        elif settings.outpaint is not None:
            image, new = outpainted(image, settings.outpaint, size)
            mask = fit_mask(new, size)
        pixels = picture if isinstance(picture, Tensor) and settings.outpaint is None else None
        media = to_tensor(fit(image, size), system.tokenizer.media.channels) if pixels is None else pixels.float().cpu()
        drawn = torch.ones(generator.layout.positions, dtype=torch.bool)
        if mask is not None:
            _check_mask(mask, settings)
            drawn = drawn_positions(generator.layout, mask)
        whole = 1.0 if settings.local or instructed else generator.order.usual_strength
        strength = settings.strength or whole or 1.0
        resized = None if before == size[::-1] and image.size == before else image.size
        return Edit(system, media, mask, drawn, strength, settings.outside, resized, settings.instruction)

    @cached_property
    def tokens(self) -> Tokens:
        """The picture's tokens, ``(1, N, C)``."""
        return self.system.encode(self.picture[None])

    def composed(self, media: Tensor) -> Tensor:
        """Drawn pictures ``(B, C, H, W)``, with pixels outside the mask as :attr:`outside` says."""
        if self.mask is None or self.outside == "drawn":
            return media
        kept = self.picture if self.outside == "original" else self.system.decode(self.tokens)[0]
        return torch.where(self.mask, media, kept.to(media))

    def draw(self, **arguments: Any) -> Results[ResultItem]:
        """The edited pictures; ``arguments`` are those of :meth:`System.generate`, to which the edit adds its own."""
        if self.instruction is not None:
            arguments |= {"text": self.instruction, PICTURE.name: self.picture}
        if self.mask is not None or self.strength < 1:
            arguments |= self.kept()
        results = self.system.generate(**arguments)
        return results.like(self.composed(results.tensor))

    def kept(self) -> dict[str, Any]:
        """What is kept of the picture, as arguments of :meth:`System.generate`; of earlier stages of a cascade the same region."""
        stages = {name: self._at(self.system.stages[name]).kept() for name in stage_names(self.system.recipe)}
        more = {"stage_options": stages} if stages else {}
        return {"start": self.tokens, "known": ~self.drawn, "strength": self.strength, **more}

    def _at(self, stage: System) -> Edit:
        """The same edit by an earlier stage, at its size; it draws wherever one of its pixels changes in part."""
        generator, medium, mask = _generator(stage), stage.tokenizer.media, None
        picture = resized(self.picture, medium)
        drawn = torch.ones(generator.layout.positions, dtype=torch.bool)
        if self.mask is not None:
            mask = adaptive_max_pool2d(self.mask.float()[None], grid_of(medium))[0] > 0
            drawn = drawn_positions(generator.layout, mask)
        return Edit(stage, picture, mask, drawn, self.strength, self.outside)

    def describe(self) -> str:
        """How many pixels and tokens change, and what of them, in sentences."""
        order = _generator(self.system).order
        rows, columns = grid_of(self.system.tokenizer.media)
        words = list[str]()
        if self.resized is not None:
            words.append(f"the picture of {self.resized[0]} x {self.resized[1]} pixels is read at {columns} x {rows}")
        count, total = int(self.drawn.sum()), len(self.drawn)
        if self.mask is not None:
            pixels = int(self.mask.sum())
            area = f"{pixels:,} of {self.mask.numel():,} pixels ({100 * pixels / self.mask.numel():.1f} %)"
            words.append(
                f"{area} change; they touch {count:,} of {total:,} tokens, which are drawn, and the other {total - count:,} are kept"
            )
            if order.shifted and len(order.spans(self.system.tokenizer.layout)) == total:
                words.append("it draws in raster order: what is kept behind a drawn token is not seen by it")
        if self.strength < 1:
            words.append(f"strength {self.strength:g}: {order.describe_redrawn(self.system.tokenizer.layout, count, self.strength)}")
        return "; ".join(words)


def _generator(system: System) -> Generator:
    if system.generator is None:
        raise EditError(f"{system.name} is a tokenizer; to edit, load a generator such as maskgit-faces")
    if system.tokenizer.media.kind != "image":
        raise EditError(f"{system.name} draws {system.tokenizer.media.kind}, and edits are of pictures: load one such as maskgit-faces")
    return system.generator


def _check_words(system: System, instructed: bool, settings: EditSettings, names_change: bool) -> None:
    """Refuse words of another kind than the model reads, and edits without any."""
    if instructed and (settings.instruction is None or names_change):
        raise EditError(f"{system.name} reads an instruction and the picture: give {{instruction}}, such as 'make the hair red', alone")
    if not instructed and settings.instruction is not None:
        raise EditError(
            f"{system.name} reads no instructions: give {{text}} with what the whole picture shows then, or take a model that was trained "
            "on pairs, such as one of the recipe editing"
        )
    if not instructed and not settings.local and settings.strength is None and not names_change:
        raise EditError("nothing would change: give {text}, {strength}, {mask}, {region} or {outpaint}")


def _check_order(generator: Generator, system: System, settings: EditSettings) -> None:
    """Refuse edits that the order, or that of an earlier stage, cannot make, before a file is read."""
    layout, order = generator.layout, generator.order
    if settings.instruction is not None and not settings.local and settings.strength is None:
        return  # all tokens are drawn, given the picture
    try:
        check_seen(layout, order, generator.head)
        if settings.local:
            drawn_positions(layout, torch.ones(system.tokenizer.media.size, dtype=torch.bool))
    except ValueError as error:
        raise EditError(f"{system.name} cannot make this edit: {error}") from None
    if order.usual_strength is None and (not settings.local or (settings.strength or 1) < 1):
        instead = "leave {strength} out" if settings.local else "say with {mask} or {region} what changes"
        raise EditError(f"{system.name} draws token by token and keeps none of a region in part: {instead}, or take a masked generator")
    for name in stage_names(system.recipe):
        _check_order(_generator(system.stages[name]), system.stages[name], settings)


def _check_mask(mask: Tensor, settings: EditSettings) -> None:
    if not bool(mask.any()):
        raise EditError("all that changes is cropped off where the picture is made as wide as the model draws: crop the picture first")
    if bool(mask.all()):
        raise EditError("the whole picture would change: leave {mask} and {region} out and give {strength}, or generate without a picture")
