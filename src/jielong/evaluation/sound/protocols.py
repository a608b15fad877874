"""The figures of audio."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType

from torch import Tensor

from jielong.core.medium import Medium
from jielong.data.sets import Batch
from jielong.evaluation.context import EvalContext, EvalResult
from jielong.evaluation.protocols import EvalProtocol, register_protocol
from jielong.evaluation.sound import generators, tokenizers
from jielong.evaluation.sound.metrics import METRICS
from jielong.evaluation.sound.protocol import applicable, sound_hash
from jielong.evaluation.sound.waveform import mel_distance, si_sdr


class AudioProtocol(EvalProtocol):
    """Figures of audio, each clip as far as it goes."""

    skippable = frozenset(name for metric in METRICS for name in metric.names)
    quick_figures = MappingProxyType({"mel_distance": False, "si_sdr": True})

    def quick(self, rebuilt: Tensor, batch: Batch, medium: Medium) -> dict[str, float]:
        """Mel distance, and SI-SDR unless all clips are silent."""
        lengths = [medium.frames] * len(batch) if batch.lengths is None else batch.lengths.tolist()
        decoded, real = ([clip[:, :length] for clip, length in zip(clips, lengths, strict=True)] for clips in (rebuilt, batch.media))
        rate = medium.sample_rate
        metrics = {metric.__name__: partial(metric, decoded, real, rate) for metric in (mel_distance, si_sdr)}
        return {name: figure.value for name, figure in applicable(metrics)[0].items()}

    def tokenizer(self, context: EvalContext) -> EvalResult:
        """See :func:`jielong.evaluation.sound.tokenizers.tokenizer`."""
        return tokenizers.tokenizer(context)

    def generator(self, context: EvalContext) -> EvalResult:
        """See :func:`jielong.evaluation.sound.generators.generator`."""
        return generators.generator(context)

    def digest(self, real: Tensor, medium: Medium) -> dict[str, str]:
        """Of 16-bit samples."""
        return {"sound_sha256": sound_hash(real, medium.sample_rate)}


register_protocol("audio", AudioProtocol())
