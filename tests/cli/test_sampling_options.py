"""Options of sampling parameters on the command line."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from jielong.apps.commands.sampling_options import TYPES, overrides, takes_sampling
from jielong.config.guidance import Guidance
from jielong.config.sampling import Lazy, SamplingConfig

TYPED = {
    "steps": 3,
    "temperature": 0.5,
    "top_k": 4,
    "top_p": 0.5,
    "num_inference_steps": 5,
    "final_inference_steps": 6,
    "sampler": "heun",
    "guidance": "interval:3:0.1:0.6",
    "image_guidance": 1.5,
    "guidance_rescale": 0.5,
    "schedule": "linear",
    "detail_steps": 2,
    "frames": 9,
    "window": 4,
    "lazy_refresh": 3,
    "lazy_share": 0.5,
    "soft_codes": True,
}


def typed(*words: str, without: tuple[str, ...] = ()) -> tuple[int, str, dict[str, Any]]:
    """Exit code, output and overrides of a command with the options."""
    seen: dict[str, Any] = {}
    app = typer.Typer()

    @app.command()
    @takes_sampling(*without)
    def draw(first: int = 1, sampling: dict[str, Any] = {}, last: int = 2) -> None:  # noqa: B006
        seen.update(sampling, first=first, last=last)

    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    return done.exit_code, done.output, seen


def test_every_parameter_has_an_option_but_the_cache() -> None:
    fields = [name for name in SamplingConfig.model_fields if name != "cache"]
    assert [name for name in TYPES if not name.startswith("lazy_")] == [name for name in fields if name != "lazy"]
    assert set(TYPED) == set(TYPES)


def test_options_are_off_unless_they_are_given() -> None:
    assert typed("--first", "7") == (0, "", {"first": 7, "last": 2})


def test_options_become_parameters() -> None:
    words = [f"--{name.replace('_', '-')}" if value is True else f"--{name.replace('_', '-')}={value}" for name, value in TYPED.items()]
    code, _, seen = typed(*words, "--last", "9")
    assert (code, seen.pop("first"), seen.pop("last")) == (0, 1, 9)
    assert SamplingConfig().override(**seen) == SamplingConfig(
        steps=3,
        temperature=0.5,
        top_k=4,
        top_p=0.5,
        num_inference_steps=5,
        final_inference_steps=6,
        sampler="heun",
        guidance=Guidance(scale=3.0, kind="interval", start=0.1, stop=0.6),
        image_guidance=1.5,
        guidance_rescale=0.5,
        schedule="linear",
        detail_steps=2,
        frames=9,
        window=4,
        lazy=Lazy(refresh=3, share=0.5),
        soft_codes=True,
    )


def test_options_can_be_left_out() -> None:
    assert typed("--soft-codes")[2]["soft_codes"] is True
    assert typed("--soft-codes", without=("soft_codes",))[0] == 2


@pytest.mark.parametrize(
    ("values", "option", "why"),
    [
        ({"schedule": "sqrt"}, "--schedule", "'cosine', 'arccos', 'linear'"),
        ({"lazy_refresh": 0}, "--lazy-refresh", "greater than or equal to 1"),
        ({"lazy_share": 2.0}, "--lazy-share", "less than or equal to 1"),
        ({"top_p": 2.0}, "--top-p", "probability"),
        ({"guidance": "often"}, "--guidance", "expected 3, linear:3"),
        ({"guidance": "interval:3:0.6:0.1"}, "--guidance", "must begin before it ends"),
    ],
)
def test_values_out_of_range_name_their_option(values: dict[str, Any], option: str, why: str) -> None:
    with pytest.raises(typer.BadParameter, match=why) as refused:
        overrides(values)
    assert refused.value.param_hint == option
