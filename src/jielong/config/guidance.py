"""Classifier-free guidance (arXiv 2207.12598) in ONE convention: ``guided = null + scale (conditional - null)``.

Scale 1 is the conditional model, 0 the unconditional one. Papers that write ``(1 + w) conditional - w null`` (the guidance
paper itself, GIVT, MUSE) mean ``scale = 1 + w``; LlamaGen, Imagen, MAR and VAR's final weight use our scale as it is, VAR's
``1 + t`` with ``t`` its ``cfg`` option (here: ``kind: ramp`` with ``scale: 1 + cfg``).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from jielong.config.registry import Config


class Guidance(Config):
    """How strongly to follow the condition, as a function of how far sampling is.

    Attributes:
        scale: Strength; 1 is off.
        kind: ``constant``; ``linear`` grows from 1 to ``scale`` as tokens become known; ``ramp`` grows from 1 at the first step to
            ``scale`` at the last, evenly by steps (VAR, arXiv 2404.02905); ``interval`` is ``scale`` between
            ``start`` and ``stop`` and 1 outside (arXiv 2404.07724); behind it the unconditional half is not even computed.
        counted: Whether ``linear`` counts the tokens known ``before`` a step or those known ``after`` it (MAR, arXiv 2406.11838).
        start: Share of known tokens where the interval begins.
        stop: Share of known tokens where it ends.

    Of the tokens that a joint head draws together in several steps, a share is known at each: that of signal in ``a x_0 + s e``,
    ``a / (a + s)``, which is the time of flow matching and ``1 / (1 + sigma)`` of diffusion.
    """

    scale: float = Field(default=1.0, ge=0)
    kind: Literal["constant", "linear", "ramp", "interval"] = "constant"
    counted: Literal["before", "after"] = "before"
    start: float = Field(default=0.0, ge=0, le=1)
    stop: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Guidance:
        if self.start >= self.stop:
            raise ValueError(f"the guidance interval must begin before it ends, but start is {self.start} and stop {self.stop}")
        if self.counted == "after" and self.kind != "linear":
            raise ValueError(f"counted: after is of the kind linear, and the kind is {self.kind}: leave it out, or set kind: linear")
        return self

    def at(self, known: float, progress: float = 0.0, after: float | None = None) -> float:
        """Scale when a share ``known`` in [0, 1) of the tokens is known.

        Args:
            known: That share.
            progress: The step's place among all steps: 0 for the first, 1 for the last (and for an only one).
            after: The share after the step, for ``counted: after``; ``known`` by default.
        """
        if self.kind == "linear":
            counted = after if self.counted == "after" and after is not None else known
            return 1.0 + (self.scale - 1.0) * counted
        if self.kind == "ramp":
            return 1.0 + (self.scale - 1.0) * progress
        if self.kind == "interval" and not self.start <= known < self.stop:
            return 1.0
        return self.scale

    def needed_from(self, known: float) -> bool:
        """Whether the unconditional half is needed now or later, when a share ``known`` of the tokens is known."""
        return self.scale != 1.0 and (self.kind != "interval" or known < self.stop)
