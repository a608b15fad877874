"""The vector of a picture as a condition: unCLIP's decoder (arXiv 2204.06125), whose prior draws the vector from a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from jielong.conditions.base import NO_CONTEXT, BuildContext
from jielong.conditions.inputs import ConditionInput
from jielong.conditions.picture import PictureReadingCondition, Source
from jielong.conditions.stage import PictureStageInput, StageReader
from jielong.networks.conditioning import Conditioning

if TYPE_CHECKING:
    from jielong.tokenizers.base import Tokenizer


class PictureEmbeddingInput(PictureStageInput):
    """A picture whose vector takes the place of the prior's, or such a vector as a token ``(1, D)``."""

    name = "variation_of"
    noun = "the vector of a picture"
    help = "Picture to draw variations of, in place of what an earlier stage draws; repeatable."


class PictureEmbeddingCondition(PictureReadingCondition[Tensor]):
    """A token of one vector through a small network: one state, which is the pooled vector too.

    Raises ``ValueError`` if the stage's tokens are not one vector.
    """

    def __init__(self, stage: Tokenizer, settings: PictureEmbedding) -> None:
        super().__init__(stage, settings.width, settings.cfg_dropout)
        layout = stage.layout
        if layout.discrete or layout.positions != 1:
            raise ValueError(
                f"the condition {settings.name} reads one vector a picture, but the stage {settings.stage!r} has {layout.describe()}: take "
                "a stage over the tokenizer two_towers, such as the recipe unclip-prior"
            )
        self.network = nn.Sequential(nn.Linear(layout.channels, settings.width), nn.SiLU(), nn.Linear(settings.width, settings.width))

    def prepare(self, values: Sequence[Source]) -> Tensor:
        """Values, one per item, to tokens ``(B, 1, D)``."""
        return self.encoded(values)

    def embed(self, prepared: Tensor) -> Conditioning:
        """``(B, 1, D)`` to a state an item."""
        return Conditioning.single(self.network(prepared[:, 0].to(self.null.device, self.null.dtype)))


class PictureEmbedding(StageReader, family="condition", name="picture_embedding"):
    """Settings of the condition on the vector of a picture, which an earlier stage draws and training takes from the pictures."""

    input: ClassVar[ConditionInput] = PictureEmbeddingInput()

    def build(self, context: BuildContext = NO_CONTEXT) -> PictureEmbeddingCondition:
        """The condition. Raises ``ValueError`` without the stage, or if its tokens are not one vector."""
        return PictureEmbeddingCondition(self.stage_tokenizer(context), self)
