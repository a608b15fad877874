"""What the shipped models of sound make: how a clip came to be, step by step, to look at and to listen to."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.conditions.voice import Recording
from jielong.data.joined import joined_name, listed
from jielong.data.licences import Licence
from jielong.data.opening import MediaSet, open_source
from jielong.data.order import spread
from jielong.data.source import DataError
from jielong.demo import markup
from jielong.demo.stories import Story, told
from jielong.generator import Moment, Watch
from jielong.media.audio import MissingLibraryError
from jielong.media.players import Sound
from jielong.media.spectrograms import spectrogram
from jielong.system import DESCRIPTION, System, find, is_timed, load, open_media, parts_told, zoo
from jielong.tokens import Tokens

SENTENCES = ("Please leave a message after the tone.", "Press one to continue.", "The number is seven.")
NAMES = ("bass, hit", "hi-hat", "tabla")
FRAMES, TOKENS, VOICES = 24, 256, 2
"""Of a film at most, tokens beside it at most, and voices that a sentence is said in again."""


@dataclass(frozen=True)
class Clip:
    """A sound ``(C, T)`` with its rate, and what to write below it."""

    caption: str
    waveform: Tensor
    rate: int


@dataclass(frozen=True)
class Hearing:
    """What one model made.

    Attributes:
        model: Its name.
        title: Of its section.
        stories: How each clip came to be; films are of spectrograms.
        made: The clips, in the same places; of a tokenizer what came back.
        real: Recordings of the same, where the set has them.
        voices: Pairs: a voice that was given, and the first sentence in it.
        command: What makes the first clip.
        credits: Whose recordings these are.
        licence: Of a shipped model's weights, with the names that stay beside what is made with them.
    """

    model: str
    title: str
    made: Sequence[Clip]
    command: str
    stories: Sequence[Story] = ()
    real: Mapping[int, Clip] = field(default_factory=dict)
    voices: Sequence[tuple[Clip, Clip]] = ()
    credits: Sequence[str] = ()
    licence: Licence | None = None


class Film:
    """A ``watch`` that keeps some moments out of any number of them, evenly spread, and the last one."""

    def __init__(self, most: int = FRAMES) -> None:
        self.most, self.every = most, 1
        self.kept: list[Moment] = []
        self.last: Moment | None = None

    def __call__(self, moment: Moment) -> None:
        """Keep it, if its turn has come; at twice as many as wanted every second one goes."""
        self.last = moment
        if moment.step % self.every == 0:
            self.kept.append(moment)
            if len(self.kept) > self.most:
                self.every *= 2
                self.kept = [each for each in self.kept if each.step % self.every == 0]

    @property
    def moments(self) -> list[Moment]:
        """Those kept, the last of all behind them."""
        ended = [] if self.last is None or (self.kept and self.kept[-1].step == self.last.step) else [self.last]
        return [*self.kept, *ended]


def listen(seed: int, missing: dict[str, str], names: Sequence[str] | None = None) -> list[Hearing]:
    """Let models of sound be heard; those of the zoo by default. One that cannot be is named in ``missing`` with the reason."""
    heard = []
    for name in _models() if names is None else names:
        try:
            system = load(name)
            heard.append(_round_trip(system) if system.generator is None else _generated(system, seed, missing))
        except (ValueError, RuntimeError, MissingLibraryError) as error:
            missing[name] = str(error)
    return heard


def _models() -> list[str]:
    """Shipped models of sound."""
    found = []
    for name, folder in zoo().items():
        try:
            described = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if described.get("media", {}).get("rate"):
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
            open_source(name, meant="sound")
        except DataError:
            continue
        here.append(name)
    try:
        return open_media(joined_name(here), system.tokenizer.media, "heldout", level=system.recipe.data.level)
    except DataError:
        return None


def _recordings(system: System, count: int) -> tuple[list[Clip], list[str], list[Any]]:
    """Held-out clips of the model's own set with their words, whom they are by, and their speakers; nothing where the set is not here."""
    media, sounds = system.tokenizer.media, _heldout(system)
    if sounds is None:
        return [], [], []
    rows = spread(len(sounds), count)
    batch = sounds.batch(rows)
    lengths = batch.lengths.tolist() if batch.lengths is not None else [media.size[0]] * len(rows)
    clips = [
        Clip(sounds.captions[row] or sounds.keys[row], wave[:, :length], media.rate or 0)
        for row, wave, length in zip(rows, batch.media, lengths, strict=True)
    ]
    columns = sounds.columns
    people = list(zip(*(columns[name] for name in ("attribution", "licence") if name in columns), strict=True))
    by = sorted({", ".join(str(word) for word in people[row] if word) for row in rows} - {""}) if people else []
    return clips, by, [columns.get("speaker", sounds.labels)[row] for row in rows]


def _examples(system: System, clips: Sequence[Clip]) -> list[_Example]:
    """What to ask of a generator, by what it is told."""
    parts, rate = parts_told(system.recipe), system.tokenizer.media.rate or 1
    timed = "seconds" in parts or is_timed(system.recipe)
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
    return parts_told(system.recipe).get("text") in ("characters", "phonemes")


def _generated(system: System, seed: int, missing: dict[str, str]) -> Hearing:
    """A few clips, each with its film, and the first sentence in other voices where the model is told a voice."""
    clips, by, speakers = _recordings(system, len(SENTENCES))
    examples = _examples(system, clips)
    stories, made = [], []
    for example in examples:
        story, clip = tell(system, example.asked, example.caption, seed)
        stories.append(story)
        made.append(clip)
    voices: list[tuple[Clip, Clip]] = []
    if "voice" in parts_told(system.recipe):
        others = dict(reversed(list(zip(speakers, clips, strict=True))))
        try:
            voices = _again(system, examples[0], list(others.values())[:VOICES] or [_own_voice(system, examples[-1], seed)], seed)
        except MissingLibraryError as error:
            missing[f"other voices of {system.name}"] = str(error)
    words = " ".join(_option(key, value) for key, value in examples[0].asked.items())
    return Hearing(
        model=system.name,
        title=f"{'Words spoken' if _speaks(system) else 'Sound'}, by {system.name}",
        made=made,
        command=f"jielong generate {shlex.quote(system.name)} {words} --seed {seed} --out heard",
        stories=stories,
        real={place: each.real for place, each in enumerate(examples) if each.real is not None},
        voices=voices,
        credits=by,
        licence=Licence.beside(find(system.name)),
    )


def _sound(system: System, asked: Mapping[str, Any], seed: int, watch: Watch | None = None) -> Sound:
    sound = system.generate(**asked, seed=seed, watch=watch)[0]
    assert isinstance(sound, Sound)
    return sound


def _own_voice(system: System, example: _Example, seed: int) -> Clip:
    """A voice that the model takes when it is told none: that of another seed."""
    sound = _sound(system, example.asked, seed + 1)
    return Clip(example.caption, sound.tensor, sound.rate)


def _again(system: System, example: _Example, voices: Sequence[Clip], seed: int) -> list[tuple[Clip, Clip]]:
    """Each voice, and the example said in it."""
    given = [Recording(voice.waveform, voice.rate) for voice in voices]
    sounds = [_sound(system, {**example.asked, "voice": voice}, seed) for voice in given]
    return [(voice, Clip(example.caption, sound.tensor, sound.rate)) for voice, sound in zip(voices, sounds, strict=True)]


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
    made = [Clip(clip.caption, wave[:, : clip.waveform.shape[1]], clip.rate) for clip, wave in zip(clips, back, strict=True)]
    return Hearing(
        model=system.name,
        title=f"What a token of sound holds: {system.name}",
        made=made,
        command=f"jielong evaluate {shlex.quote(system.name)}",
        real=dict(enumerate(clips)),
        credits=by,
        licence=Licence.beside(find(system.name)),
    )


def tell(system: System, asked: Mapping[str, Any], caption: str, seed: int) -> tuple[Story, Clip]:
    """Generate one clip and keep some of the moments on the way; where nothing is known or expected yet there is silence."""
    film = Film()
    sound = _sound(system, asked, seed, film)
    waveform, layout, hop = sound.tensor, system.tokenizer.layout, system.tokenizer.hop
    frames = [system.decode_known(Tokens(moment.values, layout), moment.shown)[0][:, : waveform.shape[1]] for moment in film.moments[:-1]]
    pictures = torch.stack([spectrogram(each, sound.rate) for each in (*frames, waveform)])
    known = torch.stack([moment.known[0] for moment in film.moments])  # (frames, N)
    born = (known.long().argmax(0) + 1).tolist()
    count = layout.positions if hop is None else min(layout.positions, math.ceil(waveform.shape[1] / hop))
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
    return story, Clip(caption, waveform, sound.rate)


def content(hearing: Hearing) -> list[str]:
    """The inside of its section, as HTML."""
    parts = []
    if hearing.stories:
        parts.append(
            "<p>Left, the first code of each token (of very many some, evenly spread); right, the spectrogram of what they decode to so "
            "far, low pitches below. What is not known yet is silent; where a head draws all tokens together in several evaluations, it "
            "is what the head then expects them to become. The same seed for all, the first draw of each.</p>"
        )
    for place, clip in enumerate(hearing.made):
        if hearing.stories:
            parts.append(markup.player([hearing.stories[place]]))
        real = hearing.real.get(place)
        pair = [(clip, "generated" if hearing.stories else "from its tokens"), *([(real, "recording")] if real is not None else [])]
        parts.append(_row(clip.caption, pair))
    if hearing.voices:
        parts.append("<h3>In other voices</h3><p>A voice that was given, and the first sentence as that voice might say it.</p>")
        parts += [_row(said.caption, [(said, "generated"), (given, "the voice given")]) for given, said in hearing.voices]
    if hearing.credits:
        parts.append(f"<p class='note'>Recordings: {escape('; '.join(hearing.credits))}.</p>")
    if hearing.licence is not None:
        whose = "; ".join(dict.fromkeys(f"{each.attribution} ({each.licence})" for each in hearing.licence.learned_from))
        parts.append(f"<p class='note'>Made by weights under {escape(hearing.licence.weights)}, which learned from: {escape(whose)}.</p>")
    return [*parts, markup.command(hearing.command)]


def _row(caption: str, clips: Sequence[tuple[Clip, str]]) -> str:
    cells = "".join(f"<div>{markup.sound(clip.waveform, clip.rate, label)}<small>{escape(label)}</small></div>" for clip, label in clips)
    return f'<figure class="heard"><div class="row">{cells}</div><figcaption>{escape(caption)}</figcaption></figure>'
