"""Who hears generated sound: each judge makes a few figures, and says why where it cannot. A new one is a class, and a place in JUDGES."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from jielong.data.order import spread
from jielong.evaluation.context import EvalResult, sampling_of
from jielong.evaluation.frechet import distance_of_few
from jielong.evaluation.kernel import kernel_distance
from jielong.evaluation.provenance import Measurement, machine
from jielong.evaluation.sound.eval_audio import EvalAudio
from jielong.evaluation.sound.features import MelStatistics, WhisperFeatures
from jielong.evaluation.sound.listening import dnsmos
from jielong.evaluation.sound.protocol import sound_hash
from jielong.evaluation.sound.speakers import RECORDINGS
from jielong.evaluation.sound.voices import voices
from jielong.evaluation.sound.words import Recogniser, intelligibility
from jielong.media.audio import MissingLibraryError
from jielong.networks import speaker
from jielong.networks.efficientnet import WeightsError
from jielong.networks.speaker import SpeakerEncoder
from jielong.system import is_timed, lengths_of

TIMED = 5
"""Clips that are made one by one when it is timed; the median counts."""
QUIET = -40.0
"""Decibels below a clip's loudest 20 ms, under which nothing is taken to sound."""


class Metric(ABC):
    """Makes figures of what is heard.

    ``names`` are those of generated sound; they are told as omitted where the judge cannot make them.
    """

    names: ClassVar[tuple[str, ...]]

    def unfit(self, heard: EvalAudio) -> str | None:
        """Why these figures do not apply, if they do not."""
        return None

    @abstractmethod
    def measure(self, heard: EvalAudio) -> dict[str, Measurement]:
        """The figures, of all sides."""

    def __call__(self, heard: EvalAudio) -> EvalResult:
        """The figures, or why there are none: what is not installed is left out, and named."""
        reason = self.unfit(heard)
        figures: dict[str, Measurement] = {}
        if reason is None:
            try:
                figures = self.measure(heard)
                reason = "it applies to none of these clips"
            except (ImportError, MissingLibraryError, WeightsError, ValueError) as error:
                reason = str(error)
        return EvalResult(figures, {name: reason for name in self.names if name not in figures})


class Words(Metric):
    """Word and character errors, as Whisper base hears them."""

    names = ("wer", "cer")

    def unfit(self, heard: EvalAudio) -> str | None:
        """Without a text there is nothing to err in."""
        return None if heard.spells else "it is told no text to say, symbol by symbol"

    def measure(self, heard: EvalAudio) -> dict[str, Measurement]:
        """Each language by its own recogniser; all edits over all that was meant."""
        sounds = heard.subject.sounds
        texts = [sounds.captions[sounds.resolve(row)] for row in heard.subject.rows]
        recogniser, figures = Recogniser(), {}
        for side, clips in heard.sides.items():
            told: dict[str, dict[str, Measurement]] = {}
            for language in sorted(set(heard.languages)):
                rows = [row for row, each in enumerate(heard.languages) if each == language]
                ours = [clips[row] for row in rows], [texts[row] for row in rows]
                told[language] = intelligibility(*ours, heard.rate, recogniser.of(language))
            for name in self.names:
                figures[name + side] = _together(name, {language: each[name] for language, each in told.items()})
        return figures


def _together(name: str, parts: dict[str, Measurement]) -> Measurement:
    """One error rate of several languages."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    edits, meant = (sum(each.details[key] for each in parts.values()) for key in ("edits", "of"))
    by = {language: {"value": each.value, **each.details} for language, each in parts.items()}
    return Measurement(name, edits / meant, sum(each.n for each in parts.values()), {"edits": edits, "of": meant, "languages": by})


class Voices(Metric):
    """Whose voice it is: cosines with the mean voice of each speaker of the set."""

    names = ("speaker_similarity", "other_speaker_similarity", "own_speaker_nearest")

    def unfit(self, heard: EvalAudio) -> str | None:
        """It must be known who is to speak."""
        if not heard.speaks:
            return "it makes no speech"
        if heard.speakers is None or None in heard.speakers.names:
            return f"{heard.subject.sounds.name} does not say who speaks: it needs a column `speaker` or `voice`"
        if len(heard.speakers.places) > 1 and not {"voice", "class"}.intersection(heard.subject.system.inputs):
            return "the set has several speakers, and the model takes neither a voice nor a class"
        return None

    def measure(self, heard: EvalAudio) -> dict[str, Measurement]:
        """With one speaker there is no other to be nearer to."""
        encoder, speakers = SpeakerEncoder(), heard.speakers
        if speakers is None:
            return {}
        theirs = speakers.voices(encoder)
        own = torch.tensor([speakers.everyone.index(str(name)) for name in speakers.names])
        details = {
            "encoder": "Resemblyzer (GE2E), silences not cut out",
            "weights_sha256": speaker.SHA256,
            "speakers": len(theirs),
            "target": f"mean voice of {RECORDINGS} recordings at most of each {speakers.column}, not measured ones where there are others",
        }
        figures: dict[str, Measurement] = {}
        for side, clips in heard.sides.items():
            rows = [
                (voice, place) for voice, place in zip(voices(clips, heard.rate, encoder), own.tolist(), strict=True) if voice is not None
            ]
            if not rows:
                raise ValueError("all clips are silent")
            cosines = torch.stack([voice for voice, _ in rows]) @ theirs.T
            right = torch.nn.functional.one_hot(torch.tensor([place for _, place in rows]), len(theirs)).bool()
            mine, others = cosines[right], cosines.masked_fill(right, -1.0)
            told = {"speaker_similarity": mine}
            if len(theirs) > 1:
                nearest = others.amax(1)
                told |= {"other_speaker_similarity": nearest, "own_speaker_nearest": (mine > nearest).float()}
            more = details | {"silent": len(clips) - len(rows), "clips_sha256": sound_hash(clips, heard.rate)}
            figures |= {name + side: Measurement(name, value.mean().item(), len(rows), more) for name, value in told.items()}
        return figures

    def __call__(self, heard: EvalAudio) -> EvalResult:
        """As of all judges; one speaker alone is a reason of its own."""
        found = super().__call__(heard)
        if "speaker_similarity" in found.figures:
            return EvalResult(found.figures, dict.fromkeys(found.omitted, "the set has one speaker"))
        return found


class Quality(Metric):
    """How good speech sounds, by DNSMOS."""

    names = ("dnsmos",)

    def unfit(self, heard: EvalAudio) -> str | None:
        """It was made for speech."""
        return None if heard.speaks else "it rates speech, and this generator makes other sounds"

    def measure(self, heard: EvalAudio) -> dict[str, Measurement]:
        """Of each side."""
        return {f"dnsmos{side}": dnsmos(clips, heard.rate) for side, clips in heard.sides.items()}


class Lengths(Metric):
    """How far a clip's length is from the one asked for."""

    names = ("length_error",)

    def unfit(self, heard: EvalAudio) -> str | None:
        """A length must be asked for."""
        return None if heard.asked is not None else "no length is asked for"

    def measure(self, heard: EvalAudio) -> dict[str, Measurement]:
        """The mean of ``|got - asked| / asked``; the details tell how much of the length sounds."""
        asked = torch.tensor(heard.asked, dtype=torch.float64)
        got = torch.tensor([clip.shape[-1] / heard.rate for clip in heard.sides[""]], dtype=torch.float64)
        errors = (got - asked).abs() / asked
        sounding = {
            f"sounding{side}": statistics.mean(sounding_share(clip, heard.rate) for clip in clips) for side, clips in heard.sides.items()
        }
        details = {"formula": "mean of |got - asked| / asked", "worst": errors.max().item(), "asked_mean_seconds": asked.mean().item()}
        more = {"sounding_is": f"share of a clip up to its last 20 ms less than {-QUIET:g} dB below its loudest"}
        return {"length_error": Measurement("length_error", errors.mean().item(), len(errors), details | sounding | more)}


class OwnLengths(Metric):
    """How long it lasts where no length is asked for, beside the real recording."""

    names = ("length_ratio",)

    def unfit(self, heard: EvalAudio) -> str | None:
        """It must end by itself, or by what it is told."""
        if heard.asked is not None:
            return "a length is asked for"
        return None if is_timed(heard.subject.system.recipe) else "it makes clips of one length"

    def measure(self, heard: EvalAudio) -> dict[str, Measurement]:
        """The mean of got over real."""
        pairs = zip(heard.sides[""], heard.subject.clips, strict=True)
        ratios = torch.tensor([made.shape[-1] / real.shape[-1] for made, real in pairs], dtype=torch.float64)
        details = {"formula": "mean of generated over real length", "least": ratios.min().item(), "most": ratios.max().item()}
        return {"length_ratio": Measurement("length_ratio", ratios.mean().item(), len(ratios), details)}


def sounding_share(clip: Tensor, rate: int) -> float:
    """Share of a clip ``(C, T)`` up to its last 20 ms that are less than 40 dB below its loudest; 0 of silence."""
    mono, window = clip.mean(0), max(1, rate // 50)
    power = torch.nn.functional.pad(mono, (0, -len(mono) % window)).view(-1, window).square().mean(1)
    if not bool(power.any()):
        return 0.0
    last = int((power >= power.max() * 10 ** (QUIET / 10)).nonzero()[-1])
    return min(1.0, (last + 1) * window / len(mono))


class Distances(Metric):
    """Fréchet and kernel distances from the real held-out clips, in features of Whisper's encoder.

    The kernel distance is unbiased, and fit for a few clips; the Fréchet distance falls with their number.
    """

    names: ClassVar[tuple[str, ...]] = ("frechet", "kernel")
    features: ClassVar[type[WhisperFeatures] | type[MelStatistics]] = WhisperFeatures

    def unfit(self, heard: EvalAudio) -> str | None:
        """A spread needs several clips."""
        return None if len(heard.subject.rows) > 1 else "it needs two clips at least"

    def measure(self, heard: EvalAudio) -> dict[str, Measurement]:
        """Of generated and of rebuilt clips; ``_real`` is the distance of as many training clips."""
        space, count = heard.space(self.features), len(heard.subject.rows)
        real = space(heard.subject.clips, heard.rate)
        sides = {side: space(clips, heard.rate) for side, clips in heard.sides.items() if side != "_real"}
        if "_real" in heard.sides and len(space.known) >= count:
            sides["_real"] = space.known[spread(len(space.known), count)]
        details: dict[str, Any] = space.extractor.details | {
            "units": f"deviations over {len(space.known)} training clips",
            "reference_sha256": sound_hash(heard.subject.clips, heard.rate),
        }
        if count <= real.shape[1]:
            details["warning"] = f"small sample: {count} clips for {real.shape[1]} features; compare at equal numbers only"
        frechet, *kernel = self.names
        figures = {
            frechet + side: Measurement(frechet, max(0.0, distance_of_few(rows, real)), count, details) for side, rows in sides.items()
        }
        plain = {key: value for key, value in details.items() if key != "warning"} | {"formula": "unbiased MMD, kernel (x.y/D + 1)^3"}
        for name in kernel:
            figures |= {name + side: Measurement(name, kernel_distance(rows, real), count, plain) for side, rows in sides.items()}
        return figures


class MelDistances(Distances):
    """The Fréchet distance in statistics of mel bands, which need no package."""

    names = ("frechet_mel",)
    features = MelStatistics


class Kinds(Metric):
    """Whether a clip is of the class that it was asked to be: that of the nearest training clip, in Whisper's features."""

    names = ("class_at_1",)

    def unfit(self, heard: EvalAudio) -> str | None:
        """For sounds of several classes, told by class or by caption."""
        sounds = heard.subject.sounds
        if heard.speaks:
            return "it is for sounds: what is said is told by word errors"
        if not {"text", "class"}.intersection(heard.subject.system.inputs):
            return "it is told neither a caption nor a class"
        if len(sounds.classes) < 2 or any(sounds.labels[sounds.resolve(row)] is None for row in heard.subject.rows):
            return f"{sounds.name} has no two classes, or clips without one"
        return None

    def measure(self, heard: EvalAudio) -> dict[str, Measurement]:
        """Of each side; chance is the share of the most frequent class among the training clips."""
        space, (trained, rows) = heard.space(WhisperFeatures), heard.known
        there = [trained.labels[trained.resolve(row)] for row in rows]
        kept = [place for place, label in enumerate(there) if label is not None]
        theirs = [trained.classes[there[place] or 0] for place in kept]
        sounds = heard.subject.sounds
        wanted = [sounds.classes[sounds.labels[sounds.resolve(row)] or 0] for row in heard.subject.rows]
        details = space.extractor.details | {
            "protocol": f"class of the nearest of {len(kept)} training clips",
            "classes": len(set(theirs)),
            "chance": max(map(theirs.count, theirs)) / len(theirs),
        }
        figures = {}
        for side, clips in heard.sides.items():
            nearest = torch.cdist(space(clips, heard.rate), space.known[kept]).argmin(1).tolist()
            right = [theirs[place] == want for place, want in zip(nearest, wanted, strict=True)]
            figures[f"class_at_1{side}"] = Measurement("class_at_1", sum(right) / len(right), len(right), details)
        return figures


class Pace(Metric):
    """How fast this machine makes a clip by itself, and how soon its first sound is there when it is streamed."""

    names = ("times_real_time", "first_sound_ms")

    def measure(self, heard: EvalAudio) -> dict[str, Measurement]:
        """Medians over a few clips, one at a time, after one that is not counted."""
        rows = spread(len(heard.subject.rows), TIMED)
        self._whole(heard, rows[0])
        details: dict[str, Any] = {"batch": 1, "statistic": "median", "machine": machine()}
        faster = [self._whole(heard, row) for row in rows]
        figures = {"times_real_time": Measurement("times_real_time", statistics.median(faster), len(rows), details)}
        if heard.subject.system.tokenizer.hop_length is not None:
            waits = [self._first(heard, row) for row in rows]
            figures["first_sound_ms"] = Measurement("first_sound_ms", statistics.median(waits), len(rows), details)
        return figures

    def _told(self, heard: EvalAudio, row: int) -> dict[str, Any]:
        subject = heard.subject
        return {
            "conditions": None if heard.conditions is None else [heard.conditions[row]],
            "count": 1,
            "seed": subject.draws.seed,
            "sampling": sampling_of(subject.system, subject.draws),
        }

    def _whole(self, heard: EvalAudio, row: int) -> float:
        system, asked = heard.subject.system, _row(heard.asked, row)
        begun = time.perf_counter()
        tokens = system.generate_tokens(**self._told(heard, row), lengths=lengths_of(system.tokenizer, asked))
        clip = system.wrap(tokens, asked)[0]
        return clip.tensor.shape[-1] / heard.rate / (time.perf_counter() - begun)

    def _first(self, heard: EvalAudio, row: int) -> float:
        begun = time.perf_counter()
        next(iter(heard.subject.system.stream_sound(**self._told(heard, row), seconds=_row(heard.asked, row))))
        return 1000 * (time.perf_counter() - begun)


def _row(values: list[float] | None, row: int) -> list[float] | None:
    return None if values is None else [values[row]]


JUDGES: Sequence[Metric] = (Words(), Voices(), Quality(), Lengths(), OwnLengths(), Distances(), MelDistances(), Kinds(), Pace())
"""In the order of their figures."""
