"""A system in words, for the prompt of Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jielong.system.pipeline import System


def on_one_screen(system: System) -> str:
    """The parts, their sizes, the inputs and the sampling parameters that differ from their defaults."""
    recipe, layout = system.recipe, system.tokenizer.layout
    checkpoint = getattr(recipe.tokenizer, "checkpoint", None)
    values = f"{layout.channels} of {layout.vocabulary:,} codes" if layout.vocabulary else f"{layout.channels} numbers"
    scales = f" in {len(layout.scales)} scales" if layout.scales else ""
    rows = {
        "media": str(system.tokenizer.media),
        "tokenizer": checkpoint or getattr(recipe.tokenizer, "name", ""),
        "tokens": f"{' x '.join(map(str, layout.grid))} positions{scales}, {values}",
    }
    for part in ("order", "backbone", "head", "condition"):
        if (settings := getattr(recipe, part)) is not None:
            rows[part] = " + ".join(each.name for each in getattr(settings, "parts", (settings,)))
    if system.inputs:
        rows["inputs"] = ", ".join(system.inputs)
    if system.generator is not None:
        changed = recipe.sampling.model_dump(exclude_defaults=True)
        rows["sampling"] = ", ".join(f"{name}={value}" for name, value in changed.items()) or "defaults"
    model = system.generator or system.tokenizer
    rows["parameters"] = f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M on {system.device}"
    return "\n".join([f"System {system.name}", *(f"  {name:<11}{value}" for name, value in rows.items())])
