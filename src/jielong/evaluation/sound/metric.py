"""A metric of generated audio."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jielong.evaluation.context import EvalResult
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.sound.eval_audio import EvalAudio
from jielong.media.reading.libraries import MissingLibraryError
from jielong.networks.efficientnet import WeightsError


class Metric(ABC):
    """A metric of generated audio.

    Attributes:
        names: Its figures of generated clips, reported as omitted where it does not apply.
    """

    names: ClassVar[tuple[str, ...]]

    def reason_omitted(self, audio: EvalAudio) -> str | None:
        """Why the metric does not apply; ``None`` if it does."""
        return None

    @abstractmethod
    def measure(self, audio: EvalAudio) -> dict[str, Measurement]:
        """The figures of generated, real and reconstructed clips."""

    def __call__(self, audio: EvalAudio) -> EvalResult:
        """The figures, or why there are none, such as a package that is not installed."""
        reason = self.reason_omitted(audio)
        figures: dict[str, Measurement] = {}
        if reason is None:
            try:
                figures = self.measure(audio)
                reason = "it applies to none of these clips"
            except (ImportError, MissingLibraryError, WeightsError, ValueError) as error:
                reason = str(error)
        return EvalResult(figures, {name: reason for name in self.names if name not in figures})
