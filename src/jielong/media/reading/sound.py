"""Sound: any file to float32 waveforms ``(C, T)`` in [-1, 1] and their rate, decoded in chunks within a budget."""

from __future__ import annotations

import io
import itertools
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jielong.media.reading.containers import estimates_length, is_mpeg, whole
from jielong.media.reading.faults import BrokenAudioError, bytes_of, naming, refuse_large
from jielong.media.reading.libraries import library
from jielong.media.reading.quiet import quiet

SUFFIXES = frozenset(
    f".{kind}"
    for kinds in ("wav rf64 w64 flac ogg oga opus mp3 g722", "aif aiff aifc au snd caf", "m4a mp4 aac webm mka mkv")
    for kind in kinds.split()
)
"""Of files that are taken for sound."""
LARGEST = 8.0
"""A decoder overshoots 1 a little, and that is clamped; numbers beyond this are of another scale."""
G722_RATE = 16_000
_DEMUXERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,eac3,flac,flv,g722,loas,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,ogg,tta,voc,w64,wav,wv"
"""Formats that FFmpeg may open. Others, such as playlists, open further files and addresses."""
_CHUNK = 2**18
"""Samples of all channels that are decoded at once."""
_SAMPLE_BYTES = 4
_UNKNOWN = 2**62
"""Lengths from here on say that a header has none."""

_DECLARED = {
    "AVR": r"Frames\s*: (\d+)",
    "MAT4": r"Cols\s*: (\d+)",
    "MAT5": r"Cols\s*: (\d+)",
    "MPC2K": r"Frames\s*: (\d+)",
    "NIST": r"sample_count -i (\d+)",
    "SVX": r"OneShotHiSamples\s*: (\d+)",
    "WVE": r"Data length (\d+) should be",
}
"""Where libsndfile's log, or a header that is text, gives the samples a channel of formats whose cut files it reads as shorter ones.

A VOC file is called truncated. Headers of IRCAM, PAF and PVF give no length, so that a cut one is a shorter clip to any reader."""

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Header:
    """What a file says of its sound before it is decoded.

    Attributes:
        rate: Samples a second.
        channels: 1 mono, 2 stereo.
        samples: Samples a channel; ``None`` where only decoding tells.
        kind: ``WAV``, ``FLAC``, ``OGG``, ``g722``, ...
    """

    rate: int
    channels: int
    samples: int | None
    kind: str

    @property
    def seconds(self) -> float | None:
        """How long it is."""
        return None if self.samples is None else self.samples / self.rate


def read_header(source: bytes | str | os.PathLike[str], name: str = "") -> Header:
    """Rate, channels and length of a file; nothing is decoded.

    Args:
        source: A path, or the bytes of a file.
        name: What to call it in an error; its suffix says the kind where the bytes do not (``.g722``).

    Raises:
        BrokenAudioError: if it is no sound, empty, shorter than it says, or too large.
    """
    name = name or ("a sound" if isinstance(source, bytes) else str(source))
    data = bytes_of(source, name, BrokenAudioError)
    with naming(name, BrokenAudioError, "cannot be read as sound"):
        found = Header(G722_RATE, 1, 2 * len(data), "g722") if _is_raw(name) else _header(whole(data, name), name)
        if found.rate < 1 or found.channels < 1:
            raise BrokenAudioError(f"{name} cannot be read as sound: its header says {found.channels} channels at {found.rate} Hz")
        within_budget(name, found.samples or 0, found.channels, found.rate)
    return found


def _header(data: bytes, name: str) -> Header:
    soundfile = library("soundfile")
    try:
        with quiet(is_mpeg(data)):
            found = soundfile.info(io.BytesIO(data))
    except soundfile.LibsndfileError:
        with _opened(data, name, None) as (_, stream):
            duration = stream.duration
            samples = None if duration is None else max(0, round(float(duration * stream.time_base) * stream.rate))
            return Header(int(stream.rate), int(stream.channels), samples, str(stream.container.format.name))
    _check_declared(str(found.format), str(found.extra_info), int(found.frames), data, name)
    return Header(int(found.samplerate), int(found.channels), _known(int(found.frames)), str(found.format))


def _check_declared(form: str, log: str, frames: int, data: bytes, name: str) -> None:
    """Raise :class:`BrokenAudioError` if the header declares more samples than are present (:data:`_DECLARED`)."""
    declared = re.findall(_DECLARED[form], log + data[:1024].decode("latin-1") * (form == "NIST")) if form in _DECLARED else []
    if declared and int(declared[-1]) > frames:
        raise BrokenAudioError(f"{name} is cut off: {frames:,} of {int(declared[-1]):,} samples are present")
    if form == "VOC" and "truncated" in log:
        raise BrokenAudioError(f"{name} is cut off: its last block is longer than the file")


def _known(frames: int) -> int | None:
    return frames if 0 <= frames < _UNKNOWN else None


def read_audio(source: bytes | str | os.PathLike[str], name: str = "") -> tuple[Tensor, int]:
    """A file as its waveform ``(C, T)`` float32 in [-1, 1] and its rate.

    WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, AU, CAF and W64 through libsndfile; G.722 and everything else through FFmpeg's libraries.

    Args:
        source: A path, or the bytes of a file.
        name: As in :func:`read_header`.

    Raises:
        BrokenAudioError: if it is no sound, empty, cut off, too large, or holds numbers that are not finite or not in [-1, 1].
        MissingLibraryError: if the extra ``sound`` is not installed.
    """
    name = name or ("a sound" if isinstance(source, bytes) else str(source))
    data = bytes_of(source, name, BrokenAudioError)
    with naming(name, BrokenAudioError, "cannot be read as sound"):
        if _is_raw(name):
            samples, rate = _through_ffmpeg(data, name, "g722")
        else:
            data, soundfile = whole(data, name), library("soundfile")
            try:
                with quiet(is_mpeg(data)):
                    samples, rate = _through_libsndfile(data, name)
            except soundfile.LibsndfileError:
                samples, rate = _through_ffmpeg(data, name, None)
        return _checked(torch.from_numpy(samples), name), rate


def _is_raw(name: str) -> bool:
    """Whether the name alone says how to read it: G.722 has no header."""
    return name.lower().endswith(".g722")


def _through_libsndfile(data: bytes, name: str) -> tuple[Samples, int]:
    with library("soundfile").SoundFile(io.BytesIO(data)) as file:
        rate, channels, declared = int(file.samplerate), int(file.channels), _known(len(file))
        _check_declared(str(file.format), str(file.extra_info), len(file), data, name)
        within_budget(name, declared or 0, channels, rate)
        frames, parts, count = max(1, _CHUNK // channels), [], 0
        while True:
            part = file.read(frames, dtype="float32", always_2d=True).T
            parts.append(part)
            count += part.shape[1]
            within_budget(name, count, channels, rate)
            if part.shape[1] < frames:
                break
    if declared is not None and count < declared and not estimates_length(data):
        raise BrokenAudioError(f"{name} is cut off: {count:,} of {declared:,} samples can be decoded")
    return _joined(parts, name), rate


@contextmanager
def _opened(data: bytes, name: str, form: str | None) -> Iterator[tuple[Any, Any]]:
    """A container and its first audio stream."""
    av = library("av")
    with av.open(io.BytesIO(data), format=form, metadata_errors="replace", options={"format_whitelist": _DEMUXERS}) as container:
        if not container.streams.audio:
            raise BrokenAudioError(f"{name} cannot be read as sound: it holds no audio stream")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise BrokenAudioError(f"{name} cannot be read as sound: no decoder knows the coding in this {container.format.name} file")
        yield container, stream


def _through_ffmpeg(data: bytes, name: str, form: str | None) -> tuple[Samples, int]:
    parts: list[Samples] = []
    count = 0
    try:
        with _opened(data, name, form) as (container, stream):
            rate, channels = int(stream.rate), int(stream.channels)
            planar = library("av").AudioResampler(format="fltp", layout=stream.layout, rate=rate)
            for frame in itertools.chain(container.decode(stream), (None,)):
                for each in planar.resample(frame):
                    parts.append(each.to_ndarray())
                    count += parts[-1].shape[1]
                    within_budget(name, count, channels, rate)
    except BrokenAudioError:
        raise
    except Exception as error:
        if not parts:
            raise
        with naming(name, BrokenAudioError, f"is cut off or damaged behind its first {count:,} samples"):
            raise error
    return _joined(parts, name), rate


def within_budget(name: str, samples: int, channels: int, rate: int) -> None:
    """Raise :class:`BrokenAudioError` if so many samples a channel take more memory than one file may."""
    what = f"sound of {samples / max(1, rate):,.1f} s or more ({channels} channel{'s' * (channels > 1)} at {rate:,} Hz)"
    refuse_large(name, what, samples * channels * _SAMPLE_BYTES, BrokenAudioError)


def _joined(parts: list[Samples], name: str) -> Samples:
    """Parts ``(C, n)`` behind one another; each is freed when it is copied."""
    total = sum(part.shape[1] for part in parts)
    if not total:
        raise BrokenAudioError(f"{name} holds no sound: it has a header, and no samples")
    samples, place = np.empty((len(parts[0]), total), dtype=np.float32), 0
    parts.reverse()
    while parts:
        part = parts.pop()
        samples[:, place : place + part.shape[1]] = part
        place += part.shape[1]
    return samples


def _checked(waveform: Tensor, name: str) -> Tensor:
    low, high = (float(value) for value in waveform.aminmax())
    if not math.isfinite(low) or not math.isfinite(high):
        raise BrokenAudioError(f"{name} holds numbers that are not finite")
    if (peak := max(-low, high)) > LARGEST:
        raise BrokenAudioError(f"{name} holds numbers up to {peak:.4g}; samples of floating point lie in [-1, 1]")
    return waveform.clamp_(-1, 1)
