"""The keyword arguments that :meth:`System.generate`, :meth:`System.stream` and :meth:`System.complete` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import TypedDict

from jielong.config.guidance import Guidance
from jielong.config.sampling import Lazy, SamplingConfig, Schedule
from jielong.core.tokens import Tokens


class SamplingOptions(TypedDict, total=False):
    """Single sampling parameters; see :class:`jielong.config.sampling.SamplingConfig`. ``None`` leaves the model's own."""

    steps: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    num_inference_steps: int | None
    final_inference_steps: int | None
    sampler: str | None
    guidance: Guidance | float | None
    image_guidance: float | None
    guidance_rescale: float | None
    schedule: Schedule | None
    detail_steps: int | None
    frames: int | None
    window: int | None
    lazy: Lazy | dict[str, Any] | None
    soft_codes: bool | None
    cache: bool | None


class TokenOptions(TypedDict, total=False):
    """Arguments of :meth:`jielong.generation.generator.Generator.generate`."""

    batch: int
    lengths: Sequence[int] | None
    start: Tokens | None
    known: Tensor | None
    strength: float


class GenerateOptions(SamplingOptions, TokenOptions, total=False):
    """What all calls take by name.

    Attributes:
        seed: Item ``i`` is the same for the same seed, whatever is generated beside it, up to rounding, which may flip a token; 0 by
            default.
        sampling: Sampling parameters; the recipe's by default.
        stage_options: Of a cascade: what earlier stages are drawn with, by their names, such as ``{"base": {"temperature": 1.0}}``;
            arguments of :meth:`System.generate_tokens`. The other sampling parameters of a call are those of the last stage.
        negative_text: One text or several that take the place of the null condition in guidance, for models of texts that are not spoken;
            an empty one is the null.
        voice: Recordings (paths, or ``Recording(waveform, rate)``), one or several, and so is ``emotion``.
        picture: Source pictures (paths, images, or tensors ``(C, H, W)``), one or several.
        first_frame: Pictures with which clips begin, and ``last_frame`` with which they end; given as ``picture`` is.
        actions: Actions between the frames of clips: a text of names, or a tensor ``(n, numbers)``, one or several.
        sound: Recordings that clips go with, given as ``voice`` is.
        low_resolution: Pictures to enlarge in place of an earlier stage's, for super-resolution; given as ``picture`` is. Clips are
            paths, or tensors ``(C, T, H, W)`` in a list.
        base_tokens: Token values ``(N, C)`` in place of those that a cascade's earlier stage would draw, one or several.
        features: What encoders outside the program computed: safetensors files, or tensors by name, for models of features.
        variation_of: Pictures whose vectors take the place of a prior's, for unCLIP; given as ``picture`` is.
        seconds: Exact durations, one or several, also for models with an alignment or a stop head.

    Further inputs of a condition are taken by their names.
    """

    seed: int
    sampling: SamplingConfig | None
    stage_options: Mapping[str, Mapping[str, Any]]
    negative_text: Sequence[str] | str | None
    voice: object
    emotion: object
    picture: object
    first_frame: object
    last_frame: object
    actions: object
    sound: object
    low_resolution: object
    base_tokens: object
    features: object
    variation_of: object
    seconds: Sequence[float] | float | None
