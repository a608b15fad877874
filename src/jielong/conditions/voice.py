"""Voice conditions: the speaker embedding of a reference recording, by a frozen encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings
from jielong.conditions.cache import cached
from jielong.conditions.inputs import ConditionInput, HeldoutItems, bytes_from_json, check_sound
from jielong.core.medium import ALONG_TIME, Axes
from jielong.core.progress import counting
from jielong.media.audio import resample
from jielong.media.reading.sound import read_audio
from jielong.networks import speaker
from jielong.networks.conditioning import Conditioning
from jielong.networks.speaker import SpeakerEncoder

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch, MediaSet

BATCH = 32
"""Recordings that are encoded at a time."""
Reference = Literal["own", "other"]
"""Reference of a clip in training: its own recording, or another one by the same speaker."""


class Recording(NamedTuple):
    """Sound and its rate: ``(T,)`` or ``(C, T)`` in [-1, 1], and Hz."""

    waveform: Tensor
    rate: int


def read_recording(path: str | Path) -> Recording:
    """Read a sound file.

    Raises:
        ValueError: if there is no such file, or it is not sound.
        jielong.media.reading.libraries.MissingLibraryError: if the extra ``sound`` is not installed.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no recording {str(path)!r}: give a sound file, such as voice.wav")
    return Recording(*read_audio(path))


class RecordingInput(ConditionInput):
    """A recording: a path, a :class:`Recording`, or its features ``(n,)``. A data set supplies the keys of its items, whose features
    :meth:`VoiceCondition.precompute` caches."""

    metavar = "PATH"
    file = True
    speech = True

    def from_batch(self, batch: Batch, medium: Medium) -> list[str]:
        """Keys of the items."""
        return batch.keys

    def from_heldout(self, items: HeldoutItems) -> list[Recording]:
        """The items' own recordings."""
        return [Recording(clip, items.medium.sample_rate) for clip in items.recordings]

    def check(self, data: MediaSet, source: str) -> None:
        """There must be sound."""
        check_sound(self, data, source)

    def is_single(self, value: object) -> bool:
        """A path, a :class:`Recording` or a vector."""
        return isinstance(value, Recording) or (isinstance(value, Tensor) and value.ndim == 1) or super().is_single(value)

    def parse(self, text: str) -> Path:
        """A path."""
        return Path(text)

    def from_json(self, value: object) -> Recording:
        """The bytes of a sound file in base64."""
        return Recording(*read_audio(bytes_from_json(value, "a sound file"), f"the recording of {self.noun}"))


class VoiceInput(RecordingInput):
    """A recording of the speaker."""

    name = "voice"
    noun = "a voice"
    help = "Recording of the voice; repeatable."

    def from_heldout(self, items: HeldoutItems) -> list[Recording]:
        """Another recording of each item's speaker where there is one, otherwise the item's own."""
        own = super().from_heldout(items)
        prompts = items.prompts or [None] * len(own)
        return [each if prompt is None else Recording(prompt, each.rate) for each, prompt in zip(own, prompts, strict=True)]


Source = Recording | Tensor | str | Path
"""A recording, its path, its features ``(features,)``, or the key of an item of a precomputed set."""


class VoiceCondition(Condition[Source, Tensor]):
    """One state: a linear map of the features of a recording."""

    kind: ClassVar[str] = "voice"
    features: ClassVar[int] = speaker.WIDTH
    """Features of a recording."""
    rate: ClassVar[int] = speaker.RATE
    """Sample rate of the encoder's input."""

    def __init__(self, width: int, cfg_dropout: float, reference: Reference = "own") -> None:
        super().__init__(width, cfg_dropout)
        self.reference = reference
        # Entries of a unit vector are about 1/16: scaled to unit size, as other states are.
        self.map: nn.Module = _Scaled(speaker.WIDTH, width)
        # In a dict, so that nn.Module does not register frozen weights and checkpoints do not hold them.
        self._frozen: dict[str, SpeakerEncoder] = {}
        self._cache: dict[str, Tensor] = {}

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """Encode the recordings of both splits, or load their features from the cache on disk."""
        for data in (train, heldout):
            column = data.speaker_column
            speakers = None if column is None else data.columns[column]
            self.precompute_recordings(data.keys, data.fingerprint, partial(_recording, data), speakers=speakers)

    def precompute_recordings(
        self,
        keys: Sequence[str],
        fingerprint: str,
        recording: Callable[[int], Recording],
        folder: Path | None = None,
        speakers: Sequence[str | None] | None = None,
    ) -> None:
        """Cache the features of recordings by key; zeros for silent ones.

        Args:
            recording: The recording at an index.
            folder: The cache on disk, instead of the user's.
            speakers: Speaker of each, where known; ``reference = other`` takes the features of :func:`next_of_speaker`.
        """
        compute = lambda: {"voices": self._encode_all(len(keys), recording)}  # noqa: E731
        shapes = {"voices": (len(keys), self.features)}
        features = cached("voices", [self.describe(), fingerprint, list(keys)], shapes, compute, folder)["voices"]
        if self.reference == "other" and speakers is not None:
            features = features[next_of_speaker(speakers, features.any(1).tolist())]
        self.store(dict(zip(keys, features.unbind(), strict=True)))

    def _encode_all(self, count: int, recording: Callable[[int], Recording]) -> Tensor:
        features = torch.zeros(count, self.features)
        with counting("encoding", count, f"{self.kind}s") as advance:
            for first in range(0, count, BATCH):
                recordings = {index: recording(index) for index in range(first, min(count, first + BATCH))}
                sounding = {
                    index: each for index, each in recordings.items() if each.waveform.numel() and each.waveform.square().mean() > 1e-9
                }
                if sounding:
                    features[list(sounding)] = self.voices(list(sounding.values()))
                advance(len(recordings))
        return features

    def store(self, features: Mapping[str, Tensor]) -> None:
        """Cache features ``(features,)`` by key."""
        self._cache.update(features)

    def voices(self, values: Sequence[Source]) -> Tensor:
        """Features of recordings ``(B, features)``, encoded in one batch.

        Raises ``ValueError`` if one cannot be read, or ``jielong.networks.efficientnet.WeightsError`` if the encoder's weights are not
        installed.
        """
        found = [self._known(value) for value in values]
        if missing := [index for index, features in enumerate(found) if features is None]:
            encoded = self.encode([self._waveform(values[index]) for index in missing])
            for index, features in zip(missing, encoded, strict=True):
                found[index] = features
        return torch.stack([features for features in found if features is not None])

    def _known(self, value: Source) -> Tensor | None:
        """Features that are given or cached; ``None`` for a recording."""
        if isinstance(value, Tensor):
            if tuple(value.shape) != (self.features,):
                raise ValueError(
                    f"{self._a} is a vector of {self.features} numbers or a Recording(waveform, rate), not {tuple(value.shape)}"
                )
            return value.float()
        return self._cache.get(value) if isinstance(value, str) else None

    def _waveform(self, value: Source) -> Tensor:
        """A recording as ``(T,)`` at :attr:`rate`."""
        if not isinstance(value, str | Path | tuple):
            raise ValueError(f"{self._a} is given as a recording, its path, or a vector, not {type(value).__name__}")
        waveform, rate = value if isinstance(value, tuple) else read_recording(value)
        mono = waveform.detach().cpu().float().reshape(-1, waveform.shape[-1]).mean(0, keepdim=True)
        return resample(mono, rate, self.rate)[0]

    def resolve(self, value: Source) -> Tensor:
        """The features."""
        return self.voices([value])[0]

    def encode(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Features of recordings ``(T,)`` at :attr:`rate`, ``(B, features)``."""
        if not self._frozen:
            self._frozen["encoder"] = SpeakerEncoder()
        return self._frozen["encoder"].embed_all(waveforms)

    @property
    def _a(self) -> str:
        return f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"

    def prepare(self, values: Sequence[Source]) -> Tensor:
        """Recordings to features, ``(B, features)``."""
        if isinstance(values, str | Path | Recording):
            raise ValueError(f"{self._a} condition reads a list with one {self.kind} per item, such as ['{self.kind}.wav']")
        return self.voices(values)

    def embed(self, prepared: Tensor) -> Conditioning:
        """``(B, features)`` to one state each, ``(B, 1, width)``."""
        return Conditioning.single(self.map(prepared.to(self.null.device)))

    def describe(self) -> dict[str, object]:
        """The encoder."""
        return {"encoder": "resemblyzer", "sha256": speaker.SHA256}


class _Scaled(nn.Linear):
    """A linear map of unit vectors, scaled to entries of unit size."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in)`` to ``(B, out)``."""
        return super().forward(x * self.in_features**0.5)


def next_of_speaker(speakers: Sequence[str | None], sounding: Sequence[bool]) -> list[int]:
    """For each clip the next one by the same speaker that is not silent, cyclically; itself where there is no other.

    One pairing for the whole training, so that a resumed run has the same references.

    Args:
        speakers: Speaker of each clip; ``None`` if unknown.
        sounding: Whether it is not silent.
    """
    clips: dict[str, list[int]] = {}
    for index, name in enumerate(speakers):
        if name is not None and sounding[index]:
            clips.setdefault(name, []).append(index)
    following = list(range(len(speakers)))
    for indices in clips.values():
        for index, after in zip(indices, indices[1:] + indices[:1], strict=True):
            following[index] = after
    return following


def _recording(data: MediaSet, index: int) -> Recording:
    batch = data.batch([index])
    length = None if batch.lengths is None else int(batch.lengths[0])
    return Recording(batch.media[0][..., :length], data.medium.sample_rate)


class Voice(ConditionSettings, family="condition", name="voice"):
    """Settings of the condition on a voice.

    Attributes:
        reference: ``own`` conditions a clip on its own recording in training: no speaker names are needed, but the recording also carries
            some information on words and room. ``other`` takes another recording by the same speaker, where the data set names speakers.
    """

    axes: ClassVar[Axes | None] = ALONG_TIME
    input: ClassVar[ConditionInput] = VoiceInput()
    one_vector: ClassVar[bool] = True
    reference: Reference = "own"

    def build(self, context: BuildContext = NO_CONTEXT) -> VoiceCondition:
        """The condition."""
        return VoiceCondition(self.width, self.cfg_dropout, self.reference)
