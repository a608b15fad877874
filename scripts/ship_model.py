"""Put a finished run into the zoo: weights in bf16 or int8, recipe, log, held-out figures and a model card with its licence.

    python scripts/ship_model.py runs/vq-emoji vq-emoji --title "VQ tokenizer for emoji" \
        --command "jielong train vqgan --out runs/vq-emoji" --machine "two cores of an AMD EPYC (Zen 5)"

The figures are those of the shipped (rounded) weights, by ``jielong evaluate``. Attributions and the licence of the weights follow from the
training sets of the model, of its tokenizer and of the model that initialised it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path

from jielong.config.schema import Recipe, Trained
from jielong.core.files import write_bytes
from jielong.data.joined import listed
from jielong.data.licences import LICENCE, Licence, licence_of_weights, terms
from jielong.data.opening import open_data, open_source
from jielong.data.sets import SPEAKER_COLUMNS
from jielong.data.source import DataError
from jielong.media.images import encode, sheet, to_bytes
from jielong.system import DESCRIPTION, System, load
from jielong.system.model_card import CARD, SPDX, ModelCard, licence_words
from jielong.training.checkpoint import CheckpointError, StorageDtype, save_checkpoint
from jielong.training.summary import Kept, kept_samples

MODELS = Path(__file__).resolve().parents[1] / "zoo" / "src" / "jielong_zoo" / "models"
LOG_LINES = 100
SHEET, DRAWS = "draws.webp", 40
STORED: dict[StorageDtype, str] = {"bf16": "bf16", "int8": "matrices in int8 with a scale per row, the rest in bf16"}
LIMITS = {
    "pictures": "Outside the styles of its training data, results are shapes without meaning.",
    "sound": "Outside the kinds of sound in its training data, results are noise or another sound.",
    "speech": (
        "Outside the voices and kinds of sentences in its training data, results are wrong. The speakers of the training recordings\n"
        "said none of the generated speech: do not present it as theirs."
    ),
}


def training_sets(recipe: Recipe, visited: frozenset[str] = frozenset()) -> list[str]:
    """Training sets of a model, of its tokenizer and of the model that initialised it.

    ``visited`` are names of models whose sets are included already: a model may be initialised from an earlier one of its name.
    """
    models = {recipe.tokenizer.checkpoint} if isinstance(recipe.tokenizer, Trained) else set()
    models |= {recipe.train.init_from} if recipe.train.init_from is not None else set()
    earlier = [name for model in sorted(models - visited) for name in training_sets(load(model, "cpu").recipe, visited | models)]
    return list(dict.fromkeys([*listed(recipe.data.set), *earlier]))


def kind(recipe: Recipe) -> str:
    """The key of :data:`LIMITS` for a model."""
    source = open_source(recipe.data.set)
    if source.kind == "image":
        return "pictures"
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


def first_draws(system: System, target: Path) -> list[str]:
    """Write the first draws of a generator of pictures as one picture; returns its paragraph of the card, if any."""
    recipe, generator = system.recipe, system.generator
    if generator is None or system.tokenizer.media.kind != "image":
        return []
    heldout = open_data(recipe.data.set, "heldout", medium=system.tokenizer.media, settings=recipe.data)
    values = None if recipe.condition is None else recipe.condition.for_samples(heldout, DRAWS)
    pictures = system.decode(system.generate_tokens(values, None if values is not None else DRAWS, seed=0))
    write_bytes(target / SHEET, encode(sheet(to_bytes(pictures)), "WEBP", lossless=True))
    of = "" if values is None else " of held-out items evenly spread over the set"
    return [f"![{len(pictures)} first draws]({SHEET})\n\nFirst draws{of}, seed 0, not selected."]


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
    kept = lines[:: max(1, len(lines) // LOG_LINES)]
    write_bytes(target / "metrics.jsonl", ("\n".join(kept if kept[-1] == lines[-1] else [*kept, lines[-1]]) + "\n").encode())
    summary = json.loads((run / "summary.json").read_text())
    measured_by = ["evaluate", name, *([] if count is None else ["--count", str(count)]), "--json"]
    measure = [sys.executable, "-m", "jielong", "evaluate", name if models == MODELS else str(target), *measured_by[2:]]
    done = subprocess.run(measure, stdout=subprocess.PIPE, check=True, text=True)
    figures = json.loads(done.stdout)
    write_bytes(target / "evaluation.json", (json.dumps(figures, indent=2) + "\n").encode())
    kept: Kept = summary.get("kept", {})
    at = kept_samples(kept)
    measured = {key: value for key, value in figures.items() if key != "provenance"}
    card = ModelCard(
        name=name,
        title=title,
        recipe=recipe,
        kind=system.tokenizer.media.kind,
        rows={
            "data": f"`{recipe.data.set}`, training split",
            "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
            "file": f"{(target / 'model.safetensors').stat().st_size / 1e6:.1f} MB, {STORED[dtype]}",
            "training samples": f"{summary['samples']:,}",
            **({"weights": f"the best of the run, at {at:,} samples"} if kept.get("weights") == "best" and at else {}),
            "training time": f"{summary['seconds'] / 60:.0f} minutes",
            "machine": machine,
        },
        sections=[
            f"Trained by\n\n```sh\n{command}\n```",
            f"Held-out figures, by `jielong {' '.join(measured_by)}`:\n\n```json\n{json.dumps(measured, indent=2)}\n```",
            *first_draws(load(str(target), "cpu"), target),
            LIMITS[kind(recipe)],
            licence_words(licence, sources),
        ],
        figures=measured,
        licence=licence,
    )
    write_bytes(target / CARD, str(card).encode())
    write_bytes(target / LICENCE, Licence(licence, tuple(sources)).to_json().encode())
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
