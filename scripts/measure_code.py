"""Print the figures by which the size and shape of the code are judged, one a line.

    python scripts/measure_code.py

Lines, files, functions, `type: ignore`, lines with `Any`, questions about the medium outside media, and, by tracing one tiny training step
and one tiny command, how many files lie between an item and its loss and how deep `head.sample` is called.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "jielong"
RATE = re.compile(r"rate is (not )?None|is_sound|isinstance\([\w.]+, (AudioSet|ImageSet|Sounds|Pictures)\)")
MEDIA = ("media", "core")


def functions(path: Path) -> list[tuple[int, str]]:
    """Lines and name of every function of a file, without its docstring."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            found.append(((node.end_lineno or 0) - body[0].lineno + 1 if body else 0, f"{path.relative_to(SOURCE)}:{node.name}"))
    return found


def static_figures() -> dict[str, object]:
    """Figures that need no run."""
    files = sorted(SOURCE.rglob("*.py"))
    texts = {path: path.read_text("utf-8").splitlines() for path in files}
    largest = max(files, key=lambda path: len(texts[path]))
    longest = max(function for path in files for function in functions(path))
    everywhere = [(path, line) for path, lines in texts.items() for line in lines]
    outside = [line for path, line in everywhere if path.relative_to(SOURCE).parts[0] not in MEDIA]
    return {
        "lines of src": len(everywhere),
        "largest file": f"{len(texts[largest])} ({largest.relative_to(SOURCE)})",
        "longest function": f"{longest[0]} ({longest[1]})",
        "type: ignore": sum("type: ignore" in line for _, line in everywhere),
        "lines with Any": sum(re.search(r"\bAny\b", line) is not None and "import" not in line for _, line in everywhere),
        "questions about the medium outside media": sum(RATE.search(line) is not None for line in outside),
    }


def traced(run: Callable[[], None], stop: str) -> tuple[set[str], int]:
    """Files of this package that run until a method called ``stop`` is entered in ``heads``, and how deep the call is."""
    files: set[str] = set()
    depth: list[int] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(str(SOURCE)) or depth:
            return
        files.add(name)
        if frame.f_code.co_name == stop and "/heads/" in name:
            calls, outer = 0, frame.f_back
            while outer is not None:
                calls += outer.f_code.co_filename.startswith(str(SOURCE))
                outer = outer.f_back
            depth.append(calls)

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return files, depth[0] if depth else 0


def traced_figures() -> dict[str, object]:
    """Files between an item and its loss, and calls between the command and the head."""
    import torch
    from typer.testing import CliRunner

    from jielong.apps.cli import app
    from jielong.config.recipe import load
    from jielong.core.rng import PerSampleRNG
    from jielong.training.experiment import prepare
    from jielong.training.objective import StepRNG
    from jielong.training.objectives import generator_objective

    experiment = prepare(load("maskgit-tiny"))
    objective = generator_objective(experiment)
    rng = StepRNG(PerSampleRNG(0, range(2)), torch.Generator())
    files, _ = traced(lambda: void(objective(experiment.data.batch([0, 1]), "model", 0, rng)), "loss")
    with tempfile.TemporaryDirectory() as scratch:
        words = ["--set", "train.samples=16", "--set", "train.batch=16", "--set", "train.warmup=8"]
        CliRunner().invoke(app, ["train", "maskgit-tiny", "--out", f"{scratch}/run", *words], catch_exceptions=False)
        command = ["generate", f"{scratch}/run", "--text", "a", "--out", f"{scratch}/out"]
        _, depth = traced(lambda: void(CliRunner().invoke(app, command, catch_exceptions=False)), "sample")
    return {"files from an item to its loss": len(files), "calls from command to head.sample": depth}


def void(_: object) -> None:
    """Drop a value."""


def main() -> None:
    """Print all figures."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name, value in (static_figures() | traced_figures()).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
