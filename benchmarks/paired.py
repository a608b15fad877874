"""Paired comparison of two sets of generated pictures of the same captions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jielong.evaluation.frechet import distance_of_few


@dataclass(frozen=True)
class Ratio:
    """A ratio of two distances with a confidence interval."""

    value: float
    low: float
    high: float


def frechet_ratio(x: Tensor, y: Tensor, reference: Tensor, groups: int = 16, confidence: float = 0.9) -> Ratio:
    """The Fréchet distance of ``x`` to a reference over that of ``y``, where row ``i`` of all three is of one caption.

    The interval is a jackknife over groups of captions, left out of all three sets in turn, with Student's distribution for the error of
    the logarithm; it is paired, so the difficulty of a caption cancels. A bootstrap is biased: a picture drawn twice adds nothing to a
    covariance of fewer pictures than features.

    Args:
        x: ``(N, D)`` features.
        y: ``(N, D)`` features of the same captions.
        reference: ``(N, D)`` features of the real pictures.
        groups: How many groups, each of every ``groups``-th caption.
        confidence: Of the interval.

    Raises:
        ValueError: if the sets are not of one size, or too small for the groups.
    """
    if not len(x) == len(y) == len(reference) or not 2 <= groups <= len(x) // 2:
        raise ValueError(
            f"a paired ratio needs as many rows in each set and at least two a group, not {len(x)}, {len(y)} and {len(reference)} rows "
            f"in {groups} groups"
        )
    from scipy import stats

    def logarithm(rows: Tensor) -> float:
        return math.log(distance_of_few(x[rows], reference[rows]) / distance_of_few(y[rows], reference[rows]))

    group = torch.arange(len(x)) % groups
    value = logarithm(group >= 0)
    without = torch.tensor([logarithm(group != each) for each in range(groups)], dtype=torch.float64)
    error = math.sqrt((groups - 1) * float(without.var(correction=0)))
    half = float(stats.t.ppf((1 + confidence) / 2, groups - 1)) * error
    return Ratio(math.exp(value), math.exp(value - half), math.exp(value + half))
