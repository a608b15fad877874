"""The command line, ``jielong COMMAND``: each command is a thin layer over a library function."""

from __future__ import annotations

from typing import Annotated

import typer

from jielong.apps.commands import (
    adapters,
    comparing,
    data,
    demo,
    doctor,
    dubbing,
    editing,
    evaluating,
    exporting,
    generating,
    hub,
    importing,
    lab,
    listing,
    personalising,
    serving,
    showing,
    tokenizing,
    training,
    verifying,
    weights,
)
from jielong.apps.commands.condition_options import ConditionCommand
from jielong.apps.commands.errors import Program
from jielong.core.version import __version__

app = typer.Typer(
    cls=Program,
    name="jielong",
    help="Image, audio and video generation: a system is a tokenizer, an order, a backbone, a head and a condition.",
    epilog="jielong doctor checks this installation. JIELONG_DEBUG=1 prints tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"jielong {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
) -> None:
    """Options before a command."""


app.command("list")(listing.list_all)
app.command("show")(showing.show)
app.add_typer(data.app, name="data")
app.command("train")(training.train)
app.command("tokenize")(tokenizing.tokenize)
app.command("detokenize")(tokenizing.detokenize)
app.command("generate", cls=ConditionCommand)(generating.generate)
app.command("serve")(serving.serve)
app.command("edit", cls=ConditionCommand)(editing.edit)
app.command("dub")(dubbing.dub)
app.command("personalise")(personalising.personalise)
app.add_typer(adapters.app, name="adapters")
app.command("evaluate")(evaluating.evaluate)
app.command("compare")(comparing.compare)
app.add_typer(lab.app, name="lab")
app.command("demo")(demo.demo)
app.command("import")(importing.import_system)
app.command("weights")(weights.weights)
app.command("push")(hub.push)
app.command("pull")(hub.pull)
app.command("export")(exporting.export)
app.command("verify")(verifying.verify)
app.command("doctor")(doctor.doctor)

if __name__ == "__main__":
    app()
