"""The sampling parameters that a model has, with their types, defaults and choices."""

from __future__ import annotations

from typing import get_args

import torch

from jielong.config.sampling import SamplingConfig, Schedule
from jielong.core.json import JSON
from jielong.core.rng import PerSampleRNG
from jielong.generation.generator import Generator
from jielong.generation.request import check_config
from jielong.system import System

_PROBES: dict[str, object] = {
    "steps": 2,
    "schedule": "linear",
    "temperature": 0.5,
    "top_k": 1,
    "top_p": 0.5,
    "num_inference_steps": 2,
    "final_inference_steps": 1,
    "guidance": 2.0,
}
"""Values that an order or a head refuses if it has no such parameter."""


def settings_of(system: System) -> list[JSON]:
    """Name, type, default and description of each parameter that has an effect on what the model draws."""
    model = system.generator
    if model is None:
        return []
    defaults, described = system.recipe.sampling.model_dump(mode="json"), SamplingConfig.model_json_schema()["properties"]
    found: list[JSON] = []
    for name in SamplingConfig.model_fields:
        if not _has(model, system.recipe.sampling, name):
            continue
        choices = list({"sampler": model.head.samplers, "schedule": get_args(Schedule)}.get(name, ()))
        types = [each.get("type") for each in described[name].get("anyOf", [described[name]])]
        kind = "number" if name == "guidance" else types[0] or "object"
        found.append({"name": name, "type": kind, "default": defaults[name], "choices": choices, "about": described[name]["description"]})
    return found


def _has(model: Generator, sampling: SamplingConfig, name: str) -> bool:
    if name in _PROBES:
        try:
            check_config(model, sampling.override(**{name: _PROBES[name]}), model.condition is not None)
        except ValueError:
            return False
        return True
    queued = model.order.gradual and model.order.queue(torch.ones(1, 4, dtype=torch.bool), PerSampleRNG(0, range(1))) is not None
    having = {
        "detail_steps": queued,
        "lazy": queued,
        "sampler": bool(model.head.samplers),
        "image_guidance": model.condition is not None and model.condition.keeps_a_part and model.head.guides_twice,
        "guidance_rescale": model.condition is not None and model.head.joint and model.head.iterative,
        "soft_codes": model.soft_embedding is not None,
        "frames": model.order.any_extent,
        "window": model.order.any_extent,
    }
    return having.get(name, False)
