"""The model card of a run, from its folder and its data."""

from __future__ import annotations

import json
from pathlib import Path

from jielong.config.schema import Recipe, Trained
from jielong.core.files import write_bytes
from jielong.core.storage import size_words
from jielong.data.licences import Licence, Terms, licence_of_weights, terms
from jielong.data.source import DataError
from jielong.evaluation.provenance import machine
from jielong.system import find
from jielong.system.model_card import CARD, ModelCard, licence_words
from jielong.training.best import kept_words
from jielong.training.checkpoint import RECIPE, WEIGHTS
from jielong.training.loss_curve import CURVE
from jielong.training.opening import HELDOUT_ITEMS, Sets
from jielong.training.summary import Summary, kept_samples


def write_card(out: Path, recipe: Recipe, sets: Sets, summary: Summary) -> Path:
    """Write the card of a finished run into its folder.

    Args:
        out: The run's folder.
        recipe: The recipe.
        sets: What it was trained and measured on.
        summary: How it ended.

    Raises:
        StorageError: if it cannot be written.
    """
    licence, licence_section = _licence(recipe, sets)
    words = {"image": "pictures", "audio": "sound", "video": "videos"}.get(sets.train.medium.kind, sets.train.medium.kind)
    card = ModelCard(
        name=out.resolve().name,
        title=f"A {'generator' if recipe.trains_generator else 'tokenizer'} of {words}, trained on `{recipe.data.set}`.",
        recipe=recipe,
        kind=sets.train.medium.kind,
        rows=_rows(out, sets, summary),
        sections=[_training(summary), _figures(sets, summary), *_pictures(out, summary), *_skipped(sets, summary), licence_section],
        figures=summary.evaluation,
        licence=licence,
    )
    return write_bytes(out / CARD, str(card).encode())


def _rows(out: Path, sets: Sets, summary: Summary) -> dict[str, str]:
    data = sets.train
    heldout = f", {len(sets.heldout):,} held out" if sets.measured else ", none held out"
    processes = "" if summary.processes == 1 else f", {summary.processes} processes"
    weights = summary.kept.get("weights")
    words = {"best": f"the best EMA weights by {summary.kept.get('by')}", "last": "the last EMA weights", None: "the last EMA weights"}
    return {
        "weights": words.get(weights, str(weights)),
        "data": f"`{data.name}`: {len(data):,} training items{heldout}",
        "media": str(data.medium),
        "parameters": f"{summary.parameters:,}",
        "file": size_words((out / WEIGHTS).stat().st_size),
        "training samples": f"{summary.samples:,}, in {summary.steps:,} steps",
        "training time": f"{summary.seconds / 60:.1f} minutes",
        "machine": machine() + processes,
    }


def _training(summary: Summary) -> str:
    command = f"Trained by\n\n```sh\n{summary.command}\n```" if summary.command else "Trained from Python, by `jielong.train`"
    return f"{command}\n\nwith the settings in [{RECIPE}]({RECIPE})."


def _figures(sets: Sets, summary: Summary) -> str:
    if not summary.evaluation:
        return "No held-out figures were measured."
    items = min(HELDOUT_ITEMS, len(sets.heldout))
    protocol = (
        f"Held-out figures of these weights, as they are measured in training: on {items:,} items or fewer, with the same masks and noise"
    )
    kept = f"\n\nThe run {kept_words(summary.kept)}." if summary.kept.get("weights") in ("best", "last") else ""
    return f"{protocol}. `jielong evaluate` measures more.\n\n```json\n{json.dumps(summary.evaluation, indent=2)}\n```{kept}"


def _pictures(out: Path, summary: Summary) -> list[str]:
    """Links to the loss curve, and to the sample grid of the kept weights."""
    samples = kept_samples(summary.kept) or summary.samples
    grids = sorted((out / "samples").glob("samples-*.png"))
    grid = next((path for path in grids if int(path.stem.rpartition("-")[2]) == samples), grids[-1] if grids else None)
    pictures = [f"![Training and held-out figures by samples seen]({CURVE})"] if (out / CURVE).exists() else []
    if grid is not None:
        caption = f"Raw weights and EMA weights after {int(grid.stem.rpartition('-')[2]):,} training samples"
        pictures.append(f"![{caption}](samples/{grid.name})\n\n{caption}.")
    return pictures


def _skipped(sets: Sets, summary: Summary) -> list[str]:
    """What was not used or not done."""
    left_out = sets.train.unused
    lines = [f"{summary.skipped:,} steps whose numbers were not finite"] if summary.skipped else []
    lines += summary.unreached
    lines += [f"items of the data: {left_out.counts()}"] if len(left_out) else []
    return ["Skipped:\n\n" + "\n".join(f"- {line}" for line in lines)] if lines else []


def _licence(recipe: Recipe, sets: Sets) -> tuple[str | None, str]:
    """The licence of the weights, where the terms of the data and of the tokenizer's data are known, and the paragraph on it."""
    try:
        found = set(terms(recipe.data.set, sets.train.source.items))
        if isinstance(recipe.tokenizer, Trained):
            found |= _tokenizer_terms(recipe.tokenizer.checkpoint)
        licence = licence_of_weights(found)
    except DataError as error:
        return None, f"Licence of the weights: not known, as {error}."
    return licence, licence_words(licence, sorted(found))


def _tokenizer_terms(checkpoint: str) -> set[Terms]:
    """Terms of a tokenizer's data.

    Raises:
        DataError: if they are not known.
    """
    beside = Licence.beside(find(checkpoint))
    if beside is None:
        raise DataError(f"the tokenizer {checkpoint} has no licence beside it")
    return set(beside.learned_from)
