"""Whose voice speaks: the cosine between voices as a frozen speaker encoder hears them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.sound.protocol import at_rate, averaged, mono
from jielong.networks import speaker
from jielong.networks.speaker import SpeakerEncoder


def voices(clips: Iterable[Tensor], rate: int, encoder: SpeakerEncoder | None = None) -> list[Tensor | None]:
    """The voice in every clip, a unit vector ``(256,)``; ``None`` where there is only silence."""
    encoder = encoder or SpeakerEncoder()
    made: list[Tensor | None] = []
    for clip in mono(clips):
        heard = at_rate(clip, rate, speaker.RATE)
        made.append(encoder.embed(heard) if heard.square().mean() >= 1e-10 else None)
    return made


def speaker_similarity(
    made: Iterable[Tensor], references: Iterable[Tensor], rate: int, encoder: SpeakerEncoder | None = None
) -> Measurement:
    """Cosine of a clip's voice and its reference's, averaged over clips: about 0.9 for one speaker, 0.5 to 0.7 for two.

    Args:
        made: Clips ``(T,)`` or ``(C, T)`` in [-1, 1].
        references: One recording a clip, of any length and words.
        rate: Of both, in Hz.
        encoder: To use again; a new one by default.

    Raises:
        jielong.networks.efficientnet.WeightsError: if the encoder's weights are not installed.
        ValueError: if there are not as many references as clips, or they are not sound in [-1, 1].
    """
    encoder = encoder or SpeakerEncoder()
    references = mono(references, "the references")
    ours, theirs = voices(made, rate, encoder), voices(references, rate, encoder)
    if len(ours) != len(theirs):
        raise ValueError(f"every clip needs the voice it should have, but there are {len(ours)} clips and {len(theirs)} references")
    cosines = [None if x is None or y is None else float(torch.dot(x, y)) for x, y in zip(ours, theirs, strict=True)]
    details: JSON = {"encoder": "Resemblyzer (GE2E), silences not cut out", "weights_sha256": speaker.SHA256}
    return averaged("speaker_similarity", cosines, references, rate, details)
