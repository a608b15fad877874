"""Evaluation of tokenizers of audio."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from jielong.core.tokens import Tokens
from jielong.evaluation.context import BATCH, EvalContext, EvalResult
from jielong.evaluation.sound.protocol import applicable
from jielong.evaluation.sound.waveform import bitrate, mel_distance, si_sdr, stft_distance
from jielong.evaluation.usage import codebook_usage


def tokenizer(context: EvalContext) -> EvalResult:
    """Distances of reconstructions, each clip up to its end, and the bitrate."""
    system, sounds, real = context.system, context.sounds, context.real
    codes: list[Tensor] = []
    rebuilt: list[Tensor] = []
    real_clips = context.clips
    for part in real.split(BATCH):
        tokens = system.encode(part)
        codes.append(tokens.values.cpu())
        pairs = zip(system.decode(tokens), real_clips[len(rebuilt) :], strict=False)
        rebuilt += [clip[:, : own.shape[1]] for clip, own in pairs]
        context.report("reconstructing", len(rebuilt), len(real))
    rate, metrics = sounds.medium.sample_rate, (mel_distance, si_sdr, stft_distance)
    figures, omitted = applicable({metric.__name__: partial(metric, rebuilt, real_clips, rate) for metric in metrics})
    layout, reason = system.tokenizer.layout, "the tokens are continuous"
    if not layout.discrete:
        return EvalResult(figures, omitted | {"bitrate": reason, "codebook_usage": reason})
    figures["bitrate"] = bitrate(layout, sounds.medium.duration)
    figures["codebook_usage"] = codebook_usage(Tokens(torch.cat(codes), layout))
    return EvalResult(figures, omitted)
