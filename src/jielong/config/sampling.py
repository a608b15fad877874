"""Sampling parameters: each with its default, its check and its description, once. No tensors here, so that recipes read at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from jielong.config.guidance import Guidance
from jielong.config.registry import Config

Schedule = Literal["cosine", "arccos", "linear", "square", "cubic"]
"""How the fraction of unknown tokens falls over the steps; see :func:`jielong.orders.ratio.masked_share`."""

LEAST = {
    "steps": 1,
    "detail_steps": 1,
    "temperature": 0,
    "top_k": 0,
    "num_inference_steps": 1,
    "final_inference_steps": 1,
    "image_guidance": 0,
    "frames": 1,
    "window": 1,
}
"""The least value of each parameter that has one."""


class Lazy(Config):
    """Lazy steps of a masked block (LazyMAR, arXiv 2503.12450); see :mod:`jielong.networks.lazy`."""

    refresh: int = Field(default=4, ge=1, description="compute all positions every so many steps; 1 turns lazy steps off")
    share: float = Field(
        default=0.25, ge=0, le=1, description="fraction of the positions that pass all layers in a lazy step, beside those that must"
    )
    layers: int = Field(default=2, ge=1, description="first layers, which always run at all positions")
    warmup: int = Field(default=2, ge=1, description="first steps, which compute all positions")
    condition: bool = Field(default=True, description="reuse the difference of guidance's two halves until the next refresh")

    def fresh(self, step: int) -> bool:
        """Whether step ``step``, from 0, computes everything."""
        return step < self.warmup or (step - self.warmup) % self.refresh == 0


class SamplingConfig(Config):
    """Sampling parameters of a generator."""

    steps: int | None = Field(default=None, description="steps per block of an order that reveals gradually; the order's number by default")
    temperature: float = Field(default=1.0, description="divides the logits; 1 is the model's distribution, 0 takes the most likely code")
    top_k: int = Field(default=0, description="keep the k most likely codes; 0 keeps all")
    top_p: float = Field(default=1.0, description="keep the smallest set of codes whose probability reaches p; 1 keeps all")
    num_inference_steps: int | None = Field(
        default=None, description="network evaluations per token of a diffusion or flow head; the head's number by default"
    )
    final_inference_steps: int | None = Field(
        default=None,
        description="their number at the last token, interpolated linearly with the fraction of known tokens (DiSA, arXiv 2505.20297); "
        "constant by default",
    )
    sampler: str | None = Field(
        default=None,
        description="sampler of a diffusion (ddpm, ddim, euler, heun, dpmpp_2m, unipc, edm) or flow-matching head (euler, midpoint, heun, "
        "sde, dpmpp_2m, unipc); the head's by default",
    )
    guidance: Guidance = Field(default=Guidance(), description="scale or schedule of classifier-free guidance; 1 is off")
    image_guidance: float = Field(
        default=1.0,
        description="scale of guidance by the source picture alone, beside that by the text, for models of instructions (InstructPix2Pix, "
        "arXiv 2211.09800); 1 is off",
    )
    guidance_rescale: float = Field(
        default=0.0,
        description="how far guided predictions of a joint head get back the standard deviation of the conditional ones, in [0, 1] "
        "(arXiv 2305.08891); 0 is off",
    )
    schedule: Schedule | None = Field(
        default=None, description="how the fraction of unknown tokens falls over the steps; the order's schedule by default"
    )
    detail_steps: int | None = Field(
        default=None, description="draw a checkerboard first and the rest in so many last steps (GtR, arXiv 2510.17171); off by default"
    )
    frames: int | None = Field(
        default=None, description="frames of tokens to draw with the order frames, more or fewer than in training; as many by default"
    )
    window: int | None = Field(
        default=None,
        description="last frames of tokens, its own included, that a frame attends to with the order frames; those of training where more "
        "are drawn, and all otherwise, by default",
    )
    lazy: Lazy | None = Field(default=None, description="lazy steps of a masked block; off by default")
    soft_codes: bool = Field(
        default=False, description="mix codes instead of drawing one, order next_scale only (VAR's 'more smooth'): calmer, less varied"
    )
    cache: bool = Field(default=True, description="keep what earlier steps computed; off is the naive reference")

    @field_validator("guidance", mode="before")
    @classmethod
    def _scale(cls, value: object) -> object:
        return {"scale": value} if isinstance(value, int | float) else value

    @field_validator(*LEAST)
    @classmethod
    def _large_enough(cls, value: float | None, info: ValidationInfo) -> float | None:
        least = LEAST[info.field_name or ""]
        if value is not None and not value >= least:  # NaN too
            raise ValueError(f"{info.field_name} must be {least} or more, not {value}")
        return value

    @field_validator("guidance_rescale")
    @classmethod
    def _share(cls, value: float) -> float:
        if not 0 <= value <= 1:
            raise ValueError(f"guidance_rescale must be in [0, 1], not {value}: 0 leaves guidance as it is")
        return value

    @field_validator("top_p")
    @classmethod
    def _probability(cls, value: float) -> float:
        if not 0 < value <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {value}: it is a probability")
        return value

    def override(self, **changes: object) -> Self:
        """These parameters with changes; ``None`` leaves a parameter as it is.

        Raises:
            ValueError: for an unknown name, with the nearest one, or a value out of range.
        """
        check_names(changes, type(self).model_fields)
        given = {name: value for name, value in changes.items() if value is not None}
        try:
            return type(self).model_validate(dict(self) | given) if given else self
        except ValidationError as error:
            raise ValueError("; ".join(fault(problem["loc"], problem["msg"]) for problem in error.errors())) from None

    def unconditional(self) -> Self:
        """These parameters without guidance."""
        return self.model_copy(update={"guidance": Guidance(), "guidance_rescale": 0.0, "image_guidance": 1.0})

    def num_inference_steps_at(self, known_fraction: float, default: int) -> int:
        """Network evaluations when a fraction in [0, 1] of the tokens is known; ``default`` is the head's number."""
        early = self.num_inference_steps or default
        late = self.final_inference_steps or early
        return max(1, round(early + (late - early) * known_fraction))


def check_names(names: Iterable[str], known: Iterable[str], what: str = "sampling parameter") -> None:
    """Raise ``ValueError`` for the first name that is not known, with the nearest one that is."""
    choices = list(known)
    for name in names:
        if name not in choices:
            near = difflib.get_close_matches(name, choices, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(choices)}"
            raise ValueError(f"there is no {what} {name!r}: {hint}")


def fault(place: tuple[int | str, ...], message: str) -> str:
    """One line about a problem that pydantic found."""
    name, text = ".".join(map(str, place)), message.removeprefix("Value error, ")
    return text if not name or text.startswith(name) else f"{name}: {text}"
