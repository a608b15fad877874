"""Speaker similarity: cosine of speaker embeddings by a frozen encoder."""

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
    """Speaker embedding of each clip, a unit vector ``(256,)``; ``None`` for silence."""
    encoder = encoder or SpeakerEncoder()
    embeddings: list[Tensor | None] = []
    for clip in mono(clips):
        resampled = at_rate(clip, rate, speaker.RATE)
        embeddings.append(encoder.embed(resampled) if resampled.square().mean() >= 1e-10 else None)
    return embeddings


def speaker_similarity(
    clips: Iterable[Tensor], references: Iterable[Tensor], rate: int, encoder: SpeakerEncoder | None = None
) -> Measurement:
    """Cosine of the embeddings of a clip and its reference, averaged over clips: about 0.9 for one speaker, 0.5 to 0.7 for two.

    Args:
        clips: ``(T,)`` or ``(C, T)`` in [-1, 1].
        references: One recording per clip, of any length and text.
        rate: Sample rate of both in Hz.
        encoder: Speaker encoder; a new one by default.

    Raises:
        jielong.networks.efficientnet.WeightsError: if the encoder's weights are not installed.
        ValueError: if the numbers of clips and references differ, or values are outside [-1, 1].
    """
    encoder = encoder or SpeakerEncoder()
    references = mono(references, "the references")
    ours, theirs = voices(clips, rate, encoder), voices(references, rate, encoder)
    if len(ours) != len(theirs):
        raise ValueError(f"every clip needs a reference recording, but there are {len(ours)} clips and {len(theirs)} references")
    cosines = [None if x is None or y is None else float(torch.dot(x, y)) for x, y in zip(ours, theirs, strict=True)]
    details: JSON = {"encoder": "Resemblyzer (GE2E), silences not cut out", "weights_sha256": speaker.SHA256}
    return averaged("speaker_similarity", cosines, references, rate, details)
