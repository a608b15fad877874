"""How it is to be said: the melody, stress and pace of a reference recording, beside whose voice it is (IndexTTS2, arXiv 2506.21619).

The paper learns the vector by an encoder whose knowledge of the speaker a reversed gradient takes away; here it is made of a few numbers
that have next to none to begin with (:mod:`jielong.media.prosody`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from jielong.conditions.base import ConditionSettings
from jielong.conditions.voice import VoiceCondition
from jielong.media.prosody import FEATURES, RATE, prosody


class EmotionCondition(VoiceCondition):
    """One state, and the pooled vector: what a small network makes of a recording's prosody."""

    features = FEATURES
    rate = RATE
    told = "emotion"

    def __init__(self, width: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        self.map = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def hear(self, waveforms: Sequence[Tensor]) -> Tensor:
        """The prosody of each ``(T,)`` at 16 kHz, ``(B, FEATURES)``."""
        return torch.stack([prosody(waveform) for waveform in waveforms])

    def describe(self) -> dict[str, Any]:
        """Its kind."""
        return {"encoder": "prosody 1"}


def blended(own: Tensor, other: Tensor, strength: float) -> Tensor:
    """``e + a (e' - e)`` of two emotions, vectors of :meth:`EmotionCondition.voice`: 0 is the first, 1 the second, between them both."""
    return own + strength * (other - own)


class Emotion(ConditionSettings, family="condition", name="emotion"):
    """Settings: ``width`` of the state, ``cfg_dropout`` share of recordings replaced by the null in training."""

    reads: ClassVar[str] = "emotion"
    width: int = Field(default=256, ge=1)
    cfg_dropout: float = Field(default=0.1, ge=0, lt=1)

    def build(self, classes: Any = ()) -> EmotionCondition:
        """The condition; classes are not used."""
        return EmotionCondition(self.width, self.cfg_dropout)
