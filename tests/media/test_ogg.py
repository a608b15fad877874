"""Ogg pages with a serial number of their own: the sound is the same, the checksums are right, and so are equal files."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from jielong.media.audio import encode_audio
from jielong.media.ogg import checksum, with_serial


def test_the_checksum_is_that_of_the_definition() -> None:
    def bits(data: bytes) -> int:
        value = 0
        for byte in data:
            for place in range(7, -1, -1):
                carry = value >> 31 ^ byte >> place & 1
                value = value << 1 & 0xFFFFFFFF ^ (0x04C11DB7 if carry else 0)
        return value

    for data in (b"", b"a", b"OggS and more", bytes(range(256))):
        assert checksum(data) == bits(data)


@pytest.mark.parametrize("suffix", [".opus", ".ogg"])
def test_the_same_sound_gives_the_same_bytes(suffix: str) -> None:
    soundfile = pytest.importorskip("soundfile")
    tone = torch.sin(torch.arange(16_000) * 0.2)[None] * 0.5
    one, other = (encode_audio(tone, 16_000, suffix) for _ in range(2))
    assert one == other
    samples, rate = soundfile.read(io.BytesIO(one))
    again, _ = soundfile.read(io.BytesIO(with_serial(one, 12345)))
    assert rate == 16_000
    assert np.array_equal(samples, again)
    assert np.corrcoef(samples[500:15_000], tone[0, 500:15_000])[0, 1] > 0.98


def test_what_is_no_whole_file_is_refused() -> None:
    pytest.importorskip("soundfile")
    data = encode_audio(torch.zeros(1, 1000), 16_000, ".opus")
    for broken in (data[:-1], b"RIFF" + data, data[:20]):
        with pytest.raises(ValueError, match="no whole page of Ogg begins at byte"):
            with_serial(broken)
    assert with_serial(b"") == b""
