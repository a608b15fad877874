"""``jielong data curate`` and ``jielong data rules``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jielong.apps.commands.screen import columns, notes, results, say, show_lines, table
from jielong.core.interrupts import StoppedBySignalError

if TYPE_CHECKING:
    from jielong.curation.run import Curated

OPEN_SORA = "open-sora"


def curate(
    clips: Annotated[Path, typer.Argument(metavar="CLIPS", help="A folder of videos, with captions as in any folder of data.")],
    out: Annotated[Path, typer.Option(help="Folder of the report and of one set for each set of limits; the same folder resumes.")],
    rules: Annotated[str, typer.Option(metavar="FILE", help="Rules in YAML, or open-sora; see: jielong data rules.")] = OPEN_SORA,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; the number of processors by default. With --ray, tasks at a time.")
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Work on Ray Data, on this machine unless --ray-address is given.")] = False,
    ray_address: Annotated[str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster; its nodes must see CLIPS.")] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Measure and report; write no clips.")] = False,
) -> None:
    """Cut videos into shots, filter them by one or several sets of limits, and report what each stage drops.

    Every file is measured once, and what was measured is kept in the output folder: stopped runs resume, and with other limits nothing is
    measured again.
    """
    from jielong.core.progress import progress_on
    from jielong.curation.report import PAGE, write_report
    from jielong.curation.rules import load_rules
    from jielong.curation.run import WORK
    from jielong.curation.run import curate as run
    from jielong.curation.running import Workers, processors

    if ray_address is not None and not ray:
        raise typer.BadParameter("it is the address of a Ray cluster: add --ray", param_hint="--ray-address")
    workers = Workers((0 if ray else processors()) if jobs is None else jobs, ray, ray_address)
    try:
        with progress_on(notes):
            result = run(clips, load_rules(rules), out, workers, write=not report_only)
    except (KeyboardInterrupt, StoppedBySignalError):
        say(f"what was measured and written is kept in {out / WORK}; the same command resumes")
        raise
    write_report(result)
    _show(result)
    results.print(f"{out / PAGE}", highlight=False, soft_wrap=True)


def _show(result: Curated) -> None:
    """A table for each set, and what is to be said of all."""
    if result.unused:
        say(f"{result.clips}: {len(result.unused):,} not used: {result.unused.counts()}")
    for what, count in result.incomplete.items():
        say(f"{count:,} clips are written without {what}")
    say(f"{len(result.items):,} files: {result.measured:,} measured now, the others before or in an equal file")
    for each in result.funnels:
        rows = []
        for row in each.rows:
            why = "; ".join([f"{count:,} {reason}" for reason, count in row.reasons.items()] + [row.note] * bool(row.note))
            rows.append((row.stage, f"{row.before:,} {row.of}", f"{len(row.dropped):,}", f"{row.kept:,}", why))
        results.print(table(f"{each.name}: {len(each.kept):,} clips", ("stage", "before", "dropped", "kept", "why"), rows))
        if each.name in result.folders:
            results.print(f"data: {{set: {result.folders[each.name]}}}", highlight=False, soft_wrap=True)
        elif not each.kept:
            say(f"{each.name} keeps no clip, so no set is written: look at the histograms of the report, and widen its limits")


def rules(
    file: Annotated[str | None, typer.Argument(metavar="[RULES]", help="open-sora prints those rules, to be changed in a file.")] = None,
) -> None:
    """Print every key of rules with its default, or the built-in rules."""
    from jielong.config.described import keys
    from jielong.curation.rules import BUILT_IN, Rules, SetRules, built_in_text, load_rules
    from jielong.curation.stages.duplicates import DuplicateLimits
    from jielong.curation.stages.length import LengthLimits
    from jielong.curation.stages.metadata import MetadataLimits

    if file == BUILT_IN:
        typer.echo(built_in_text(), nl=False)
        return
    if file is not None:
        load_rules(file)
        results.print(f"{file}: these rules can be used", highlight=False, markup=False)
        return
    found = [(key.path, key.takes, key.default, key.about) for key in keys(Rules) if key.path.partition(".")[0] != "sets"]
    show_lines((line for row in columns(found) for line in row), "Rules: how files are cut and measured")
    limits = [key for key in keys(SetRules) if "." not in key.path]
    for prefix, inside in (("metadata", MetadataLimits), ("length", LengthLimits), ("duplicates", DuplicateLimits)):
        limits += [key for key in keys(inside, f"{prefix}.") if key.path.count(".") == 1]
    shown = [(f"sets.NAME.{key.path}", _takes(key.takes), key.default, key.about) for key in sorted(limits, key=lambda key: key.path)]
    show_lines((line for row in columns(shown) for line in row), "Limits of a set; both ends are kept")
    results.print(f"An example with comments: jielong data rules {BUILT_IN} > rules.yaml", highlight=False)


def _takes(text: str) -> str:
    return "{min: number, max: number}" if text == "settings or null" else text
