"""Put a finished run into the zoo: weights in bf16, recipe, log, held-out figures and a model card with its licence.

    python scripts/ship_model.py runs/vq-emoji vq-emoji --title "VQ tokenizer for emoji" \
        --command "jielong train vqgan --out runs/vq-emoji" --machine "two cores of an AMD EPYC (Zen 5)"

The figures are those of the shipped (rounded) weights, by ``jielong evaluate``. Whom to name and the licence of the weights follow from the
sets that the model learned from, and its tokenizer, and the model it began from.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path

from jielong.config.schema import Recipe, Trained
from jielong.data.joined import listed
from jielong.data.licences import LICENCE, OWN, Licence, licence_of_weights, terms
from jielong.data.opening import open_source
from jielong.data.sets import SPEAKER_COLUMNS
from jielong.data.source import DataError
from jielong.media.images import write_bytes
from jielong.system import DESCRIPTION, load
from jielong.training.checkpoint import CheckpointError, save_checkpoint

MODELS = Path(__file__).resolve().parents[1] / "zoo" / "src" / "jielong_zoo" / "models"
LOG_LINES = 100
FAMILIES = ("order", "backbone", "head", "condition")

CARD = """# {name}

{title}

| | |
|---|---|
| parts | {parts} |
| data | `{data}`, training split |
| parameters | {parameters:,} (bf16, {megabytes:.1f} MB) |
| training | {samples:,} samples in {minutes:.0f} minutes on {machine}, `{command}` |

Held-out figures, by `jielong {measured_by}`:

```json
{figures}
```

{knows}

The weights are under {licence}. They learned from

{whose}

{stated}
"""
KNOWS = {
    "pictures": (
        "It knows small pictures in the styles of its training data and nothing else: what it was not trained on gives shapes\n"
        "that may mean nothing."
    ),
    "sound": "It knows sound such as it was trained on and nothing else: what is unlike comes out as noise or as something else.",
    "speech": (
        "It knows the voices and the kind of sentences that it was trained on and nothing else: what is unlike comes out wrong.\n"
        "What it says was said by none of those who lent it their voices: do not let it pass for theirs."
    ),
}
NOTHING_ASKED = "None of these extends its terms to what is made of them; keep the names beside the weights."
SHARED_ALIKE = (
    "Whether weights are an adaptation of their data is not settled. So that nobody's terms are broken they are passed on as\n"
    "one: under the share-alike licence of the data, with these names, which stay beside them and beside what is made of them.\n"
    "The program itself is under Apache-2.0."
)
SPDX = {"Apache-2.0": "Apache-2.0", "CC BY-SA 3.0": "CC-BY-SA-3.0", "CC BY-SA 4.0": "CC-BY-SA-4.0", "GPL-2.0": "GPL-2.0-only"}


def learned_from(recipe: Recipe, asked: frozenset[str] = frozenset()) -> list[str]:
    """The sets behind a model: its own, its tokenizer's, and those of the model that its training began from.

    A model may have gone on from an earlier one of its name, so none is ``asked`` twice.
    """
    before = {recipe.tokenizer.checkpoint} if isinstance(recipe.tokenizer, Trained) else set()
    before |= {recipe.train.init_from} if recipe.train.init_from is not None else set()
    earlier = [name for model in sorted(before - asked) for name in learned_from(load(model, "cpu").recipe, asked | before)]
    return list(dict.fromkeys([*listed(recipe.data.set), *earlier]))


def kind(recipe: Recipe) -> str:
    """Which of :data:`KNOWS` is true of a model."""
    source = open_source(recipe.data.set)
    if source.kind == "image":
        return "pictures"
    return "speech" if any(item.extra.get(column) for item in source.items for column in SPEAKER_COLUMNS) else "sound"


def licence_named(licence: str) -> str:
    """The licence, once the distribution that the weights go into names it.

    Raises:
        DataError: if it does not.
    """
    project = tomllib.loads((MODELS.parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    if SPDX[licence] not in project["license"].split(" AND "):
        raise DataError(f"zoo/pyproject.toml is under {project['license']}: add {SPDX[licence]}, which these weights need")
    return licence


def ship(run: Path, name: str, title: str, command: str, machine: str, count: int | None = None, models: Path = MODELS) -> Path:
    """Write a model's folder in the zoo, or in another folder of models, and return it."""
    system = load(str(run), "cpu")
    recipe = system.recipe
    asked = sorted({each for name in learned_from(recipe) for each in terms(name)})
    licence = licence_named(licence_of_weights(asked))
    target = models / name
    text = system.recipe.to_yaml()
    model = system.generator or system.tokenizer
    save_checkpoint(target, model, text, dtype="bf16")
    write_bytes(target / DESCRIPTION, (run / DESCRIPTION).read_bytes())
    lines = (run / "metrics.jsonl").read_text().splitlines()
    kept = lines[:: max(1, len(lines) // LOG_LINES)]
    write_bytes(target / "metrics.jsonl", ("\n".join(kept if kept[-1] == lines[-1] else [*kept, lines[-1]]) + "\n").encode())
    summary = json.loads((run / "summary.json").read_text())
    measured_by = ["evaluate", name, *([] if count is None else ["--count", str(count)]), "--json"]
    measure = [sys.executable, "-m", "jielong", "evaluate", name if models == MODELS else str(target), *measured_by[2:]]
    done = subprocess.run(measure, stdout=subprocess.PIPE, check=True, text=True)
    figures = json.loads(done.stdout)
    write_bytes(target / "evaluation.json", (json.dumps(figures, indent=2) + "\n").encode())
    parts = [
        f"tokenizer {recipe.tokenizer.checkpoint if isinstance(recipe.tokenizer, Trained) else recipe.tokenizer.name}",
        *(f"{family} {part.name}" for family in FAMILIES if (part := getattr(recipe, family)) is not None),
    ]
    card = CARD.format(
        name=name,
        measured_by=" ".join(measured_by),
        title=title,
        parts=", ".join(parts),
        data=recipe.data.set,
        knows=KNOWS[kind(recipe)],
        licence=licence,
        whose="\n".join(f"- {each}" for each in asked),
        stated=NOTHING_ASKED if licence == OWN else SHARED_ALIKE,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        megabytes=(target / "model.safetensors").stat().st_size / 1e6,
        samples=summary["samples"],
        minutes=summary["seconds"] / 60,
        command=command,
        machine=machine,
        figures=json.dumps({key: value for key, value in figures.items() if key != "provenance"}, indent=2),
    )
    write_bytes(target / "README.md", card.encode())
    write_bytes(target / LICENCE, Licence(licence, tuple(asked)).to_json().encode())
    return target


def main() -> None:
    """Parse the command line and ship."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("name", help="the model's name in the zoo")
    parser.add_argument("--title", required=True, help="one sentence on what it is")
    parser.add_argument("--command", required=True, help="the command that trained it")
    parser.add_argument("--machine", required=True, help="what it was trained on")
    parser.add_argument("--count", type=int, help="held-out items to measure; what evaluate takes by default")
    parser.add_argument("--into", type=Path, default=MODELS, help="the folder of models; the zoo's by default")
    arguments = parser.parse_args()
    try:
        print(ship(arguments.run, arguments.name, arguments.title, arguments.command, arguments.machine, arguments.count, arguments.into))
    except (DataError, CheckpointError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
