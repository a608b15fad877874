"""Evaluation of generators of audio on held-out transcripts, captions or classes.

Each figure of generated clips is reported for the real recordings as well, ``..._real``, and for their reconstructions by the tokenizer,
``..._rebuilt``, which bound what a generator over these tokens can reach. The figures are those of
:data:`~jielong.evaluation.sound.metrics.METRICS`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from jielong.conditions.length import SECONDS
from jielong.core.json import JSON
from jielong.data.opening import open_quietly
from jielong.evaluation.context import BATCH, EvalContext, EvalResult
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.sound.eval_audio import EvalAudio
from jielong.evaluation.sound.metric import Metric
from jielong.evaluation.sound.metrics import METRICS
from jielong.evaluation.sound.speakers import Speakers
from jielong.system import durations_of, lengths_of


def generator(context: EvalContext, metrics: Sequence[Metric] = METRICS) -> EvalResult:
    """Generate a clip for each held-out item and measure it; a metric whose figures are all skipped is not computed.

    Raises:
        ValueError: if the set lacks an input of the condition, or there is no figure of a name to skip.
    """
    known = [name for metric in metrics for name in metric.names]
    if unknown := sorted(context.skip_metrics.difference(known)):
        raise ValueError(f"there is no metric {unknown[0]!r} to skip; there are {', '.join(known)}")
    audio = generated(context)
    figures: dict[str, Measurement] = {}
    omitted: dict[str, str] = {}
    chosen = [metric for metric in metrics if not context.skip_metrics.issuperset(metric.names)]
    for done, metric in enumerate(chosen):
        context.report("measuring", done, len(chosen))
        found = metric(audio)
        figures |= {name: figure for name, figure in found.figures.items() if figure.name not in context.skip_metrics}
        omitted |= found.omitted
    context.report("measuring", len(chosen), len(chosen))
    return EvalResult(figures, omitted | dict.fromkeys(sorted(context.skip_metrics), "skipped"), audio.drawn, audio.items, audio.pairs)


def generated(context: EvalContext) -> EvalAudio:
    """Generated clips, and with ``ceiling`` the real ones and their reconstructions."""
    system, sounds = context.system, context.sounds
    speakers = Speakers.of(sounds, context.rows, open_quietly(context.source, medium=sounds.medium, settings=system.recipe.data))
    conditions = context.conditions(None if speakers is None else speakers.prompts)
    durations = _durations(context, conditions)
    begun = time.perf_counter()
    generated = system.wrap(context.draw(conditions, lengths=lengths_of(system.tokenizer, durations)), durations, context.names)
    seconds = time.perf_counter() - begun
    sides = {"": [clip.tensor for clip in generated]}
    if context.ceiling:
        sides |= {"_real": context.clips, "_rebuilt": _rebuilt(context)}
    drawn: JSON = {
        "clips": "one a held-out item, clip i from (seed, i)",
        "voice_from": None if speakers is None else f"another recording of the same {speakers.column}, not measured where there is one",
        "length_asked": context.draws.length,
        "seconds_per_clip": round(seconds / len(generated), 4),
    }
    return EvalAudio(context, conditions, durations, sides, speakers, drawn, generated)


def _durations(context: EvalContext, conditions: Sequence[object] | None) -> list[float] | None:
    """Requested seconds of each clip, if any are."""
    if context.draws.length is not None:
        return SECONDS.from_heldout(context.items())
    return durations_of(context.system.recipe, conditions)


def _rebuilt(context: EvalContext) -> list[Tensor]:
    system, rebuilt = context.system, list[Tensor]()
    for part in context.real.split(BATCH):
        rebuilt += system.decode(system.encode(part))
        context.report("reconstructing", len(rebuilt), len(context.real))
    return [clip[:, : real.shape[1]] for clip, real in zip(rebuilt, context.clips, strict=True)]
