"""Personalisation: from a checkpoint and a folder of pictures to a recipe with `adapter`, and its run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from jielong.config.adapter import AdapterSettings, LoraSettings, Method, PriorSettings, TextualInversionSettings, check_name
from jielong.config.recipe import parse
from jielong.config.registry import RecipeError
from jielong.config.schema import Recipe
from jielong.core.files import new_folder
from jielong.media.images import from_tensor
from jielong.networks import lora
from jielong.system import System, load
from jielong.training.settings import TrainSettings
from jielong.training.subject import open_subject

CLASS_FOLDER = "class-pictures"
"""In the folder of a run: what its base generated for prior preservation."""


@dataclass(frozen=True)
class Personalisation:
    """What is trained, and for how long.

    Attributes:
        name: The subject's name in captions, such as ``@me``.
        method: Low-rank updates (``lora``), a new word (``textual-inversion``), or ``both``.
        rank: Of low-rank updates.
        alpha: Their scale times the rank; by default the rank.
        targets: The maps that they update (:class:`~jielong.config.adapter.LoraSettings`).
        vectors: Of the new word.
        captions: Templates for pictures without a caption.
        noun: The subject's class, such as ``person``: what a new word begins as, and what class pictures show.
        prior: Class pictures of prior preservation; 0 for none.
        prior_from: Where they come from: the base draws them (``generated``), or from its recipe's data (``data``).
        prior_weight: Factor of their loss.
        samples: Pictures seen in training.
        batch: Pictures of the subject a step.
        lr: Peak learning rate; by default 0.001 for low-rank updates and 0.005 for a new word alone.
        seed: Of the training.
        licence: Whose the pictures are and under which terms.
    """

    name: str
    method: Method = "lora"
    rank: int = 8
    alpha: float | None = None
    targets: Sequence[str] = ("attention", "mlp")
    vectors: int = 1
    captions: Sequence[str] = ("a picture of {name}",)
    noun: str | None = None
    prior: int = 0
    prior_from: str = "generated"
    prior_weight: float = 1.0
    samples: int = 3_200
    batch: int = 8
    lr: float | None = None
    seed: int = 0
    licence: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.method not in get_args(Method):
            raise ValueError(f"method is {', '.join(get_args(Method))}, not {self.method!r}")
        if self.prior < 0:
            raise ValueError(f"prior is a number of class pictures, 0 for none, not {self.prior}")
        if self.prior and self.prior_from not in ("generated", "data"):
            raise ValueError(f"prior_from is generated or data, not {self.prior_from!r}")
        if self.prior and self.prior_from == "generated" and self.noun is None:
            raise ValueError("class pictures are generated from the subject's class: give `noun`, such as person, or prior_from data")


def derived(base: System, name: str, folder: Path, out: Path, wanted: Personalisation, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a personalisation, checked.

    Args:
        base: The base.
        name: What the base was loaded by.
        folder: The pictures.
        out: The folder of the run.
        wanted: What is trained.
        overrides: ``a.b=c`` changes.

    Raises:
        RecipeError: if the base cannot be personalised so, or an override is wrong.
    """
    prior, by_word = None, wanted.method == "textual-inversion"
    if wanted.prior:
        source = str(out / CLASS_FOLDER) if wanted.prior_from == "generated" else base.recipe.data.set
        prior = PriorSettings(set=source, pictures=wanted.prior, weight=wanted.prior_weight)
    adapter = AdapterSettings(
        name=wanted.name,
        captions=tuple(wanted.captions),
        lora=None if by_word else LoraSettings(rank=wanted.rank, alpha=wanted.alpha, targets=tuple(wanted.targets)),
        textual_inversion=None if wanted.method == "lora" else TextualInversionSettings(vectors=wanted.vectors, noun=wanted.noun),
        prior=prior,
        licence=wanted.licence,
    )
    given = base.recipe.data
    plain = {"set": str(folder), "deduplicate": False, "missing_condition": "skip"}
    data = given.model_copy(update={**plain, **({"augment": None} if "augment" in type(given).model_fields else {})})
    train = TrainSettings(
        samples=wanted.samples,
        batch=min(wanted.batch, wanted.samples),
        lr=wanted.lr or (5e-3 if by_word else 1e-3),
        weight_decay=0.0,
        warmup=wanted.samples // 20,
        ema=0.98,
        precision=base.recipe.train.precision,
        seed=wanted.seed,
        init_from=name,
        sample_every=max(wanted.batch, wanted.samples // 4),
        save_every=max(wanted.batch, wanted.samples // 4),
    )
    recipe = base.recipe.model_copy(update={"data": data, "adapter": adapter, "train": train})
    return parse(recipe.to_yaml(), f"the personalisation of {name}", overrides)


def plan(checkpoint: str, folder: Path, out: Path, wanted: Personalisation, overrides: Sequence[str] = (), device: str = "auto") -> Recipe:
    """The recipe of a personalisation, with everything checked that is known before the work; then its class pictures are drawn.

    Args:
        checkpoint: A shipped model's name, or a checkpoint folder.
        folder: Three to ten pictures of the subject.
        out: The folder of the run.
        wanted: What is trained.
        overrides: ``a.b=c`` changes of the recipe.
        device: Where class pictures are drawn.

    Raises:
        DataError: if the folder holds too few or too many pictures, or captions that do not name the subject.
        RecipeError: if the checkpoint cannot be personalised so.
        CheckpointError: if it cannot be loaded.
    """
    if not folder.is_dir():
        raise RecipeError(f"there is no folder {folder}: put three to ten pictures of the subject into one")
    base = load(checkpoint, device)
    if base.generator is None:
        raise RecipeError(f"{checkpoint} is a tokenizer, which draws nothing: personalise a generator such as maskgit-faces")
    if wanted.method != "textual-inversion":
        lora.check_installed()
    recipe = derived(base, checkpoint, folder, out, wanted, overrides)
    open_subject(recipe, recipe.data.set)
    if wanted.prior and wanted.prior_from == "generated":
        draw_class_pictures(base, out / CLASS_FOLDER, wanted)
    return recipe


def draw_class_pictures(base: System, target: Path, wanted: Personalisation) -> None:
    """Draw the class pictures of prior preservation into a folder, whole or not at all; a folder that is there is kept."""
    if target.is_dir():
        return
    caption = f"a picture of a {wanted.noun}"
    drawn = base.generate(text=caption if base.inputs else None, count=wanted.prior, seed=wanted.seed).tensor
    with new_folder(target) as folder:
        table = io.StringIO()
        rows = csv.writer(table)
        rows.writerow(["file_name", "caption", "split"])
        for index, picture in enumerate(drawn):
            from_tensor(picture).save(folder / f"{index:05d}.png")
            rows.writerow([f"{index:05d}.png", caption, "train"])
        (folder / "metadata.csv").write_text(table.getvalue(), encoding="utf-8")
