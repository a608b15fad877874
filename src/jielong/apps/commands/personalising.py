"""``jielong personalise``: teach a generator a subject from a few pictures."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.screen import say
from jielong.apps.commands.showing import Overrides
from jielong.apps.commands.tokenizing import Checkpoint
from jielong.apps.commands.training import budget_of


class MethodChoice(Enum):
    """What is trained."""

    lora = "lora"
    textual_inversion = "textual-inversion"
    both = "both"


class PriorFrom(Enum):
    """Where class pictures come from."""

    generated = "generated"
    data = "data"


def personalise(
    checkpoint: Checkpoint,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Three to ten pictures of one subject; captions as of a data set.")],
    subject: Annotated[str, typer.Option("--name", help="What captions call the subject, such as @me.")],
    method: Annotated[
        MethodChoice, typer.Option(help="Low-rank updates of the networks, a new word for the text encoder, or both.")
    ] = MethodChoice.lora,
    rank: Annotated[int, typer.Option(min=1, help="Rank of low-rank updates.")] = 8,
    alpha: Annotated[float | None, typer.Option(help="Scale of the updates times the rank; the rank by default.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Maps to update: attention, mlp, modulation, or a name such as qkv; repeatable.")
    ] = None,
    vectors: Annotated[int, typer.Option(min=1, help="Vectors of the new word.")] = 1,
    caption: Annotated[
        list[str] | None, typer.Option(help="Caption of pictures without one, with {name} for the subject; repeatable.")
    ] = None,
    noun: Annotated[str | None, typer.Option(help="The subject's class, such as person, as which a new word begins.")] = None,
    prior: Annotated[int, typer.Option(min=0, help="Class pictures for prior preservation; 0 for none.")] = 0,
    prior_from: Annotated[
        PriorFrom, typer.Option(help="Draw class pictures by the checkpoint from --noun, or take them from its recipe's data.")
    ] = PriorFrom.generated,
    prior_weight: Annotated[float, typer.Option(help="Factor of the loss on class pictures.")] = 1.0,
    samples: Annotated[int, typer.Option(min=1, help="Pictures seen in training.")] = 3_200,
    batch: Annotated[int, typer.Option(min=1, help="Pictures of the subject a step.")] = 8,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; by default 0.001, and 0.005 for a new word alone.")] = None,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    licence: Annotated[str | None, typer.Option(help="Whose the pictures are and under which terms, for the adapter's record.")] = None,
    overrides: Overrides = None,
    budget: Annotated[str | None, typer.Option(help="Wall time, such as 90s or 10m; all schedules follow it.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; adapters/NAME by default. An existing run is resumed.")] = None,
    device: Device = "auto",
) -> None:
    """Train an adapter of a generator on a subject, or resume a run that was stopped. Needs the extra `adapters`."""
    from jielong.core.device import device_words
    from jielong.core.interrupts import exit_code
    from jielong.system.adapters import ADAPTERS
    from jielong.training.experiment import run
    from jielong.training.personalise import Personalisation, plan
    from jielong.training.trainer import TrainOptions

    wanted = Personalisation(
        name=subject,
        method=method.value,
        rank=rank,
        alpha=alpha,
        targets=target or Personalisation.targets,
        vectors=vectors,
        captions=caption or Personalisation.captions,
        noun=noun,
        prior=prior,
        prior_from=prior_from.value,
        prior_weight=prior_weight,
        samples=samples,
        batch=batch,
        lr=lr,
        seed=seed,
        licence=licence,
    )
    where, seconds, chosen = out or ADAPTERS / subject, budget_of(budget), chosen_device(device)
    recipe = plan(checkpoint, folder, where, wanted, overrides or (), str(chosen))

    def announce() -> None:
        say(f"training {subject} for {checkpoint} in {where} on {device_words(chosen)}; Ctrl-C saves and stops, the same command resumes")

    options: TrainOptions = {"budget": seconds, "command": shlex.join(["jielong", *sys.argv[1:]])}
    summary = run(recipe, where, None, None, announce, device=chosen, **options)
    if summary.signal is not None:
        raise typer.Exit(exit_code(summary.signal))
    say(f"done: {summary.samples:,} samples in {summary.seconds:,.0f} s")
    reference = subject if out is None else where
    text = f" --text 'a picture of {subject}'" if recipe.condition is not None else ""
    say(f"next: jielong generate {checkpoint} --adapter {reference}{text}")
    typer.echo(where)
