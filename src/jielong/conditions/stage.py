"""The output of an earlier stage as a condition, for cascades (arXiv 2106.15282)."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from jielong.conditions.base import NO_CONTEXT, BuildContext, ConditionSettings
from jielong.conditions.encoded import EncodedCondition
from jielong.conditions.inputs import ConditionInput, HeldoutItems

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch
    from jielong.tokenizers.base import Tokenizer


class StageInput(ConditionInput):
    """Token values of an earlier stage; :class:`~jielong.system.System` generates those that a call does not give."""

    noun = "the output of an earlier stage"
    help = "Tokens of an earlier stage."

    def from_batch(self, batch: Batch, medium: Medium) -> list[str]:
        """The items' keys, by which :meth:`StageCondition.precompute` stores their tokens."""
        return batch.keys

    def from_heldout(self, items: HeldoutItems) -> list[Tensor]:
        """The real media, ``(C, ...)`` each, for likelihoods; what an evaluation draws is drawn from the stage's own output."""
        return list(items.batch.media)

    def from_json(self, value: object) -> object:
        """Refused: the stage itself is run."""
        raise ValueError(f"{self.noun} is generated, and not taken from a request: leave it out")

    def is_single(self, value: object) -> bool:
        """Whether it is the values of one item, ``(N, C)``, and not of several, ``(B, N, C)``."""
        return isinstance(value, Tensor) and value.ndim == 2


class PictureStageInput(StageInput):
    """As :class:`StageInput` of pictures, which a call may give: a path, an image, ``(C, H, W)`` in [-1, 1], or the tokens ``(N, C)``."""

    metavar = "PATH"

    def is_single(self, value: object) -> bool:
        """A path, an image, or a tensor of one picture."""
        return isinstance(value, str | Path | Image.Image) or (isinstance(value, Tensor) and value.ndim in (2, 3))

    def parse(self, text: str) -> Path:
        """A path."""
        return Path(text)


class StageCondition(EncodedCondition[str | Tensor]):
    """Embeds the tokens of an earlier stage: those of the real media in training, generated ones afterwards."""


class StageReader(ConditionSettings):
    """Settings of anything that reads an earlier stage.

    Attributes:
        stage: The stage's name in the recipe's ``stages``.
    """

    stage: str

    @property
    def reads_stage(self) -> str:
        """See :attr:`ConditionSettings.reads_stage`."""
        return self.stage

    def stage_tokenizer(self, context: BuildContext) -> Tokenizer:
        """The stage's tokenizer. Raises ``ValueError`` if there is no such stage."""
        if self.stage not in context.stages:
            raise ValueError(f"the condition {self.name} reads the stage {self.stage!r}, which the recipe's `stages` does not name")
        return context.stages[self.stage]


class StageConditionSettings(StageReader):
    """Settings of a condition on the tokens of an earlier stage alone."""

    def build(self, context: BuildContext = NO_CONTEXT) -> StageCondition:
        """The condition. Raises ``ValueError`` if there is no such stage."""
        return self.build_on(self.stage_tokenizer(context))

    @abstractmethod
    def build_on(self, tokenizer: Tokenizer) -> StageCondition:
        """The condition on the tokens of a tokenizer."""
