"""Run an experiment: measure, judge, draw, and write it all into a folder."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jielong.apps.lab.trial import Bench, Outcome, trials
from jielong.apps.lab.verdict import Verdict, conclude
from jielong.config.registry import nearest
from jielong.evaluation.provenance import machine, versions
from jielong.media.images import write_bytes
from jielong.system import find
from jielong.training.checkpoint import CheckpointError

RESULT, PLOT = "result.json", "plot.png"
STYLE: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.dpi": 160,
}


@dataclass(frozen=True)
class Result:
    """A judged experiment.

    Attributes:
        name: Of the experiment.
        claim: What it tried.
        verdict: What came of it.
        outcome: What was measured.
        folder: ``result.json`` and ``plot.png``.
        seconds: Wall time of all of it.
    """

    name: str
    claim: str
    verdict: Verdict
    outcome: Outcome
    folder: Path
    seconds: float


def missing(name: str) -> str | None:
    """Why an experiment cannot run here: the model that it needs and that is not installed; ``None`` when all are."""
    try:
        for model in trials()[name].needs:
            find(model)
    except CheckpointError as error:
        return str(error)
    return None


def run(name: str, out: Path, seed: int = 0, budget: float = 1.0, tell: Callable[[str], None] | None = None) -> Result:
    """Try a claim and write ``result.json`` and ``plot.png`` into ``out``.

    Args:
        name: Of the experiment.
        out: The folder of its result; an earlier result there is replaced.
        seed: Of everything drawn at random.
        budget: Share of the full experiment; verdicts of less than 1 are weaker, and the result says how much less it was.
        tell: Told what is being done.

    Raises:
        ValueError: if there is no such experiment, the budget is not positive, or a model that it needs is not installed.
        ImportError: if matplotlib is not installed; before anything is measured.
    """
    known = trials()
    if name not in known:
        raise ValueError(f"there is no experiment called {name!r}; {nearest(name, known)}")
    trial = known[name]()
    from matplotlib.figure import Figure  # noqa: F401  its absence is told now, and not when all has been measured

    for model in trial.needs:
        find(model)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="jielong-lab-", ignore_cleanup_errors=True) as scratch:
        bench = Bench(Path(scratch), seed, budget, tell or (lambda text: None))
        outcome = trial.run(bench)
        shutil.rmtree(scratch, ignore_errors=True)
    seconds = time.perf_counter() - begun
    verdict = conclude(outcome.checks)
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / PLOT, _plot(outcome))
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


def _plot(outcome: Outcome) -> bytes:
    """The plot as the bytes of a PNG file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=outcome.size, layout="constrained")
        outcome.draw(figure)
        buffer = io.BytesIO()
        # The software's version in the file would make equal plots differ.
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
