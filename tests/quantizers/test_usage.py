"""Usage and perplexity of known distributions, and the advice that follows."""

from __future__ import annotations

import pytest
import torch

from jielong.quantizers.usage import CodebookUsage
from jielong.quantizers.vector import Vector


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


def test_advice_names_what_is_not_on_yet_and_waits_for_enough_assignments() -> None:
    bare = Vector(codebook_size=100, kmeans_iterations=0, restart_below=0, codebook="gradient").build(256)
    bare.usage.update(torch.cat([torch.full((10,), 6_500), torch.zeros(90, dtype=torch.long)]))
    assert bare.advice() is None, "65,000 assignments do not fill the window"
    bare.usage.update(torch.cat([torch.full((10,), 100), torch.zeros(90, dtype=torch.long)]))
    advice = bare.advice()
    assert advice is not None
    for word in (
        "10% of the 100 codes",
        "restart_below",
        "kmeans_iterations",
        "smaller width",
        "normalize",
        "codebook: ema",
        "rotation",
        "about 10",
    ):
        assert word in advice
    full = Vector(codebook_size=100, normalize=True, estimator="rotation").build(8)
    full.usage.update(bare.usage.recent + bare.usage.before)
    advice = full.advice()
    assert advice is not None
    for word in ("restart_below", "kmeans_iterations", "smaller width", "normalize:", "codebook: ema", "rotation"):
        assert word not in advice
    full.usage.update(torch.full((100,), 1_000))
    assert full.advice() is None
    assert full.figures() == {"codebook_usage": 1.0, "codebook_perplexity": float(full.usage.perplexity)}
