"""Opus, the codec that others are compared with: there and back through libopus at a given bitrate."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from torch import Tensor

from jielong.evaluation.sound.protocol import at_rate, mono
from jielong.media.audio import library

RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
"""Rates that Opus codes; others are resampled to the next one above."""
LOWEST, HIGHEST = 6.0, 256.0
"""Kilobits a second of one channel between which Opus is defined to work."""
DECODED = 48_000


@dataclass(frozen=True)
class Coded:
    """What came back from a codec.

    Attributes:
        waveform: As long as what went in, in [-1, 1].
        kbps: Kilobits a second that were really spent; those of the container are not counted.
    """

    waveform: Tensor
    kbps: float


def opus_roundtrip(waveform: Tensor, rate: int, kbps: float) -> Coded:
    """One channel through Opus (constrained variable rate, tuned for speech, frames of 20 ms) and back, aligned with what went in.

    Args:
        waveform: ``(T,)`` or ``(1, T)`` in [-1, 1].
        rate: Hz.
        kbps: The bitrate asked, 6 to 256; :attr:`Coded.kbps` says what was spent.

    Raises:
        jielong.media.audio.MissingLibraryError: if PyAV is not installed.
        ValueError: if the bitrate is out of reach or the waveform is not sound of one channel.
    """
    if not LOWEST <= kbps <= HIGHEST:
        raise ValueError(f"Opus works from {LOWEST:g} to {HIGHEST:g} kbit/s for one channel, not at {kbps:g}")
    if waveform.ndim == 2 and len(waveform) != 1:
        raise ValueError(f"Opus is given one channel here, not {len(waveform)}")
    (clip,) = mono([waveform], "waveforms")
    coding = next((each for each in RATES if each >= rate), RATES[-1])
    data, spent = _encode(at_rate(clip, rate, coding).clamp(-1, 1), coding, kbps)
    decoded = at_rate(_decode(data), DECODED, rate)[: len(clip)]
    made = torch.nn.functional.pad(decoded, (0, len(clip) - len(decoded))).clamp(-1, 1)
    return Coded(made.view(waveform.shape).to(waveform), 8 * spent / (len(clip) / rate) / 1000)


def _encode(clip: Tensor, rate: int, kbps: float) -> tuple[bytes, int]:
    """An Ogg file and the bytes of its packets."""
    av = library("av")
    buffer, spent = io.BytesIO(), 0
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=rate, layout="mono")
        stream.bit_rate = round(kbps * 1000)
        stream.options = {"application": "voip", "vbr": "constrained", "frame_duration": "20"}
        frame = av.AudioFrame.from_ndarray(clip[None].contiguous().numpy(), format="flt", layout="mono")
        frame.sample_rate = rate
        for piece in (frame, None):
            for packet in stream.encode(piece):
                spent += packet.size
                container.mux(packet)
    return buffer.getvalue(), spent


def _decode(data: bytes) -> Tensor:
    """The waveform ``(T,)`` at 48 kHz; what the file marks as the coder's own delay is left out."""
    av = library("av")
    with av.open(io.BytesIO(data)) as container:
        to_float = av.AudioResampler(format="flt", layout="mono", rate=DECODED)
        frames = [made for frame in container.decode(audio=0) for made in to_float.resample(frame)]
    return torch.cat([torch.from_numpy(frame.to_ndarray()[0].copy()) for frame in frames])
