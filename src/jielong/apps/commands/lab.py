"""``jielong lab``: experiments of at most two minutes that test claims about generation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from jielong.apps.commands.screen import results, say, table

if TYPE_CHECKING:
    from jielong.apps.lab import Result, Verdict

app = typer.Typer(help="Test claims about generation by experiments of at most two minutes.", no_args_is_help=True)


@app.command("list")
def list_experiments() -> None:
    """List the experiments and their claims."""
    from jielong.apps.lab import trials

    results.print(
        table("Experiments  (jielong lab run NAME)", ("name", "claim"), [(name, trial.claim) for name, trial in trials().items()])
    )


@app.command("run")
def run_experiments(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Experiments; see: jielong lab list")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All experiments.")] = False,
    out: Annotated[Path, typer.Option(help="Output folder, with a subfolder per experiment.")] = Path("lab"),
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    budget: Annotated[float, typer.Option(help="Fraction of the full experiment; smaller ones are faster and give wider intervals.")] = 1.0,
) -> None:
    """Run experiments; print each verdict and write result.json and plot.png."""
    if everything == bool(names):
        raise typer.BadParameter("pass the names of experiments, or --all", param_hint="NAME")
    from jielong.apps.lab import missing, run, trials
    from jielong.core.locks import one_run

    for name in sorted(trials()) if everything else names or ():
        say(f"{name}")
        if everything and (absent := missing(name)):
            say(f"  skipped: {absent}")
            continue
        with one_run(out / name):
            result = run(name, out / name, seed, budget, lambda text: say(f"  {text}"))
        _print(result)


def _print(result: Result) -> None:
    results.print(f"\n[bold]{escape(result.name)}[/]: {escape(result.claim)}", highlight=False)
    for check in result.outcome.checks:
        figure = f"{check.estimate}; must be {check.side} {check.bound:g}"
        results.print(f"  {_mark(check.verdict)} {escape(check.says)}: {escape(figure)}", highlight=False)
    for remark in result.outcome.remarks:
        results.print(f"  note: {remark}", markup=False, highlight=False)
    results.print(f"  verdict: {_mark(result.verdict)}  ({result.seconds:.0f} s, {escape(str(result.folder))})", highlight=False)


def _mark(verdict: Verdict) -> str:
    colour = {"holds": "green", "does not hold": "red"}.get(str(verdict), "yellow")
    return f"[{colour}]{verdict}[/]"
