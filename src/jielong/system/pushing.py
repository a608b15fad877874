"""A checkpoint or an adapter to the Hugging Face Hub: all is gathered and checked before a repository is made or a byte is sent."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from jielong.config.hub_address import HubAddress, addresses_in, is_address, parse_address
from jielong.config.recipe import parse, read_file
from jielong.config.schema import Recipe
from jielong.config.zoo import zoo
from jielong.core.files import write_bytes
from jielong.core.storage import size_words
from jielong.data.licences import Licence
from jielong.data.source import DataError
from jielong.system.adapters import find_adapter, read_adapter
from jielong.system.checkpoint import DESCRIPTION, STAGES, copy_stages, find, read_description
from jielong.system.hub import FILES, OFFLINE, PICTURES, api, explained
from jielong.system.model_card import CARD as README
from jielong.system.model_card import ModelCard, adapter_card, licence_words
from jielong.system.verifying import verify
from jielong.training.checkpoint import ADAPTER, RECIPE, WEIGHTS, CheckpointError, checksums_of, write_checksums

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_OF_ADAPTERS = (RECIPE, "metrics.jsonl", "summary.json", "loss.png", README)
"""What goes with an adapter from the folder of its run."""
MESSAGE = "Upload a checkpoint of Jielong"


@dataclass(frozen=True)
class Pushed:
    """A checkpoint or an adapter on the Hub.

    Attributes:
        address: Of the commit.
        files: How many files it has.
        size: Their bytes.
        notes: What whoever reads it should know.
    """

    address: HubAddress
    files: int
    size: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.files} files, {size_words(self.size)}, at {self.address}"


def push(
    name_or_folder: str,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = MESSAGE,
    token: str | None = None,
) -> Pushed:
    """Upload a checkpoint with its stages, or an adapter, with card and metrics in one commit; the repository is made if there is none.

    Args:
        name_or_folder: A shipped model's name, a checkpoint folder, or an adapter: its name with ``@``, its file or its run's folder.
        repository: ``user/name``.
        private: Make a private repository.
        revision: A branch, made if there is none; the main branch by default.
        message: Of the commit.
        token: That may write; by default the one that the Hub's client finds (``hf auth login``, ``HF_TOKEN``).

    Raises:
        CheckpointError: if it is damaged, depends on one that others cannot have, or has no valid card; or the Hub cannot be
            reached or refuses it. Nothing was uploaded then, but perhaps an empty repository made.
    """
    from huggingface_hub import CommitOperationAdd, constants

    address = HubAddress(repository, revision)
    with gathered(name_or_folder, address.name) as (folder, notes):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        if constants.HF_HUB_OFFLINE:
            raise CheckpointError(f"{address}: {OFFLINE} forbids to ask the Hub; unset it to push")
        client = api(token)
        with explained(address, "write"):
            _check_visibility(client, repository, private)
            client.create_repo(repository, private=private, exist_ok=True)
            if revision is not None:
                client.create_branch(repository, branch=revision, exist_ok=True)
            additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in files]
            commit = client.create_commit(repository, additions, commit_message=message, revision=revision)
    return Pushed(address.at(commit.oid), len(files), size, tuple(notes))


def _check_visibility(client: HfApi, repository: str, private: bool) -> None:
    """Refuse to fill a public repository with what is meant to be private."""
    from huggingface_hub import errors

    try:
        info = client.model_info(repository)
    except errors.RepositoryNotFoundError:
        return
    if private and not info.private:
        raise CheckpointError(f"{repository} is there already and public: make it private on its page, or leave out --private")


@contextmanager
def gathered(name_or_folder: str, title: str) -> Iterator[tuple[Path, list[str]]]:
    """A temporary folder with exactly what is uploaded, checked, and what is to be said of it; ``title``: of a card that is written.

    Raises:
        CheckpointError: as :func:`push`.
    """
    if _is_adapter(name_or_folder):
        with _gathered_adapter(name_or_folder, title) as gathered:
            yield gathered
        return
    source = find(name_or_folder)
    recipe = parse(read_file(source / RECIPE), str(source / RECIPE))
    notes = _check_alone(recipe, source, name_or_folder)
    _check_sound(name_or_folder)
    with tempfile.TemporaryDirectory(prefix="jielong-push-") as temporary:
        folder = Path(temporary)
        for path in [*(source / name for name in FILES), *source.glob(PICTURES)]:
            if path.is_file() and (path.parent == source or path.name in _linked(source)):
                target = folder / path.relative_to(source)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
        if (source / STAGES).is_dir():
            shutil.copytree(source / STAGES, folder / STAGES)
        copy_stages(recipe, folder)
        for stage in folder.rglob(WEIGHTS):
            if stage.name not in checksums_of(stage.parent):
                write_checksums(stage.parent, [WEIGHTS])
        notes += _complete_card(folder, recipe, title)
        yield folder, notes


def _is_adapter(name: str) -> bool:
    """Whether a name is that of an adapter: ``@me``, its file, or the folder of the run that trained it."""
    path = Path(name)
    return name.startswith("@") or (path / ADAPTER).is_file() or (path.suffix == Path(ADAPTER).suffix and path.is_file())


@contextmanager
def _gathered_adapter(name: str, title: str) -> Iterator[tuple[Path, list[str]]]:
    """:func:`gathered` of an adapter."""
    file = find_adapter(name)
    record, notes = read_adapter(file).record, []
    if record.base not in zoo() and not is_address(record.base):
        notes.append(f"its model is {record.base}, a folder of this machine: nobody else can apply it unless that is pushed too")
    elif is_address(record.base) and not parse_address(record.base).pinned:
        notes.append(f"{record.base} may change, and the adapter belongs to its weights of today")
    if record.pictures:
        notes.append(f"it was trained on {record.pictures} pictures, whose licence is {record.licence}")
    with tempfile.TemporaryDirectory(prefix="jielong-push-") as temporary:
        folder = Path(temporary)
        shutil.copyfile(file, folder / ADAPTER)
        for path in (file.parent / each for each in _OF_ADAPTERS if file.name == ADAPTER):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
        write_checksums(folder, [ADAPTER])
        if not (folder / README).is_file():
            write_bytes(folder / README, adapter_card(record, title).encode())
            notes.append(f"it has no {README}: one was written from what it records")
        yield folder, notes + _check_metadata(folder / README)


def _check_sound(name: str) -> None:
    found = verify(name)
    if not found.sound:
        problems = [*(file.problem for file in found.files if file.problem), *found.problems]
        raise CheckpointError(f"{name} is damaged and is not uploaded: {problems[0]}")


def _linked(source: Path) -> set[str]:
    """Names of the sample grids that the card shows."""
    card = source / README
    text = card.read_text("utf-8") if card.is_file() else ""
    return {path.name for path in source.glob(PICTURES) if f"samples/{path.name}" in text}


def _check_alone(recipe: Recipe, source: Path, name: str) -> list[str]:
    """Refuse a checkpoint that is built on one which is not there to be uploaded with it; what is said of other names of this machine."""
    for stage, checkpoint in recipe.requires.items():
        here = (source / STAGES / stage / RECIPE).is_file() or Path(checkpoint).is_dir()
        if not here and checkpoint not in zoo() and not is_address(checkpoint):
            raise CheckpointError(
                f"the recipe of {name} names {checkpoint} as its {stage}, which is no shipped model, not on the Hub, no folder of this "
                f"machine, and not copied into {STAGES}/{stage}: put its folder where the recipe says, or push it and name its address"
            )
    loose = [str(each) for each in addresses_in(recipe.to_yaml()) if not each.pinned]
    notes = [f"{each} may change: name a commit of it in the recipe" for each in loose]
    start = recipe.train.init_from
    if start is not None and start not in zoo() and not is_address(start):
        notes.append(
            f"the recipe's train.init_from is {start}, a folder of this machine: the model loads, but nobody else can train it again"
        )
    return notes


def _complete_card(folder: Path, recipe: Recipe, name: str) -> list[str]:
    """Write a card where there is none, and validate its metadata (:func:`_check_metadata`); returns notes for the user."""
    notes = []
    if not (folder / README).is_file():
        write_bytes(folder / README, str(_plain_card(folder, recipe, name)).encode())
        notes.append(f"it has no {README}: one was written from its recipe")
    return notes + _check_metadata(folder / README)


def _check_metadata(path: Path) -> list[str]:
    """Validate the metadata of a card; returns notes for the user.

    Raises:
        CheckpointError: if the metadata are no valid YAML, or name another library.
    """
    notes = []
    metadata = _metadata(path)
    if metadata.get("library_name") != "jielong" or not isinstance(metadata.get("tags"), list):
        raise CheckpointError(f"the metadata of {README} need `library_name: jielong` and `tags`: remove the file to have one written")
    if metadata.get("license") in (None, "unknown"):
        notes.append(f"the licence of the weights is not known: say it in the metadata of {README} (`license:`)")
    return notes


def _metadata(path: Path) -> dict[str, object]:
    """The YAML between the first lines ``---`` of a card."""
    text = path.read_text("utf-8")
    if not text.startswith("---\n") or "\n---\n" not in text[4:]:
        raise CheckpointError(f"{path.name} does not begin with metadata between two lines `---`: remove it to have one written")
    try:
        found = yaml.safe_load(text[4:].split("\n---\n", 1)[0])
    except yaml.YAMLError as error:
        raise CheckpointError(f"the metadata of {path.name} are no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"the metadata of {path.name} are no keys and values: remove it to have one written")
    return found


def _plain_card(folder: Path, recipe: Recipe, name: str) -> ModelCard:
    """A card from the recipe, of a checkpoint that no run wrote."""
    _, medium = read_description(folder / DESCRIPTION)
    try:
        terms = Licence.beside(folder)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    evaluation = folder / "evaluation.json"
    return ModelCard(
        name=name,
        title=f"A {'generator' if recipe.trains_generator else 'tokenizer'} of {medium}.",
        recipe=recipe,
        kind=medium.kind,
        rows={"media": str(medium), "file": size_words((folder / WEIGHTS).stat().st_size)},
        sections=["Licence of the weights: not known." if terms is None else licence_words(terms.weights, terms.learned_from)],
        figures=json.loads(evaluation.read_text("utf-8")) if evaluation.is_file() else {},
        licence=None if terms is None else terms.weights,
    )
