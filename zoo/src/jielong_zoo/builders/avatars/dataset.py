"""The table of the set `avatars`: faces that say sentences, blink and smile, with the sound of their speech."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from jielong.core.files import write_bytes
from jielong.core.json import JSON
from jielong.data.built import BuildError, built_path
from jielong.data.splits import fraction
from jielong.data.table import write_table
from jielong.evaluation.judges.avatars import RATE, SIZE
from jielong.media.audio import encode_audio, resample
from jielong.media.espeak import EspeakError, SpokenPhoneme, speak_timed
from jielong.media.images import encode
from jielong_zoo.builders.avatars.drawing import Looks, identities, looks
from jielong_zoo.builders.avatars.mouths import spoken_shapes
from jielong_zoo.builders.clips import animation
from jielong_zoo.builders.faces.captions import HAIR, SKIN_ZH, coloured
from jielong_zoo.builders.faces.drawing import PACKAGES, VERSION
from jielong_zoo.builders.faces.styles import Attributes
from jielong_zoo.builders.npm import install
from jielong_zoo.builders.sentences import sentences

FRAMES = 25
SAMPLE_RATE = 16_000
LEAD = 0.16
"""Seconds of silence before the speech: two frames."""
LEAST, LONGEST = 0.8, 1.7
"""Seconds of a sentence."""
VOICES = ("en-us", "en-gb", "en-us+f1", "en-us+f4", "en-us+m3", "en-us+m7")
"""Of eSpeak NG, those whose output is the same in every new process."""
FACES_EACH = 4
"""Faces that say each sentence."""
HELDOUT_SHARE = 0.1
"""Of sentences, and of faces."""
BLINK = 2
"""Frames."""
LICENCE = Path(__file__).parents[2] / "data" / "LICENSE-avatars.md"
NEEDED = tuple(package for package in PACKAGES if package.startswith(("@dicebear/core", "@dicebear/toon-head", "@resvg")))
TERMS = {
    "licence": "CC BY 4.0",
    "attribution": f"faces composed with DiceBear {VERSION} in style Toon Head by Johan Melin, changed; speech made by eSpeak NG",
}
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Avatars:
    """How `avatars` is built.

    Attributes:
        count: Clips.
        faces: Different faces.
    """

    count: int = 640
    faces: int = 64

    @property
    def name(self) -> str:
        """Of the set; another count gives another set, so that the shipped one stays what it is."""
        return "avatars" if self.count == Avatars.count else f"avatars-{self.count}"


@dataclass(frozen=True, eq=False)
class Spoken:
    """A sentence that fits into a clip.

    Attributes:
        text: The sentence.
        voice: Of eSpeak NG.
        sound: Two seconds at 16 kHz, Ogg Opus.
        shapes: Mouth shape of each frame.
        phonemes: Phoneme of each frame; empty in silence.
        end: First frame after the speech.
    """

    text: str
    voice: str
    sound: bytes
    shapes: tuple[str, ...]
    phonemes: tuple[str, ...]
    end: int


def spoken(count: int) -> Iterator[Spoken]:
    """Sentences of fitting length, said by the voices in turn.

    Raises:
        BuildError: if eSpeak NG is missing, or there are not so many.
    """
    found = 0
    with multiprocessing.get_context("spawn").Pool(1) as process:  # eSpeak NG keeps state between sentences
        for text in sentences():
            try:
                each = process.apply(say, (text, VOICES[found % len(VOICES)]))
            except EspeakError as error:
                raise BuildError(str(error)) from error
            if each is not None:
                found += 1
                yield each
            if found == count:
                return
    raise BuildError(f"{found:,} sentences last {LEAST:g} to {LONGEST:g} s, not {count:,}: build fewer clips")


def say(text: str, voice: str) -> Spoken | None:
    """A sentence as it is said; ``None`` if it is too short or too long."""
    speech = speak_timed(text, voice)
    phonemes = [each for each in speech.phonemes if each.symbol]
    seconds = phonemes[-1].end if phonemes else 0.0
    if not LEAST <= seconds <= LONGEST:
        return None
    shapes, symbols = zip(*spoken_shapes(speech.phonemes, FRAMES, RATE, LEAD), strict=True)
    return Spoken(text, voice, sound(speech.waveform, speech.rate), shapes, symbols, spoken_until(phonemes))


def spoken_until(phonemes: Sequence[SpokenPhoneme]) -> int:
    """The first frame after the last phoneme."""
    return min(FRAMES, int((LEAD + phonemes[-1].end) * RATE) + 1)


def sound(waveform: torch.Tensor, rate: int) -> bytes:
    """Speech after the lead, as long as the clip, Ogg Opus."""
    samples = resample(waveform, rate, SAMPLE_RATE)
    whole = torch.zeros(1, round(FRAMES / RATE * SAMPLE_RATE))
    start = round(LEAD * SAMPLE_RATE)
    samples = samples[:, : whole.shape[1] - start]
    whole[:, start : start + samples.shape[1]] = samples
    return encode_audio(whole, SAMPLE_RATE, ".opus")


def cues(seed: str, end: int) -> tuple[list[bool], bool]:
    """In which frames eyes are closed, at most two times, and whether the face smiles after the speech."""
    rng = random.Random(f"{seed}/cues")
    closed = [False] * FRAMES
    for start in rng.sample(range(2, FRAMES - BLINK - 1, BLINK + 3), rng.choice((0, 1, 1, 2))):
        closed[start : start + BLINK] = [True] * BLINK
    return closed, FRAMES - end >= 3 and rng.random() < 0.5


def captions(attributes: Attributes, text: str, blinks: bool, smiles: bool) -> tuple[str, str]:
    """An English and a Chinese caption."""
    hair, hair_zh = (coloured(HAIR[attributes["hair"] or ""], attributes["hair_color"], language) for language in (0, 1))
    doing = [word for word, done in (("blinks", blinks), ("smiles at the end", smiles)) if done]
    doing_zh = [word for word, done in (("眨眼", blinks), ("最后微笑", smiles)) if done]
    english = f'a person with {hair} and {attributes["skin"]} skin says "{text}"' + "".join(f" and {word}" for word in doing)
    chinese = f"一个{hair_zh}、皮肤{SKIN_ZH[attributes['skin'] or '']}的人说“{text}”" + "".join(f"，{word}" for word in doing_zh)  # noqa: RUF001
    return english, chinese


def rows(said: Sequence[Spoken], faces: Sequence[Looks], progress: Progress | None = None) -> Iterator[JSON]:
    """Rows of `avatars`: each sentence by :data:`FACES_EACH` faces.

    A sentence and a face are held out each by a hash; a clip is held out if its sentence or its face is, which ``held_out`` says.
    """
    sheets = [{which: picture(look, which) for which in ("mouths", "eyes")} for look in faces]
    for number, each in enumerate(said):
        chosen = sorted(range(len(faces)), key=lambda face: fraction(f"{number}/{face}"))[:FACES_EACH]
        for turn, face in enumerate(chosen):
            look, name = faces[face], f"{number:04d}-{faces[face].face.seed}"
            closed, smiles = cues(name, each.end)
            shapes = [*each.shapes[: each.end], *(["smile"] * (FRAMES - each.end) if smiles else each.shapes[each.end :])]
            unseen = [
                word for word, key in (("sentence", each.text), ("face", look.face.seed)) if fraction(f"avatars/{key}") < HELDOUT_SHARE
            ]
            english, chinese = captions(look.face.attributes, each.text, any(closed), smiles)
            yield {
                "video": animation(look.clip(shapes, closed), RATE),
                "audio": each.sound,
                "caption": english,
                "caption_zh": chinese,
                "text": each.text,
                "voice": each.voice,
                "phonemes": list(each.phonemes),
                "shapes": shapes,
                "closed": closed,
                "smiles": smiles,
                **{name: look.face.attributes[name] for name in ("hair", "hair_color", "skin", "clothes", "clothes_color")},
                "face": look.face.seed,
                **sheets[face],
                **TERMS,
                "held_out": " and ".join(unseen),
                "name": name,
                "split": "heldout" if unseen else "train",
            }
            if progress is not None:
                progress(number * FACES_EACH + turn + 1)


def picture(look: Looks, which: str) -> bytes:
    """What a judge compares frames with, PNG."""
    return encode(Image.fromarray(look.sheet(which)), optimize=True)


def build_avatars(packages: Path | None, progress: Progress | None, settings: Avatars) -> Path:
    """Make the set in the user's cache, its licence beside it.

    Raises:
        BuildError: if Node.js, npm, a package or eSpeak NG is missing.
    """
    target = built_path(settings.name)
    with tempfile.TemporaryDirectory() as scratch:
        drawn = looks(identities(settings.faces), packages or install(NEEDED, Path(scratch)))
        table = list(rows(list(spoken(-(-settings.count // FACES_EACH))), drawn, progress))[: settings.count]
    write_bytes(target.with_name(f"LICENSE-{settings.name}.md"), LICENCE.read_bytes())
    write_avatars(target, table)
    return target


def write_avatars(path: Path, table: list[JSON]) -> None:
    """Write the rows, with the name of their judge."""
    write_table(
        path,
        table,
        item="video",
        caption="caption",
        label="face",
        key=["name"],
        size=SIZE,
        frames=FRAMES,
        frame_rate=RATE,
        channels=3,
        judge="avatars",
    )
