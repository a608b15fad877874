"""Configurations of schedulers of ``diffusers`` as settings of heads: what a network was trained with, and how its pipeline samples."""

from __future__ import annotations

from collections.abc import Mapping

from jielong.core.json import JSON
from jielong.interop.config_keys import Key, NoEffect, Only, Read, Values, checked, number
from jielong.training.checkpoint import CheckpointError

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
_LATENTS = "latents are not bounded"
_DIFFUSION: Mapping[str, Key] = {
    "num_train_timesteps": Only((1000,), "times here are of 1000 steps"),
    "beta_start": number(1e-4),
    "beta_end": number(0.02),
    "beta_schedule": Read("linear", lambda value: value in SCHEDULES, " or ".join(SCHEDULES)),
    "trained_betas": Only((None, ()), "a table of its own"),
    "prediction_type": Read("epsilon", lambda value: value in PREDICTIONS, " or ".join(PREDICTIONS)),
    "timestep_spacing": Read("leading", lambda value: value in ("linspace", "leading", "trailing"), "linspace, leading or trailing"),
    "steps_offset": Read(0, lambda value: isinstance(value, int) and value >= 0, "a whole number"),
    "thresholding": Only((False,), _LATENTS),
    "clip_sample": Only((True, False)),
    "rescale_betas_zero_snr": Only((False,), "the last step keeps some signal"),
    "clip_sample_range": NoEffect("samples are not clipped"),
    "sample_max_value": NoEffect("samples are not clipped"),
    "dynamic_thresholding_ratio": NoEffect("there is no thresholding"),
}
KEYS: Mapping[str, Mapping[str, Key]] = {
    "DDIMScheduler": {**_DIFFUSION, "set_alpha_to_one": Only((True,), "sampling ends at no noise")},
    "DDPMScheduler": {
        **_DIFFUSION,
        "variance_type": Read(
            "fixed_small", lambda value: value in ("fixed_small", "fixed_small_log", "learned_range"), "fixed_small or learned_range"
        ),
    },
    "FlowMatchEulerDiscreteScheduler": {
        "num_train_timesteps": Only((1000,), "times here are of 1000 levels"),
        "shift": number(1.0),
        "use_dynamic_shifting": Only((False,), "the shift is one number"),
        "invert_sigmas": Only((False,), "sampling goes from noise to data"),
        "shift_terminal": Only((None,), "the last level is not moved"),
        "use_karras_sigmas": Only((False,)),
        "use_exponential_sigmas": Only((False,)),
        "use_beta_sigmas": Only((False,)),
        "stochastic_sampling": Only((False,)),
        "base_shift": NoEffect("the shift is one number"),
        "max_shift": NoEffect("the shift is one number"),
        "base_image_seq_len": NoEffect("the shift is one number"),
        "max_image_seq_len": NoEffect("the shift is one number"),
        "time_shift_type": NoEffect("the shift is one number"),
    },
}
"""Keys of ``scheduler_config.json`` by class."""


def settings_of(config: JSON, origin: str, *classes: str) -> JSON:
    """Settings of the head ``diffusion`` or ``flow_matching``, from the configuration of a scheduler of one of these classes.

    Raises:
        CheckpointError: if it is another scheduler, or has a value without a counterpart.
    """
    name = str(config.get("_class_name"))
    if name not in classes:
        raise CheckpointError(
            f"{origin} is of the class {name}, and the settings of {' and '.join(classes)} are read here: save the folder with one of "
            f"these ({classes[0]}.from_config), and choose the sampler when you draw"
        )
    values = checked(config, KEYS[name], origin)
    if name == "FlowMatchEulerDiscreteScheduler":
        return {"shift": values.real("shift"), "spacing": "flow_match_euler", "sampler": "euler"}
    return _diffusion(name, values, origin)


def _diffusion(name: str, values: Values, origin: str) -> JSON:
    if values["clip_sample"]:
        raise CheckpointError(f"{origin} describes sampling that has no counterpart here: clip_sample is True, and {_LATENTS}")
    if values["steps_offset"] and values["timestep_spacing"] != "leading":
        raise CheckpointError(f"{origin}: steps_offset {values['steps_offset']} beside timestep_spacing {values['timestep_spacing']!r}")
    schedule = SCHEDULES[str(values["beta_schedule"])]
    settings: JSON = {
        "schedule": schedule,
        "prediction": PREDICTIONS[str(values["prediction_type"])],
        "timestep_spacing": values["timestep_spacing"],
        "steps_offset": values["steps_offset"],
        "sampler": "ddim" if name == "DDIMScheduler" else "ddpm",
        "start": None,
    }
    if schedule != "cosine":
        settings["beta_ends"] = [values.real("beta_start"), values.real("beta_end")]
    return settings
