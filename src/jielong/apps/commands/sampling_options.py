"""Options of sampling parameters, generated from :class:`jielong.config.sampling.SamplingConfig`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from jielong.config.guidance import Guidance
from jielong.config.sampling import LEAST, Lazy, SamplingConfig, fault

TYPES: dict[str, type] = {
    "steps": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "num_inference_steps": int,
    "final_inference_steps": int,
    "sampler": str,
    "guidance": str,
    "image_guidance": float,
    "guidance_rescale": float,
    "schedule": str,
    "detail_steps": int,
    "frames": int,
    "window": int,
    "lazy_refresh": int,
    "lazy_share": float,
    "soft_codes": bool,
}
"""Type of each option, by parameter; ``lazy_*`` are fields of ``lazy``."""

_NUMBERS = {
    "constant": ("scale",),
    "linear": ("scale",),
    "linear-after": ("scale",),
    "ramp": ("scale",),
    "interval": ("scale", "start", "stop"),
}
_FORMATS = "3, linear:3, linear-after:3, ramp:3 or interval:3:0.1:0.6"


def takes_sampling(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameter ``sampling``, a dict of overrides, by one option per sampling parameter but those ``without``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        names = [name for name in TYPES if name not in without]
        options = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name)) for name in names]
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            parameters += options if parameter.name == "sampling" else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            sampling = overrides({name: values.pop(name) for name in names})
            command(**values, sampling=sampling)

        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        vars(run)["__signature__"] = inspect.Signature(parameters)
        return run

    return decorate


def overrides(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :meth:`SamplingConfig.override` from option values, without ``None``.

    Raises:
        typer.BadParameter: if a value is out of range.
    """
    changes = {name: value for name, value in values.items() if value is not None}
    if "guidance" in changes:
        changes["guidance"] = guidance_of(changes["guidance"])
    lazy = {name.removeprefix("lazy_"): changes.pop(name) for name in list(changes) if name.startswith("lazy_")}
    if lazy:
        changes["lazy"] = lazy
    try:
        SamplingConfig.model_validate(changes)
    except ValidationError as error:
        problem = error.errors()[0]
        option = "--" + "-".join(map(str, problem["loc"])).replace("_", "-")
        raise typer.BadParameter(fault(problem["loc"][:0], problem["msg"]), param_hint=option) from None
    return changes


def guidance_of(text: str) -> Guidance:
    """Parse ``3``, ``linear:3``, ``linear-after:3`` (``counted: after``), ``ramp:3`` or ``interval:3:0.1:0.6``.

    Raises:
        typer.BadParameter: if the format is invalid or a number out of range.
    """
    first, *rest = text.split(":")
    kind, numbers = (first, rest) if first in _NUMBERS else ("constant", [first, *rest])
    names = _NUMBERS[kind]
    try:
        if len(numbers) != len(names):
            raise ValueError(f"{kind} takes {' and '.join(names)}")
        counted = {"counted": "after"} if kind == "linear-after" else {}
        given = {name: float(number) for name, number in zip(names, numbers, strict=True)}
        return Guidance.model_validate({"kind": kind.removesuffix("-after"), **counted, **given})
    except ValidationError as error:
        why = "; ".join(fault(problem["loc"][:0], problem["msg"]) for problem in error.errors())
    except ValueError as error:
        why = str(error)
    raise typer.BadParameter(f"guidance: expected {_FORMATS}, got {text!r} ({why})", param_hint="--guidance")


def _option(name: str) -> Any:
    outer, _, inner = name.partition("_")
    field = Lazy.model_fields[inner] if outer == "lazy" else SamplingConfig.model_fields[name]
    text, metavar = str(field.description), None
    if name == "guidance":
        text, metavar = f"{text}: {_FORMATS}", "SCHEDULE"
    if name == "schedule":
        text = f"{text}: cosine, arccos, linear, square or cubic"
    text = text[0].upper() + text[1:] + "."
    flag = f"--{name.replace('_', '-')}"
    least = 1 if name == "lazy_refresh" else LEAST.get(name)
    return Annotated[TYPES[name] | None, typer.Option(flag, metavar=metavar, min=least, help=text)]
