"""The reference codec Opus: encoding and decoding by libopus at a given bitrate."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from torch import Tensor

from jielong.evaluation.sound.protocol import at_rate, mono
from jielong.media.reading.libraries import library

RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
"""Sample rates of Opus; other rates are resampled to the next one above."""
LOWEST, HIGHEST = 6.0, 256.0
"""Bitrates of one channel that Opus supports, in kbit/s."""
DECODED = 48_000


@dataclass(frozen=True)
class OpusOutput:
    """A decoded waveform and its bitrate.

    Attributes:
        waveform: As long as the input, in [-1, 1].
        kbps: Measured bitrate in kbit/s, without the container.
    """

    waveform: Tensor
    kbps: float


def opus_roundtrip(waveform: Tensor, rate: int, kbps: float) -> OpusOutput:
    """Encode and decode one channel (constrained variable rate, tuned for speech, frames of 20 ms), aligned with the input.

    Args:
        waveform: ``(T,)`` or ``(1, T)`` in [-1, 1].
        rate: Sample rate in Hz.
        kbps: Requested bitrate, 6 to 256; the measured one is :attr:`OpusOutput.kbps`.

    Raises:
        jielong.media.reading.libraries.MissingLibraryError: if PyAV is not installed.
        ValueError: if the bitrate is not supported, or the waveform has several channels.
    """
    if not LOWEST <= kbps <= HIGHEST:
        raise ValueError(f"Opus works from {LOWEST:g} to {HIGHEST:g} kbit/s for one channel, not at {kbps:g}")
    if waveform.ndim == 2 and len(waveform) != 1:
        raise ValueError(f"Opus is measured on one channel, not {len(waveform)}: average the channels first")
    (clip,) = mono([waveform], "waveforms")
    coding = next((each for each in RATES if each >= rate), RATES[-1])
    data, size = _encode(at_rate(clip, rate, coding).clamp(-1, 1), coding, kbps)
    decoded = at_rate(_decode(data), DECODED, rate)[: len(clip)]
    padded = torch.nn.functional.pad(decoded, (0, len(clip) - len(decoded))).clamp(-1, 1)
    return OpusOutput(padded.view(waveform.shape).to(waveform), 8 * size / (len(clip) / rate) / 1000)


def _encode(clip: Tensor, rate: int, kbps: float) -> tuple[bytes, int]:
    """An Ogg file, and the total size of its packets in bytes."""
    av = library("av")
    buffer, size = io.BytesIO(), 0
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=rate, layout="mono")
        stream.bit_rate = round(kbps * 1000)
        stream.options = {"application": "voip", "vbr": "constrained", "frame_duration": "20"}
        frame = av.AudioFrame.from_ndarray(clip[None].contiguous().numpy(), format="flt", layout="mono")
        frame.sample_rate = rate
        for item in (frame, None):
            for packet in stream.encode(item):
                size += packet.size
                container.mux(packet)
    return buffer.getvalue(), size


def _decode(data: bytes) -> Tensor:
    """The waveform ``(T,)`` at 48 kHz, without the encoder delay that the file declares."""
    av = library("av")
    with av.open(io.BytesIO(data)) as container:
        to_float = av.AudioResampler(format="flt", layout="mono", rate=DECODED)
        frames = [part for frame in container.decode(audio=0) for part in to_float.resample(frame)]
    return torch.cat([torch.from_numpy(frame.to_ndarray()[0].copy()) for frame in frames])
