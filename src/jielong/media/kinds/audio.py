"""Audio: waveforms of samples along time."""

from __future__ import annotations

from jielong.core.medium import ALONG_TIME, Medium


def audio_medium(channels: int, samples: int, sample_rate: int) -> Medium:
    """Audio of ``channels`` (1 mono, 2 stereo), ``samples`` long at ``sample_rate`` per second."""
    return Medium("audio", channels, ALONG_TIME, (samples,), sample_rate)
