"""What `jielong show` prints of a checkpoint beside its recipe: figures, sizes, licence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from jielong.apps.commands.screen import columns
from jielong.config.schema import Recipe
from jielong.config.zoo import card_line, figures, file_size, kind_text, read_json

WEIGHTS = "model.safetensors"


def model_lines(name: str, folder: Path, recipe: Recipe) -> Iterator[str]:
    """What a checkpoint is, how large, how good, and under which licence."""
    evaluation = read_json(folder / "evaluation.json")
    provenance = evaluation.get("provenance")
    rows = [("model", card_line(folder) or kind_text(folder) or "a run without a finished checkpoint"), ("is a", kind_text(folder))]
    if isinstance(provenance, dict):
        rows.append(("parameters", f"{provenance['parameters']:,}"))
    rows.append(("weights", file_size(folder / WEIGHTS)))
    rows += [("built on", f"{stage}: {checkpoint}") for stage, checkpoint in recipe.requires.items()]
    rows += [("figures", text) for text in figures(evaluation)]
    card = (folder / "README.md").read_text("utf-8") if (folder / "README.md").exists() else ""
    rows += _of_card(card)
    rows += [("folder", str(folder)), ("use", f"jielong {'generate' if recipe.trains_generator else 'evaluate'} {name}")]
    return chain.from_iterable(columns([row for row in rows if row[1]]))


def _of_card(card: str) -> Iterator[tuple[str, str]]:
    """The training and the licence that a model card states."""
    if command := re.search(r"^jielong train .*$", card, re.M):
        yield "trained by", command[0]
    for title in ("training samples", "training time", "machine"):
        if value := re.search(rf"^\| {title} \| (.*?) \|$", card, re.M):
            yield title, value[1]
    if licence := re.search(r"^Licence of the weights: (.*?)\. They were trained on\n\n((?:- .*\n)*)", card, re.M):
        yield "licence", licence[1]
        for source in licence[2].splitlines():
            yield "trained on", source.removeprefix("- ").replace("`", "")
