"""Overlap of generated and real clips in features, and copies of training clips."""

from __future__ import annotations

import torch

from jielong.data.order import spread
from jielong.data.whisper import installed
from jielong.evaluation.neighbours import copies, copies_figures, most_similar, overlap_figures
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.sound.eval_audio import EvalAudio
from jielong.evaluation.sound.features import MelStatistics, WhisperFeatures
from jielong.evaluation.sound.metric import Metric


class Manifolds(Metric):
    """Precision, recall, density and coverage in features of Whisper's encoder, or of mel bands where it is not installed."""

    names = ("precision", "recall", "density", "coverage")

    def measure(self, audio: EvalAudio) -> dict[str, Measurement]:
        """Of generated and reconstructed clips; ``_real`` is that of as many training clips."""
        space, count = audio.space(WhisperFeatures if installed() else MelStatistics), len(audio.context.rows)
        real, details = space(audio.context.clips, audio.rate), space.extractor.details
        sides = {side: space(clips, audio.rate) for side, clips in audio.sides.items() if side != "_real"}
        if "_real" in audio.sides and len(space.known) >= count:
            sides["_real"] = space.known[spread(len(space.known), count)]
        groups = audio.context.groups
        return {
            name: figure
            for side, rows in sides.items()
            for name, figure in overlap_figures(rows, real, details, groups if side == "" else (), side).items()
        }


class Memorisation(Metric):
    """Samples as near to a training clip as hardly any held-out clip, in statistics of mel bands."""

    names = ("memorised", "authenticity")

    def reason_omitted(self, audio: EvalAudio) -> str | None:
        """There must be training clips beside the held-out ones."""
        trained, _ = audio.known
        shared = {audio.context.media.keys[row] for row in audio.context.rows}.intersection(trained.keys)
        return f"{trained.name} has no training clips beside the held-out ones" if shared else None

    def measure(self, audio: EvalAudio) -> dict[str, Measurement]:
        """Of generated clips; the nearest pairs are kept for a sample grid."""
        space, (trained, _) = audio.space(MelStatistics), audio.known
        rows = spread(len(trained), audio.context.known)
        known = space.standardised(audio.trained_features(space.extractor, rows))
        found = copies(space(audio.sides[""], audio.rate), space(audio.context.clips, audio.rate), known)
        keys = [trained.keys[row] for row in rows]
        close = most_similar(found)
        near = [rows[int(found.rows[row])] for row in close]
        clips = [*(audio.sides[""][row].cpu() for row in close), *(trained.media([row])[0][:, : trained.length(row)] for row in near)]
        lengths = [clip.shape[-1] for clip in clips]
        padded = torch.stack([torch.nn.functional.pad(clip, (0, max(lengths) - clip.shape[-1])) for clip in clips])
        names = [*(audio.context.names[row] for row in close), *(trained.keys[row] for row in near)]
        audio.pairs = trained.kind.wrap(padded, trained.medium, names, lengths)
        figures = copies_figures(found, space.extractor.details, keys, len(trained), audio.context.groups)
        return {name: figure for name, figure in figures.items() if name in self.names or "_real" in audio.sides}
