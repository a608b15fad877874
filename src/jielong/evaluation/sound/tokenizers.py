"""Evaluation of tokenizers of audio."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from jielong.core.tokens import Tokens
from jielong.data.order import spread
from jielong.evaluation.context import EvalContext, EvalResult
from jielong.evaluation.protocols import reconstruct
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.sound.eval_audio import EvalAudio
from jielong.evaluation.sound.listening import pesq_wb, stoi, visqol
from jielong.evaluation.sound.metrics import Distances, MelDistances
from jielong.evaluation.sound.protocol import MissingError, applicable
from jielong.evaluation.sound.waveform import bitrate, mel_distance, si_sdr, stft_distance
from jielong.evaluation.usage import codebook_usage
from jielong.media.kinds.base import kind_of

RATED = 64
"""Most clips of figures that take seconds a clip."""


def tokenizer(context: EvalContext) -> EvalResult:
    """Distances of reconstructions, each clip up to its end, and the bitrate."""
    sounds, real_clips = context.sounds, context.clips
    codes, decoded = reconstruct(context)
    lengths = [clip.shape[1] for clip in real_clips]
    rebuilt = [clip[:, :length] for clip, length in zip(decoded, lengths, strict=True)]
    rate, metrics = sounds.medium.sample_rate, (mel_distance, si_sdr, stft_distance)
    figures, omitted = applicable({metric.__name__: partial(metric, rebuilt, real_clips, rate) for metric in metrics})
    layout, reason = context.system.tokenizer.layout, "the tokens are continuous"
    if layout.discrete:
        figures["bitrate"] = bitrate(layout, sounds.medium.duration)
        figures["codebook_usage"] = codebook_usage(Tokens(codes, layout))
    else:
        omitted |= {"bitrate": reason, "codebook_usage": reason}
    if context.perception:
        more = _perception(context, rebuilt)
        figures, omitted = figures | more.figures, omitted | more.omitted
    items = kind_of(sounds.medium).wrap(decoded, sounds.medium, context.names, lengths)
    return EvalResult(figures, omitted, items=items)


def _perception(context: EvalContext, rebuilt: list[Tensor]) -> EvalResult:
    """Distances in features of networks, and of speech PESQ, STOI and ViSQOL, where these are installed."""
    audio = EvalAudio(context, None, None, {"": rebuilt}, None)
    figures: dict[str, Measurement] = {}
    omitted: dict[str, str] = {}
    for distance in (MelDistances(), Distances()):
        context.report("perception", 0, 1)
        found = distance(audio)
        figures, omitted = figures | found.figures, omitted | found.omitted
    for name, metric in {"pesq": pesq_wb, "stoi": stoi, "visqol": visqol}.items():
        if not (audio.speaks or context.media.speaker_column):
            omitted[name] = f"it rates speech, and {context.media.name} names no speaker or language"
            continue
        rows = spread(len(rebuilt), RATED)
        try:
            figures[name] = metric([rebuilt[row] for row in rows], [context.clips[row] for row in rows], audio.rate)
        except (MissingError, ValueError) as error:  # which DoesNotApplyError is
            omitted[name] = str(error)
    context.report("perception", 1, 1)
    return EvalResult(figures, omitted)
