"""Synthetic vowels and distances between waveforms."""

from __future__ import annotations

import math

import torch

from jielong.apps.lab.sounds import RATE, delayed, log_mel_distance, mel_filters, muffled, sample_distance, vowels


def tone(frequency: float) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency * torch.arange(RATE // 2, dtype=torch.float64) / RATE).float()[None]


def test_voices_are_drawn_from_the_generator() -> None:
    one, two, other = (vowels(3, torch.Generator().manual_seed(seed), 0.1) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.shape == (3, RATE // 10)
    torch.testing.assert_close(one.square().mean(1).sqrt(), torch.full((3,), 0.1))


def test_the_distance_of_a_delayed_tone_is_its_closed_form() -> None:
    """|1 - e^(i w)|^2 = 2 - 2 cos w, in units of its power."""
    distance = sample_distance(tone(1000), delayed(tone(1000), 1)).item()
    assert abs(distance - (2 - 2 * math.cos(2 * math.pi * 1000 / RATE))) < 1e-3


def test_muffling_removes_what_is_high_and_only_that() -> None:
    both = tone(500) + tone(5000)
    torch.testing.assert_close(muffled(both, 3000), tone(500), atol=1e-4, rtol=0)


def test_log_mel_distance_tolerates_a_shift_and_not_a_lost_band() -> None:
    voices = vowels(4, torch.Generator().manual_seed(0))
    assert (log_mel_distance(voices, delayed(voices, 1)) < 1e-3 * log_mel_distance(voices, muffled(voices, 3000))).all()
    assert log_mel_distance(voices, voices).abs().max() == 0


def test_mel_filters_cover_the_spectrum_once() -> None:
    filters = mel_filters(40, 513)
    inside = slice(20, 450)  # the outermost half triangles have no neighbour
    torch.testing.assert_close(filters.sum(0)[inside], torch.ones(430), atol=1e-4, rtol=0)
    assert (filters >= 0).all()
