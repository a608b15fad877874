"""Phases of a training step: updates one after the other on the same batch, each with an optimizer of its own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

MAIN = "model"
"""The phase that trains the model itself, all but what other phases train."""


class Phased:
    """A module that may need further phases, such as one with a discriminator."""

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        """Further phases by name, each with the module whose parameters it alone trains; none by default."""
        return {}


def phases_of(model: nn.Module) -> dict[str, nn.Module]:
    """The phases of a model and of everything in it, :data:`MAIN` first.

    Raises:
        ValueError: if two modules declare a phase of the same name.
    """
    phases: dict[str, nn.Module] = {MAIN: model}
    for path, part in model.named_modules():
        if isinstance(part, Phased):
            for name, module in part.phases.items():
                if name in phases:
                    raise ValueError(f"{path or type(part).__name__} declares the phase {name!r}, which there is already: rename one")
                phases[name] = module
    return phases


def trained_parameters(phases: Mapping[str, nn.Module]) -> dict[str, list[nn.Parameter]]:
    """The parameters that each phase moves: its module's, less those of other phases' modules inside it."""
    moved: dict[str, list[nn.Parameter]] = {}
    for name, module in phases.items():
        inside = set(module.modules()) - {module}
        left_out = {id(p) for other in phases.values() if other in inside for p in other.parameters()}
        moved[name] = [p for p in module.parameters() if p.requires_grad and id(p) not in left_out]
    return moved
