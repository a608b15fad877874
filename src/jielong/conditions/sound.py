"""The sound of a clip as a condition, frame by frame, such as the speech that a face says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.conditions.base import NO_CONTEXT, BuildContext
from jielong.conditions.cache import cached
from jielong.conditions.framewise import FramewiseCondition, FramewiseSettings, check_column
from jielong.conditions.inputs import ConditionInput, HeldoutItems
from jielong.conditions.voice import Recording, RecordingInput, Source, read_recording
from jielong.core.progress import counting
from jielong.data.source import DataError
from jielong.media.audio import resample
from jielong.media.mel import mel_spectrum
from jielong.media.reading.faults import BrokenAudioError
from jielong.media.reading.sound import read_audio

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch, MediaSet
    from jielong.tokenizers.base import Tokenizer

COLUMN = "audio"
"""Of a set: the bytes of a sound file for each clip."""
RATE, WINDOW, HOP, BANDS = 16_000, 640, 160, 40
"""Hz, samples of a window and from one to the next, and mel bands of the spectrum."""
PER_FRAME = 4
"""Columns of the spectrum a frame."""
FLOOR = 1e-6
"""Of the power in a band."""


class SoundInput(RecordingInput):
    """A recording: a path, a :class:`Recording`, or its features. A data set supplies a column of sound files."""

    name = "sound"
    noun = "the sound of a clip"
    help = "Recording that the clip goes with; repeatable."
    speech = False

    def from_batch(self, batch: Batch, medium: Medium) -> list[str]:
        """The items' keys, by which :meth:`SoundCondition.precompute` stores features."""
        return batch.keys

    def from_heldout(self, items: HeldoutItems) -> Any:
        """The column of the set."""
        column = items.columns.get(COLUMN)
        return None if column is None else [_recording(value, items.source) for value in column]

    def check(self, data: MediaSet, source: str) -> None:
        """There must be the column."""
        check_column(self, COLUMN, "avatars", data, source)

    def missing(self, data: MediaSet) -> list[int]:
        """Items without a sound file."""
        return [row for row, value in enumerate(data.columns.get(COLUMN, [None] * len(data))) if not _content(value)]

    def is_single(self, value: object) -> bool:
        """A path, a :class:`Recording`, or features ``(n, bands)``."""
        return (isinstance(value, Tensor) and value.ndim == 2) or super().is_single(value)


class SoundCondition(FramewiseCondition[Source]):
    """The vector of a frame is a convolution of the mel spectrum around it.

    The logarithm of the power in 40 bands, four columns a frame at equal distances, through two convolutions over time: the first reads
    ``context`` frames before and after, since lips move ahead of a sound, and the second joins the columns of a frame.
    """

    def __init__(self, tokenizer: Tokenizer, settings: Sound) -> None:
        super().__init__(tokenizer, settings)
        kernel = 2 * settings.context * PER_FRAME + 1
        self.first = nn.Conv1d(BANDS, settings.width, kernel, padding=kernel // 2)
        self.second = nn.Conv1d(settings.width, settings.width, PER_FRAME, PER_FRAME)
        self.known = dict[str, Tensor]()

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """Compute the spectra of both splits, or load them from the cache on disk."""
        for data in (train, heldout):
            key = [self.describe(), data.fingerprint, list(data.keys)]
            shapes = {"spectra": (len(data), self.frames * PER_FRAME, BANDS)}
            found = cached("sounds", key, shapes, partial(self._read_all, data))["spectra"]
            self.known.update(zip(data.keys, found.unbind(), strict=True))

    def _read_all(self, data: MediaSet) -> dict[str, Tensor]:
        spectra = []
        with counting("reading sounds", len(data), data.kind.noun[1]) as advance:
            for name, value in zip(data.keys, data.columns[COLUMN], strict=True):
                spectra.append(self._spectrum(_recording(value, f"{data.name}: {name}")))
                advance(1)
        return {"spectra": torch.stack(spectra)}

    def _spectrum(self, recording: Recording) -> Tensor:
        """``(T * 4, bands)``, silence after its end, without what lasts longer than the clip."""
        mono = recording.waveform.detach().cpu().float().reshape(-1, recording.waveform.shape[-1]).mean(0, keepdim=True)
        seconds = self.frames / self.rate
        clip = resample(mono, recording.rate, RATE)[0][: round(seconds * RATE)]
        clip = torch.cat([clip, clip.new_zeros(round(seconds * RATE) + WINDOW - len(clip))])
        power = mel_spectrum(clip, RATE, WINDOW, HOP, BANDS).clamp_min(FLOOR).log10().mT / 3 + 1  # silence is -1
        places = (torch.arange(self.frames * PER_FRAME) + 0.5) / (self.rate * PER_FRAME) * RATE / HOP
        before = places.floor().long().clamp_max(len(power) - 2)
        return torch.lerp(power[before], power[before + 1], (places - before)[:, None]).float()

    def resolve(self, value: Source) -> Tensor:
        """The features. Raises ``ValueError`` if a recording cannot be read, or lasts longer than a clip."""
        if isinstance(value, str) and value in self.known:
            return self.known[value]
        if isinstance(value, Tensor):
            if tuple(value.shape) != (self.frames * PER_FRAME, BANDS):
                raise ValueError(f"features of a sound are {self.frames * PER_FRAME} x {BANDS} numbers, not {tuple(value.shape)}")
            return value
        recording = value if isinstance(value, tuple) else read_recording(value)
        lasts, seconds = recording.waveform.shape[-1] / recording.rate, self.frames / self.rate
        if lasts > seconds + 0.5 / self.rate:
            raise ValueError(f"the sound takes {lasts:.2f} s, and a clip has {self.frames} frames in {seconds:.2f} s: give a shorter one")
        return self._spectrum(recording)

    def prepare(self, values: Sequence[Source]) -> Tensor:
        """Values, one per item, to ``(B, T * 4, bands)``."""
        return torch.stack([self.resolve(value) for value in values])

    def vectors(self, prepared: Tensor) -> Tensor:
        """See :meth:`FramewiseCondition.vectors`."""
        joined: Tensor = self.second(F.silu(self.first(prepared.to(self.null.dtype).mT)))
        return joined.mT

    def describe(self) -> dict[str, object]:
        """Of the spectrum."""
        return {"mel": [RATE, WINDOW, HOP, BANDS, PER_FRAME], "frames": self.frames, "rate": self.rate}


def _content(value: object) -> bytes | None:
    """The bytes of a sound file, also of Hugging Face's ``Audio``."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) and content else None


def _recording(value: object, name: str) -> Recording:
    content = _content(value)
    if content is None:
        raise DataError(f"{name}: the column {COLUMN!r} holds no bytes of a sound file")
    try:
        return Recording(*read_audio(content, name))
    except BrokenAudioError as error:
        raise DataError(str(error)) from error


class Sound(FramewiseSettings, family="condition", name="sound"):
    """Settings of the condition on the sound of a clip.

    Attributes:
        context: Frames before and after a frame whose sound it reads.
    """

    input: ClassVar[ConditionInput] = SoundInput()
    context: int = Field(default=2, ge=0)

    def build(self, context: BuildContext = NO_CONTEXT) -> SoundCondition:
        """The condition. Raises ``ValueError`` without a tokenizer, or if its tokens do not lie in a clip."""
        return SoundCondition(self.tokenizer_of(context), self)
