"""A source picture as a condition, for models that are trained on pairs (InstructPix2Pix, arXiv 2211.09800)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from jielong.conditions.base import NO_CONTEXT, BuildContext, ConditionSettings, Prepared
from jielong.conditions.encoded import TokenReadingCondition
from jielong.conditions.inputs import ConditionInput, HeldoutItems, bytes_from_json
from jielong.config.registry import RecipeError
from jielong.data.linked import SOURCE
from jielong.data.pairs import source_identity, source_media, without_source
from jielong.media.kinds.base import kind_of
from jielong.media.reading.pictures import read_image
from jielong.networks.conditioning import Conditioning, References
from jielong.networks.embedding import PositionEmbedding, embedding_of

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch, MediaSet
    from jielong.tokenizers.base import Tokenizer

Into = Literal["positions", "states"]
PictureInto = Literal["positions", "states", "references"]
TIME = 10
"""Of a reference picture's tokens, as FLUX.2's first has; those that are drawn are at 0."""
AXES = 2
"""Of the grid of a reference picture's tokens."""


class PictureFileInput(ConditionInput):
    """A picture: a path, an image, a tensor ``(C, H, W)`` in [-1, 1], or what a condition stores of it, a matrix."""

    metavar = "PATH"
    file = True

    def is_single(self, value: object) -> bool:
        """A path, an image or a tensor of one picture."""
        return isinstance(value, Image.Image) or (isinstance(value, Tensor) and value.ndim in (2, 3)) or super().is_single(value)

    def parse(self, text: str) -> Path:
        """A path."""
        return Path(text)

    def from_json(self, value: object) -> Image.Image:
        """The bytes of a picture in base64."""
        return read_image(bytes_from_json(value, "a picture"), f"{self.noun}")


class PictureInput(PictureFileInput):
    """See :class:`PictureFileInput`; a matrix is its tokens ``(N, C)``."""

    name = "picture"
    noun = "a source picture"
    help = "Picture to change; repeatable."
    paired = True

    def from_batch(self, batch: Batch, medium: Medium) -> list[str]:
        """The items' keys, by which :meth:`PictureCondition.precompute` stores the tokens of their sources."""
        return batch.keys

    def from_heldout(self, items: HeldoutItems) -> list[Tensor] | None:
        """The sources."""
        return None if items.sources is None else list(items.sources)

    def check(self, data: MediaSet, source: str) -> None:
        """There must be a column of sources, and nothing that changes an item without its source."""
        if SOURCE not in data.columns:
            raise RecipeError(
                f"the recipe is conditioned on a source picture, but {source} has no column {SOURCE!r}: choose a set of pairs, such as "
                "faces-edits"
            )
        if data.augmenter is not None:
            raise RecipeError("data.augment changes pictures and not the sources that they are compared with: leave it out")

    def missing(self, data: MediaSet) -> list[int]:
        """Items without a source."""
        return without_source(data)


PICTURE = PictureInput()
Source = str | Path | Image.Image | Tensor


def read_picture(value: str | Path | Image.Image, medium: Medium) -> Tensor:
    """A file or an image as a medium, ``(C, H, W)`` in [-1, 1]. Raises ``ValueError`` if it is none or cannot be read."""
    kind, content = kind_of(medium), value if isinstance(value, Image.Image) else Path(value)
    if isinstance(content, Path) and not content.is_file():
        raise ValueError(f"there is no picture {str(value)!r}: give the file of one, such as face.png")
    name = "the picture" if isinstance(content, Image.Image) else str(content)
    return kind.to_float(kind.decode(content, name, medium, kind.settings()))


class PictureReadingCondition(TokenReadingCondition[Source, Prepared]):
    """Reads tokens of pictures, of which a value may also be a file or an image."""

    def tokens_of(self, value: Source) -> Tensor:
        """Token values ``(N, C)``. Raises ``ValueError`` if a picture cannot be read."""
        if isinstance(value, Tensor) or (isinstance(value, str) and value in self.known):
            return super().tokens_of(value)
        return self.encode(read_picture(value, self.tokenizer.media)[None])[0]

    def resolve(self, value: Source) -> Tensor:
        """The tokens."""
        return self.tokens_of(value)


class PictureCondition(PictureReadingCondition[Tensor]):
    """The picture's tokens by the generator's own tokenizer, embedded.

    As ``positions`` their vectors are added to the inputs at their positions, since source and target have one layout; as ``states`` they
    are a sequence that the backbone attends to; as ``references`` they stand in one sequence with the tokens that are drawn. A dropped
    picture is the null vector, and no vectors along positions or references.

    Args:
        tokenizer: The generator's; its weights are not the condition's. Continuous tokens are the means.
        width: Channels.
        cfg_dropout: See :class:`Condition`.
        into: What it becomes.
    """

    kept_by_guidance = True

    def __init__(self, tokenizer: Tokenizer, width: int, cfg_dropout: float, into: PictureInto) -> None:
        super().__init__(tokenizer, width, cfg_dropout)
        layout = tokenizer.layout
        self.positioned = into == "positions"
        self.embedding = embedding_of(layout, width)
        self.references = into == "references"
        self.places = PositionEmbedding(layout.extents, width) if into == "states" else None
        self.length = layout.positions if into == "states" else 1

    def media_of(self, data: MediaSet, rows: range) -> Tensor:
        """The sources."""
        return source_media(data, rows)

    def identity_of(self, data: MediaSet) -> str:
        """Of the sources."""
        return source_identity(data)

    def prepare(self, values: Sequence[Source]) -> Tensor:
        """Values, one per item, to token values ``(B, N, C)``."""
        return self.encoded(values)

    def embed(self, prepared: Tensor) -> Conditioning:
        """``(B, N, C)`` to a state an item and vectors along positions or references, or to ``N`` states."""
        vectors: Tensor = self.embedding(prepared.to(self.null.device, self.null.dtype if prepared.is_floating_point() else prepared.dtype))
        coords, mask = self.tokenizer.layout.coordinates(), torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
        if self.references:
            return replace(Conditioning.single(vectors.mean(1)), references=References(vectors, mask, F.pad(coords, (1, 0), value=TIME)))
        if self.places is None:
            return Conditioning.single(vectors.mean(1)).positioned(vectors)
        states = vectors + self.places(coords)
        return Conditioning(states, mask, states.mean(1))


class Picture(ConditionSettings, family="condition", name="picture"):
    """Settings of the condition on a source picture.

    Attributes:
        into: ``positions`` adds the source's tokens to the inputs position by position (InstructPix2Pix's channels); ``states`` gives them
            to the backbone to attend to; ``references`` puts them into one sequence with the tokens that are drawn, at a time of their
            own, for a network that reads them (FLUX.2).
    """

    input: ClassVar[ConditionInput] = PICTURE
    into: PictureInto = "positions"

    @property
    def token_states(self) -> bool:
        """See :attr:`ConditionSettings.token_states`: those of the source."""
        return self.into == "states"

    @property
    def gives_references(self) -> bool:
        """See :attr:`ConditionSettings.gives_references`."""
        return self.into == "references"

    def build(self, context: BuildContext = NO_CONTEXT) -> PictureCondition:
        """The condition. Raises ``ValueError`` without a tokenizer."""
        if context.tokenizer is None:
            raise ValueError("the condition picture reads the generator's tokens and needs its tokenizer")
        if self.into == "references" and len(context.tokenizer.layout.extents) != AXES:
            raise ValueError("condition.picture: into: references needs tokens on a grid of rows and columns: take states")
        return PictureCondition(context.tokenizer, self.width, self.cfg_dropout, self.into)
