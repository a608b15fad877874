"""What a tokenizer of sound is measured by."""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.core.tokens import Tokens
from jielong.evaluation.context import BATCH, EvalContext, EvalResult
from jielong.evaluation.sound.waveform import bitrate, mel_distance, si_sdr, stft_distance
from jielong.evaluation.usage import codebook_usage


def tokenizer(subject: EvalContext) -> EvalResult:
    """What comes back of sound, in each clip as far as it goes, and what it costs."""
    system, sounds, real = subject.system, subject.sounds, subject.real
    codes: list[Tensor] = []
    made: list[Tensor] = []
    heard = subject.clips
    for part in real.split(BATCH):
        tokens = system.encode(part)
        codes.append(tokens.values.cpu())
        made += [clip[:, : own.shape[1]] for clip, own in zip(system.decode(tokens), heard[len(made) :], strict=False)]
        subject.report("reconstructing", len(made), len(real))
    figures = {each.__name__: each(made, heard, sounds.medium.sample_rate) for each in (mel_distance, si_sdr, stft_distance)}
    layout, reason = system.tokenizer.layout, "the tokens are continuous"
    if not layout.discrete:
        return EvalResult(figures, {"bitrate": reason, "codebook_usage": reason})
    figures["bitrate"] = bitrate(layout, sounds.medium.duration)
    figures["codebook_usage"] = codebook_usage(Tokens(torch.cat(codes), layout))
    return EvalResult(figures)
