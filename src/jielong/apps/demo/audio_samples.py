"""What the shipped models of sound make: how a clip came to be, step by step, to look at and to listen to."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.apps.demo.trace_view import Story, told
from jielong.conditions.voice import Recording
from jielong.core.tokens import Tokens
from jielong.data.joined import joined_name, listed
from jielong.data.licences import Licence
from jielong.data.opening import open_data, open_source
from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.data.source import DataError
from jielong.generation.callbacks import StepCallback, StepEvent
from jielong.media.audio import MissingLibraryError
from jielong.media.players import Sound
from jielong.media.spectrograms import spectrogram
from jielong.networks.efficientnet import WeightsError
from jielong.system import DESCRIPTION, System, find, is_timed, load, zoo

SENTENCES = ("Please leave a message after the tone.", "Press one to continue.", "The number is seven.")
NAMES = ("bass, hit", "hi-hat", "tabla")
SENTENCE = 3
"""Words that make one, of a set's captions."""
FRAMES, TOKENS, VOICES = 32, 256, 2
"""Of a film at most, tokens beside it at most, and voices that a sentence is said in again."""
ON_THE_WAY = (0.0, 0.25, 0.5)
"""Where in a film of what is drawn together it is listened to."""


@dataclass(frozen=True)
class Clip:
    """A sound.

    Attributes:
        caption: What is said or heard in it.
        label: Where it is from: who speaks, or what made it.
        waveform: ``(C, T)``.
        rate: Samples a second.
    """

    caption: str
    label: str
    waveform: Tensor
    rate: int


@dataclass(frozen=True)
class Made:
    """A clip that a model made.

    Attributes:
        clip: It; of a tokenizer what came back.
        real: The set's own clip of the same, where it has one.
        story: How a generator came to it, with a film of its spectrogram.
        on_the_way: What it sounded like in between, where all tokens are drawn together.
    """

    clip: Clip
    real: Clip | None = None
    story: Story | None = None
    on_the_way: Sequence[Clip] = ()


@dataclass(frozen=True)
class Hearing:
    """What one model made.

    Attributes:
        model: Its name.
        title: Of its section.
        made: What it made.
        command: What makes the first clip.
        spoken: Whether a text that it is told is said, and not described.
        voices: Pairs: a voice that was given, and the first sentence in it.
        credits: Whose recordings these are.
        licence: Of a shipped model's weights, with the names that stay beside what is made with them.
    """

    model: str
    title: str
    made: Sequence[Made]
    command: str
    spoken: bool = False
    voices: Sequence[tuple[Clip, Clip]] = ()
    credits: Sequence[str] = ()
    licence: Licence | None = None


class Film:
    """A ``watch`` that keeps some moments out of any number of them, evenly spread, and the last one."""

    def __init__(self, most: int = FRAMES) -> None:
        self.most, self.every = most, 1
        self.kept: list[StepEvent] = []
        self.last: StepEvent | None = None

    def __call__(self, moment: StepEvent) -> None:
        """Keep it, if its turn has come; at twice as many as wanted every second one goes."""
        self.last = moment
        if moment.step % self.every == 0:
            self.kept.append(moment)
            if len(self.kept) > self.most:
                self.every *= 2
                self.kept = [each for each in self.kept if each.step % self.every == 0]

    @property
    def moments(self) -> list[StepEvent]:
        """Those kept, the last of all behind them."""
        ended = [] if self.last is None or (self.kept and self.kept[-1].step == self.last.step) else [self.last]
        return [*self.kept, *ended]


def listen(seed: int, missing: dict[str, str], names: Sequence[str] | None = None) -> list[Hearing]:
    """Let models of sound be heard, generators first; those of the zoo by default. One that cannot be is named in ``missing``, and why."""
    heard = []
    for name in _models() if names is None else names:
        try:
            system = load(name, "cpu")
            heard.append(_round_trip(system) if system.generator is None else _generated(system, seed, missing))
        except (ValueError, RuntimeError, MissingLibraryError) as error:
            missing[name] = str(error)
    return sorted(heard, key=lambda hearing: hearing.made[0].story is None)


def _models() -> list[str]:
    """Shipped models of sound."""
    found = []
    for name, folder in zoo().items():
        try:
            described = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if described.get("media", {}).get("kind") == "audio":
            found.append(name)
    return found


@dataclass(frozen=True)
class _Example:
    """Something to be said or drawn: words or a class, how long, and its recording."""

    asked: dict[str, Any]
    caption: str
    real: Clip | None = None


def _heldout(system: System) -> MediaSet | None:
    """Held-out clips of the model's own sets, of those that are here; ``None`` where none is."""
    here = []
    for name in listed(system.recipe.data.set):
        try:
            open_source(name, "audio")
        except DataError:
            continue
        here.append(name)
    try:
        return open_data(joined_name(here), "heldout", medium=system.tokenizer.media, settings=system.recipe.data, whole=True)
    except DataError:
        return None


def _recordings(system: System, count: int) -> tuple[list[Clip], list[str], list[Any]]:
    """Held-out clips of the model's own set with their words, whom they are by, and their speakers; nothing where the set is not here."""
    media, sounds = system.tokenizer.media, _heldout(system)
    if sounds is None:
        return [], [], []
    # Of speech there is more to hear in a sentence than in a beep or a letter's name.
    sentences = [row for row, caption in enumerate(sounds.captions) if len(caption.split()) >= SENTENCE] or list(range(len(sounds)))
    rows = [sentences[place] for place in spread(len(sentences), count)]
    batch = sounds.batch(rows)
    lengths = batch.lengths.tolist() if batch.lengths is not None else [media.size[0]] * len(rows)
    columns = sounds.columns
    speakers, synthetic = columns.get("speaker"), columns.get("synthetic")

    def label(row: int) -> str:
        kind = "synthetic voice" if synthetic and synthetic[row] else "recording"
        return f"{kind}, {speakers[row]}" if speakers and speakers[row] else kind

    clips = [
        Clip(sounds.captions[row] or sounds.keys[row], label(row), wave[:, :length], media.sample_rate)
        for row, wave, length in zip(rows, batch.media, lengths, strict=True)
    ]
    people = list(zip(*(columns[name] for name in ("attribution", "licence") if name in columns), strict=True))
    by = sorted({", ".join(str(word) for word in people[row] if word) for row in rows} - {""}) if people else []
    return clips, by, [columns.get("speaker", sounds.labels)[row] for row in rows]


def _examples(system: System, clips: Sequence[Clip]) -> list[_Example]:
    """What to ask of a generator, by what it is told."""
    parts, rate = system.inputs, system.tokenizer.media.sample_rate
    timed = is_timed(system.recipe)
    if "text" in parts:
        if clips:
            told_of = [_Example({"text": clip.caption}, clip.caption, clip) for clip in clips]
        else:
            words = SENTENCES if _speaks(system) else NAMES
            told_of = [_Example({"text": text}, text) for text in words]
        if not timed:
            return told_of
        longest = system.tokenizer.media.size[0] / rate
        lengths = [
            each.real.waveform.shape[1] / rate if each.real is not None else 0.4 + 0.07 * len(each.caption) if _speaks(system) else 1.0
            for each in told_of
        ]
        return [
            _Example({**each.asked, "seconds": min(seconds, longest)}, each.caption, each.real)
            for each, seconds in zip(told_of, lengths, strict=True)
        ]
    if "class" in parts:
        classes = json.loads((find(system.name) / DESCRIPTION).read_text("utf-8"))["classes"]
        return [_Example({"classes": name}, name) for name in classes[: len(NAMES)]]
    return [_Example({"count": 1}, "nothing was asked for")]


def _speaks(system: System) -> bool:
    """Whether the text it is told is said, and not described."""
    return system.recipe.condition is not None and any(part.transcript for part in system.recipe.condition.components)


def _generated(system: System, seed: int, missing: dict[str, str]) -> Hearing:
    """A few clips, each with its film, and the first sentence in other voices where the model is told a voice."""
    clips, by, speakers = _recordings(system, len(SENTENCES))
    examples = _examples(system, clips)
    made = [replace(tell(system, example.asked, example.caption, seed), real=example.real) for example in examples]
    voices: list[tuple[Clip, Clip]] = []
    if "voice" in system.inputs:
        others = dict(reversed(list(zip(speakers, clips, strict=True))))
        try:
            voices = _again(system, examples[0], list(others.values())[:VOICES] or [_own_voice(system, examples[-1], seed)], seed)
        except (MissingLibraryError, WeightsError) as error:
            missing[f"other voices of {system.name}"] = str(error)
    words = " ".join(_option(key, value) for key, value in examples[0].asked.items())
    return Hearing(
        model=system.name,
        title=f"{'Words spoken' if _speaks(system) else 'Sound'}, by {system.name}",
        made=made,
        command=f"jielong generate {shlex.quote(system.name)} {words} --seed {seed} --out heard --trace",
        spoken=_speaks(system),
        voices=voices,
        credits=by,
        licence=Licence.beside(find(system.name)),
    )


def _sound(system: System, asked: Mapping[str, Any], seed: int, on_step: StepCallback | None = None) -> Sound:
    sound = system.generate(**asked, seed=seed, on_step=on_step)[0]
    assert isinstance(sound, Sound)
    return sound


def _own_voice(system: System, example: _Example, seed: int) -> Clip:
    """A voice that the model takes when it is told none: that of another seed."""
    sound = _sound(system, example.asked, seed + 1)
    return Clip(example.caption, f"generated by {system.name}", sound.tensor, sound.rate)


def _again(system: System, example: _Example, voices: Sequence[Clip], seed: int) -> list[tuple[Clip, Clip]]:
    """Each voice, and the example said in it."""
    given = [Recording(voice.waveform, voice.rate) for voice in voices]
    sounds = [_sound(system, {**example.asked, "voice": voice}, seed) for voice in given]
    label = f"generated by {system.name}, told that voice"
    return [
        (replace(voice, label=f"the voice given: {voice.label}"), Clip(example.caption, label, sound.tensor, sound.rate))
        for voice, sound in zip(voices, sounds, strict=True)
    ]


def _option(key: str, value: Any) -> str:
    """What was asked, as an option of ``jielong generate``."""
    if key == "count":
        return f"-n {value}"
    return f"--{'class' if key == 'classes' else key} {shlex.quote(f'{value:.2f}' if key == 'seconds' else str(value))}"


def _round_trip(system: System) -> Hearing:
    """Held-out recordings, and what comes back from their tokens.

    Raises:
        ValueError: if the set is not here.
    """
    clips, by, _ = _recordings(system, len(SENTENCES))
    if not clips:
        raise ValueError(f"its set {system.recipe.data.set!r} is not here, whose recordings it would give back")
    samples = system.tokenizer.media.size[0]
    whole = torch.stack([F.pad(clip.waveform, (0, samples - clip.waveform.shape[1])) for clip in clips])
    back = system.decode(system.encode(whole))
    made = [
        Made(Clip(clip.caption, "from its tokens", wave[:, : clip.waveform.shape[1]], clip.rate), clip)
        for clip, wave in zip(clips, back, strict=True)
    ]
    return Hearing(
        model=system.name,
        title=f"What a token of sound holds: {system.name}",
        made=made,
        command=f"jielong evaluate {shlex.quote(system.name)}",
        credits=by,
        licence=Licence.beside(find(system.name)),
    )


def tell(system: System, asked: Mapping[str, Any], caption: str, seed: int) -> Made:
    """Generate one clip and keep some of the moments on the way; where there is nothing to hear yet there is silence."""
    film = Film()
    sound = _sound(system, asked, seed, film)
    waveform, layout, hop_length = sound.tensor, system.tokenizer.layout, system.tokenizer.hop_length
    frames = [system.decode_known(Tokens(moment.values, layout), moment.shown)[0][:, : waveform.shape[1]] for moment in film.moments[:-1]]
    pictures = torch.stack([spectrogram(each, sound.rate) for each in (*frames, waveform)])
    known = torch.stack([moment.known[0] for moment in film.moments])  # (frames, N)
    born = (known.long().argmax(0) + 1).tolist()
    count = layout.positions if hop_length is None else min(layout.positions, math.ceil(waveform.shape[1] / hop_length))
    places = spread(count, min(count, TOKENS))
    codes = told(Tokens(film.moments[-1].values, layout))[0]
    columns = math.ceil(math.sqrt(len(places)))
    story = Story(
        caption=caption,
        grid=(math.ceil(len(places) / columns), columns),
        codes=[codes[place] for place in places],
        born=[born[place] for place in places],
        film=pictures,
        placed=False,
    )
    heard = sorted({int(share * len(frames)) for share in ON_THE_WAY}) if story.at_once else []
    return Made(
        clip=Clip(caption, f"generated by {system.name}", waveform, sound.rate),
        story=story,
        on_the_way=[Clip(caption, f"after step {place + 1} of {len(pictures)}", frames[place], sound.rate) for place in heard],
    )
