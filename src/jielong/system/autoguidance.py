"""Autoguidance: guidance away from a weaker model instead of the null condition (arXiv 2406.02507)."""

from __future__ import annotations

from dataclasses import replace

from jielong.system.pipeline import System
from jielong.training.checkpoint import fingerprint


def autoguided(system: System, weaker: System) -> System:
    """The system with predictions ``weak + scale (own - weak)``, both with the condition.

    ``weaker``: a generator of the same tokens, condition and kind of head that is smaller, or was trained less. Raises ``ValueError`` if it
    is none.
    """
    if system.generator is None or weaker.generator is None:
        raise ValueError(f"autoguidance is between two generators, and {(weaker if system.generator else system).name} is a tokenizer")
    system.generator.head.check_weaker(weaker.generator.head)
    if fingerprint(system.tokenizer) != fingerprint(weaker.tokenizer):
        raise ValueError(
            f"autoguidance is between generators of the same tokens, and the tokenizers of {system.name} and {weaker.name} differ"
        )
    if weaker.inputs != system.inputs:
        takes = [", ".join(each.inputs) or "nothing" for each in (weaker, system)]
        raise ValueError(f"autoguidance is between models of one condition: {weaker.name} takes {takes[0]}, and {system.name} {takes[1]}")
    return replace(system, weaker=weaker)
