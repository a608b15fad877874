"""Figures of nearest neighbours in features: precision and recall, density and coverage, and copies of training items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.evaluation.provenance import Measurement

BALLS, NAEEM_BALLS = 3, 5
"""Neighbours that the radius of an item reaches: of precision and recall, and of density and coverage, as in the papers."""
PERCENTILE = 1.0
"""Of the distances of held-out items to their nearest training items: the limit below which a sample counts as memorised."""
SAME = 1e-4
"""Of the mean distance of held-out items: what rounding may add to the distance of equal items."""
PAIRS = 8
"""Pairs of a sample and its nearest training item that are listed."""
_ELEMENTS = 8_000_000  # distances held at a time


def nearest(x: Tensor, y: Tensor, k: int = 1, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Euclidean distances from rows ``(N, D)`` to their ``k`` nearest of ``(M, D)``, in float64, and their rows, ``(N, k)`` both.

    Args:
        x: The rows.
        y: The rows to choose from.
        k: How many.
        own: The row of ``y`` that is each item of ``x`` itself and does not count, ``(N,)``.

    Raises:
        ValueError: if there are fewer than ``k`` to choose from, or the widths differ.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or len(y) - (own is not None) < k:
        raise ValueError(f"{k} nearest neighbours need more items of as many features, not {tuple(x.shape)} and {tuple(y.shape)}")
    x, y, parts = x.double(), y.double(), []
    for rows in torch.arange(len(x)).split(max(1, _ELEMENTS // len(y))):
        distances = torch.cdist(x[rows], y)
        if own is not None:
            distances[torch.arange(len(rows)), own[rows]] = math.inf
        parts.append(distances.topk(k, largest=False))
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def radii(x: Tensor, k: int) -> Tensor:
    """Distance of each row ``(N, D)`` to its ``k``-th nearest other row, ``(N,)``."""
    return nearest(x, x, k, torch.arange(len(x)))[0][:, -1]


@dataclass(frozen=True)
class Overlap:
    """How two sets of features overlap, item by item.

    Attributes:
        precise: Whether a generated item is within the ball of a real one, ``(N,)`` (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1).
        recalled: Whether a real item is within the ball of a generated one, ``(M,)``.
        density: Balls of real items that hold a generated one, over ``k``, ``(N,)`` (Naeem et al. 2020, arXiv 2002.09797, eq. 4).
        covered: Whether the ball of a real item holds a generated one, ``(M,)`` (eq. 5).
    """

    precise: Tensor
    recalled: Tensor
    density: Tensor
    covered: Tensor


def overlap(generated: Tensor, real: Tensor, k: int = BALLS, naeem_k: int = NAEEM_BALLS) -> Overlap:
    """Overlap of generated ``(N, D)`` and real ``(M, D)`` features; a ball reaches to the ``k``-th nearest item of the same set.

    Raises:
        ValueError: if there are no more than ``k`` items on a side.
    """
    real_near, real_far, ours = radii(real, k), radii(real, naeem_k), radii(generated, k)
    generated, real = generated.double(), real.double()
    precise, density = [], []
    recalled, covered = torch.zeros(len(real), dtype=torch.bool), torch.zeros(len(real), dtype=torch.bool)
    for rows in torch.arange(len(generated)).split(max(1, _ELEMENTS // len(real))):
        distances = torch.cdist(generated[rows], real)
        within = distances <= real_far
        precise.append((distances <= real_near).any(1))
        density.append(within.sum(1) / naeem_k)
        covered |= within.any(0)
        recalled |= (distances <= ours[rows, None]).any(0)
    return Overlap(torch.cat(precise), recalled, torch.cat(density), covered)


def expected_coverage(real: int, generated: int, k: int = NAEEM_BALLS) -> float:
    """Coverage of generated items of the real distribution, in the mean (Naeem et al., lemma 2)."""
    return 1 - math.prod((real - i) / (generated + real - i) for i in range(1, k + 1))


def overlap_figures(
    generated: Tensor, real: Tensor, details: JSON, groups: Sequence[str | None] = (), side: str = ""
) -> dict[str, Measurement]:
    """``precision``, ``recall``, ``density`` and ``coverage``.

    Args:
        generated: Features ``(N, D)``.
        real: Features ``(M, D)``.
        details: Provenance of the features.
        groups: Class of each generated item and of each real one in the same order, by which figures are also reported.
        side: Suffix of the names.
    """
    found = overlap(generated, real)
    common = {**details, "n_generated": len(generated), "n_reference": len(real)}
    small = {} if len(real) >= 50 else {"warning": f"small sample: {min(len(generated), len(real))} items"}
    papers = {"k": BALLS, "paper": "arXiv 1904.06991"}, {"k": NAEEM_BALLS, "paper": "arXiv 2002.09797"}
    expected = {"same_distribution": expected_coverage(len(real), len(generated))}
    values: dict[str, tuple[Tensor, JSON]] = {
        "precision": (found.precise, papers[0]),
        "recall": (found.recalled, papers[0]),
        "density": (found.density, papers[1] | {"same_distribution": 1.0}),
        "coverage": (found.covered, papers[1] | expected),
    }
    return {
        name + side: Measurement(name, each.double().mean().item(), len(each), {**common, **more, **small, **by_group(each, groups)})
        for name, (each, more) in values.items()
    }


def by_group(values: Tensor, groups: Sequence[str | None]) -> JSON:
    """Mean and number of values ``(N,)`` in each group, under ``by_class``; nothing where there are not two."""
    names = sorted({name for name in groups if name is not None})
    if len(names) < 2 or len(groups) != len(values):
        return {}
    members = {name: values[[place for place, each in enumerate(groups) if each == name]].double() for name in names}
    return {"by_class": {name: {"value": round(each.mean().item(), 4), "n": len(each)} for name, each in members.items()}}


@dataclass(frozen=True)
class Copies:
    """Distances of samples to training items, beside those of held-out items.

    Attributes:
        distances: Of each sample to its nearest training item, ``(N,)``.
        rows: That training item, ``(N,)``.
        heldout: Of each held-out item, ``(M,)``.
        limit: Below or at which a sample counts as memorised.
        chance: Probability of that for a sample of the held-out distribution.
        authentic: Whether a sample is farther from its nearest training item than the nearest other training item is, ``(N,)``.
        authentic_heldout: The same of held-out items, ``(M,)``.
    """

    distances: Tensor
    rows: Tensor
    heldout: Tensor
    limit: float
    chance: float
    authentic: Tensor
    authentic_heldout: Tensor

    @property
    def memorised(self) -> Tensor:
        """Of each sample, ``(N,)`` bool."""
        return self.distances <= self.limit


def copies(generated: Tensor, heldout: Tensor, known: Tensor, percentile: float = PERCENTILE) -> Copies:
    """Compare samples ``(N, D)`` and held-out items ``(M, D)`` with training items ``(T, D)``.

    The limit is the ``r``-th smallest distance of the held-out items with ``r = max(1, floor(percentile (M + 1) / 100))``, so the chance of
    a sample of their distribution is ``r / (M + 1)`` exactly.

    Raises:
        ValueError: if there are fewer than two training items.
    """
    ours, theirs = nearest(generated, known), nearest(heldout, known)
    rank = max(1, math.floor(percentile * (len(heldout) + 1) / 100))
    distances = theirs[0][:, 0]
    limit = distances.kthvalue(rank).values.item() + SAME * distances.mean().item()
    authentic = []
    for found, rows in (ours, theirs):
        hit, place = rows[:, 0].unique(return_inverse=True)
        authentic.append(found[:, 0] > nearest(known[hit], known, 1, hit)[0][place, 0])
    return Copies(ours[0][:, 0], ours[1][:, 0], distances, limit, rank / (len(heldout) + 1), *authentic)


def copies_figures(
    found: Copies, details: JSON, keys: Sequence[str], total: int, groups: Sequence[str | None] = ()
) -> dict[str, Measurement]:
    """``memorised``, and ``authenticity`` (Alaa et al. 2022, arXiv 2102.08921) of samples and of held-out items.

    Args:
        found: The distances.
        details: Provenance of the features.
        keys: Names of the training items compared with.
        total: Training items of the set.
        groups: Class of each sample, by which ``memorised`` is also reported.
    """
    count = len(found.distances)
    closest = most_similar(found)
    known: JSON = {**details, "training_items": len(keys), "of": total}
    if len(keys) < total:
        known["warning"] = f"compared with {len(keys):,} of {total:,} training items"
    memorised: JSON = {
        "protocol": f"share at most as far from a training item as the nearest {PERCENTILE:g} % of held-out items",
        "chance": found.chance,
        "limit": found.limit,
        "median": found.distances.median().item(),
        "median_heldout": found.heldout.median().item(),
        "pairs": [{"sample": row, "nearest": keys[int(found.rows[row])], "distance": found.distances[row].item()} for row in closest],
        **by_group(found.memorised, groups),
    }
    authentic: JSON = {
        "protocol": "share farther from its nearest training item than that is from its nearest",
        "paper": "arXiv 2102.08921",
    }
    sides: Mapping[str, Tensor] = {"": found.authentic, "_real": found.authentic_heldout}
    return {
        "memorised": Measurement("memorised", found.memorised.double().mean().item(), count, known | memorised),
        **{
            f"authenticity{side}": Measurement("authenticity", each.double().mean().item(), len(each), known | authentic)
            for side, each in sides.items()
        },
    }


def most_similar(found: Copies) -> list[int]:
    """Samples nearest to a training item, nearest first."""
    return [int(row) for row in found.distances.argsort(stable=True)[:PAIRS]]
