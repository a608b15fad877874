"""Shared steps of audio metrics: checking, mixing to one channel, resampling, hashing, averaging."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.evaluation.provenance import Measurement
from jielong.media.audio import resample, to_integers


class MissingError(ImportError):
    """A package that a metric needs is not installed; the message says how to install it."""


class DoesNotApplyError(ValueError):
    """A metric applies to none of the clips."""


def missing(what: str, extra: str) -> MissingError:
    """The error for a metric whose package is not installed."""
    return MissingError(f"{what} is not installed: pip install 'jielong[{extra}]'")


def mono(clips: Iterable[Tensor], what: str = "clips") -> list[Tensor]:
    """Clips ``(T,)`` or ``(C, T)`` of any lengths as ``(T,)`` float32 on the CPU; channels are averaged.

    Raises:
        ValueError: without clips, or if one is not finite, floating point and in [-1, 1]; the message has its index.
    """
    checked = []
    for index, clip in enumerate(clips):
        if clip.ndim not in (1, 2) or not clip.numel():
            raise ValueError(
                f"{what} are (samples,) or (channels, samples) with a sample at least, but number {index} is {tuple(clip.shape)}"
            )
        if not clip.is_floating_point():
            raise ValueError(f"{what} must be float in [-1, 1], but number {index} is {clip.dtype}; divide 16-bit values by 32768")
        clip = clip.detach().float().cpu()
        if not torch.isfinite(clip).all():
            raise ValueError(f"{what} must hold finite numbers, but number {index} does not")
        # A decoder overshoots a little; 16-bit values are a mistake.
        if clip.abs().max() > 8:
            raise ValueError(f"{what} must be in [-1, 1], but number {index} reaches {clip.abs().max().item():.4g}")
        checked.append(clip if clip.ndim == 1 else clip.mean(0))
    if not checked:
        raise ValueError(f"there are no {what} to measure")
    return checked


def pairs(clips: Iterable[Tensor], real: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of clip and reference, mono.

    Raises:
        ValueError: if their numbers or lengths differ.
    """
    ours, theirs = mono(clips, "the clips"), mono(real, "the references")
    if len(ours) != len(theirs):
        raise ValueError(f"every clip needs its reference, but there are {len(ours)} clips and {len(theirs)} references")
    for index, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        if len(x) != len(y):
            raise ValueError(f"a clip must be as long as its reference, but number {index} has {len(x)} samples and its reference {len(y)}")
    return list(zip(ours, theirs, strict=True))


def at_rate(clip: Tensor, rate: int, to: int) -> Tensor:
    """A clip ``(T,)`` resampled to another rate, ``(T',)``."""
    return resample(clip[None], rate, to)[0]


def sound_hash(clips: Iterable[Tensor], rate: int) -> str:
    """SHA-256 of clips as 16-bit values, with rate, lengths and order."""
    digest = hashlib.sha256(str(rate).encode())
    for clip in clips:
        samples = to_integers(clip).contiguous()
        digest.update(repr(tuple(samples.shape)).encode())
        digest.update(samples.numpy().tobytes())
    return digest.hexdigest()


def averaged(name: str, values: Sequence[float | None], real: Sequence[Tensor], rate: int, details: JSON) -> Measurement:
    """Mean over clips; ``None``, where a metric does not apply, is left out and counted.

    Raises:
        DoesNotApplyError: if all values are ``None``.
    """
    kept = [value for value in values if value is not None]
    if not kept:
        raise DoesNotApplyError(f"{name} applies to none of these {len(values)} clips: they are silent or too short")
    common = {"rate": rate, "mean_over": "clips", "reference_sha256": sound_hash(real, rate)}
    if len(kept) < len(values):
        common["left_out"] = len(values) - len(kept)
    return Measurement(name, sum(kept) / len(kept), len(kept), common | details)


def applicable(metrics: Mapping[str, Callable[[], Measurement]]) -> tuple[dict[str, Measurement], dict[str, str]]:
    """The figures of those metrics that apply, and why the others do not, by name."""
    figures: dict[str, Measurement] = {}
    omitted: dict[str, str] = {}
    for name, metric in metrics.items():
        try:
            figures[name] = metric()
        except DoesNotApplyError as error:
            omitted[name] = str(error)
    return figures, omitted


def of_pairs(
    name: str,
    clips: Iterable[Tensor],
    real: Iterable[Tensor],
    rate: int,
    score: Callable[[Tensor, Tensor], float | None],
    details: JSON,
    at: int | None = None,
) -> Measurement:
    """A metric of clips and references, averaged over clips.

    Args:
        name: Name of the metric.
        clips: Clips.
        real: References.
        rate: Sample rate of both in Hz.
        score: ``(clip, reference) -> value``, both ``(T,)``; ``None`` where the metric does not apply.
        details: Details of the protocol.
        at: Sample rate of the metric, which both are resampled to.
    """
    both = pairs(clips, real)
    target = at or rate
    values = [score(at_rate(x, rate, target), at_rate(y, rate, target)) for x, y in both]
    resampled = {"resampled_to": target} if target != rate else {}
    return averaged(name, values, [y for _, y in both], rate, details | resampled)
