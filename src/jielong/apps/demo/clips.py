"""Clips of models of video for the demo: a mission by each strategy, a character being written, and a face that speaks."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from jielong.apps.demo.audio_samples import SENTENCES
from jielong.apps.demo.verdicts import VERDICTS, Judgement
from jielong.conditions.inputs import ConditionInput
from jielong.conditions.voice import Recording
from jielong.config import recipe as recipes
from jielong.config.schema import Recipe
from jielong.config.zoo import zoo_of
from jielong.data.licences import terms
from jielong.data.opening import open_quietly
from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.data.source import DataError
from jielong.data.splits import Split
from jielong.evaluation.context import DrawSettings, EvalContext
from jielong.evaluation.judges.base import rows_of
from jielong.media.audio import write_audio
from jielong.media.images import write_image
from jielong.media.players import Sound
from jielong.media.reading.libraries import MissingLibraryError
from jielong.networks.efficientnet import WeightsError
from jielong.orders.frames import Frames
from jielong.system import System, load, zoo
from jielong.system.inputs import call_inputs
from jielong.system.shipped import shipped_figure

CHARACTER = "永"
"""The character that is written: its strokes are those of calligraphy's classical exercise."""
SUBJECTS = {
    "missions": "A mission by each strategy",
    "strokes": "A character being written",
    "avatars": "A face that speaks",
}
"""Titles of sections by the judge of the set of clips, in the order of the page."""
SOUND, TEXT = "sound", "text"


@dataclass(frozen=True)
class ShownClip:
    """A clip of a model or of the data set.

    Attributes:
        title: Name of the model, or that it is the data set's.
        description: How it was made.
        caption: What it is to show.
        frames: ``(C, T, H, W)`` in [-1, 1].
        rate: Frames a second.
        judgement: The judge's verdict, or why there is none; ``None`` where nothing is judged.
        sound: Audio played with it.
        command: That generates the same clip.
    """

    title: str
    description: str
    caption: str
    frames: Tensor
    rate: float
    judgement: Judgement | None = None
    sound: Recording | None = None
    command: str = ""


@dataclass(frozen=True)
class ClipSection:
    """A section of the page: clips of one kind of set.

    Attributes:
        judge: Name of the set's judge.
        clips: The data set's clip, and those of each model.
        given: Names of the inputs that models were given.
        held_out: Whether no model was trained on the clip.
        credits: Attribution and licences of the data sets.
    """

    judge: str
    clips: Sequence[ShownClip]
    given: frozenset[str] = frozenset()
    held_out: bool = False
    credits: Sequence[str] = ()

    @property
    def title(self) -> str:
        """See :data:`SUBJECTS`."""
        return SUBJECTS[self.judge]


@dataclass
class _Found:
    clips: list[ShownClip] = field(default_factory=list)
    given: set[str] = field(default_factory=set)
    held_out: bool = True
    credits: list[str] = field(default_factory=list)


def clip_models() -> list[str]:
    """Names of shipped generators of clips."""
    return [name for name, folder in zoo_of("video").items() if recipes.load(str(folder)).order is not None]


def clip_sections(
    seed: int, folder: Path, missing: dict[str, str], names: Sequence[str] | None = None, log: Callable[[str], None] = lambda text: None
) -> list[ClipSection]:
    """Sections of models of clips whose set has a judge of :data:`SUBJECTS`; what is left out is added to ``missing`` with its reason.

    Args:
        seed: Seed of all clips.
        folder: Where pictures and sound are written that the commands read.
        missing: Receives what is not shown.
        names: Models, names or folders; all shipped ones by default.
        log: Receives progress messages.
    """
    found: dict[str, _Found] = {}
    for name in clip_models() if names is None else names:
        try:
            system = load(name, "cpu")
            judge = _judge_of(system)
            log(f"{name}: a clip of {judge}")
            _add(found.setdefault(judge, _Found()), judge, system, seed, folder / judge, missing)
        except (ValueError, RuntimeError, MissingLibraryError, WeightsError) as error:
            missing[name] = str(error)
    absent = [judge for judge in SUBJECTS if not (found.get(judge) or _Found()).clips]
    if absent:
        missing["video"] = f"no model that generates clips of {' or '.join(absent)} is installed"
    return [
        ClipSection(judge, each.clips, frozenset(each.given), each.held_out, tuple(dict.fromkeys(each.credits)))
        for judge in SUBJECTS
        if (each := found.get(judge)) is not None and each.clips
    ]


def _judge_of(system: System) -> str:
    """The judge of a model's set. Raises ``ValueError`` if the demo shows no clips of it."""
    if system.generator is None:
        raise ValueError("it is a tokenizer, and the demo shows clips that are generated")
    judge = _open(system, None).source.judge
    if judge not in SUBJECTS:
        raise ValueError(
            f"the demo shows clips of sets with the judges {', '.join(SUBJECTS)}, and {system.recipe.data.set} has {judge or 'none'}"
        )
    return judge


def _open(system: System, split: Split | None) -> MediaSet:
    return open_quietly(system.recipe.data.set, split, medium=system.tokenizer.media, settings=system.recipe.data)


def _chosen(system: System, judge: str) -> tuple[MediaSet, int, bool]:
    """The clip that is shown of a set: a fixed one that is held out, or the character of the demo, in either split."""
    heldout = _open(system, "heldout")
    if judge == "strokes":
        splits: tuple[Split, ...] = ("heldout", "train")
        for split in splits:
            media = heldout if split == "heldout" else _open(system, split)
            characters = list(media.columns.get("character", ()))
            if CHARACTER in characters:
                return media, characters.index(CHARACTER), split == "heldout"
    return heldout, spread(len(heldout), 3)[1 % len(heldout)], True


def _add(found: _Found, judge: str, system: System, seed: int, folder: Path, missing: dict[str, str]) -> None:
    """Add the clip of a model, and the real clip before the first."""
    media, row, held_out = _chosen(system, judge)
    real, columns = media.media([row]), rows_of(media, [row])[0]
    context = EvalContext(system, media, [row], real, DrawSettings(seed), lambda *_: None)
    values = {name: given[0] for name, given in context.given().items()}
    verdict, medium = VERDICTS[judge], media.medium
    heard = values.get(SOUND)
    sound = heard if isinstance(heard, Recording) else None
    caption = context.names[0]
    shown = _generated(system, values, caption, seed, folder)
    shown = replace(shown, judgement=verdict(shown.frames, real[0], columns, medium), sound=sound)
    if not found.clips:
        judged = verdict(real[0], real[0], columns, medium)
        found.clips.append(ShownClip("data set", "the real clip", caption, real[0], shown.rate, judged, sound))
    found.clips.append(shown)
    found.given |= {each.name for each in call_inputs(system) if each.keyword in values}
    found.held_out &= held_out
    found.credits += [str(each) for each in _terms(system)]
    if judge == "avatars" and sound is not None:
        _say(found, system, values, columns, seed, folder, missing)


def _terms(system: System) -> Sequence[object]:
    try:
        return terms(system.recipe.data.set)
    except DataError:
        return ()


def _generated(system: System, values: Mapping[str, object], caption: str, seed: int, folder: Path) -> ShownClip:
    """A clip of a model for these inputs by keyword."""
    arguments: dict[str, Any] = {name: [value] for name, value in values.items()} or {"count": 1}
    started = time.perf_counter()
    item = system.generate(**arguments, seed=seed)[0]
    seconds = time.perf_counter() - started
    rate = system.tokenizer.media.rate or 1.0
    command = _command(system, values, seed, folder)
    return ShownClip(system.name, f"{_strategy(system)}; {seconds:.1f} s", caption, item.tensor.cpu(), rate, command=command)


def _strategy(system: System) -> str:
    """Order and tokens of a model in words."""
    order, layout = system.recipe.order, system.tokenizer.layout
    assert order is not None
    inside = f", {order.inside.name.replace('_', ' ')} within a frame" if isinstance(order, Frames) else ""
    grid = " x ".join(map(str, layout.grid))
    return f"order {order.name.replace('_', ' ')}{inside}; {grid} {'codes' if layout.discrete else 'vectors'}"


def _command(system: System, values: Mapping[str, object], seed: int, folder: Path) -> str:
    """The command that generates the same clip, with its pictures and sound written beside the page."""
    inputs = {each.keyword: each for each in call_inputs(system)}
    options = [_option(inputs[name], value, folder) for name, value in values.items()] or ["-n 1"]
    return f"jielong generate {shlex.quote(system.name)} {' '.join(options)} --seed {seed} --out {folder.name}.webp"


def _option(each: ConditionInput, value: object, folder: Path) -> str:
    if isinstance(value, Tensor):
        value = write_image(folder / f"{each.name.replace('_', '-')}.png", value)
    elif isinstance(value, Recording):
        waveform = value.waveform if value.waveform.ndim == 2 else value.waveform[None]
        value = write_audio(folder / f"{each.name}-{int(waveform.shape[1] / value.rate * 100)}.wav", waveform, value.rate)
    return f"{each.option} {shlex.quote(str(value))}"


def _say(
    found: _Found, system: System, values: dict[str, Any], columns: Mapping[str, Any], seed: int, folder: Path, missing: dict[str, str]
) -> None:
    """Add a clip in which the same face says the demo's sentence, in speech as long as the clip."""
    sentence, medium = SENTENCES[0], system.tokenizer.media
    spoken = speech(sentence, medium.frames / (medium.rate or 1.0), seed, missing)
    if spoken is None:
        return
    recording, by = spoken
    given = {**values, SOUND: recording}
    caption = sentence
    if isinstance(values.get(TEXT), str):
        caption = given[TEXT] = values[TEXT].replace(str(columns.get("text")), sentence)
    shown = _generated(system, given, caption, seed, folder / "sentence")
    found.clips.append(replace(shown, description=f"{shown.description}; speech by {by}", sound=recording))


def _speaks(each: Recipe) -> bool:
    """Whether a recipe is of a speech generator whose duration is given, not predicted."""
    if each.order is None or each.condition is None or not any(part.transcript for part in each.condition.components):
        return False
    return each.condition.alignment is not None or any(part.sets_duration for part in each.condition.inputs)


def speech(sentence: str, seconds: float, seed: int, missing: dict[str, str]) -> tuple[Recording, str] | None:
    """A sentence of exactly that duration by the shipped model of speech with durations that makes fewest errors, and its name."""
    shipped = {name: recipes.load(str(folder)) for name, folder in zoo().items()}
    errors = {name: shipped_figure(name, "wer") for name, each in shipped.items() if _speaks(each)}
    for _, name in sorted((1.0 if wer is None else wer, name) for name, wer in errors.items()):
        try:
            item = load(name, "cpu").generate(text=sentence, seconds=seconds, seed=seed)[0]
        except (ValueError, RuntimeError, MissingLibraryError, WeightsError) as error:
            missing[f"{sentence!r} by {name}"] = str(error)
            continue
        assert isinstance(item, Sound)
        return Recording(item.tensor.cpu(), item.rate), name
    missing[f"a face that says {sentence!r}"] = "no model of speech with durations is installed that says it"
    return None
