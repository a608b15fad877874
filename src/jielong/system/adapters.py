"""Adapters: small files of what was trained beside a checkpoint's weights, found by name, checked, combined and applied."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter
from safetensors import safe_open
from torch import Tensor

from jielong.conditions.words import words_of
from jielong.config.adapter import Method
from jielong.config.hub_address import PREFIX, HubAddressError, is_address, parse_address
from jielong.config.registry import nearest
from jielong.core.json import JSON, to_text
from jielong.core.text import shorten
from jielong.generation.generator import Generator
from jielong.networks import lora
from jielong.training.checkpoint import ADAPTER, CheckpointError, check_finite, fingerprint, read_tensors, write_tensors

if TYPE_CHECKING:
    from jielong.system.pipeline import System

ADAPTERS = Path("adapters")
"""Where adapters are found by name: ``adapters/@me``, the folder of the run that trained it, or ``adapters/@me.safetensors``."""
RECORD = "jielong_adapter"
"""Key of the record in the metadata of the file."""
VERSION = 1


@dataclass(frozen=True)
class AdapterRecord:
    """What an adapter's file says of it.

    Attributes:
        name: The subject's name in captions.
        base: The checkpoint whose weights it belongs to, as it was loaded.
        base_sha256: Fingerprint of that checkpoint's generator.
        method: What was trained.
        rank: Of low-rank updates.
        alpha: Their scale times the rank.
        words: New words of texts, each with its number of vectors.
        condition: What the base records of its condition, for words.
        pictures: Of the subject, that it was trained on.
        prior: The class pictures of prior preservation, and their weight; ``None`` without.
        licence: Whose the pictures are and under which terms.
        base_licence: Licence of the base's weights; ``None`` where it records none.
        attributions: Whom the base's licence asks to name.
        train: The training settings.
        version: Of this record.
    """

    name: str
    base: str
    base_sha256: str
    method: Method
    rank: PositiveInt | None = None
    alpha: PositiveFloat | None = None
    words: dict[str, PositiveInt] = field(default_factory=dict)
    condition: JSON | None = None
    pictures: NonNegativeInt = 0
    prior: JSON | None = None
    licence: str = "not stated"
    base_licence: str | None = None
    attributions: list[str] = field(default_factory=list)
    train: JSON = field(default_factory=dict)
    version: int = VERSION

    @property
    def scale(self) -> float:
        """``alpha / rank`` of low-rank updates."""
        return 1.0 if self.rank is None or self.alpha is None else self.alpha / self.rank


@dataclass(frozen=True)
class Adapter:
    """An adapter's file.

    Attributes:
        path: The file.
        record: What it says of itself.
        tensors: Factors of low-rank updates, and vectors of new words.
    """

    path: Path
    record: AdapterRecord
    tensors: Mapping[str, Tensor]

    def check(self, system: System, sha256: str) -> None:
        """Refuse a base that it was not trained for.

        Args:
            system: What it is to be applied to.
            sha256: Fingerprint of that system's generator.

        Raises:
            CheckpointError: naming both bases.
        """
        record = self.record
        if record.base_sha256 != sha256:
            same = " (its weights changed since)" if record.base == system.name else ""
            raise CheckpointError(
                f"the adapter {record.name} ({self.path}) belongs to {record.base} with the SHA-256 {record.base_sha256[:12]}..., and "
                f"{system.name} has {sha256[:12]}...{same}: load {record.base}, or personalise {system.name}"
            )
        try:
            if system.generator is not None:
                lora.check_factors(system.generator, self.tensors, record.rank or 0)
                self._check_words(system.generator)
        except ValueError as error:
            raise CheckpointError(f"{self.path} is damaged: {error}; copy or train the adapter again") from None

    def _check_words(self, generator: Generator) -> None:
        record, found = self.record, words_of(generator.condition)
        if record.words and (found is None or found[1].describe() != record.condition):
            raise ValueError(f"it has the words {', '.join(record.words)} of another text encoder")
        for word, count in record.words.items():
            width = 0 if found is None else found[0].word_embeddings.width
            for key in (word_key(word), word_key(word, initial=True)):
                if key not in self.tensors or tuple(self.tensors[key].shape) != (count, width):
                    raise ValueError(f"the vectors of {word} are missing, or are not ({count}, {width})")

    def vectors(self, word: str, weight: float) -> Tensor:
        """The vectors of a word, that far from what they began as to what was learned."""
        initial, learned = (self.tensors[word_key(word, initial=each)].float() for each in (True, False))
        return initial + weight * (learned - initial)


def word_key(word: str, initial: bool = False) -> str:
    """Name of the tensor of a new word's vectors, or of those that they began as."""
    return f"word.{word}.initial" if initial else f"word.{word}"


def write_adapter(path: Path, record: AdapterRecord, tensors: Mapping[str, Tensor]) -> Path:
    """Write an adapter's file beside its place and rename it.

    Raises:
        StorageError: if it cannot be written.
    """
    write_tensors(path, tensors, {"format": "pt", RECORD: to_text(asdict(record))})
    return path


def read_record(path: Path) -> AdapterRecord:
    """The record of an adapter's file.

    Raises:
        CheckpointError: if it is no safetensors file, or holds no record.
    """
    read_error = "is no adapter: train one with jielong personalise"
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(RECORD)
    except Exception as error:  # of the library, whose types are no part of its interface
        raise CheckpointError(f"{path} {read_error} ({shorten(str(error), 200)})") from None
    if text is None:
        raise CheckpointError(f"{path} {read_error} (its metadata have no {RECORD})")
    try:
        stored = json.loads(text)
        if stored["version"] != VERSION:
            raise CheckpointError(f"{path} has version {stored['version']!r}, and this version reads {VERSION}: train it again")
        return TypeAdapter(AdapterRecord).validate_python(stored)
    except CheckpointError:
        raise
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        reason = shorten(" ".join(str(error).split()), 200)
        raise CheckpointError(f"{path} is damaged ({reason}); copy or train the adapter again") from None


def read_adapter(path: Path) -> Adapter:
    """Read an adapter's file.

    Raises:
        CheckpointError: if it is missing, damaged, or no adapter, or holds NaN or infinite values.
    """
    tensors = read_tensors(path)
    check_finite(tensors, str(path))
    return Adapter(path, read_record(path), tensors)


def parse_reference(text: str) -> tuple[str, float]:
    """``@me:0.8`` to the name, path or address, and the weight; 1 without one.

    Raises:
        ValueError: if the weight is no finite number. What stands behind a colon is one, unless there is a file of the whole text.
    """
    begin = len(PREFIX) if is_address(text) else 0
    name, _, number = text[begin:].rpartition(":")
    name = text[:begin] + name if name else ""
    if not name or Path(text).exists():
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"the weight of an adapter is a number such as 0.8, not {number}: write {name}:0.8")
    return name, weight


def find_adapter(name: str, folder: Path = ADAPTERS) -> Path:
    """The file of an adapter: a path, the folder of a run that trained one, a name in ``folder``, or an address of the Hub.

    Raises:
        CheckpointError: if there is none, or it cannot be fetched (:func:`jielong.system.hub.fetch`).
    """
    if is_address(name):
        from jielong.system.hub import fetch

        try:
            return fetch(parse_address(name), (ADAPTER,)) / ADAPTER
        except HubAddressError as error:
            raise CheckpointError(str(error)) from None
    for path in (Path(name), folder / name, folder / f"{name}.safetensors"):
        file = path / ADAPTER if path.is_dir() else path
        if file.is_file():
            return file
    known = [each.record.name for each in listed(folder)]
    hint = nearest(name, known) if known else f"{folder} holds none; jielong personalise trains one"
    unfinished = next((path for path in (Path(name), folder / name) if (path / "recipe.yaml").is_file()), None)
    if unfinished is not None:
        hint = f"{unfinished} has not finished: go on training it with the command that began it"
    raise CheckpointError(f"there is no adapter called {name!r} and no such file; {hint}")


@dataclass(frozen=True)
class Listed:
    """An adapter that was found in a folder: its file, record, and bytes."""

    path: Path
    record: AdapterRecord
    size: int


def listed(folder: Path = ADAPTERS) -> list[Listed]:
    """The adapters of a folder, by name; a warning names each file that is damaged or none."""
    found = list[Listed]()
    for path in sorted([*folder.glob(f"*/{ADAPTER}"), *folder.glob("*.safetensors")]):
        try:
            found.append(Listed(path, read_record(path), path.stat().st_size))
        except CheckpointError as error:
            warnings.warn(f"{path} is left out: {error}", stacklevel=2)
    return sorted(found, key=lambda each: (each.record.name, each.path))


def with_adapters(system: System, references: Sequence[str]) -> System:
    """A system with adapters: its weights are changed in place, and its name says which.

    The updates of all adapters, each by its weight, are summed before they are added to the weights, so that their order does not matter
    and every fast path has them. Vectors of a new word go that far from what they began as. An adapter of weight 0 is left out, and so is
    its word.

    Args:
        system: A generator with the weights of its checkpoint.
        references: Names, paths or addresses, each with ``:WEIGHT`` behind it, 1 by default.

    Raises:
        CheckpointError: if an adapter is missing, damaged, or of another base.
        ValueError: if a weight is no finite number.
    """
    if not references:
        return system
    if system.generator is None:
        raise CheckpointError(f"{system.name} is a tokenizer, and adapters are of generators: load the model that they were trained for")
    wanted = [parse_reference(each) for each in references]
    adapters = [(read_adapter(find_adapter(name)), weight) for name, weight in wanted]
    sha256 = fingerprint(system.generator)
    for adapter, _ in adapters:
        adapter.check(system, sha256)
    applied = [(adapter, weight) for adapter, weight in adapters if weight]
    _check_clashes([adapter for adapter, _ in applied])
    _apply(system.generator, applied)
    words = {word: count for adapter, _ in applied for word, count in adapter.record.words.items()}
    recipe = system.recipe
    if words and recipe.condition is not None:
        recipe = recipe.model_copy(update={"condition": recipe.condition.with_words(words)})
    return replace(system, recipe=recipe, name=" + ".join([system.name, *(f"{each.record.name}:{weight:g}" for each, weight in adapters)]))


def _apply(generator: Generator, adapters: Sequence[tuple[Adapter, float]]) -> None:
    """Add the sum of all weighted updates to the weights."""
    total = dict[str, Tensor]()
    for adapter, weight in adapters:
        for name, update in lora.updates(adapter.tensors, adapter.record.scale).items():
            total[name] = total[name] + weight * update if name in total else weight * update
    lora.add_updates(generator, total)
    found = words_of(generator.condition)
    for adapter, weight in adapters:
        for word in adapter.record.words:
            if found is not None:  # which was checked
                found[0].add_word(word, adapter.vectors(word, weight).to(generator.device)).requires_grad_(False)


def _check_clashes(adapters: Sequence[Adapter]) -> None:
    seen = dict[str, Path]()
    for adapter in adapters:
        for word in adapter.record.words:
            if word in seen:
                raise CheckpointError(f"{seen[word]} and {adapter.path} both define the word {word}: apply one of them")
            seen[word] = adapter.path
