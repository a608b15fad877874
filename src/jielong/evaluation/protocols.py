"""What is measured of each kind of media: reconstructions while training, tokenizers and generators by ``jielong evaluate``."""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.core.medium import Medium
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.data.sets import Batch
from jielong.evaluation.context import BATCH, EvalContext, EvalResult, merged, sampling_of
from jielong.evaluation.judges.base import judged
from jielong.evaluation.network_evaluations import count_evaluations, first_of
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.usage import codebook_usage
from jielong.media.kinds.base import kind_of


class EvalProtocol:
    """The figures of a kind of media; this one applies to any: PSNR of reconstructions, codebook usage, held-out loss.

    Where the set names a judge (:mod:`jielong.evaluation.judges`), also its figures of reconstructions or of one item a held-out one.

    Attributes:
        skippable: Figures that ``--skip-metric`` may name.
        quick_figures: Figures of :meth:`quick`, and whether higher is better; the first chooses the best weights of a run.
    """

    skippable: ClassVar[frozenset[str]] = frozenset()
    quick_figures: ClassVar[Mapping[str, bool]] = MappingProxyType({"psnr": True})

    def quick(self, rebuilt: Tensor, batch: Batch, medium: Medium) -> dict[str, float]:
        """Figures of reconstructions ``(B, C, *size)`` to log while training."""
        return {"psnr": _psnr(rebuilt, batch.media).value}

    def tokenizer(self, context: EvalContext) -> EvalResult:
        """Figures of a tokenizer."""
        tokens, rebuilt = reconstruct(context)
        figures, layout = {"psnr": _psnr(rebuilt, context.real)}, context.system.tokenizer.layout
        items = kind_of(context.media.medium).wrap(rebuilt, context.media.medium, context.names)
        usage = {"codebook_usage": codebook_usage(Tokens(tokens, layout))} if layout.discrete else {}
        own = EvalResult(figures | usage, {} if layout.discrete else {"codebook_usage": "the tokens are continuous"})
        return merged([own, judged(context, rebuilt)], {}, items)

    def generator(self, context: EvalContext) -> EvalResult:
        """Figures of a generator; items are drawn only for a judge."""
        system, total = context.system, 0.0
        model, conditions = system.generator, context.conditions()
        if model is None:
            raise ValueError(f"{system.name} is a tokenizer: it generates nothing")
        for first in range(0, len(context.real), BATCH):
            part, rows = context.real[first : first + BATCH], slice(first, first + BATCH)
            prepared = None if model.condition is None or conditions is None else model.condition.prepare(conditions[rows])
            rng = PerSampleRNG(context.draws.seed, range(first, first + len(part)))
            with torch.no_grad():
                total += float(model.loss(system.encode(part), prepared, rng)) * len(part)
        loss = EvalResult({"heldout_loss": Measurement("heldout_loss", total / len(context.real), len(context.real), {"unit": "nats"})})
        if context.media.source.judge is None:
            return loss
        begun = time.perf_counter()
        items = system.wrap(context.draw(conditions), names=context.names)
        seconds = round((time.perf_counter() - begun) / len(context.rows), 4)
        counted = count_evaluations(system, first_of(conditions), sampling_of(system, context.draws), context.draws.seed)
        drawn: JSON = {
            "items": "one a held-out caption or class, item i from (seed, i)",
            "seconds_per_item": seconds,
            "evaluations_per_item": counted.to_json(),
        }
        return merged([loss, judged(context, items.tensor)], drawn, items)

    def digest(self, real: Tensor, medium: Medium) -> dict[str, str]:
        """SHA-256 of the reference items, under its name in the provenance."""
        return {"items_sha256": hashlib.sha256(repr(tuple(real.shape)).encode() + real.contiguous().numpy().tobytes()).hexdigest()}


def reconstruct(context: EvalContext) -> tuple[Tensor, Tensor]:
    """Tokens ``(n, N, C)`` of the reference items, and what they decode to, on the CPU."""
    codes, rebuilt = [], []
    for part in context.real.split(BATCH):
        tokens = context.system.encode(part)
        codes.append(tokens.values.cpu())
        rebuilt.append(context.system.decode(tokens))
        context.report("reconstructing", sum(map(len, codes)), len(context.real))
    return torch.cat(codes), torch.cat(rebuilt)


def _psnr(rebuilt: Tensor, real: Tensor) -> Measurement:
    """``10 log10(2^2 / MSE)`` of values in [-1, 1], mean over items, at most 100 dB."""
    mse = (rebuilt.double() - real.double()).square().flatten(1).mean(1)
    each = 10 * torch.log10(4 / mse.clamp_min(4e-10))
    return Measurement("psnr", each.mean().item(), len(each), {"unit": "dB", "range": 2.0, "cap_db": 100.0})


_PROTOCOLS: dict[str, EvalProtocol] = {}


def register_protocol(kind: str, protocol: EvalProtocol) -> None:
    """Measure a kind of media by a protocol of its own."""
    _PROTOCOLS[kind] = protocol


def protocols() -> Mapping[str, EvalProtocol]:
    """Protocols by kind of media."""
    for module in ("jielong.evaluation.pictures", "jielong.evaluation.sound.protocols", "jielong.evaluation.videos"):
        importlib.import_module(module)  # which register theirs
    return _PROTOCOLS


def protocol_of(medium: Medium) -> EvalProtocol:
    """The protocol of a medium's kind; the general one where it has none."""
    return protocols().get(kind_of(medium).name, EvalProtocol())
