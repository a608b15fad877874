"""Sound as files and as tensors: one way in (any file to float32 waveforms), one way out.

A waveform is ``(C, T)`` float32 in [-1, 1], its rate in samples a second beside it. The libraries that read files come with the extra
``sound``; writing ``.wav`` needs none of them.
"""

from __future__ import annotations

import importlib
import io
import os
import struct
import wave
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jielong.media.images import write_bytes

SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".g722", ".aif", ".aiff", ".m4a", ".aac", ".webm"))
"""Of files that are taken for sound."""
LARGEST = 8.0
"""A decoder overshoots 1 a little, and that is clamped; numbers beyond this are of another scale."""
_WRITTEN = {
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_G722_RATE = 16_000
_CHUNK = 65_536


class BrokenAudioError(ValueError):
    """A file cannot be read as sound; the text names it and says why."""


class MissingLibraryError(RuntimeError):
    """A library of the extra ``sound`` is not installed."""


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


def library(name: str) -> ModuleType:
    """A library of the extra ``sound``.

    Raises:
        MissingLibraryError: if it is not installed; the text says how to get it.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: soundfile without its libsndfile
        raise MissingLibraryError(f"sound needs {name}, which is not here ({error}): pip install 'jielong[sound]'") from error


def read_header(source: bytes | str | os.PathLike[str], name: str = "") -> Header:
    """Rate, channels and length of a file; nothing is decoded.

    Args:
        source: A path, or the bytes of a file.
        name: What to call it in an error; its suffix says the kind where the bytes do not (``.g722``).

    Raises:
        BrokenAudioError: if it is no sound, empty, or shorter than it says.
    """
    data, name = _bytes_of(source, name)
    if _is_raw(name):
        return Header(_G722_RATE, 1, 2 * len(data), "g722")
    _refuse_cut(data, name)
    soundfile = library("soundfile")
    try:
        found = soundfile.info(io.BytesIO(data))
    except soundfile.LibsndfileError:
        return _container_header(data, name)
    return Header(int(found.samplerate), int(found.channels), int(found.frames), str(found.format))


def read_audio(source: bytes | str | os.PathLike[str], name: str = "") -> tuple[Tensor, int]:
    """A file as its waveform ``(C, T)`` float32 in [-1, 1] and its rate.

    WAV, FLAC, Ogg Vorbis and Opus, MP3 and AIFF through libsndfile; G.722 and everything else through FFmpeg's libraries.

    Args:
        source: A path, or the bytes of a file.
        name: As in :func:`read_header`.

    Raises:
        BrokenAudioError: if it is no sound, empty, cut off, or holds numbers that are not finite or not in [-1, 1].
        MissingLibraryError: if the extra ``sound`` is not installed.
    """
    data, name = _bytes_of(source, name)
    if _is_raw(name):
        samples, rate = _through_ffmpeg(data, name, "g722")
    else:
        _refuse_cut(data, name)
        soundfile = library("soundfile")
        try:
            with soundfile.SoundFile(io.BytesIO(data)) as file:
                samples, rate, declared = file.read(dtype="float32", always_2d=True).T, int(file.samplerate), len(file)
        except soundfile.LibsndfileError:
            samples, rate = _through_ffmpeg(data, name, None)
        else:
            if samples.shape[1] < declared:
                raise BrokenAudioError(f"{name} is cut off: {samples.shape[1]:,} of {declared:,} samples can be decoded")
    return _checked(torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)), name), rate


def _bytes_of(source: bytes | str | os.PathLike[str], name: str) -> tuple[bytes, str]:
    name = name or ("a sound" if isinstance(source, bytes) else str(source))
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise BrokenAudioError(f"{name} cannot be read: {error.strerror or error}") from error
    if not data:
        raise BrokenAudioError(f"{name} is empty: a file of no bytes")
    return data, name


def _is_raw(name: str) -> bool:
    """Whether the name alone says how to read it: G.722 has no header."""
    return name.lower().endswith(".g722")


def _refuse_cut(data: bytes, name: str) -> None:
    """Refuse truncated WAV and Ogg files, which libsndfile reads without an error."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        _whole_wave(data, name)
    elif data[:4] == b"OggS":
        _whole_ogg(data, name)


def _whole_ogg(data: bytes, name: str) -> None:
    """Ogg (RFC 3533, section 6): pages of a header of 27 bytes, the lengths of up to 255 segments, and these."""
    place = 0
    while data[place : place + 4] == b"OggS":
        segments = data[place + 27 : place + 27 + data[place + 26]] if place + 27 <= len(data) else b""
        end = place + 27 + len(segments) + sum(segments)
        if place + 27 > len(data) or len(segments) < data[place + 26] or end > len(data):
            raise BrokenAudioError(f"{name} is cut off: it ends within a page of Ogg, after {len(data):,} bytes")
        place = end


def _whole_wave(data: bytes, name: str) -> None:
    """WAV: a chunk of samples is as long as its header says."""
    place = 12
    while place + 8 <= len(data):
        chunk, length = data[place : place + 4], struct.unpack("<I", data[place + 4 : place + 8])[0]
        if chunk == b"data":
            present = len(data) - place - 8
            if present < length < 0xFFFF_FF00:  # written by streams of unknown length
                raise BrokenAudioError(f"{name} is cut off: its header declares {length:,} bytes of samples, but {present:,} are present")
            return
        place += 8 + length + length % 2
    raise BrokenAudioError(f"{name} is a WAV file without samples")


def _container_header(data: bytes, name: str) -> Header:
    av = library("av")
    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.audio[0]
            duration = stream.duration
            samples = None if duration is None else round(float(duration * stream.time_base) * stream.rate)
            return Header(int(stream.rate), int(stream.channels), samples, str(container.format.name))
    except (av.error.FFmpegError, IndexError, ValueError, TypeError) as error:
        raise BrokenAudioError(f"{name} cannot be read as sound: {_reason(error)}") from error


def _through_ffmpeg(data: bytes, name: str, form: str | None) -> tuple[NDArray[np.float32], int]:
    av = library("av")
    parts = []
    try:
        with av.open(io.BytesIO(data), format=form) as container:
            stream = container.streams.audio[0]
            rate = int(stream.rate)
            planar = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
            for frame in container.decode(stream):
                parts += [each.to_ndarray() for each in planar.resample(frame)]
            parts += [each.to_ndarray() for each in planar.resample(None)]
    except (av.error.FFmpegError, IndexError, ValueError, TypeError) as error:
        if parts:
            read = sum(part.shape[1] for part in parts)
            raise BrokenAudioError(f"{name} is cut off or damaged behind its first {read:,} samples: {_reason(error)}") from error
        raise BrokenAudioError(f"{name} cannot be read as sound: {_reason(error)}") from error
    if not parts:
        raise BrokenAudioError(f"{name} holds no sound: it has a header, and no samples")
    return np.concatenate(parts, axis=1), rate


def _reason(error: Exception) -> str:
    if isinstance(error, IndexError):
        return "it holds no audio stream"
    return str(getattr(error, "strerror", None) or error)


def _checked(waveform: Tensor, name: str) -> Tensor:
    if not waveform.numel():
        raise BrokenAudioError(f"{name} holds no sound: it has a header, and no samples")
    if not torch.isfinite(waveform).all():
        raise BrokenAudioError(f"{name} holds numbers that are not finite")
    peak = float(waveform.abs().max())
    if peak > LARGEST:
        raise BrokenAudioError(f"{name} holds numbers up to {peak:.4g}; samples of floating point lie in [-1, 1]")
    return waveform.clamp(-1, 1)


def resample(waveform: Tensor, rate: int, to: int) -> Tensor:
    """Waveform ``(C, T)`` at another rate, band-limited (soxr, its high quality), ``(C, round(T to / rate))``, one sample at least.

    Raises:
        ValueError: if a rate is not positive.
    """
    if rate < 1 or to < 1:
        raise ValueError(f"a rate is samples a second, 1 or more, not {min(rate, to)}")
    if rate == to:
        return waveform
    wanted = max(1, round(waveform.shape[1] * to / rate))
    samples = np.ascontiguousarray(waveform.T.numpy())
    resampled = torch.from_numpy(library("soxr").resample(samples, rate, to)).reshape(-1, waveform.shape[0]).T[:, :wanted]
    padded = torch.nn.functional.pad(resampled, (0, wanted - resampled.shape[1]))
    return padded.float().clamp(-1, 1).contiguous()


def to_channels(waveform: Tensor, channels: int) -> Tensor:
    """``(C, T)`` to ``(channels, T)``: the mean for mono, copies of mono for more.

    Raises:
        ValueError: for other conversions, such as three channels to two.
    """
    if len(waveform) == channels:
        return waveform
    if channels == 1:
        return waveform.mean(0, keepdim=True)
    if len(waveform) == 1:
        return waveform.expand(channels, -1).contiguous()
    raise ValueError(f"sound of {len(waveform)} channels cannot be converted to {channels}; choose 1 or {len(waveform)}")


def level(waveform: Tensor) -> float:
    """Root mean square in decibels of full scale: 0 for a square wave that fills it, ``-inf`` for silence."""
    return float(20 * waveform.double().square().mean().sqrt().log10())


def normalise(waveform: Tensor, decibels: float = -23.0) -> Tensor:
    """Make the :func:`level` ``decibels``, as near as it goes without a peak beyond 1; silence stays as it is."""
    peak = float(waveform.abs().max())
    if peak == 0:
        return waveform
    return waveform * min(10 ** ((decibels - level(waveform)) / 20), 1 / peak)


def to_integers(waveform: Tensor) -> Tensor:
    """Float in [-1, 1] to 16 bits, rounded and clamped; reading divides by 32768 again. NaN becomes silence."""
    return torch.nan_to_num(waveform.detach().to("cpu", torch.float32)).mul(32_768).round().clamp(-32_768, 32_767).to(torch.int16)


def encode_audio(waveform: Tensor, rate: int, suffix: str = ".wav") -> bytes:
    """A waveform ``(C, T)`` as the bytes of a file: 16 bits in ``.wav`` and ``.flac``; ``.ogg``, ``.opus``, ``.mp3`` and ``.g722`` lose.

    Raises:
        ValueError: if it is not a waveform, or the kind cannot hold it.
        MissingLibraryError: if the kind needs the extra ``sound``.
    """
    suffix = suffix.lower()
    if waveform.ndim != 2 or not waveform.numel():
        raise ValueError(f"a waveform is (channels, samples), with a sample at least, not {tuple(waveform.shape)}")
    if suffix == ".wav":
        return _wave(waveform, rate)
    if suffix == ".g722":
        return _g722(waveform, rate)
    if suffix not in _WRITTEN:
        raise ValueError(f"{suffix!r} is not a kind of sound that can be written; use {', '.join(('.wav', *_WRITTEN, '.g722'))}")
    soundfile, buffer = library("soundfile"), io.BytesIO()
    form, coding = _WRITTEN[suffix]
    samples = (to_integers(waveform) if form == "FLAC" else torch.nan_to_num(waveform.detach().cpu().float()).clamp(-1, 1)).T.numpy()
    try:
        with soundfile.SoundFile(buffer, "w", rate, len(waveform), coding, format=form) as file:
            for first in range(0, len(samples), _CHUNK):  # the Vorbis encoder keeps what it is given on the stack
                file.write(np.ascontiguousarray(samples[first : first + _CHUNK]))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{suffix} cannot hold sound of {len(waveform)} channels at {rate:,} samples a second: {error}") from error
    return buffer.getvalue()


def _wave(waveform: Tensor, rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(waveform))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(to_integers(waveform).T.contiguous().numpy().astype("<i2").tobytes())
    return buffer.getvalue()


def _g722(waveform: Tensor, rate: int) -> bytes:
    if len(waveform) != 1 or rate != _G722_RATE:
        raise ValueError(f".g722 holds mono at {_G722_RATE:,} samples a second, not {len(waveform)} channels at {rate:,}")
    av, buffer = library("av"), io.BytesIO()
    with av.open(buffer, "w", format="g722") as container:
        stream = container.add_stream("g722", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(to_integers(waveform).numpy(), format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return buffer.getvalue()


def write_audio(path: str | os.PathLike[str], waveform: Tensor, rate: int) -> Path:
    """Write a waveform ``(C, T)`` whole or not at all; the suffix says the kind (``.wav`` when there is none). As :func:`encode_audio`."""
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".wav")
    return write_bytes(path, encode_audio(waveform, rate, path.suffix))
