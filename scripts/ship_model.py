"""Put a finished run into the zoo: weights in bf16, recipe, log, held-out figures and a model card.

    python scripts/ship_model.py runs/vq-emoji vq-emoji --title "VQ tokenizer for emoji" \
        --command "jielong train vqgan --out runs/vq-emoji" --machine "two cores of an AMD EPYC (Zen 5)"

The figures are those of the shipped (rounded) weights, by ``jielong evaluate``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from jielong.media.images import write_bytes
from jielong.recipe import Trained
from jielong.system import DESCRIPTION, load
from jielong.training.checkpoint import save_checkpoint

MODELS = Path(__file__).resolve().parents[1] / "zoo" / "src" / "jielong_zoo" / "models"
LOG_LINES = 100
LICENCES = {
    "emoji": "Noto Emoji (Apache-2.0) and Twemoji graphics (CC BY 4.0, (c) Twitter, Inc. and other contributors)",
    "fashion-mnist": "Fashion-MNIST (MIT, (c) 2017 Zalando SE)",
}
FAMILIES = ("order", "backbone", "head", "condition")

CARD = """# {name}

{title}

| | |
|---|---|
| parts | {parts} |
| data | `{data}`, training split |
| parameters | {parameters:,} (bf16, {megabytes:.1f} MB) |
| training | {samples:,} samples in {minutes:.0f} minutes on {machine}, `{command}` |

Held-out figures, by `jielong evaluate {name} --json`:

```json
{figures}
```

It knows small pictures in the styles of its training data and nothing else: what it was not trained on gives shapes that may mean
nothing. The weights are under the Apache License 2.0; the training pictures are {licence}.
"""


def ship(run: Path, name: str, title: str, command: str, machine: str) -> Path:
    """Write the zoo's folder of a model and return it."""
    system = load(str(run))
    target = MODELS / name
    text = system.recipe.to_yaml()
    model = system.generator or system.tokenizer
    save_checkpoint(target, model, text, dtype="bf16")
    write_bytes(target / DESCRIPTION, (run / DESCRIPTION).read_bytes())
    lines = (run / "metrics.jsonl").read_text().splitlines()
    kept = lines[:: max(1, len(lines) // LOG_LINES)]
    write_bytes(target / "metrics.jsonl", ("\n".join(kept if kept[-1] == lines[-1] else [*kept, lines[-1]]) + "\n").encode())
    summary = json.loads((run / "summary.json").read_text())
    measure = [sys.executable, "-m", "jielong.cli", "evaluate", name, "--json"]
    done = subprocess.run(measure, stdout=subprocess.PIPE, check=True, text=True)
    figures = json.loads(done.stdout)
    write_bytes(target / "evaluation.json", (json.dumps(figures, indent=2) + "\n").encode())
    recipe = system.recipe
    parts = [
        f"tokenizer {recipe.tokenizer.checkpoint if isinstance(recipe.tokenizer, Trained) else recipe.tokenizer.name}",
        *(f"{family} {part.name}" for family in FAMILIES if (part := getattr(recipe, family)) is not None),
    ]
    card = CARD.format(
        name=name,
        title=title,
        parts=", ".join(parts),
        data=recipe.data.set,
        licence=LICENCES[recipe.data.set],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        megabytes=(target / "model.safetensors").stat().st_size / 1e6,
        samples=summary["samples"],
        minutes=summary["seconds"] / 60,
        command=command,
        machine=machine,
        figures=json.dumps({key: value for key, value in figures.items() if key != "provenance"}, indent=2),
    )
    write_bytes(target / "README.md", card.encode())
    return target


def main() -> None:
    """Parse the command line and ship."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("name", help="the model's name in the zoo")
    parser.add_argument("--title", required=True, help="one sentence on what it is")
    parser.add_argument("--command", required=True, help="the command that trained it")
    parser.add_argument("--machine", required=True, help="what it was trained on")
    arguments = parser.parse_args()
    print(ship(arguments.run, arguments.name, arguments.title, arguments.command, arguments.machine))


if __name__ == "__main__":
    main()
