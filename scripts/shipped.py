"""Write the cards of shipped models again, or store their weights in another format.

    python scripts/shipped.py card                                                # README.md of every model in the zoo
    python scripts/shipped.py card maskgit-faces flow-faces
    python scripts/shipped.py convert maskgit-faces --dtype int8 --count 200      # weights, figures, first draws, card
    python scripts/shipped.py count                                               # network evaluations of a sample, of each generator
    python scripts/shipped.py time --machine "one core of an AMD EPYC (Zen 5)"    # these and seconds a sample, on an idle machine

A card follows from the model's ``recipe.yaml``, ``model.json``, ``evaluation.json``, ``licence.json`` and ``card.json``, which holds what
the others do not. ``convert`` reads the weights of a generator, stores them in place, and measures them by ``jielong evaluate``; those of
a tokenizer are stored only if they stay the same to the bit. ``count`` and ``time`` write into ``card.json``, which docs/make_systems.py
reads.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from jielong.conditions.inputs import HeldoutItems
from jielong.config.recipe import parse
from jielong.config.schema import Recipe
from jielong.config.zoo import description, read_json
from jielong.core.files import write_bytes
from jielong.data.licences import Licence
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.data.pairs import source_media
from jielong.data.source import DataError
from jielong.evaluation.context import names_of
from jielong.evaluation.network_evaluations import count_evaluations, first_of
from jielong.media.images import encode, sheet, to_bytes
from jielong.media.videos import Videos
from jielong.system import System, load
from jielong.system.inputs import call_inputs, condition_inputs, gather, stage_names
from jielong.system.model_card import CARD, ModelCard, licence_words
from jielong.training.checkpoint import RECIPE, WEIGHTS, CheckpointError, StorageDtype, fingerprint, load_weights, save_checkpoint

MODELS = Path(__file__).resolve().parents[1] / "zoo" / "src" / "jielong_zoo" / "models"
FACTS, EVALUATION, SHEET = "card.json", "evaluation.json", "draws.webp"
DRAWS: dict[str, int] = {"image": 40, "video": 12}
"""First draws on the sheet of a card, by the kind of medium; other kinds have no sheet, and are neither counted nor timed."""
BATCHES, REPEATS = (1, 8), 5
"""Samples that ``time`` draws together, and how often."""
STORED: dict[StorageDtype, str] = {"bf16": "bf16", "int8": "matrices in int8 with a scale per row, the rest in bf16"}
Subject = Literal["pictures", "clips", "sound", "speech"]
SAMPLE: dict[Subject, str] = {"pictures": "picture", "clips": "clip"}
LIMITS: dict[Subject, str] = {
    "pictures": "Outside the styles of its training data, results are shapes without meaning.",
    "clips": "Outside the worlds and the lengths of its training data, results are shapes without meaning.",
    "sound": "Outside the kinds of sound in its training data, results are noise or another sound.",
    "speech": (
        "Outside the voices and kinds of sentences in its training data, results are wrong. The speakers of the training recordings\n"
        "said none of the generated speech: do not present it as theirs."
    ),
}


@dataclass(frozen=True)
class Facts:
    """What a card says that no other file of the model holds.

    Attributes:
        title: One line that describes the model.
        command: The commands that trained it.
        machine: The machine it was trained on.
        samples: Training samples.
        minutes: Training time.
        subject: The key of :data:`LIMITS`.
        best_at: Training samples at which the weights were kept, if they are the best of the run.
        count: Held-out items that were measured, if not all.
        measured_on: The set it was measured on, if not the recipe's.
        remark: What follows the command that measured it, if anything.
        draws: Pictures or clips on :data:`SHEET`.
        evaluations: Network evaluations of one sample, of the backbone and of the network in the head.
        seconds: Seconds a sample in one thread, by the samples drawn together.
        timed_on: The machine on which these were measured.
        note: A paragraph after the figures.
    """

    title: str
    command: str
    machine: str
    samples: int
    minutes: int
    subject: Subject
    best_at: int | None = None
    count: int | None = None
    measured_on: str = ""
    remark: str = ""
    draws: int = 0
    note: str = ""
    evaluations: Mapping[str, int] | None = None
    seconds: Mapping[str, float] | None = None
    timed_on: str = ""

    @classmethod
    def of(cls, folder: Path) -> Facts:
        """Those of a shipped model.

        Raises:
            DataError: if they are missing or incomplete.
        """
        try:
            return cls(**json.loads((folder / FACTS).read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{folder / FACTS} does not say what the card needs ({error})") from None

    def write(self, folder: Path) -> None:
        """Write them into a model's folder, without those that are at their defaults."""
        stated = {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default}
        write_bytes(folder / FACTS, (json.dumps(stated, indent=2, ensure_ascii=False) + "\n").encode())


def stored_as(weights: Path) -> StorageDtype:
    """How a shipped model's weights are stored."""
    with safe_open(weights, "pt") as file:
        return "int8" if "quantization" in (file.metadata() or {}) else "bf16"


def measuring(name: str, facts: Facts) -> list[str]:
    """Words of the command that measures a model, after ``jielong``."""
    data = ["--data", facts.measured_on] if facts.measured_on else []
    return ["evaluate", name, *data, *([] if facts.count is None else ["--count", str(facts.count)]), "--json"]


def card_of(folder: Path) -> str:
    """The text of a shipped model's card.

    Raises:
        DataError: if a file that it needs is missing or incomplete.
    """
    facts, licence, name = Facts.of(folder), Licence.beside(folder), folder.name
    if licence is None:
        raise DataError(f"{folder} has no licence.json")
    recipe, evaluation = parse((folder / RECIPE).read_text("utf-8"), str(folder / RECIPE)), read_json(folder / EVALUATION)
    figures = {key: value for key, value in evaluation.items() if key != "provenance"}
    card = ModelCard(
        name=name,
        title=facts.title,
        recipe=recipe,
        kind=description(folder)["media"]["kind"],
        rows={
            "data": f"`{recipe.data.set}`, training split",
            "parameters": f"{evaluation['provenance']['parameters']:,}",
            "file": f"{(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB, {STORED[stored_as(folder / WEIGHTS)]}",
            "training samples": f"{facts.samples:,}",
            **({} if facts.best_at is None else {"weights": f"the best of the run, at {facts.best_at:,} samples"}),
            "training time": f"{facts.minutes} minutes",
            "machine": facts.machine,
            **_drawing(facts),
        },
        sections=[
            f"Trained by\n\n```sh\n{facts.command}\n```",
            f"Held-out figures, by `jielong {shlex.join(measuring(name, facts))}`{facts.remark}:\n\n"
            f"```json\n{json.dumps(figures, indent=2)}\n```",
            *([facts.note] if facts.note else []),
            *([_draws(facts.draws, recipe, facts.subject == "clips")] if facts.draws else []),
            LIMITS[facts.subject],
            licence_words(licence.weights, licence.learned_from),
        ],
        figures=figures,
        licence=licence.weights,
        measured_on=evaluation["provenance"]["reference"]["set"],
    )
    return str(card)


def _drawing(facts: Facts) -> dict[str, str]:
    rows, sample = {}, SAMPLE.get(facts.subject, "sample")
    if facts.evaluations is not None:
        parts = [f"{count:,} of the {part}" for part, count in facts.evaluations.items() if count]
        rows[f"network evaluations a {sample}"] = " and ".join(parts) or "none"
    if facts.seconds is not None:
        times = [f"{seconds:.{3 if seconds < 0.02 else 2}f} in a batch of {batch}" for batch, seconds in facts.seconds.items()]
        rows[f"seconds a {sample}"] = f"{', '.join(times)}; {facts.timed_on}, one thread"
    return rows


def _draws(count: int, recipe: Recipe, clips: bool) -> str:
    of = "" if recipe.condition is None else " of held-out items evenly spread over the set"
    beside = ", each behind the picture that it changes" if edits(recipe) else ", frames of a clip in a row" if clips else ""
    return f"![{count} first draws]({SHEET})\n\nFirst draws{of}{beside}, seed 0, not selected."


def measure(folder: Path, facts: Facts) -> None:
    """Measure a shipped model, draw first pictures or clips if it is a generator of these, and write all and its card."""
    name = folder.name if folder.parent == MODELS else str(folder)
    done = subprocess.run([sys.executable, "-m", "jielong", *measuring(name, facts)], stdout=subprocess.PIPE, check=True, text=True)
    write_bytes(folder / EVALUATION, (json.dumps(json.loads(done.stdout), indent=2) + "\n").encode())
    replace(facts, draws=first_draws(folder)).write(folder)
    write_bytes(folder / CARD, card_of(folder).encode())


def first_draws(folder: Path) -> int:
    """Write the first draws of a generator of pictures or clips as one picture; returns how many, 0 for other models."""
    system = load(str(folder), "cpu")
    medium = system.tokenizer.media
    if system.generator is None or medium.kind not in DRAWS:
        return 0
    count = DRAWS[medium.kind]
    values = HeldoutInputs.of(system, count).conditions(system, count)
    made = system.decode(system.generate_tokens(values, None if values is not None else count, seed=0))
    write_bytes(folder / SHEET, encode(_sheet(system, made), "WEBP", lossless=True))
    return len(made)


def _sheet(system: System, made: torch.Tensor) -> Image.Image:
    """Pictures in a grid, edits behind what they change, frames of a clip in a row with its caption."""
    recipe, medium = system.recipe, system.tokenizer.media
    if medium.kind == "video":
        heldout = open_data(recipe.data.set, "heldout", medium=medium, settings=recipe.data)
        captions = None if recipe.condition is None else names_of(heldout, spread(len(heldout), len(made)))
        return Videos(made, medium.rate or 1.0, captions).sheet()
    if edits(recipe):
        items = heldout_pairs(system, len(made))
        made = torch.stack([torch.stack(list(items.sources or ())), made], 1).flatten(0, 1)
    return sheet(to_bytes(made))


def edits(recipe: Recipe) -> bool:
    """Whether a generator reads the picture that it changes."""
    return any(each.paired for each in condition_inputs(recipe))


def heldout_pairs(system: System, count: int) -> HeldoutItems:
    """Held-out pairs evenly spread over the set, with their sources."""
    recipe = system.recipe
    heldout = open_data(recipe.data.set, "heldout", medium=system.tokenizer.media, settings=recipe.data)
    rows = spread(len(heldout), count)
    return HeldoutItems(heldout.name, heldout.batch(rows), heldout.classes, heldout.medium, sources=list(source_media(heldout, rows)))


@dataclass(frozen=True)
class HeldoutInputs:
    """Inputs of held-out items, evenly spread over the set.

    Attributes:
        values: Of the generator's condition; ``None`` without one, and for a cascade.
        given: Of a call by keyword, for a cascade: its earlier stages are drawn as for a user, and not given real tokens.
    """

    values: Sequence[object] | None
    given: Mapping[str, Sequence[object]] | None = None

    @classmethod
    def of(cls, system: System, count: int) -> HeldoutInputs:
        """Those of ``count`` items, or of all that there are."""
        recipe = system.recipe
        if recipe.condition is None:
            return cls(None)
        if edits(recipe):
            return cls(recipe.condition.from_heldout(heldout_pairs(system, count)))
        heldout = open_data(recipe.data.set, "heldout", medium=system.tokenizer.media, settings=recipe.data)
        if not stage_names(recipe):
            return cls(recipe.condition.for_samples(heldout, count))
        found = {each.keyword: each.for_samples(heldout, count) for each in call_inputs(system)}
        return cls(None, {name: values for name, values in found.items() if values is not None})

    def first(self) -> dict[str, object] | None:
        """:attr:`given` of the first item."""
        return None if self.given is None else {name: values[:1] for name, values in self.given.items()}

    def conditions(self, system: System, count: int, seed: int = 0) -> Sequence[object] | None:
        """Values of the condition, of the first ``count`` items at most; earlier stages of a cascade are run."""
        if self.given is None:
            return None if self.values is None else self.values[:count]
        given = {name: values[:count] for name, values in self.given.items()}
        return gather(system, given, None if given else count, seed).conditions


def has_draws(folder: Path) -> bool:
    """Whether a model is a generator of pictures or clips, by its files."""
    generates = parse((folder / RECIPE).read_text("utf-8"), folder.name).trains_generator
    return generates and description(folder)["media"]["kind"] in DRAWS


def time_model(folder: Path, machine: str | None) -> None:
    """Count network evaluations of a shipped generator of pictures or clips, and with a machine measure seconds; write both and the card.

    Of a cascade they are those of all stages. Seconds, of a batch of one and of eight, are the median of :data:`REPEATS` drawings after a
    first one, in one thread, with decoding.

    Raises:
        DataError: if it is no generator of these.
    """
    system = load(str(folder), "cpu")
    if system.generator is None or system.tokenizer.media.kind not in DRAWS:
        raise DataError(f"{folder.name} is no generator of pictures or clips: name one")
    inputs = HeldoutInputs.of(system, max(BATCHES))
    counted = count_evaluations(system, first_of(inputs.values), given=inputs.first())
    facts = replace(Facts.of(folder), evaluations=counted.to_json())
    if machine is not None:
        torch.set_num_threads(1)
        seconds = {}
        for batch in BATCHES:
            times = []
            for repeat in range(REPEATS + 1):
                begun = time.perf_counter()
                system.decode(system.generate_tokens(inputs.conditions(system, batch, repeat), batch, seed=repeat))
                times.append(time.perf_counter() - begun)
            seconds[str(batch)] = round(statistics.median(times[1:]) / batch, 4)
        facts = replace(facts, seconds=seconds, timed_on=machine)
    facts.write(folder)
    write_bytes(folder / CARD, card_of(folder).encode())


def convert(folder: Path, dtype: StorageDtype, count: int | None, data: str | None = None) -> None:
    """Store a shipped generator's weights in another format, and measure them; or a tokenizer's, to the bit.

    Raises:
        DataError: if that would change a tokenizer: its generators were trained on the tokens of exactly these weights.
    """
    system = load(str(folder), "cpu")
    if system.generator is None:
        store_again(folder, system.tokenizer, dtype)
        write_bytes(folder / CARD, card_of(folder).encode())
        return
    facts = Facts.of(folder)
    save_checkpoint(folder, system.generator, (folder / RECIPE).read_text("utf-8"), dtype)
    measure(folder, replace(facts, count=count, measured_on=data or ""))


def store_again(folder: Path, model: nn.Module, dtype: StorageDtype) -> None:
    """Store a tokenizer's weights in another format if they stay the same to the bit."""
    identity, text = fingerprint(model), (folder / RECIPE).read_text("utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        load_weights(model, save_checkpoint(scratch, model, text, dtype))
    if fingerprint(model) != identity:
        raise DataError(
            f"{folder.name} is a tokenizer, and generators hold the hash of its weights, which {dtype} changes: name a generator"
        )
    save_checkpoint(folder, model, text, dtype)


def main() -> None:
    """Parse the command line, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["card", "convert", "count", "time"])
    parser.add_argument(
        "models", nargs="*", help="names of shipped models; by default card takes all, count and time all generators of pictures and clips"
    )
    parser.add_argument("--in", dest="folder", type=Path, default=MODELS, help="the folder of models; the zoo's by default")
    parser.add_argument("--dtype", choices=STORED, help="how convert stores the weights")
    parser.add_argument("--count", type=int, help="held-out items that convert measures; the default is that of evaluate")
    parser.add_argument("--data", help="the set that convert measures on; the recipe's by default")
    parser.add_argument("--machine", help="the idle machine that time runs on, in words")
    given = parser.parse_args()
    if given.action == "convert" and not (given.models and given.dtype):
        parser.error("convert needs the names of models and --dtype")
    if given.action == "time" and not given.machine:
        parser.error("time needs --machine with the machine in words, such as 'one core of an AMD EPYC (Zen 5)'")
    names = given.models or sorted(
        path.parent.name for path in given.folder.glob(f"*/{RECIPE}") if given.action == "card" or has_draws(path.parent)
    )
    try:
        for folder in (given.folder / name for name in names):
            if given.action == "convert":
                convert(folder, given.dtype, given.count, given.data)
            elif given.action in ("count", "time"):
                time_model(folder, given.machine if given.action == "time" else None)
            else:
                write_bytes(folder / CARD, card_of(folder).encode())
            print(folder / CARD)
    except (DataError, CheckpointError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
