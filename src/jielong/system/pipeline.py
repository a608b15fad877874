"""A trained system: a tokenizer, optionally a generator, and the recipe they came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from jielong.config.sampling import SamplingConfig, check_names
from jielong.config.schema import Recipe
from jielong.core.tokens import Tokens
from jielong.generation.callbacks import StepCallback
from jielong.generation.extent import check_decoded
from jielong.generation.generator import Generator
from jielong.generation.inpainting import Side
from jielong.generation.request import SamplingRequest
from jielong.generation.streaming import stream_sound
from jielong.media.kinds.base import kind_of
from jielong.media.masks import MaskLike
from jielong.media.results import ResultItem, Results
from jielong.system.completing import check_kept_alike, completion
from jielong.system.editing import Edit, EditSettings, Outside, PictureLike
from jielong.system.inputs import GenerationInputs, StageOptions, call_inputs, durations_of, gather, lengths_of, split_inputs
from jielong.system.long_text import PAUSE, joined
from jielong.system.one_screen import on_one_screen
from jielong.system.options import GenerateOptions, SamplingOptions
from jielong.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class System:
    """What :func:`load` returns.

    Attributes:
        name: The name or folder it was loaded by.
        recipe: The whole experiment.
        tokenizer: Media to tokens and back.
        generator: Tokens from nothing, or from a condition; ``None`` for a tokenizer alone.
        stages: The trained stages it is built on, by name: its ``tokenizer`` where that was trained by itself, and the earlier generators
            of a cascade, which :meth:`generate` runs first.
        weaker: A system whose predictions guidance leads away from, in place of the null condition (:func:`autoguided`).
    """

    name: str
    recipe: Recipe
    tokenizer: Tokenizer
    generator: Generator | None
    stages: Mapping[str, System] = field(default_factory=dict)
    weaker: System | None = None

    def __repr__(self) -> str:
        return on_one_screen(self)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs of its condition and of its earlier stages, such as ``text`` and ``voice``."""
        return tuple(each.name for each in call_inputs(self))

    def to(self, device: torch.device | str) -> System:
        """Move all weights; returns itself."""
        self.tokenizer.to(device)
        if self.generator is not None:
            self.generator.to(device)
        for system in (*self.stages.values(), *([] if self.weaker is None else [self.weaker])):
            system.to(device)
        return self

    def generate_tokens(
        self,
        conditions: Sequence[object] | None,
        count: int | None = None,
        *,
        sampling: SamplingConfig | None = None,
        lengths: Sequence[int] | None = None,
        **options: Any,
    ) -> Tokens:
        """Tokens for raw conditions, by the recipe's sampling parameters by default; ``options`` as of :meth:`Generator.generate`."""
        model = self._needed_generator()
        if lengths is None:
            lengths = lengths_of(self.tokenizer, durations_of(self.recipe, conditions))
        config = sampling or self.default_sampling(conditions is not None)
        check_decoded(self.tokenizer, config.frames if options.get("frames") is None else options["frames"])
        weaker = None if self.weaker is None else self.weaker.generator
        return model.generate(conditions, count, sampling=config, lengths=lengths, weaker=weaker, **options)

    def _needed_generator(self) -> Generator:
        """The generator; raises ``ValueError`` for a tokenizer."""
        if self.generator is None:
            raise ValueError(f"{self.name} is a tokenizer; to generate, load a generator such as maskgit-emoji")
        return self.generator

    def default_sampling(self, conditioned: bool) -> SamplingConfig:
        """The recipe's sampling parameters; without guidance where there is no condition to follow."""
        return self.recipe.sampling if conditioned or self.weaker is not None else self.recipe.sampling.unconditional()

    def generate(
        self,
        text: Sequence[str] | str | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        count: int | None = None,
        *,
        on_step: StepCallback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Results[ResultItem]:
        """Generate pictures or sound.

        Args:
            text: One caption or several. A transcript longer than the model's longest sound is cut into sentences, or clauses or words,
                each with the item's voice and random numbers, and joined with pauses (:mod:`jielong.system.long_text`).
            classes: One class or several, by name or number.
            count: Items per caption or class; items in all where the generator has no condition.
            on_step: Called with a :class:`jielong.generation.callbacks.StepEvent` after every step.
            options: Seed, sampling parameters, and further inputs of the condition by name (:attr:`inputs`).

        Returns:
            Pictures that save and show themselves, or clips that save and play themselves.

        Raises:
            ValueError: if inputs do not fit the model's condition, or an option has an unknown name or a value out of range.
        """
        inputs, others = self._gather(text, classes, count, options, cut=True)
        if inputs.items is not None:
            tokens = self.generate_tokens(inputs.conditions, indices=inputs.items, on_step=on_step, **others)
            clips = [each.tensor for each in self.wrap(tokens)]
            whole, samples = joined(clips, inputs.items, self.tokenizer.media.sample_rate)
            return kind_of(self.tokenizer.media).wrap(whole, self.tokenizer.media, inputs.captions, samples)
        if inputs.durations is not None and others.get("lengths") is None:
            others["lengths"] = lengths_of(self.tokenizer, inputs.durations)
        tokens = self.generate_tokens(inputs.conditions, count, negatives=inputs.negatives, on_step=on_step, **others)
        return self.wrap(tokens, inputs.durations, inputs.captions)

    def check(
        self,
        text: Sequence[str] | str | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        count: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> int:
        """How many items :meth:`generate` would draw; nothing is drawn, and earlier stages of a cascade are not run.

        Raises:
            ValueError: as :meth:`generate` with these arguments.
        """
        model = self._needed_generator()
        inputs, others = self._gather(text, classes, count, options, cut=True, draw=False)
        sampling = others.get("sampling") or self.default_sampling(inputs.conditions is not None)
        lengths = others.get("lengths") or lengths_of(self.tokenizer, inputs.durations or durations_of(self.recipe, inputs.conditions))
        request = SamplingRequest.of(
            model,
            inputs.conditions,
            inputs.count if inputs.items is None else len(inputs.items),
            sampling.override(**{name: others.get(name) for name in SamplingOptions.__annotations__}),
            lengths=lengths,
            start=others.get("start"),
            known=others.get("known"),
            negatives=inputs.negatives,
        )
        if model.condition is not None and request.conditions is not None:
            model.condition.prepare(request.conditions)
        return inputs.count

    def wrap(self, tokens: Tokens, seconds: Sequence[float] | None = None, names: Sequence[str] | None = None) -> Results[ResultItem]:
        """Tokens decoded, as objects that save and show themselves.

        Args:
            tokens: Of any length the tokenizer decodes.
            seconds: Duration requested of each item; by default that of its tokens.
            names: Captions.
        """
        media, hop_length = self.tokenizer.media, self.tokenizer.hop_length
        samples = None if tokens.lengths is None or hop_length is None else (tokens.lengths * hop_length).tolist()
        if seconds is not None and samples is not None:
            samples = _samples(seconds, media.sample_rate)
        return kind_of(media).wrap(self.decode(tokens), media, names, samples)

    def stream(
        self,
        text: Sequence[str] | str | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        count: int | None = None,
        *,
        every: float = 0.0,
        **options: Unpack[GenerateOptions],
    ) -> Iterator[Tensor]:
        """Generate sound in chunks ``(B, C, n)`` in [-1, 1]; joined, they are what :meth:`generate` gives with the same arguments.

        Behind an item's end there is silence; the stream ends with the longest item. A chunk comes as soon as its tokens are complete
        (:meth:`Generator.stream`) and those that the tokenizer's decoder looks ahead at.

        Args:
            text: As of :meth:`generate`, and so are the others.
            classes: One class or several.
            count: Items per caption or class.
            every: Least seconds per chunk; a token by default.
            options: As of :meth:`generate`, without ``batch``.

        Raises:
            ValueError: as :meth:`generate`, and where tokens have no position in time.
        """
        inputs, others = self._gather(text, classes, count, options, cut=True)
        if inputs.items is not None and inputs.conditions is not None:
            if inputs.count > 1:
                raise ValueError(f"{inputs.count} texts are streamed, and one is longer than the model says at once: stream one at a time")
            return self._stream_pieces(inputs.conditions, every=every, **others)
        more: dict[str, Any] = {"negatives": inputs.negatives, **others}
        return self.stream_sound(inputs.conditions, count, seconds=inputs.durations, every=every, **more)

    def _stream_pieces(self, conditions: Sequence[object], **options: Any) -> Iterator[Tensor]:
        """:meth:`stream` for the pieces of one long transcript, one after the other."""
        media = self.tokenizer.media
        for place, condition in enumerate(conditions):
            if place:
                yield torch.zeros(1, media.channels, round(PAUSE * media.sample_rate))
            yield from self.stream_sound([condition], **options)

    def stream_sound(
        self,
        conditions: Sequence[object] | None,
        count: int | None = None,
        *,
        seconds: Sequence[float] | None = None,
        sampling: SamplingConfig | None = None,
        every: float = 0.0,
        lengths: Sequence[int] | None = None,
        **options: Any,
    ) -> Iterator[Tensor]:
        """:meth:`stream` for raw conditions, as :meth:`generate_tokens` is :meth:`generate`'s."""
        hop_length = self.tokenizer.hop_length
        if self.generator is None or hop_length is None:
            raise ValueError(f"{self.name} makes no sound token by token, so there is nothing to stream: use generate")
        rate, config = self.tokenizer.media.sample_rate, sampling or self.default_sampling(conditions is not None)
        lengths = lengths_of(self.tokenizer, seconds) if lengths is None else lengths
        tokens = max(1, round(every * rate / hop_length))
        weaker = None if self.weaker is None else self.weaker.generator
        chunks = self.generator.stream(conditions, count, every=tokens, sampling=config, lengths=lengths, weaker=weaker, **options)
        return stream_sound(self.tokenizer, chunks, None if seconds is None else _samples(seconds, rate))

    def complete(
        self,
        media: Tensor,
        keep: Side = "upper",
        text: Sequence[str] | str | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        count: int | None = None,
        *,
        on_step: StepCallback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Results[ResultItem]:
        """Keep one half of an item and generate the rest, or continue a recording.

        Tokens are kept: those of pixels are the pixels; those of a learned tokenizer are decoded again, and near the edge they depend on
        the other half. Of a recording whole tokens are kept: to continue in its voice, start ``text`` with its transcript, and cut the
        recording off the result (an acoustic prompt, arXiv 2301.02111).

        Args:
            media: The item, ``(C, *size)`` in [-1, 1]; of audio its beginning, ``(C, T)``, at the tokenizer's rate.
            keep: ``first`` or ``last`` half along time, ``upper`` or ``lower``, ``left`` or ``right``; of audio the beginning is kept.
            text: As in :meth:`generate`, and so are the others.
            classes: Class names or numbers.
            count: Items per input.
            on_step: Called after every step.
            options: As in :meth:`generate`.

        Raises:
            ValueError: if the tokens have no such half, the order would not see it, or a recording is shorter than a token or too long.
        """
        more: dict[str, Any] = {**options, **completion(self, media, keep)}
        return self.generate(text, classes, count, on_step=on_step, **more)

    def edit(
        self,
        image: PictureLike,
        text: Sequence[str] | str | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        count: int | None = None,
        *,
        mask: MaskLike | None = None,
        region: Sequence[int] | None = None,
        outpaint: Sequence[int] | None = None,
        outside: Outside = "original",
        instruction: Sequence[str] | str | None = None,
        on_step: StepCallback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Results[ResultItem]:
        """Change a part of a picture, or all of it in part; see :class:`~jielong.system.editing.EditSettings` for the arguments not below.

        Args:
            image: The picture's file, an image, or ``(C, H, W)`` in [-1, 1] of the model's size.
            text: As in :meth:`generate`, and so are the others.
            classes: Class names or numbers.
            count: Pictures per text or class.
            on_step: Called after every step.
            options: As in :meth:`generate`.

        Raises:
            ValueError: if nothing or everything would change, sizes do not fit, or the order cannot make this edit.
        """
        settings = EditSettings(mask, region, outpaint, options.pop("strength", None), outside, instruction)
        edit = Edit.of(self, image, settings, text is not None or classes is not None)
        return edit.draw(text=text, classes=classes, count=count, on_step=on_step, **options)

    def _gather(
        self, text: object, classes: object, count: int | None, options: GenerateOptions, cut: bool = False, draw: bool = True
    ) -> tuple[GenerationInputs, dict[str, Any]]:
        """The inputs of a call, and the options that are no inputs."""
        given, others = split_inputs({"text": text, "classes": classes, **options})
        check_names(others, (*GenerateOptions.__annotations__, *self.inputs), "argument")
        cut = cut and all(others.get(name) is None for name in ("lengths", "start", "known"))
        given_to_stages: Any = others.pop("stage_options", None)
        stage_options: StageOptions = given_to_stages or {}
        check_kept_alike(self, given, others, stage_options)
        return gather(self, given, count, options.get("seed", 0), cut, draw, stage_options), others

    def encode(self, media: Tensor) -> Tokens:
        """Pictures ``(B, C, H, W)`` in [-1, 1] to tokens."""
        return self.tokenizer.encode(media.to(self.device))

    def decode(self, tokens: Tokens, batch: int = 64) -> Tensor:
        """Tokens to pictures ``(B, C, H, W)`` in [-1, 1], on the CPU."""
        device = self.device
        parts = []
        for first in range(0, max(1, len(tokens)), batch):
            rows = slice(first, first + batch)
            lengths = None if tokens.lengths is None else tokens.lengths[rows]
            parts.append(self.tokenizer.decode_padded(Tokens(tokens.values[rows].to(device), tokens.layout, lengths)).cpu())
        return torch.cat(parts)

    def decode_known(self, tokens: Tokens, known: Tensor, batch: int = 64) -> Tensor:
        """The pictures so far while only some tokens are known, ``(B, N)`` bool, on the CPU; see :meth:`Tokenizer.decode_known`."""
        device = self.device
        parts = zip(tokens.values.split(batch), known.split(batch), strict=True)
        return torch.cat([self.tokenizer.decode_known(Tokens(v.to(device), tokens.layout), k.to(device)).cpu() for v, k in parts])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        weight = next(self.tokenizer.parameters(), None)
        return torch.device("cpu") if weight is None else weight.device


def _samples(seconds: Sequence[float], rate: int) -> list[int]:
    """How many samples such lengths are, one at least."""
    return [max(1, round(value * rate)) for value in seconds]
