"""Numbers with their uncertainty: what a verdict is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A measured number and the interval that holds the true one with the stated confidence.

    Attributes:
        value: The number.
        low: Lower end of the interval; ``-inf`` where nothing is known.
        high: Upper end.
        unit: ``""`` for a ratio or a share.
        n: Independent items or runs behind it.
        method: How the interval was made, with its level.
    """

    value: float
    low: float
    high: float
    unit: str
    n: int
    method: str

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; an end that is infinite becomes ``None``, which JSON can say."""
        return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]{f' {self.unit}' if self.unit else ''}"


def level(checks: int, alarm: float = 0.05) -> float:
    """Confidence that each of several intervals needs, so that all of them hold at once with ``1 - alarm`` (Bonferroni)."""
    return 1 - alarm / checks


def exact(value: float, unit: str = "", n: int = 1) -> Estimate:
    """A number without uncertainty, such as a count of parameters."""
    return Estimate(float(value), float(value), float(value), unit, n, "exact")


def bootstrap(
    values: Tensor,
    seed: int,
    confidence: float = 0.95,
    unit: str = "",
    statistic: Callable[[Tensor], Tensor] | None = None,
) -> Estimate:
    """Percentile bootstrap over items: how far the figure moves when other items of the same kind had been drawn.

    Args:
        values: ``(n, ...)``, a row an item; figures of one item stay together, so comparisons are paired.
        seed: Of the resampling.
        confidence: Of the interval.
        unit: Of the figure.
        statistic: ``(R, n, ...) -> (R,)``; the mean by default.

    Raises:
        ValueError: if there is no item, or a value is not finite.
    """
    values = values.detach().double().cpu()
    if len(values) < 1 or not torch.isfinite(values).all():
        raise ValueError(f"a bootstrap needs finite values, one an item at least, not {tuple(values.shape)}")
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
    """Student's interval of a mean over a few runs with different seeds.

    Raises:
        ValueError: if there is no run.
    """
    from scipy import stats

    runs = torch.tensor(list(values), dtype=torch.float64)
    if not len(runs):
        raise ValueError("a mean over runs needs one run at least")
    mean, method = runs.mean().item(), f"Student's t over {len(runs)} runs, {confidence:.2%}"
    if len(runs) < 2:
        return Estimate(mean, -math.inf, math.inf, unit, len(runs), method)
    half = float(stats.t.ppf((1 + confidence) / 2, len(runs) - 1)) * runs.std().item() / math.sqrt(len(runs))
    return Estimate(mean, mean - half, mean + half, unit, len(runs), method)


def share(hits: Tensor, confidence: float = 0.95) -> Estimate:
    """Wilson's interval of a share, from ``(n,)`` bool: right for small samples and for shares near 0 and 1.

    Raises:
        ValueError: if there is no item.
    """
    n = hits.numel()
    if not n:
        raise ValueError("a share needs one item at least")
    p, z = hits.double().mean().item(), math.sqrt(2) * torch.erfinv(torch.tensor(confidence, dtype=torch.float64)).item()
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return Estimate(p, max(0.0, low), min(1.0, high), "", n, f"Wilson, {confidence:.2%}")


def ranking(pairs: Tensor) -> Tensor:
    """Probability that a number of the first kind exceeds one of the second, a tie counting half (area under the ROC curve).

    Args:
        pairs: ``(R, n, 2)``: numbers of the first and of the second kind.

    Returns:
        ``(R,)``; a ``statistic`` for :func:`bootstrap`.
    """
    first, second = pairs[..., 0].contiguous(), pairs[..., 1].sort(dim=1).values
    below = torch.searchsorted(second, first, right=False) + torch.searchsorted(second, first, right=True)
    return below.double().mean(1) / (2 * pairs.shape[1])
