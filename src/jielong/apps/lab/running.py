"""Run an experiment and write its verdict, figures and plot."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jielong.apps.lab.trial import Bench, Outcome, trials
from jielong.apps.lab.verdict import Verdict, conclude
from jielong.config.registry import nearest
from jielong.core.files import write_bytes
from jielong.core.plots import plot_png
from jielong.evaluation.provenance import machine, versions
from jielong.system import find
from jielong.training.checkpoint import CheckpointError

if TYPE_CHECKING:
    pass

RESULT, PLOT = "result.json", "plot.png"


@dataclass(frozen=True)
class Result:
    """Result of an experiment.

    Attributes:
        name: Name of the experiment.
        claim: Tested claim.
        verdict: Verdict of the claim.
        outcome: Measurements.
        folder: Folder of ``result.json`` and ``plot.png``.
        seconds: Wall time.
    """

    name: str
    claim: str
    verdict: Verdict
    outcome: Outcome
    folder: Path
    seconds: float


def missing(name: str) -> str | None:
    """Error message for a required model that is not installed; ``None`` if the experiment can run."""
    try:
        for model in trials()[name].needs:
            find(model)
    except CheckpointError as error:
        return str(error)
    return None


def run(name: str, out: Path, seed: int = 0, budget: float = 1.0, log: Callable[[str], None] | None = None) -> Result:
    """Run an experiment and write ``result.json``, ``plot.png`` and its further files into ``out``.

    Args:
        name: Name of the experiment.
        out: Output folder; an earlier result is replaced.
        seed: Random seed.
        budget: Fraction of the full experiment; smaller ones give wider intervals.
        log: Receives progress messages.

    Raises:
        ValueError: if there is no such experiment, the budget is not positive, or a required model is not installed.
        ImportError: if matplotlib is not installed.
    """
    known = trials()
    if name not in known:
        raise ValueError(f"there is no experiment called {name!r}; {nearest(name, known)}")
    trial = known[name]()
    from matplotlib.figure import Figure  # noqa: F401  fails before the measurement if matplotlib is missing

    for model in trial.needs:
        find(model)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="jielong-lab-", ignore_cleanup_errors=True) as scratch:
        bench = Bench(Path(scratch), seed, budget, log or (lambda text: None))
        outcome = trial.run(bench)
        shutil.rmtree(scratch, ignore_errors=True)
    seconds = time.perf_counter() - started
    verdict = conclude(outcome.checks)
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / PLOT, plot_png(outcome.draw, outcome.size))
    for file, data in outcome.files.items():
        write_bytes(out / file, data)
    record = {
        "experiment": name,
        "claim": trial.claim,
        "verdict": str(verdict),
        "checks": [check.to_json() for check in outcome.checks],
        "figures": {key: estimate.to_json() for key, estimate in outcome.figures.items()},
        "remarks": list(outcome.remarks),
        "seed": seed,
        "budget": budget,
        "seconds": round(seconds, 1),
        "command": f"jielong lab run {name} --seed {seed}" + (f" --budget {budget:g}" if budget != 1 else ""),
        "provenance": dict(outcome.provenance),
        "versions": versions(),
        "machine": machine(),
    }
    write_bytes(out / RESULT, (json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return Result(name, trial.claim, verdict, outcome, out, seconds)
