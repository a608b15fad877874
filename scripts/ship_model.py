"""Put a finished run into the zoo: weights in bf16 or int8, recipe, log, held-out figures and a model card with its licence.

    python scripts/ship_model.py runs/vq-emoji vq-emoji --title "VQ tokenizer for emoji" \
        --command "jielong train vqgan --out runs/vq-emoji" --machine "two cores of an AMD EPYC (Zen 5)"

The figures are those of the shipped (rounded) weights, by ``jielong evaluate``. Attributions and the licence of the weights follow from the
training sets of the model, of its tokenizer and of the model that initialised it.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path

from shipped import MODELS, STORED, Facts, Subject, measure

from jielong.config.schema import Recipe, Trained
from jielong.core.files import write_bytes
from jielong.data.joined import listed
from jielong.data.licences import LICENCE, Licence, licence_of_weights, terms
from jielong.data.opening import open_source
from jielong.data.sets import SPEAKER_COLUMNS
from jielong.data.source import DataError
from jielong.system import DESCRIPTION, load
from jielong.system.model_card import SPDX
from jielong.training.checkpoint import CheckpointError, StorageDtype, save_checkpoint
from jielong.training.summary import Kept, kept_samples

LOG_LINES = 100


def training_sets(recipe: Recipe, visited: frozenset[str] = frozenset()) -> list[str]:
    """Training sets of a model, of its tokenizer and of the model that initialised it.

    ``visited`` are names of models whose sets are included already: a model may be initialised from an earlier one of its name.
    """
    models = {recipe.tokenizer.checkpoint} if isinstance(recipe.tokenizer, Trained) else set()
    models |= {recipe.train.init_from} if recipe.train.init_from is not None else set()
    earlier = [name for model in sorted(models - visited) for name in training_sets(load(model, "cpu").recipe, visited | models)]
    return list(dict.fromkeys([*listed(recipe.data.set), *earlier]))


def subject(recipe: Recipe) -> Subject:
    """What a model generates or reconstructs."""
    source = open_source(recipe.data.set)
    if source.kind in ("image", "video"):
        return "pictures" if source.kind == "image" else "clips"
    return "speech" if any(item.extra.get(column) for item in source.items for column in SPEAKER_COLUMNS) else "sound"


def licence_named(licence: str) -> str:
    """The licence, if the metadata of jielong-zoo list it.

    Raises:
        DataError: if they do not.
    """
    project = tomllib.loads((MODELS.parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    if SPDX[licence] not in project["license"].split(" AND "):
        raise DataError(f"zoo/pyproject.toml is under {project['license']}: add {SPDX[licence]}, which these weights need")
    return licence


def ship(
    run: Path,
    name: str,
    title: str,
    command: str,
    machine: str,
    count: int | None = None,
    models: Path = MODELS,
    dtype: StorageDtype = "bf16",
) -> Path:
    """Write a model's folder in the zoo, or in another folder of models, and return it."""
    system = load(str(run), "cpu")
    recipe = system.recipe
    sources = sorted({each for name in training_sets(recipe) for each in terms(name)})
    licence = licence_named(licence_of_weights(sources))
    target = models / name
    text = system.recipe.to_yaml()
    model = system.generator or system.tokenizer
    save_checkpoint(target, model, text, dtype)
    write_bytes(target / DESCRIPTION, (run / DESCRIPTION).read_bytes())
    lines = (run / "metrics.jsonl").read_text().splitlines()
    shown = lines[:: max(1, len(lines) // LOG_LINES)]
    write_bytes(target / "metrics.jsonl", ("\n".join(shown if shown[-1] == lines[-1] else [*shown, lines[-1]]) + "\n").encode())
    write_bytes(target / LICENCE, Licence(licence, tuple(sources)).to_json().encode())
    summary = json.loads((run / "summary.json").read_text())
    kept: Kept = summary.get("kept", {})
    facts = Facts(
        title=title,
        command=command,
        machine=machine,
        samples=summary["samples"],
        minutes=round(summary["seconds"] / 60),
        subject=subject(recipe),
        best_at=kept_samples(kept) if kept.get("weights") == "best" else None,
        count=count,
    )
    measure(target, facts)
    return target


def main() -> None:
    """Parse the command line and ship."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("name", help="the model's name in the zoo")
    parser.add_argument("--title", required=True, help="one line that describes it")
    parser.add_argument("--command", required=True, help="the command that trained it; one a line if there are several")
    parser.add_argument("--machine", required=True, help="the machine it was trained on")
    parser.add_argument("--count", type=int, help="held-out items to measure; the default is that of evaluate")
    parser.add_argument("--into", type=Path, default=MODELS, help="the folder of models; the zoo's by default")
    parser.add_argument("--dtype", choices=STORED, default="bf16", help="how the weights are stored; bf16 by default")
    given = parser.parse_args()
    try:
        print(ship(given.run, given.name, given.title, given.command, given.machine, given.count, given.into, given.dtype))
    except (DataError, CheckpointError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
