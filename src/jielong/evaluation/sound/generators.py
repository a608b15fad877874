"""What a generator of sound is measured by: it says held-out sentences, or makes sounds of held-out captions or classes.

Beside each figure of what was generated stand those of the real recordings, ``..._real``, and of what the tokenizer makes of these,
``..._rebuilt``: no generator over these tokens can be expected to do better. The figures are those of
:data:`~jielong.evaluation.sound.metrics.JUDGES`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from jielong.conditions.length import SECONDS
from jielong.data.opening import open_data
from jielong.evaluation.context import BATCH, EvalContext, EvalResult
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.sound.eval_audio import EvalAudio
from jielong.evaluation.sound.metrics import JUDGES, Metric
from jielong.evaluation.sound.speakers import Speakers
from jielong.system import durations_of, lengths_of


def generator(subject: EvalContext, judges: Sequence[Metric] = JUDGES) -> EvalResult:
    """Generate a clip for each held-out item, and let all judges hear it; one all of whose figures are to be left out is not asked.

    Raises:
        ValueError: if the set lacks what the generator is told, or a figure is to be left out that no judge makes.
    """
    known = [name for judge in judges for name in judge.names]
    if unknown := sorted(subject.without.difference(known)):
        raise ValueError(f"there is no figure {unknown[0]!r} of generated sound to leave out; there are {', '.join(known)}")
    heard = generated(subject)
    figures: dict[str, Measurement] = {}
    omitted: dict[str, str] = {}
    asked = [judge for judge in judges if not subject.without.issuperset(judge.names)]
    for done, judge in enumerate(asked):
        subject.report("judging", done, len(asked))
        found = judge(heard)
        figures |= {name: figure for name, figure in found.figures.items() if figure.name not in subject.without}
        omitted |= found.omitted
    subject.report("judging", len(asked), len(asked))
    return EvalResult(figures, omitted | dict.fromkeys(sorted(subject.without), "it was to be left out"), heard.drawn)


def generated(subject: EvalContext) -> EvalAudio:
    """What is generated for each item, and, where the ceiling is asked for, what the tokenizer makes of the real ones."""
    system, sounds = subject.system, subject.sounds
    speakers = Speakers.of(sounds, subject.rows, open_data(subject.source, medium=sounds.medium, settings=system.recipe.data))
    conditions = subject.conditions(None if speakers is None else speakers.prompts)
    asked = _asked(subject, conditions)
    begun = time.perf_counter()
    made = system.wrap(subject.draw(conditions, lengths=lengths_of(system.tokenizer, asked)), asked)
    seconds = time.perf_counter() - begun
    sides = {"": [clip.tensor for clip in made]}
    if subject.ceiling:
        sides |= {"_real": subject.clips, "_rebuilt": _rebuilt(subject)}
    drawn = {
        "clips": "one a held-out item, clip i from (seed, i)",
        "voice_from": None if speakers is None else f"another recording of the same {speakers.column}, not measured where there is one",
        "length_asked": subject.draws.length,
        "seconds_per_clip": round(seconds / len(made), 4),
    }
    return EvalAudio(subject, conditions, asked, sides, speakers, drawn)


def _asked(subject: EvalContext, conditions: Sequence[object] | None) -> list[float] | None:
    """Seconds that each clip is to last, where that is said."""
    if subject.draws.length is not None:
        return SECONDS.from_heldout(subject.items())
    return durations_of(subject.system.recipe, conditions)


def _rebuilt(subject: EvalContext) -> list[Tensor]:
    system, made = subject.system, list[Tensor]()
    for part in subject.real.split(BATCH):
        made += system.decode(system.encode(part))
        subject.report("reconstructing", len(made), len(subject.real))
    return [clip[:, : own.shape[1]] for clip, own in zip(made, subject.clips, strict=True)]
