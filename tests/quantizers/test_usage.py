"""Usage and perplexity of known distributions, and the advice that follows."""

from __future__ import annotations

import pytest
import torch

from jielong.quantizers.usage import CodebookUsage, advice
from jielong.quantizers.vector import VectorQuantizerSettings


def test_uniform_codes_and_a_single_code() -> None:
    usage = CodebookUsage(100)
    usage.add(torch.arange(100).repeat(7).view(70, 10))
    assert float(usage.usage) == 1
    assert float(usage.perplexity) == pytest.approx(100, rel=1e-5)
    usage.clear()
    usage.add(torch.full((50,), 3))
    assert float(usage.usage) == pytest.approx(0.01)
    assert float(usage.perplexity) == pytest.approx(1, rel=1e-5)


def test_nothing_seen_is_no_usage() -> None:
    usage = CodebookUsage(10)
    assert float(usage.usage) == 0
    assert int(usage.assignments) == 0


def test_the_window_forgets_after_twice_its_length_and_not_before_its_length() -> None:
    usage = CodebookUsage(4, window=100)
    usage.add(torch.zeros(10, dtype=torch.long))
    for _ in range(9):
        usage.add(torch.ones(10, dtype=torch.long))
    assert float(usage.usage) == 0.5  # 100 seen
    seen = []
    for _ in range(20):
        usage.add(torch.full((10,), 2))
        seen.append(int(usage.assignments))
    assert float(usage.usage) == 0.25
    assert min(seen) >= 100
    assert max(seen) < 200 + 10


def test_a_large_codebook_gets_a_longer_window() -> None:
    assert CodebookUsage(1024).window == 65_536
    assert CodebookUsage(16_384).window == 131_072


def test_advice_names_what_is_not_on_yet() -> None:
    healthy = VectorQuantizerSettings()
    assert advice(0.97, 900, healthy) is None
    bare = VectorQuantizerSettings(kmeans_iterations=0, restart_below=0, codebook="gradient")
    said = advice(0.1, 40, bare, dim=256)
    assert said is not None
    for word in (
        "10% of the 1,024 codes",
        "restart_below",
        "kmeans_iterations",
        "smaller width",
        "normalize",
        "codebook: ema",
        "rotation",
        "about 40",
    ):
        assert word in said
    full = VectorQuantizerSettings(normalize=True, estimator="rotation")
    said = advice(0.1, 40, full, dim=8)
    assert said is not None
    for word in ("restart_below", "kmeans_iterations", "smaller width", "normalize:", "codebook: ema", "rotation"):
        assert word not in said
