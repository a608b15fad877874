"""Power-function EMAs of weights, whose length is chosen after the run (EDM2, arXiv:2312.02696, section 3 and appendix C).

``a_g(t) = (1 - 1/t)^(g+1) a_g(t-1) + (1 - (1 - 1/t)^(g+1)) w(t)`` weighs the weights after step ``i`` with ``i^g``. Its *length* is the
standard deviation of that profile over the training time, ``sqrt(g+1) / ((g+2) sqrt(g+3))``. Snapshots of a few lengths at several
times span profiles of others, to which they are fitted by least squares.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from jielong.config.registry import RecipeError
from jielong.training.checkpoint import CheckpointError, read_tensors, write_tensors
from jielong.training.settings import MAX_LENGTH

FOLDER = "ema"
"""Folder of a run's snapshots."""
MISFIT = 0.05
"""Distance from the profile of an EMA, as a fraction of its norm, from which a warning says so."""
_NAME = re.compile(r"length-(?P<length>[\d.]+)-steps-(?P<steps>\d+)\.safetensors")
_HALF = torch.finfo(torch.float16).max

Array = npt.NDArray[np.float64]


def exponent_of(length: float) -> float:
    """``g`` of a length: the largest root of ``g^3 + 7 g^2 + (16 - s) g + 12 - s`` with ``s = length^-2`` (EDM2, algorithm 2)."""
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def length_of(exponent: float) -> float:
    """The length of ``g``."""
    return float(np.sqrt(exponent + 1) / ((exponent + 2) * np.sqrt(exponent + 3)))


def coefficients(times: Sequence[float], lengths: Sequence[float], time: float, length: float) -> Array:
    """Factors of snapshots whose sum is nearest to the EMA of a length at a time (EDM2, algorithm 3).

    They solve ``A c = b``, where ``A`` and ``b`` are inner products of profiles, ``(g+1)(h+1) (t/u)^e / ((g+h+1) max(t, u))`` with
    ``e = h`` for ``t < u``, else ``-g``.

    Args:
        times: Of each snapshot, above 0.
        lengths: Of each snapshot.
        time: When the EMA ends.
        length: Of the EMA.
    """
    exponents = [exponent_of(each) for each in lengths]
    own, target = (np.array(times, float), np.array(exponents)), (np.array([time], float), np.array([exponent_of(length)]))
    return np.asarray(np.linalg.lstsq(_products(own, own), _products(own, target)[:, 0], rcond=None)[0], dtype=np.float64)


def misfit(times: Sequence[float], lengths: Sequence[float], time: float, length: float) -> float:
    """Distance of the sum of :func:`coefficients` from the profile, as a fraction of the profile's norm."""
    own = np.array(times, float), np.array([exponent_of(each) for each in lengths])
    target = np.array([time], float), np.array([exponent_of(length)])
    explained = float(np.dot(_products(own, target)[:, 0], coefficients(times, lengths, time, length)))
    return math.sqrt(max(0.0, 1 - explained / float(_products(target, target)[0, 0])))


def _products(rows: tuple[Array, Array], columns: tuple[Array, Array]) -> Array:
    """Inner products of profiles, given by times and exponents."""
    (t, g), (u, h) = ((each[:, None] for each in rows), (each[None, :] for each in columns))
    power = np.where(t < u, h, -g)
    return np.asarray((g + 1) * (h + 1) * (t / u) ** power / ((g + h + 1) * np.maximum(t, u)), dtype=float)


class PowerEmas:
    """EMAs of the trained weights of a model, one of each length.

    Args:
        model: The model, before training starts.
        lengths: Above 0, below :data:`MAX_LENGTH`.
    """

    def __init__(self, model: nn.Module, lengths: Sequence[float]) -> None:
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad} if lengths else {}
        self._averages = {length: {name: weight.detach().clone() for name, weight in self._weights.items()} for length in lengths}
        self._exponents = {length: exponent_of(length) for length in lengths}

    def divide(self) -> None:
        """Refuse weights that are divided among processes.

        Raises:
            RecipeError: if there are EMAs to follow them.
        """
        if self._averages:
            raise RecipeError("train.ema_lengths: power-function EMAs are not divided among processes; leave it out under FSDP")

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights; ``step`` is the number of updates before this one."""
        for length, averages in self._averages.items():
            kept = (1 - 1 / (step + 1)) ** (self._exponents[length] + 1)
            torch._foreach_lerp_(list(averages.values()), [weight.detach() for weight in self._weights.values()], 1 - kept)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """A set of tensors for each length, by the name of its file in a saved state."""
        return {f"ema-{length:g}": dict(averages) for length, averages in self._averages.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore from :meth:`state`."""
        for length, averages in self._averages.items():
            for name, average in averages.items():
                average.copy_(state[f"ema-{length:g}"][name])

    def save_snapshots(self, out: Path, steps: int) -> None:
        """Write a snapshot of each length, rounded to 16 bits, into a run's folder.

        Raises:
            StorageError: if it cannot be written.
        """
        for length, averages in self._averages.items():
            path = out / FOLDER / f"length-{length:g}-steps-{steps:09d}.safetensors"
            if steps and not path.exists():
                write_tensors(path, {name: value.half() if value.abs().max() < _HALF else value for name, value in averages.items()})


def snapshots(out: Path) -> list[tuple[float, int, Path]]:
    """Length, steps and file of each snapshot of a run."""
    found = ((_NAME.fullmatch(path.name), path) for path in sorted((out / FOLDER).glob("*.safetensors")))
    return [(float(match["length"]), int(match["steps"]), path) for match, path in found if match is not None]


def remove_later_snapshots(out: Path, steps: int) -> None:
    """Remove the snapshots after the state that a run is resumed from, which it will write again."""
    for _, taken, path in snapshots(out):
        if taken > steps:
            path.unlink()


def reconstruct(out: Path, length: float) -> dict[str, Tensor]:
    """The EMA weights of a length at the end of a run, from its snapshots.

    Raises:
        RecipeError: if the run has no snapshots, or the length is not between 0 and :data:`MAX_LENGTH`.
        CheckpointError: if a snapshot cannot be read.
    """
    found = snapshots(out)
    if not found:
        raise RecipeError(f"{out} has no snapshots of power-function EMAs: train it with, for example, train.ema_lengths=[0.05,0.1]")
    if not 0 < length < MAX_LENGTH:
        raise RecipeError(f"an EMA length is a share of the training above 0 and below {MAX_LENGTH}, such as 0.08, not {length:g}")
    lengths, times, paths = zip(*found, strict=True)
    factors = coefficients(times, lengths, max(times), length)
    if (distance := misfit(times, lengths, max(times), length)) > MISFIT:
        several = f"{len(found)} snapshots fit the profile of an EMA of length {length:g} to {distance:.0%} of its norm only"
        warnings.warn(f"{several}: choose a length nearer to theirs, or train with more saves (a smaller train.save_every)", stacklevel=2)
    total: dict[str, Tensor] = {}
    for factor, path in zip(factors.tolist(), paths, strict=True):
        tensors = read_tensors(path)
        if total and tensors.keys() != total.keys():
            raise CheckpointError(f"{path} is of another model than the snapshots before it; remove the folder {out / FOLDER}")
        for name, value in tensors.items():
            total[name] = factor * value.double() + total.get(name, 0.0)
    return {name: value.float() for name, value in total.items()}
