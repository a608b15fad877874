"""Whose voice: one vector of a reference recording, made by a frozen speaker encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from jielong.conditions.base import Condition, ConditionSettings
from jielong.media.audio import read_audio, resample
from jielong.networks import speaker
from jielong.networks.conditioning import Conditioning
from jielong.networks.speaker import SpeakerEncoder

Reference = Literal["own", "other"]
"""Whose recording tells of a clip in training: its own, or another one by the same speaker."""


class Recording(NamedTuple):
    """Sound and its rate: ``(T,)`` or ``(C, T)`` in [-1, 1], and Hz."""

    waveform: Tensor
    rate: int


def read_recording(path: str | Path) -> Recording:
    """A sound file.

    Raises:
        ValueError: if there is no such file, or it is not sound.
        jielong.media.audio.MissingLibraryError: if the extra ``sound`` is not installed.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no recording {str(path)!r}: give a file of the voice, such as voice.wav")
    return Recording(*read_audio(path))


class VoiceCondition(Condition):
    """One state, and the pooled vector: a linear map of the voice.

    A voice is given as a :class:`Recording`, the path of one, a vector ``(256,)`` made before, or the name of one that
    :meth:`remember` was told.
    """

    features: ClassVar[int] = speaker.WIDTH
    """Numbers that a recording becomes."""
    rate: ClassVar[int] = speaker.RATE
    """Samples a second at which it is heard."""
    told: ClassVar[str] = "voice"

    def __init__(self, width: int, cfg_dropout: float, reference: Reference = "own") -> None:
        super().__init__(width, cfg_dropout)
        self.reference = reference
        # Numbers of a unit vector are about 1/16: of unit size they stand beside other states.
        self.map: nn.Module = _Scaled(speaker.WIDTH, width)
        # Outside nn.Module's reach: frozen weights belong to their own package, not into this model's checkpoint.
        self._frozen: dict[str, SpeakerEncoder] = {}
        self._memory: dict[str, Tensor] = {}

    def remember(self, voices: Mapping[str, Tensor]) -> None:
        """Take voices ``(features,)`` that :meth:`voice` made before, by name (such as a clip's key in its set)."""
        self._memory.update(voices)

    def voice(self, value: Recording | Tensor | str | Path) -> Tensor:
        """The voice in a value, ``(features,)``; see :meth:`voices`."""
        return self.voices([value])[0]

    def voices(self, values: Sequence[Recording | Tensor | str | Path]) -> Tensor:
        """The voices in values, ``(B, features)``; recordings are heard together.

        Raises:
            ValueError: if one cannot be read.
            jielong.networks.efficientnet.WeightsError: if the encoder's weights are not installed.
        """
        found = [self._known(value) for value in values]
        unheard = [index for index, voice in enumerate(found) if voice is None]
        if unheard:
            heard = self.hear([self._waveform(values[index]) for index in unheard])
            for index, voice in zip(unheard, heard, strict=True):
                found[index] = voice
        return torch.stack([voice for voice in found if voice is not None])

    def _known(self, value: Recording | Tensor | str | Path) -> Tensor | None:
        """A voice that is given as a vector or by a name; ``None`` where there is a recording to hear."""
        if isinstance(value, Tensor):
            if tuple(value.shape) != (self.features,):
                raise ValueError(
                    f"{self._a} is a vector of {self.features} numbers or a Recording(waveform, rate), not {tuple(value.shape)}"
                )
            return value.float()
        return self._memory.get(value) if isinstance(value, str) else None

    def _waveform(self, value: Any) -> Tensor:
        """What is heard of a recording, ``(T,)`` at :attr:`rate`."""
        if not isinstance(value, str | Path | tuple):
            raise ValueError(f"{self._a} is given as a recording, its path, or a vector, not {type(value).__name__}")
        waveform, rate = value if isinstance(value, tuple) else read_recording(value)
        mono = waveform.detach().cpu().float().reshape(-1, waveform.shape[-1]).mean(0, keepdim=True)
        return resample(mono, rate, self.rate)[0]

    def resolve(self, value: Recording | Tensor | str | Path) -> Tensor:
        """The vector of :meth:`voice`."""
        return self.voice(value)

    def hear(self, waveforms: Sequence[Tensor]) -> Tensor:
        """The voices of recordings ``(T,)`` at :attr:`rate`, ``(B, features)``."""
        if not self._frozen:
            self._frozen["encoder"] = SpeakerEncoder()
        return self._frozen["encoder"].embed_all(waveforms)

    @property
    def _a(self) -> str:
        return f"{'an' if self.told[0] in 'aeiou' else 'a'} {self.told}"

    def prepare(self, values: Sequence[Recording | Tensor | str | Path]) -> Tensor:
        """Voices to vectors, ``(B, features)``."""
        if values is None or isinstance(values, str | Path | Recording):
            raise ValueError(f"{self._a} condition reads a list with one {self.told} an item, such as ['{self.told}.wav']")
        return self.voices(values)

    def embed(self, prepared: Tensor) -> Conditioning:
        """``(B, features)`` to one state each, ``(B, 1, width)``."""
        vectors = self.map(prepared.to(self.null.device))
        return Conditioning(vectors[:, None], torch.ones(len(vectors), 1, dtype=torch.bool, device=vectors.device), vectors)

    def describe(self) -> dict[str, Any]:
        """The encoder."""
        return {"encoder": "resemblyzer", "sha256": speaker.SHA256}


class _Scaled(nn.Linear):
    """A linear map of unit vectors, scaled to unit numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in)`` to ``(B, out)``."""
        return super().forward(x * self.in_features**0.5)


class Voice(ConditionSettings, family="condition", name="voice"):
    """Settings: ``width`` of the state, ``cfg_dropout`` share of voices replaced by the null in training.

    ``reference`` says which recording tells a clip's voice in training. ``own`` needs no speakers' names, but one's own recording also says
    a little of the words and the room, and no other does so in use. ``other`` takes another one by the same speaker, as far as the set
    says who speaks.
    """

    reads: ClassVar[str] = "voice"
    width: int = Field(default=256, ge=1)
    cfg_dropout: float = Field(default=0.1, ge=0, lt=1)
    reference: Reference = "own"

    def build(self, classes: Sequence[str] = ()) -> VoiceCondition:
        """The condition; classes are not used."""
        return VoiceCondition(self.width, self.cfg_dropout, self.reference)
