"""Estimates with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """An estimate with its confidence interval.

    Attributes:
        value: Point estimate.
        low: Lower end of the interval; ``-inf`` if unbounded.
        high: Upper end of the interval.
        unit: Unit; ``""`` for a ratio or a proportion.
        n: Number of independent items or runs.
        method: Method and confidence level of the interval.
    """

    value: float
    low: float
    high: float
    unit: str
    n: int
    method: str

    def to_json(self) -> dict[str, object]:
        """Plain data; an infinite end becomes ``None``."""
        return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]{f' {self.unit}' if self.unit else ''}"


def level(checks: int, alarm: float = 0.05) -> float:
    """Confidence level of each interval for a joint level of ``1 - alarm`` (Bonferroni)."""
    return 1 - alarm / checks


def exact(value: float, unit: str = "", n: int = 1) -> Estimate:
    """An exact number, such as a parameter count."""
    return Estimate(float(value), float(value), float(value), unit, n, "exact")


def bootstrap(
    values: Tensor,
    seed: int,
    confidence: float = 0.95,
    unit: str = "",
    statistic: Callable[[Tensor], Tensor] | None = None,
) -> Estimate:
    """Percentile bootstrap over items.

    Args:
        values: ``(n, ...)``, one row per item; values of an item are resampled together, so comparisons are paired.
        seed: Seed of the resampling.
        confidence: Confidence level.
        unit: Unit of the figure.
        statistic: ``(R, n, ...) -> (R,)``; the mean by default.

    Raises:
        ValueError: if there is no item, or a value is not finite.
    """
    values = values.detach().double().cpu()
    if len(values) < 1 or not torch.isfinite(values).all():
        raise ValueError(f"a bootstrap needs at least one item and finite values, got shape {tuple(values.shape)}")
    figure = statistic or (lambda rows: rows.flatten(2).mean((1, 2)) if rows.ndim > 2 else rows.mean(1))
    value = figure(values[None])[0].item()
    n, method = len(values), f"bootstrap over items, {RESAMPLES} resamples, {confidence:.2%}"
    if n < 2:
        return Estimate(value, -math.inf, math.inf, unit, n, method)
    rows = torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(seed))
    drawn = torch.cat([figure(values[part]) for part in rows.split(250)])
    low, high = torch.quantile(drawn, torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)).tolist()
    return Estimate(value, low, high, unit, n, method)


def student(values: Sequence[float], confidence: float = 0.95, unit: str = "") -> Estimate:
    """Student's t interval of the mean over runs with different seeds.

    Raises:
        ValueError: if there is no run.
    """
    from scipy import stats

    runs = torch.tensor(list(values), dtype=torch.float64)
    if not len(runs):
        raise ValueError("a mean over runs needs at least one run")
    mean, method = runs.mean().item(), f"Student's t over {len(runs)} runs, {confidence:.2%}"
    if len(runs) < 2:
        return Estimate(mean, -math.inf, math.inf, unit, len(runs), method)
    half = float(stats.t.ppf((1 + confidence) / 2, len(runs) - 1)) * runs.std().item() / math.sqrt(len(runs))
    return Estimate(mean, mean - half, mean + half, unit, len(runs), method)


def share(hits: Tensor, confidence: float = 0.95) -> Estimate:
    """Wilson interval of a proportion, from ``(n,)`` bool; valid for small samples and proportions near 0 and 1.

    Raises:
        ValueError: if there is no item.
    """
    n = hits.numel()
    if not n:
        raise ValueError("a proportion needs at least one item")
    p, z = hits.double().mean().item(), math.sqrt(2) * torch.erfinv(torch.tensor(confidence, dtype=torch.float64)).item()
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return Estimate(p, max(0.0, low), min(1.0, high), "", n, f"Wilson, {confidence:.2%}")


def ranking(pairs: Tensor) -> Tensor:
    """Area under the ROC curve: probability that a value of the first kind exceeds one of the second, ties counting half.

    Args:
        pairs: ``(R, n, 2)``: values of the first and of the second kind.

    Returns:
        ``(R,)``; a ``statistic`` for :func:`bootstrap`.
    """
    first, second = pairs[..., 0].contiguous(), pairs[..., 1].sort(dim=1).values
    below = torch.searchsorted(second, first, right=False) + torch.searchsorted(second, first, right=True)
    return below.double().mean(1) / (2 * pairs.shape[1])
