"""Sound as tensors and as files that are written; :mod:`jielong.media.reading.sound` reads them.

A waveform is ``(C, T)`` float32 in [-1, 1], its rate in samples a second beside it. The libraries of other files come with the extra
``sound``; writing ``.wav`` needs none of them.
"""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jielong.core.files import write_bytes
from jielong.media.ogg import with_serial
from jielong.media.reading.libraries import library
from jielong.media.reading.sound import G722_RATE

_ENCODED: Mapping[str, tuple[str, str, float | None]] = {
    ".flac": ("FLAC", "PCM_16", None),
    ".ogg": ("OGG", "VORBIS", 0.2),
    ".oga": ("OGG", "VORBIS", 0.2),
    ".opus": ("OGG", "OPUS", None),
    ".mp3": ("MP3", "MPEG_LAYER_III", 0.2),
}
"""Format, coding and compression of libsndfile: 0.2 is about 130 kbit/s of mono at 44.1 kHz; by default Opus chooses by the rate."""
WRITTEN = (".wav", *_ENCODED, ".g722")
"""Endings of sound that is written."""
_CHUNK = 65_536
_MEASURED = 2**24
"""Samples whose squares in double precision are in memory at once."""


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
    parts = waveform.reshape(-1).split(_MEASURED)
    mean = waveform.double().square().mean() if len(parts) < 2 else sum(part.double().square().sum() for part in parts) / waveform.numel()
    return float(20 * torch.as_tensor(mean).sqrt().log10())


def normalise(waveform: Tensor, decibels: float = -23.0) -> Tensor:
    """Make the :func:`level` ``decibels``, as near as it goes without a peak beyond 1; silence stays as it is."""
    peak = float(waveform.abs().max())
    if peak == 0:
        return waveform
    return waveform * min(10 ** ((decibels - level(waveform)) / 20), 1 / peak)


def to_integers(waveform: Tensor) -> Tensor:
    """Float in [-1, 1] to 16 bits, rounded and clamped; reading divides by 32768 again. NaN becomes silence."""
    scaled = torch.nan_to_num(waveform.detach().to("cpu", torch.float32)).mul_(32_768)  # nan_to_num copies: the rest is in place
    return scaled.round_().clamp_(-32_768, 32_767).to(torch.int16)


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
    if suffix not in _ENCODED:
        raise ValueError(f"{suffix!r} is not a kind of sound that can be written; use {', '.join(WRITTEN)}")
    soundfile, buffer = library("soundfile"), io.BytesIO()
    form, coding, level = _ENCODED[suffix]
    if form not in soundfile.available_formats():
        raise ValueError(f"{suffix} needs libsndfile 1.1, and this is {soundfile.__libsndfile_version__}: pip install -U soundfile")
    samples = (to_integers(waveform) if form == "FLAC" else torch.nan_to_num(waveform.detach().cpu().float()).clamp(-1, 1)).T.numpy()
    try:
        with soundfile.SoundFile(buffer, "w", rate, len(waveform), coding, format=form, compression_level=level) as file:
            for first in range(0, len(samples), _CHUNK):  # the Vorbis encoder keeps what it is given on the stack
                file.write(np.ascontiguousarray(samples[first : first + _CHUNK]))
    except soundfile.LibsndfileError as error:
        reason = str(error).rpartition(" : ")[2]  # behind the name of the buffer
        raise ValueError(f"{suffix} cannot hold sound of {len(waveform)} channels at {rate:,} samples a second: {reason}") from error
    return with_serial(buffer.getvalue()) if form == "OGG" else buffer.getvalue()


def _wave(waveform: Tensor, rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(waveform))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(to_integers(waveform).T.contiguous().numpy().astype("<i2").tobytes())
    return buffer.getvalue()


def _g722(waveform: Tensor, rate: int) -> bytes:
    if len(waveform) != 1 or rate != G722_RATE:
        raise ValueError(f".g722 holds mono at {G722_RATE:,} samples a second, not {len(waveform)} channels at {rate:,}")
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
