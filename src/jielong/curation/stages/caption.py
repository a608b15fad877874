"""Agreement of a clip and its caption by a two-tower scorer, as Open-Sora measures it with CLIP: the middle frame against the caption."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from jielong.config.registry import Config
from jielong.curation.ranges import Measure, Values
from jielong.curation.stages.base import ClipFrames, ClipStage

if TYPE_CHECKING:
    from jielong.evaluation.scorer import Scorer


class CaptionSettings(Config):
    """How agreement with captions is measured.

    Attributes:
        scorer: Folder of a two-tower scorer that was trained on pictures such as these, or ``scorer-emoji``, the shipped one, which knows
            emoji alone. Without one, agreement is not looked for.
    """

    scorer: str | None = None


class CaptionAgreement(ClipStage):
    """Drops clips whose caption speaks of something else."""

    name = "caption"
    about = "clips that do not show what their caption says"
    measures = (
        Measure("agreement", "", "cosine of the middle frame and the caption", "caption does not match", "caption matches too well"),
    )

    def __init__(self, settings: CaptionSettings) -> None:
        self.settings = settings

    def check(self) -> None:
        """The scorer, which is loaded.

        Raises:
            ScorerError: if there is none in the folder.
        """
        if self.settings.scorer is not None:
            _scorer(self.settings.scorer)

    def measure(self, clip: ClipFrames) -> Values:
        """The cosine in [-1, 1]; ``None`` without a caption."""
        if not clip.caption or self.settings.scorer is None:
            return {"agreement": None}
        import torch

        from jielong.media.images import to_float

        scorer = _scorer(self.settings.scorer)
        frame = clip.stills[len(clip.stills) // 2]
        picture = to_float(torch.from_numpy(frame.copy()).permute(2, 0, 1)[None])
        scale = scorer.towers.log_scale.exp().clamp(max=100.0)
        return {"agreement": float(scorer(picture, [clip.caption])[0, 0] / scale)}


@functools.lru_cache(maxsize=1)
def _scorer(name: str) -> Scorer:
    from jielong.evaluation.scorer import NAME, Scorer

    return Scorer.load(None if name == NAME else name)
