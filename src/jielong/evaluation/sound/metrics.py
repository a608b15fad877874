"""Metrics of generated audio; each reports a few figures, or the reason why not. A new one is a class, and an entry of METRICS."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import ClassVar, TypedDict

import torch

from jielong.config.sampling import SamplingConfig
from jielong.core.json import JSON
from jielong.data.order import spread
from jielong.evaluation.context import EvalResult, sampling_of
from jielong.evaluation.frechet import distance_of_few
from jielong.evaluation.kernel import kernel_distance
from jielong.evaluation.neighbours import by_group
from jielong.evaluation.provenance import Measurement, machine
from jielong.evaluation.sound.copying import Manifolds, Memorisation
from jielong.evaluation.sound.eval_audio import EvalAudio
from jielong.evaluation.sound.features import MelStatistics, WhisperFeatures
from jielong.evaluation.sound.listening import dnsmos
from jielong.evaluation.sound.metric import Metric
from jielong.evaluation.sound.protocol import sound_hash
from jielong.evaluation.sound.speakers import RECORDINGS
from jielong.evaluation.sound.voices import voices
from jielong.evaluation.sound.waveform import QUIET, sounding_share
from jielong.evaluation.sound.words import Recogniser, intelligibility
from jielong.networks import speaker
from jielong.networks.speaker import SpeakerEncoder
from jielong.system import is_timed, lengths_of

TIMED = 5
"""Clips that are generated one by one to measure speed; the median is reported."""


class Words(Metric):
    """Word and character error rates (WER, CER) by Whisper base."""

    names = ("wer", "cer")

    def reason_omitted(self, audio: EvalAudio) -> str | None:
        """It needs a transcript."""
        return None if audio.spells else "the model speaks no text"

    def measure(self, audio: EvalAudio) -> dict[str, Measurement]:
        """Recogniser per language; all edits over all reference words."""
        sounds = audio.context.sounds
        texts = [sounds.captions[sounds.resolve(row)] for row in audio.context.rows]
        recogniser, figures = Recogniser(), {}
        for side, clips in audio.sides.items():
            by_language: dict[str, dict[str, Measurement]] = {}
            for language in sorted(set(audio.languages)):
                rows = [row for row, each in enumerate(audio.languages) if each == language]
                ours = [clips[row] for row in rows], [texts[row] for row in rows]
                by_language[language] = intelligibility(*ours, audio.rate, recogniser.for_language(language))
            for name in self.names:
                figures[name + side] = _together(name, {language: each[name] for language, each in by_language.items()})
        return figures


def _together(name: str, parts: dict[str, Measurement]) -> Measurement:
    """The error rate over several languages."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    edits, words = (sum(each.number(key) for each in parts.values()) for key in ("edits", "of"))
    by = {language: {"value": each.value, **each.details} for language, each in parts.items()}
    return Measurement(name, edits / words, sum(each.n for each in parts.values()), {"edits": edits, "of": words, "languages": by})


class Voices(Metric):
    """Speaker similarity: cosines with the mean embedding of each speaker of the set."""

    names = ("speaker_similarity", "other_speaker_similarity", "own_speaker_nearest")

    def reason_omitted(self, audio: EvalAudio) -> str | None:
        """The target speaker must be known."""
        if not audio.speaks:
            return "the model generates no speech"
        if audio.speakers is None or None in audio.speakers.names:
            return f"{audio.context.sounds.name} names no speakers: add a column `speaker` or `voice`"
        if len(audio.speakers.references) > 1 and not {"voice", "class"}.intersection(audio.context.system.inputs):
            return "the set has several speakers, and the model takes neither a voice nor a class"
        return None

    def measure(self, audio: EvalAudio) -> dict[str, Measurement]:
        """With one speaker only the similarity to that one."""
        encoder, speakers = SpeakerEncoder(), audio.speakers
        if speakers is None:
            return {}
        means = speakers.voices(encoder)
        targets = torch.tensor([speakers.all_names.index(str(name)) for name in speakers.names])
        details = {
            "encoder": "Resemblyzer (GE2E), silences not cut out",
            "weights_sha256": speaker.SHA256,
            "speakers": len(means),
            "target": f"mean voice of {RECORDINGS} recordings at most of each {speakers.column}, not measured ones where there are others",
        }
        figures: dict[str, Measurement] = {}
        for side, clips in audio.sides.items():
            embeddings = voices(clips, audio.rate, encoder)
            rows = [(voice, target) for voice, target in zip(embeddings, targets.tolist(), strict=True) if voice is not None]
            if not rows:
                raise ValueError("all clips are silent")
            cosines = torch.stack([voice for voice, _ in rows]) @ means.T
            is_target = torch.nn.functional.one_hot(torch.tensor([target for _, target in rows]), len(means)).bool()
            own_similarity, others = cosines[is_target], cosines.masked_fill(is_target, -1.0)
            values = {"speaker_similarity": own_similarity}
            if len(means) > 1:
                nearest = others.amax(1)
                values |= {"other_speaker_similarity": nearest, "own_speaker_nearest": (own_similarity > nearest).float()}
            more = details | {"silent": len(clips) - len(rows), "clips_sha256": sound_hash(clips, audio.rate)}
            figures |= {name + side: Measurement(name, value.mean().item(), len(rows), more) for name, value in values.items()}
        return figures

    def __call__(self, audio: EvalAudio) -> EvalResult:
        """With one speaker, the other figures are omitted for that reason."""
        found = super().__call__(audio)
        if "speaker_similarity" in found.figures:
            return EvalResult(found.figures, dict.fromkeys(found.omitted, "the set has one speaker"))
        return found


class Quality(Metric):
    """Speech quality by DNSMOS."""

    names = ("dnsmos",)

    def reason_omitted(self, audio: EvalAudio) -> str | None:
        """It rates speech alone."""
        return None if audio.speaks else "it rates speech, and the model generates other sounds"

    def measure(self, audio: EvalAudio) -> dict[str, Measurement]:
        """Of generated, real and reconstructed clips."""
        return {f"dnsmos{side}": dnsmos(clips, audio.rate) for side, clips in audio.sides.items()}


class Lengths(Metric):
    """Error of the duration relative to the requested one."""

    names = ("length_error",)

    def reason_omitted(self, audio: EvalAudio) -> str | None:
        """It needs a requested duration."""
        return None if audio.durations is not None else "no duration is requested"

    def measure(self, audio: EvalAudio) -> dict[str, Measurement]:
        """The mean of ``|got - asked| / asked``; the details add the share of a clip that is not silent."""
        target = torch.tensor(audio.durations, dtype=torch.float64)
        got = torch.tensor([clip.shape[-1] / audio.rate for clip in audio.sides[""]], dtype=torch.float64)
        errors = (got - target).abs() / target
        sounding = {
            f"sounding{side}": statistics.mean(sounding_share(clip, audio.rate) for clip in clips) for side, clips in audio.sides.items()
        }
        details: JSON = {
            "formula": "mean of |got - asked| / asked",
            "worst": errors.max().item(),
            "asked_mean_seconds": target.mean().item(),
        }
        more = {"sounding_is": f"share of a clip up to its last 20 ms less than {-QUIET:g} dB below its loudest"}
        return {"length_error": Measurement("length_error", errors.mean().item(), len(errors), details | sounding | more)}


class PredictedLengths(Metric):
    """Duration relative to the real recording, where none is requested."""

    names = ("length_ratio",)

    def reason_omitted(self, audio: EvalAudio) -> str | None:
        """The model must choose durations."""
        if audio.durations is not None:
            return "a duration is requested"
        return None if is_timed(audio.context.system.recipe) else "the model generates clips of one length"

    def measure(self, audio: EvalAudio) -> dict[str, Measurement]:
        """The mean of generated over real."""
        pairs = zip(audio.sides[""], audio.context.clips, strict=True)
        ratios = torch.tensor([clip.shape[-1] / real.shape[-1] for clip, real in pairs], dtype=torch.float64)
        details: JSON = {"formula": "mean of generated over real length", "least": ratios.min().item(), "most": ratios.max().item()}
        return {"length_ratio": Measurement("length_ratio", ratios.mean().item(), len(ratios), details)}


class Distances(Metric):
    """Fréchet and kernel distances from the real held-out clips, in features of Whisper's encoder.

    The kernel distance is unbiased for few clips; the Fréchet distance falls with their number.
    """

    names: ClassVar[tuple[str, ...]] = ("frechet", "kernel")
    features: ClassVar[type[WhisperFeatures] | type[MelStatistics]] = WhisperFeatures

    def reason_omitted(self, audio: EvalAudio) -> str | None:
        """Statistics need several clips."""
        return None if len(audio.context.rows) > 1 else "it needs two clips at least"

    def measure(self, audio: EvalAudio) -> dict[str, Measurement]:
        """Of generated and reconstructed clips; ``_real`` is the distance of as many training clips."""
        space, count = audio.space(self.features), len(audio.context.rows)
        real = space(audio.context.clips, audio.rate)
        sides = {side: space(clips, audio.rate) for side, clips in audio.sides.items() if side != "_real"}
        if "_real" in audio.sides and len(space.known) >= count:
            sides["_real"] = space.known[spread(len(space.known), count)]
        details: JSON = space.extractor.details | {
            "units": f"deviations over {len(space.known)} training clips",
            "reference_sha256": sound_hash(audio.context.clips, audio.rate),
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
    """The Fréchet distance in statistics of mel bands, without further packages."""

    names = ("frechet_mel",)
    features = MelStatistics


class Classes(Metric):
    """Class accuracy: the class of the nearest training clip in Whisper's features against the requested one."""

    names = ("class_at_1",)

    def reason_omitted(self, audio: EvalAudio) -> str | None:
        """For sounds of several classes, conditioned on a class or a caption."""
        sounds = audio.context.sounds
        if audio.speaks:
            return "it is for sounds; speech is measured by word error rates"
        if not {"text", "class"}.intersection(audio.context.system.inputs):
            return "the model takes neither a caption nor a class"
        if len(sounds.classes) < 2 or any(sounds.labels[sounds.resolve(row)] is None for row in audio.context.rows):
            return f"{sounds.name} has fewer than two classes, or clips without one"
        return None

    def measure(self, audio: EvalAudio) -> dict[str, Measurement]:
        """Chance is the share of the most frequent class among the training clips."""
        space, (trained, rows) = audio.space(WhisperFeatures), audio.known
        labels = [trained.labels[trained.resolve(row)] for row in rows]
        kept = [place for place, label in enumerate(labels) if label is not None]
        theirs = [trained.classes[labels[place] or 0] for place in kept]
        sounds = audio.context.sounds
        wanted = [sounds.classes[sounds.labels[sounds.resolve(row)] or 0] for row in audio.context.rows]
        details = space.extractor.details | {
            "protocol": f"class of the nearest of {len(kept)} training clips",
            "classes": len(set(theirs)),
            "chance": max(map(theirs.count, theirs)) / len(theirs),
        }
        figures = {}
        for side, clips in audio.sides.items():
            nearest = torch.cdist(space(clips, audio.rate), space.known[kept]).argmin(1).tolist()
            right = torch.tensor([theirs[place] == want for place, want in zip(nearest, wanted, strict=True)])
            more = by_group(right, wanted)
            figures[f"class_at_1{side}"] = Measurement("class_at_1", right.double().mean().item(), len(right), details | more)
        return figures


class _Arguments(TypedDict):
    conditions: Sequence[object] | None
    count: int
    seed: int
    sampling: SamplingConfig


class Speed(Metric):
    """Real-time factor of one clip on this machine, and latency of the first audio when streamed."""

    names = ("times_real_time", "first_sound_ms")

    def measure(self, audio: EvalAudio) -> dict[str, Measurement]:
        """Medians over a few clips, one at a time, after a warm-up."""
        rows = spread(len(audio.context.rows), TIMED)
        self._whole(audio, rows[0])
        details: JSON = {"batch": 1, "statistic": "median", "machine": machine()}
        faster = [self._whole(audio, row) for row in rows]
        figures = {"times_real_time": Measurement("times_real_time", statistics.median(faster), len(rows), details)}
        if audio.context.system.tokenizer.hop_length is not None:
            waits = [self._first(audio, row) for row in rows]
            figures["first_sound_ms"] = Measurement("first_sound_ms", statistics.median(waits), len(rows), details)
        return figures

    def _arguments(self, audio: EvalAudio, row: int) -> _Arguments:
        context = audio.context
        return {
            "conditions": None if audio.conditions is None else [audio.conditions[row]],
            "count": 1,
            "seed": context.draws.seed,
            "sampling": sampling_of(context.system, context.draws),
        }

    def _whole(self, audio: EvalAudio, row: int) -> float:
        system, durations = audio.context.system, _row(audio.durations, row)
        begun = time.perf_counter()
        tokens = system.generate_tokens(**self._arguments(audio, row), lengths=lengths_of(system.tokenizer, durations))
        clip = system.wrap(tokens, durations)[0]
        return clip.tensor.shape[-1] / audio.rate / (time.perf_counter() - begun)

    def _first(self, audio: EvalAudio, row: int) -> float:
        begun = time.perf_counter()
        next(iter(audio.context.system.stream_sound(**self._arguments(audio, row), seconds=_row(audio.durations, row))))
        return 1000 * (time.perf_counter() - begun)


def _row(values: list[float] | None, row: int) -> list[float] | None:
    return None if values is None else [values[row]]


METRICS: Sequence[Metric] = (
    Words(),
    Voices(),
    Quality(),
    Lengths(),
    PredictedLengths(),
    Distances(),
    MelDistances(),
    Manifolds(),
    Memorisation(),
    Classes(),
    Speed(),
)
"""In the order of the report."""
