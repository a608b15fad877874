"""The weights of a finished run: measure the last, the best and power-function EMAs of any length, and choose those of the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from jielong.config.recipe import parse, read_file
from jielong.config.registry import RecipeError
from jielong.core.files import new_folder, write_bytes
from jielong.core.json import JSON
from jielong.core.locks import one_run
from jielong.system.checkpoint import copy_checkpoint
from jielong.training import power_ema
from jielong.training.checkpoint import RECIPE, WEIGHTS, CheckpointError, read_tensors, save_checkpoint
from jielong.training.experiment import prepare
from jielong.training.objective import Objective
from jielong.training.objectives import generator_objective, tokenizer_objective
from jielong.training.processes import join_processes
from jielong.training.run_card import write_card
from jielong.training.state import latest_state
from jielong.training.trainer import SUMMARY, Summary

Model = TypeVar("Model", bound=nn.Module)


def available(out: Path) -> list[str]:
    """What a run's weights can be set to: ``last``, ``best`` where it was kept, and ``LENGTH`` where there are snapshots."""
    state = latest_state(out)
    best = state is not None and (state / "best.safetensors").exists()
    return ["last", *(["best"] if best else []), *(["LENGTH"] if power_ema.snapshots(out) else [])]


def measure_weights(
    out: Path, choices: Sequence[str], use: str | None = None, device: str = "auto", copy: Path | None = None
) -> dict[str, JSON]:
    """Held-out figures of several weights of a finished run.

    Args:
        out: The run's folder.
        choices: ``last``, ``best``, or lengths of EMAs such as ``0.08``.
        use: One of these, which becomes the checkpoint; the others stay in the run's state and snapshots.
        device: ``auto``, ``cpu``, ``cuda[:i]`` or ``mps``.
        copy: A new folder, whose checkpoint has the weights ``use`` instead; the run stays as it is.

    Returns:
        Figures by choice.

    Raises:
        RecipeError: if the run has no such weights.
        CheckpointError: if the run is not finished, or a file is damaged.
    """
    accelerator = join_processes(device)
    state = latest_state(out)
    if state is None or not (out / WEIGHTS).exists() or not (out / SUMMARY).exists():
        raise CheckpointError(f"{out} is not a finished run with its state: choose the folder of a training that has ended")
    with one_run(out):
        wanted = list(dict.fromkeys([*choices, *([] if use is None else [use])]))
        tensors = {choice: _tensors(out, state, choice) for choice in sorted(wanted, key=lambda each: each == use)}
        text = read_file(out / RECIPE)
        experiment = prepare(parse(text))
        if experiment.generator is None:
            figures = _measure(tokenizer_objective(experiment).to(accelerator.device), tensors, out)
        else:
            figures = _measure(generator_objective(experiment).to(accelerator.device), tensors, out)
        if use is not None and copy is not None:
            with new_folder(copy) as folder:
                copy_checkpoint(out, folder)
                save_checkpoint(folder, experiment.model, text)
        elif use is not None:  # the model has the weights that were measured last
            save_checkpoint(out, experiment.model, text)
            summary = Summary(**json.loads((out / SUMMARY).read_text(encoding="utf-8")))
            kept = summary.kept.copy()
            kept["weights"] = use if use in ("last", "best") else f"power-function EMA of length {use}"
            summary = replace(summary, kept=kept, evaluation=figures[use])
            write_bytes(out / SUMMARY, json.dumps(asdict(summary), indent=2).encode())
            write_card(out, experiment.recipe, experiment.sets, summary)
    return {choice: figures[choice] for choice in wanted}


def _measure(objective: Objective[Model], tensors: Mapping[str, Mapping[str, Tensor]], out: Path) -> dict[str, JSON]:
    """Held-out figures of several weights, each loaded into the objective's model and calibrated."""
    figures = dict[str, JSON]()
    for choice, values in tensors.items():
        _load(objective.model, values, out)
        objective.model.eval()
        objective.finish(objective.model)
        figures[choice] = objective.evaluate(objective.model)
    return figures


def _tensors(out: Path, state: Path, choice: str) -> dict[str, Tensor]:
    """Weights and buffers of a choice, by their names in the model."""
    if choice not in available(out) and not choice.replace(".", "", 1).isdigit():
        raise RecipeError(f"{out} has no weights called {choice!r}: choose one of {', '.join(available(out))} (such as 0.08)")
    prefix = "model."
    current = {
        name.removeprefix(prefix): value for name, value in read_tensors(state / "objective.safetensors").items() if name.startswith(prefix)
    }
    if choice == "best":
        return current | read_tensors(state / "best.safetensors")
    return current | (read_tensors(state / "ema.safetensors") if choice == "last" else power_ema.reconstruct(out, float(choice)))


@torch.no_grad()
def _load(model: nn.Module, tensors: Mapping[str, Tensor], out: Path) -> None:
    for name, value in model.state_dict().items():
        if name not in tensors or tensors[name].shape != value.shape:
            raise CheckpointError(f"the state in {out} has no tensor {name!r} of shape {tuple(value.shape)}: it is of another version")
        value.copy_(tensors[name])
