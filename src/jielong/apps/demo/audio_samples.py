"""Clips of audio models for the demo: generated with their steps, or reconstructed from tokens."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.apps.demo.trace_view import Trace, shown_values
from jielong.conditions.voice import Recording
from jielong.config.zoo import zoo_of
from jielong.core.tokens import Tokens
from jielong.data.joined import joined_name, listed
from jielong.data.licences import Licence
from jielong.data.opening import open_data, open_source
from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.data.source import DataError
from jielong.generation.callbacks import StepCallback, StepEvent
from jielong.media.players import Sound
from jielong.media.reading.libraries import MissingLibraryError
from jielong.media.spectrograms import spectrogram
from jielong.networks.efficientnet import WeightsError
from jielong.system import DESCRIPTION, System, find, is_timed, load

SENTENCES = ("Please leave a message after the tone.", "Press one to continue.", "The number is seven.")
NAMES = ("bass, hit", "hi-hat", "tabla")
SENTENCE = 3
"""Words from which on a caption counts as a sentence."""
FRAMES, TOKENS, VOICES = 32, 256, 2
"""Largest numbers of recorded frames, of shown tokens and of reference voices."""
INTERMEDIATE = (0.0, 0.25, 0.5)
"""Fractions of the steps of a parallel order after which the intermediate clip is kept."""


@dataclass(frozen=True)
class Clip:
    """A waveform ``(C, T)`` at ``rate`` Hz, with its text or class and its source."""

    caption: str
    label: str
    waveform: Tensor
    rate: int


@dataclass(frozen=True)
class AudioSample:
    """A generated or reconstructed clip.

    Attributes:
        clip: The clip.
        real: The data set's clip of the same caption, if any.
        trace: Of a generator, its steps, with spectrograms as frames.
        intermediate: Clips after earlier steps, of a parallel order.
    """

    clip: Clip
    real: Clip | None = None
    trace: Trace | None = None
    intermediate: Sequence[Clip] = ()


@dataclass(frozen=True)
class AudioSection:
    """One model's section of the page.

    Attributes:
        model: The model's name.
        title: Title of the section.
        samples: Its clips.
        command: Command that generates the first clip.
        speech: Whether the text condition is a transcript, not a description.
        voices: Pairs of a reference voice and the first sentence in that voice.
        credits: Attribution and licences of the recordings.
        licence: Licence of the weights.
    """

    model: str
    title: str
    samples: Sequence[AudioSample]
    command: str
    speech: bool = False
    voices: Sequence[tuple[Clip, Clip]] = ()
    credits: Sequence[str] = ()
    licence: Licence | None = None


class StepRecorder:
    """Step callback that keeps at most ``most`` evenly spread events and the last one."""

    def __init__(self, most: int = FRAMES) -> None:
        self.most, self.every = most, 1
        self.kept: list[StepEvent] = []
        self.last: StepEvent | None = None

    def __call__(self, event: StepEvent) -> None:
        """Record the event; when there are too many, keep every second one."""
        self.last = event
        if event.step % self.every == 0:
            self.kept.append(event)
            if len(self.kept) > self.most:
                self.every *= 2
                self.kept = [each for each in self.kept if each.step % self.every == 0]

    @property
    def events(self) -> list[StepEvent]:
        """The recorded events, ending with the last step."""
        ended = [] if self.last is None or (self.kept and self.kept[-1].step == self.last.step) else [self.last]
        return [*self.kept, *ended]


def sound_sections(seed: int, missing: dict[str, str], names: Sequence[str] | None = None) -> list[AudioSection]:
    """Sections of audio models (all shipped ones by default), generators first; reasons of those left out are added to ``missing``."""
    sections = []
    for name in zoo_of("audio") if names is None else names:
        try:
            system = load(name, "cpu")
            sections.append(_reconstructions(system) if system.generator is None else _generated(system, seed, missing))
        except (ValueError, RuntimeError, MissingLibraryError) as error:
            missing[name] = str(error)
    return sorted(sections, key=lambda section: section.samples[0].trace is None)


class Conditions(TypedDict, total=False):
    """Arguments of ``System.generate``."""

    text: str
    classes: str
    seconds: float
    voice: Recording
    count: int


@dataclass(frozen=True)
class _Example:
    """Conditions, their caption, and the recording of the same text."""

    conditions: Conditions
    caption: str
    real: Clip | None = None


def _heldout(system: System) -> MediaSet | None:
    """Held-out clips of those of the model's data sets that are installed; ``None`` if none is."""
    available = []
    for name in listed(system.recipe.data.set):
        try:
            open_source(name, "audio")
        except DataError:
            continue
        available.append(name)
    try:
        return open_data(joined_name(available), "heldout", medium=system.tokenizer.media, settings=system.recipe.data, whole=True)
    except DataError:
        return None


def _heldout_clips(system: System, count: int) -> tuple[list[Clip], list[str], list[object]]:
    """Held-out clips, their credits and their speakers; empty lists if the data set is not installed."""
    media, sounds = system.tokenizer.media, _heldout(system)
    if sounds is None:
        return [], [], []
    # Sentences show more of a speech model than single words or letters.
    sentences = [row for row, caption in enumerate(sounds.captions) if len(caption.split()) >= SENTENCE] or list(range(len(sounds)))
    rows = [sentences[position] for position in spread(len(sentences), count)]
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
    credits = sorted({", ".join(str(word) for word in people[row] if word) for row in rows} - {""}) if people else []
    return clips, credits, [columns.get("speaker", sounds.labels)[row] for row in rows]


def _examples(system: System, clips: Sequence[Clip]) -> list[_Example]:
    """Example conditions of a generator, by its inputs."""
    parts, rate = system.inputs, system.tokenizer.media.sample_rate
    timed = is_timed(system.recipe)
    if "text" in parts:
        if clips:
            examples = [_Example({"text": clip.caption}, clip.caption, clip) for clip in clips]
        else:
            words = SENTENCES if _speaks(system) else NAMES
            examples = [_Example({"text": text}, text) for text in words]
        if not timed:
            return examples
        longest = system.tokenizer.media.size[0] / rate
        lengths = [
            each.real.waveform.shape[1] / rate if each.real is not None else 0.4 + 0.07 * len(each.caption) if _speaks(system) else 1.0
            for each in examples
        ]
        return [
            _Example({**each.conditions, "seconds": min(seconds, longest)}, each.caption, each.real)
            for each, seconds in zip(examples, lengths, strict=True)
        ]
    if "class" in parts:
        classes = json.loads((find(system.name) / DESCRIPTION).read_text("utf-8"))["classes"]
        return [_Example({"classes": name}, name) for name in classes[: len(NAMES)]]
    return [_Example({"count": 1}, "unconditional")]


def _speaks(system: System) -> bool:
    """Whether the text condition is a transcript, not a description."""
    return system.recipe.condition is not None and any(part.transcript for part in system.recipe.condition.components)


def _generated(system: System, seed: int, missing: dict[str, str]) -> AudioSection:
    """Generate a few clips with their steps, and the first sentence in other voices if the model has a voice condition."""
    clips, credits, speakers = _heldout_clips(system, len(SENTENCES))
    examples = _examples(system, clips)
    samples = [replace(trace_clip(system, example.conditions, example.caption, seed), real=example.real) for example in examples]
    voices: list[tuple[Clip, Clip]] = []
    if "voice" in system.inputs:
        others = dict(reversed(list(zip(speakers, clips, strict=True))))
        try:
            voices = _in_voices(system, examples[0], list(others.values())[:VOICES] or [_generated_voice(system, examples[-1], seed)], seed)
        except (MissingLibraryError, WeightsError) as error:
            missing[f"other voices of {system.name}"] = str(error)
    words = " ".join(_option(key, value) for key, value in examples[0].conditions.items())
    return AudioSection(
        model=system.name,
        title=f"{'Speech' if _speaks(system) else 'Audio'} from {system.name}",
        samples=samples,
        command=f"jielong generate {shlex.quote(system.name)} {words} --seed {seed} --out clips --trace",
        speech=_speaks(system),
        voices=voices,
        credits=credits,
        licence=Licence.beside(find(system.name)),
    )


def _sound(system: System, conditions: Conditions, seed: int, on_step: StepCallback | None = None) -> Sound:
    sound = system.generate(**conditions, seed=seed, on_step=on_step)[0]
    assert isinstance(sound, Sound)
    return sound


def _generated_voice(system: System, example: _Example, seed: int) -> Clip:
    """A voice that the model generates without a voice condition, from another seed."""
    sound = _sound(system, example.conditions, seed + 1)
    return Clip(example.caption, f"generated by {system.name}", sound.tensor, sound.rate)


def _in_voices(system: System, example: _Example, voices: Sequence[Clip], seed: int) -> list[tuple[Clip, Clip]]:
    """Pairs of each voice and the example spoken in that voice."""
    recordings = [Recording(voice.waveform, voice.rate) for voice in voices]
    sounds = [_sound(system, {**example.conditions, "voice": voice}, seed) for voice in recordings]
    label = f"generated by {system.name} with this voice"
    return [
        (replace(voice, label=f"reference voice: {voice.label}"), Clip(example.caption, label, sound.tensor, sound.rate))
        for voice, sound in zip(voices, sounds, strict=True)
    ]


def _option(key: str, value: object) -> str:
    """A condition as an option of ``jielong generate``."""
    if key == "count":
        return f"-n {value}"
    return f"--{'class' if key == 'classes' else key} {shlex.quote(f'{value:.2f}' if key == 'seconds' else str(value))}"


def _reconstructions(system: System) -> AudioSection:
    """Reconstruct held-out recordings.

    Raises:
        ValueError: if the data set is not installed.
    """
    clips, credits, _ = _heldout_clips(system, len(SENTENCES))
    if not clips:
        raise ValueError(f"its data set {system.recipe.data.set!r}, whose recordings it would reconstruct, is not installed")
    length = system.tokenizer.media.size[0]
    whole = torch.stack([F.pad(clip.waveform, (0, length - clip.waveform.shape[1])) for clip in clips])
    back = system.decode(system.encode(whole))
    samples = [
        AudioSample(Clip(clip.caption, "reconstruction", wave[:, : clip.waveform.shape[1]], clip.rate), clip)
        for clip, wave in zip(clips, back, strict=True)
    ]
    return AudioSection(
        model=system.name,
        title=f"Audio reconstruction: {system.name}",
        samples=samples,
        command=f"jielong evaluate {shlex.quote(system.name)}",
        credits=credits,
        licence=Licence.beside(find(system.name)),
    )


def trace_clip(system: System, conditions: Conditions, caption: str, seed: int) -> AudioSample:
    """Generate one clip and record its steps; tokens not sampled yet decode to silence."""
    recorder = StepRecorder()
    sound = _sound(system, conditions, seed, recorder)
    waveform, layout, hop_length = sound.tensor, system.tokenizer.layout, system.tokenizer.hop_length
    frames = [system.decode_known(Tokens(event.values, layout), event.shown)[0][:, : waveform.shape[1]] for event in recorder.events[:-1]]
    spectrograms = torch.stack([spectrogram(each, sound.rate) for each in (*frames, waveform)])
    known = torch.stack([event.known[0] for event in recorder.events])  # (frames, N)
    steps = (known.long().argmax(0) + 1).tolist()
    count = layout.positions if hop_length is None else min(layout.positions, math.ceil(waveform.shape[1] / hop_length))
    positions = spread(count, min(count, TOKENS))
    codes = shown_values(Tokens(recorder.events[-1].values, layout))[0]
    columns = math.ceil(math.sqrt(len(positions)))
    trace = Trace(
        caption=caption,
        grid=(math.ceil(len(positions) / columns), columns),
        codes=[codes[position] for position in positions],
        steps=[steps[position] for position in positions],
        frames=spectrograms,
        spatial=False,
    )
    after = sorted({int(share * len(frames)) for share in INTERMEDIATE}) if trace.parallel else []
    return AudioSample(
        clip=Clip(caption, f"generated by {system.name}", waveform, sound.rate),
        trace=trace,
        intermediate=[Clip(caption, f"after step {step + 1} of {len(spectrograms)}", frames[step], sound.rate) for step in after],
    )
