"""Audio: waveforms along time, 16 bits in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from jielong.config.data import DataSettings
from jielong.core.json import JSON
from jielong.core.medium import ALONG_TIME, Medium
from jielong.media.audio import WRITTEN, encode_audio, level, normalise, resample, to_channels, to_integers
from jielong.media.images import WRITTEN as IMAGES
from jielong.media.images import encode_as
from jielong.media.inspection import Inspector, Spread, some
from jielong.media.kinds.base import Content, MediaKind, register
from jielong.media.players import Sounds
from jielong.media.reading.faults import BrokenAudioError, naming
from jielong.media.reading.sound import SUFFIXES, read_audio, read_header, within_budget

PREPROCESSING = "soxr high quality, 16 bit: 1"
QUIET_DB, SILENT_DB = -45.0, -200.0
CLIPPED, LONG = 0.999, 30.0
"""Magnitude from which a sample is at the end of the scale; seconds beyond which a clip is long."""
_EXACT = ("WAV", "FLAC", "AIFF", "g722")  # formats whose header counts samples exactly


def audio_medium(channels: int, samples: int, sample_rate: int) -> Medium:
    """Audio of ``channels`` (1 mono, 2 stereo), ``samples`` long at ``sample_rate`` per second."""
    return Medium("audio", channels, ALONG_TIME, (samples,), sample_rate)


class AudioData(DataSettings):
    """Keys of audio.

    Attributes:
        sample_rate: Samples per second.
        duration: Seconds of an item; longer clips are cut, shorter ones padded with silence.
        level: Decibels of full scale to which every clip is normalised; unchanged by default.
    """

    sample_rate: int = Field(default=16_000, ge=1_000)
    duration: float = Field(default=1.0, gt=0)
    level: float | None = Field(default=None, le=0)


class AudioKind(MediaKind):
    """Recordings, resampled."""

    name = "audio"
    axes = ALONG_TIME
    noun = ("clip", "clips of sound")
    settings = AudioData
    native: ClassVar = {"channels": 1}
    suffixes = SUFFIXES
    shared = frozenset((".mp4", ".webm", ".mkv"))  # most hold pictures
    written = (*WRITTEN, *IMAGES)
    columns = ("audio", "sound", "speech", "wav", "flac", "ogg", "mp3", "bytes")
    sample_count = 6
    measured_count = 64

    def medium(self, settings: DataSettings, channels: int) -> Medium:
        """Samples from sample rate and duration."""
        if channels not in (1, 2):
            raise ValueError(f"sound has 1 or 2 channels, not {channels}")
        keys = settings if isinstance(settings, AudioData) else AudioData()
        samples = round(keys.sample_rate * keys.duration)
        if samples < 1:
            raise ValueError(f"{keys.duration:g} s at {keys.sample_rate} Hz hold no sample: give a longer duration")
        return audio_medium(channels, samples, keys.sample_rate)

    def keys_of(self, medium: Medium) -> JSON:
        """Sample rate and duration."""
        return {"sample_rate": medium.sample_rate, "duration": medium.duration}

    def check_header(self, source: bytes | Path, name: str = "") -> None:
        """Raise :class:`BrokenAudioError` without a readable header."""
        read_header(source, name)

    def decode(self, content: Content, name: str, medium: Medium, settings: DataSettings) -> Tensor:
        """The whole clip, ``(C, n)`` int16 at the medium's rate."""
        return to_integers(self._fitted(content, name, medium, settings))

    def to_float(self, stored: Tensor) -> Tensor:
        """16 bits to [-1, 1]."""
        return stored.float() / 32_768

    def frames_of(self, content: Content, name: str, medium: Medium) -> int | None:
        """From headers that count samples exactly."""
        try:
            header = read_header(content, name)
        except BrokenAudioError:
            return None
        exact = header.samples is not None and header.kind in _EXACT
        return max(1, round((header.samples or 0) * medium.sample_rate / header.rate)) if exact else None

    def preprocessing(self, medium: Medium, settings: DataSettings) -> str:
        """Decoding rules, length, rate, channels and level."""
        target = settings.level if isinstance(settings, AudioData) else None
        return f"{PREPROCESSING}; {medium.frames} at {medium.sample_rate}; channels {medium.channels}; level {target}"

    def read(self, path: Path, medium: Medium, settings: DataSettings | None = None) -> Tensor:
        """A whole file, ``(C, n)`` float32 at the medium's rate, not rounded to 16 bits."""
        return self._fitted(path, str(path), medium, settings)

    def _fitted(self, content: bytes | Path, name: str, medium: Medium, settings: DataSettings | None) -> Tensor:
        waveform, rate = read_audio(content, name)
        with naming(name, BrokenAudioError, "cannot be fitted"):
            within_budget(name, round(waveform.shape[1] * medium.sample_rate / rate), medium.channels, medium.sample_rate)
            clip = resample(to_channels(waveform, medium.channels), rate, medium.sample_rate)
            target = settings.level if isinstance(settings, AudioData) else None
            return clip if target is None else normalise(clip, target)

    def wrap(self, media: Tensor, medium: Medium, captions: Sequence[str] | None = None, lengths: Sequence[int] | None = None) -> Sounds:
        """Clips that save and play themselves."""
        return Sounds(media, medium.sample_rate, captions, lengths)

    def check_written(self, path: Path, medium: Medium) -> None:
        """See :meth:`MediaKind.check_written`; a sample is encoded. A picture's ending is for the spectrogram."""
        super().check_written(path, medium)
        if path.suffix.lower() in IMAGES:
            encode_as(path.suffix, torch.zeros(1, 1, 1))
        else:
            encode_audio(torch.zeros(medium.channels, 1), medium.sample_rate, path.suffix)

    def inspector(self, medium: Medium, settings: DataSettings) -> Inspector:
        """Durations, levels, rates, and clips that are silent, quiet, clipped or long."""
        return AudioInspector(medium)


class AudioInspector(Inspector):
    """Durations, levels, rates, and clips that are silent, quiet, clipped or long."""

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.seconds: list[float] = []
        self.longer: list[str] = []
        self.shorter: list[str] = []
        self.levels: list[float] = []
        self.rates: Counter[int] = Counter()
        self.channels: Counter[int] = Counter()

    def look(self, content: Content, name: str, decode: bool) -> list[str]:
        """Waveforms of those that are decoded; the others are only counted."""
        if not decode:
            return []
        waveform, rate = read_audio(content, name)
        with naming(name, BrokenAudioError, "cannot be measured"):
            loudness, clipped = level(waveform), float((waveform.abs() >= CLIPPED).float().mean())
        duration = waveform.shape[1] / rate
        self.seconds.append(duration)
        self.longer += [name] if round(duration * self.medium.sample_rate) > self.medium.frames else []
        self.shorter += [name] if round(duration * self.medium.sample_rate) < self.medium.frames else []
        self.rates[rate] += 1
        self.channels[len(waveform)] += 1
        self.levels += [loudness] if loudness > SILENT_DB else []
        reasons = {
            "silent": loudness <= SILENT_DB,
            f"quiet: {loudness:.1f} dB": SILENT_DB < loudness < QUIET_DB,
            f"clipped: {clipped:.1%} of its samples are at the end of the scale": clipped > 0.001,
            f"long: {duration:.1f} s": duration > LONG,
        }
        return [reason for reason, applies in reasons.items() if applies]

    def facts(self) -> dict[str, object]:
        """Hours decoded, seconds and levels (dB of full scale) of a clip, clips longer and shorter than the medium, by sample rate and by
        channels."""
        return {
            "hours": sum(self.seconds) / 3600,
            "seconds": Spread.of(self.seconds),
            "longer": len(self.longer),
            "shorter": len(self.shorter),
            "levels": Spread.of(self.levels),
            "rates": dict(self.rates),
            "channels": dict(self.channels),
        }

    def rows(self) -> list[tuple[str, str]]:
        """The facts, with names of the longer and shorter clips and what happens to them."""
        read = f"the {self.medium.duration:g} s read"
        longer = f"{some(self.longer)} than {read}: a generator leaves them out, a tokenizer trains on parts of them"
        shorter = f"{some(self.shorter)} than {read}: silence follows"
        notes = {"longer": longer if self.longer else "0", "shorter": shorter if self.shorter else "0"}
        return [(name, notes.get(name, text)) for name, text in super().rows()]

    def preview_medium(self) -> Medium:
        """As long as the longest clip decoded, up to :data:`LONG`."""
        return self.medium.resized("time", max(1, round(min(LONG, max(self.seconds, default=1.0)) * self.medium.sample_rate)))


AUDIO = register(AudioKind())
