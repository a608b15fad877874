"""The sound of a video that is written: a stream of its own in the container, beside that of the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from jielong.media.audio import resample, to_integers
from jielong.media.reading.libraries import library

_AAC = ("aac", {"b": "128000"})
CODINGS: Mapping[str, tuple[str, dict[str, str]]] = {
    ".mp4": _AAC,
    ".mov": _AAC,
    ".m4v": _AAC,
    ".webm": ("libopus", {"b": "96000"}),
    ".mkv": ("flac", {}),
}
"""Coding of sound in each container and its settings; Matroska holds 16 bits exactly. Other endings of videos hold no sound."""
_RATES = {"libopus": 48_000}
"""Samples a second of codings that have one rate."""


@dataclass(frozen=True, eq=False)
class Soundtrack:
    """Sound that goes with a video.

    Attributes:
        waveform: ``(C, T)`` float in [-1, 1], one or two channels.
        rate: Samples a second.
    """

    waveform: Tensor
    rate: int


def check_holds_sound(suffix: str) -> None:
    """Raise ``ValueError`` if files of an ending hold no sound."""
    if suffix.lower() not in CODINGS:
        raise ValueError(f"{suffix or 'a file without an ending'} holds no sound: write one of {', '.join(CODINGS)}")


class TrackWriter:
    """A stream of sound in an open container.

    Args:
        container: Of PyAV, open for writing, of which nothing is written yet.
        suffix: Of the file.
        sound: What is written.

    Raises:
        ValueError: if such a file holds no sound, or this build of FFmpeg's libraries lacks the coding, or it is no sound.
    """

    def __init__(self, container: Any, suffix: str, sound: Soundtrack) -> None:
        check_holds_sound(suffix)
        if sound.waveform.ndim != 2 or sound.waveform.shape[0] not in (1, 2) or not sound.waveform.numel():
            raise ValueError(f"sound of a video is (1 or 2 channels, samples), not {tuple(sound.waveform.shape)}")
        coding, options = CODINGS[suffix.lower()]
        codec = library("av", "video", "video").codec
        try:
            codec.Codec(coding, "w")
        except codec.codec.UnknownCodecError:
            raise ValueError(f"this PyAV cannot write sound in {suffix} ({coding}): use another of {', '.join(CODINGS)}") from None
        self.container, self.rate = container, _RATES.get(coding, sound.rate)
        self.waveform = resample(sound.waveform.detach().cpu().float(), sound.rate, self.rate)
        self.layout = "mono" if len(self.waveform) == 1 else "stereo"
        self.stream = container.add_stream(coding, rate=self.rate, layout=self.layout, options=options)

    def write(self) -> None:
        """Write all of it."""
        samples = to_integers(self.waveform).T.contiguous().reshape(1, -1).numpy().astype("<i2")  # the channels of a sample in turn
        frame = library("av", "video", "video").AudioFrame.from_ndarray(samples, format="s16", layout=self.layout)
        frame.sample_rate, frame.pts = self.rate, 0
        for packet in (*self.stream.encode(frame), *self.stream.encode(None)):
            self.container.mux(packet)
