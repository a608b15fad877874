"""Emotion conditions: melody, stress and pace of a reference recording, apart from its voice (IndexTTS2, arXiv 2506.21619).

The paper learns the vector with an encoder and a gradient reversal against speaker identity; here it is a small set of prosodic features
that carry little speaker identity (:mod:`jielong.media.prosody`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from jielong.conditions.base import NO_CONTEXT, BuildContext, ConditionSettings
from jielong.conditions.inputs import ConditionInput
from jielong.conditions.voice import RecordingInput, VoiceCondition
from jielong.core.medium import ALONG_TIME, Axes
from jielong.media.prosody import FEATURES, RATE, prosody


class EmotionInput(RecordingInput):
    """A recording of the emotion, by any speaker."""

    name = "emotion"
    noun = "an emotion"
    help = "Recording of the emotion, by any speaker; repeatable."


class EmotionCondition(VoiceCondition):
    """One state: a small network of a recording's prosody."""

    features = FEATURES
    rate = RATE
    kind = "emotion"

    def __init__(self, width: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        self.map = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def encode(self, waveforms: Sequence[Tensor]) -> Tensor:
        """The prosody of each ``(T,)`` at 16 kHz, ``(B, FEATURES)``."""
        return torch.stack([prosody(waveform) for waveform in waveforms])

    def describe(self) -> dict[str, object]:
        """Its kind."""
        return {"encoder": "prosody 1"}


def blended(first: Tensor, second: Tensor, strength: float) -> Tensor:
    """``e + a (e' - e)`` of the features of two emotions: ``strength`` 0 is the first, 1 the second."""
    return first + strength * (second - first)


class Emotion(ConditionSettings, family="condition", name="emotion"):
    """Settings of :class:`ConditionSettings`."""

    axes: ClassVar[Axes | None] = ALONG_TIME
    input: ClassVar[ConditionInput] = EmotionInput()
    one_vector: ClassVar[bool] = True

    def build(self, context: BuildContext = NO_CONTEXT) -> EmotionCondition:
        """The condition."""
        return EmotionCondition(self.width, self.cfg_dropout)
