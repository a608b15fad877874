"""The card of a model: a README with the metadata that Hugging Face reads, of a run and of a shipped model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from huggingface_hub import EvalResult, ModelCardData

from jielong.config.hub_address import is_address, parse_address
from jielong.config.schema import Recipe, Trained
from jielong.core.json import JSON
from jielong.data.joined import listed
from jielong.data.licences import OWN, Terms
from jielong.data.selection import chooses, split_name
from jielong.system.adapters import AdapterRecord
from jielong.system.inputs import condition_inputs

CARD = "README.md"
SPDX = {
    "Apache-2.0": "Apache-2.0",
    "Arphic Public License": "Arphic-1999",
    "CC BY 4.0": "CC-BY-4.0",
    "CC BY-NC 4.0": "CC-BY-NC-4.0",
    "CC BY-SA 3.0": "CC-BY-SA-3.0",
    "CC BY-SA 4.0": "CC-BY-SA-4.0",
    "GPL-2.0": "GPL-2.0-only",
    "LGPL-3.0": "LGPL-3.0-only",
    "MIT": "MIT",
    "Stability AI Community License": "other",
}
"""Licences of weights by their names here; ``other`` is what Hugging Face calls one without an identifier."""
PERMISSIVE = "None of these licences extends to trained weights. Keep the attributions with the weights."
SHARE_ALIKE = (
    "Whether weights are an adaptation of their training data is not settled. To violate no terms they are distributed as one:\n"
    "under the share-alike licence of the data, with these attributions, which stay with the weights and with what is generated.\n"
    "The program itself is under Apache-2.0."
)
_FAMILIES = ("order", "backbone", "head", "condition")
_TASKS = {
    ("image", True): "text-to-image",
    ("image", False): "unconditional-image-generation",
    ("audio", True): "text-to-audio",
    ("video", True): "text-to-video",
}
"""Task on Hugging Face, by kind of media and whether it takes texts."""


@dataclass(frozen=True)
class ModelCard:
    """What a card says.

    Attributes:
        name: The model's name.
        title: One line that describes it.
        recipe: The recipe.
        kind: Of the media.
        rows: Facts, below the parts of the recipe.
        sections: Paragraphs after the facts.
        figures: Held-out figures by name.
        licence: Of the weights; ``None`` if unknown.
        measured_on: The set of the figures, if not the recipe's.
    """

    name: str
    title: str
    recipe: Recipe
    kind: str
    rows: Mapping[str, str]
    sections: Sequence[str]
    figures: JSON = field(default_factory=dict)
    licence: str | None = None
    measured_on: str | None = None

    def __str__(self) -> str:
        """The text of the file."""
        return _card(self._metadata(), self.name, self.title, {**part_names(self.recipe), **self.rows}, self.sections)

    def _metadata(self) -> ModelCardData:
        recipe = self.recipe
        sets = _set_names(recipe.data.set)
        measured = sets if self.measured_on is None else _set_names(self.measured_on)
        inputs = condition_inputs(recipe)
        task = _TASKS.get((self.kind, any(each.name == "text" for each in inputs))) if recipe.trains_generator else None
        task = "image-to-image" if task is not None and any(each.paired for each in inputs) else task
        results = [
            EvalResult(
                task_type=task or "reconstruction",
                dataset_type=measured[0] if measured else "own",
                dataset_name=", ".join(measured) or "own data",
                dataset_split="heldout",
                metric_type=name,
                metric_value=value,
            )
            for name, value in self.figures.items()
            if isinstance(value, float) and name != "seconds"
        ]
        return ModelCardData(
            library_name="jielong",
            license=_licence_tag(self.licence),
            pipeline_tag=task,
            tags=[self.kind, "generator" if recipe.trains_generator else "tokenizer"],
            datasets=sets or None,
            model_name=self.name,
            eval_results=results or None,
        )


def adapter_card(record: AdapterRecord, title: str) -> str:
    """The text of the card of an adapter, from what it records; ``title``: its heading."""
    address = parse_address(record.base) if is_address(record.base) else None
    metadata = ModelCardData(
        library_name="jielong",
        license=_licence_tag(record.base_licence if record.base_licence in SPDX else None),
        tags=["adapter", record.method],
        base_model=None if address is None else address.repository,
        model_name=title,
    )
    learned = record.method if record.rank is None else f"{record.method}, rank {record.rank}"
    rows = {"model": f"`{record.base}`", "method": learned, "pictures": f"{record.pictures}", "licence of the pictures": record.licence}
    attributions = "\n".join(f"- {each}" for each in record.attributions)
    sections = [f"Attributions required by the licence of the model:\n\n{attributions}"] if attributions else []
    return _card(metadata, title, f"An adapter of `{record.base}`, called `{record.name}`.", rows, sections)


def _card(metadata: ModelCardData, name: str, summary: str, rows: Mapping[str, str], sections: Sequence[str]) -> str:
    """The text of a card: metadata, heading, one line, a table, and paragraphs."""
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
    body = "\n\n".join([f"# {name}", summary, table, *sections])
    return f"---\n{metadata.to_yaml().strip()}\n---\n\n{body}\n"


def _licence_tag(licence: str | None) -> str:
    """What Hugging Face calls a licence; ``unknown`` for none."""
    return "unknown" if licence is None else SPDX[licence].removesuffix("-only").lower()


def _set_names(joined: str) -> list[str]:
    """Sets without the selection of their items, and without paths, which mean nothing elsewhere."""
    names = [split_name(each)[0] if chooses(each) else each for each in listed(joined)]
    return list(dict.fromkeys(name for name in names if "/" not in name and "\\" not in name))


def part_names(recipe: Recipe) -> dict[str, str]:
    """Names of the parts of a recipe, with those of a composite condition."""
    tokenizer = recipe.tokenizer.checkpoint if isinstance(recipe.tokenizer, Trained) else recipe.tokenizer.name
    parts = ((family, getattr(recipe, family)) for family in _FAMILIES)
    rows = {"tokenizer": f"`{tokenizer}`", **{family: f"`{part.name}`" for family, part in parts if part is not None}}
    if recipe.condition is not None:
        rows["condition"] = ", ".join(f"`{part.name}`" for part in recipe.condition.components)
    return rows


def licence_words(licence: str, sources: Iterable[Terms]) -> str:
    """The paragraphs on a licence of weights and the data behind it."""
    listing = "\n".join(f"- {each}" for each in sources)
    return f"Licence of the weights: {licence}. They were trained on\n\n{listing}\n\n{PERMISSIVE if licence == OWN else SHARE_ALIKE}"
