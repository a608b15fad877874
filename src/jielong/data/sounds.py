"""A set of sound as tensors: decoded once, at one rate and length, broken files replaced and counted."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.data.sets import MEMORY_BYTES, Batch
from jielong.data.source import DataError, Source, digest
from jielong.media.audio import BrokenAudioError, normalise, read_audio, read_header, resample, to_channels, to_integers

RATE = 16_000
"""Samples a second, unless another rate is asked for."""
PREPROCESSING = "soxr high quality, 16 bit: 1"
SPEAKER_COLUMNS = ("speaker", "voice")
"""Of a set, which may say who speaks."""
_EXACT = ("WAV", "FLAC", "AIFF", "g722")  # kinds whose header counts samples exactly


class AudioSet:
    """Sound of one source at one rate and length; what :class:`~jielong.data.sets.ImageSet` is for pictures.

    An item is a clip's beginning, with silence behind it where the clip is shorter; training that wants any part of a clip asks for
    :meth:`crops`. A clip that turns out to be broken is named in :attr:`broken`, warned of, and replaced by the next good one of the set,
    with that one's words.

    Attributes:
        classes: names of the classes, in the order of their numbers; empty if there are none.
        captions: words a clip, ``""`` where they are missing.
        labels: a class number a clip, or None where it is missing.
        columns: whatever else the source says of each clip, by name, such as ``speaker``.
        broken: what was left out or replaced, and why.
        stand_ins: index of a broken clip met so far -> index of the one that replaces it.
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int] | None = None,
        *,
        rate: int = RATE,
        seconds: float = 1.0,
        channels: int = 1,
        level: float | None = None,
    ) -> None:
        """Take the items ``indices`` (all by default) of a source.

        Args:
            source: where the sound comes from.
            indices: which items, in this order.
            rate: samples a second.
            seconds: length of every item.
            channels: 1 (mono) or 2.
            level: decibels of full scale that every clip is brought to; as it is by default.

        Raises:
            DataError: if there is no sound, or rate, length or channels are impossible.
        """
        self.source, self.name = source, source.name
        self.indices = list(range(len(source.items)) if indices is None else indices)
        self.rate, self.channels, self.level = rate, channels, level
        self.samples = round(rate * seconds)
        self.broken = dict(source.broken)
        if not self.indices:
            raise DataError(f"{source.name} holds no usable sound" + (f" ({len(source.broken)} broken)" if source.broken else ""))
        if rate < 1 or self.samples < 1 or channels not in (1, 2):
            raise DataError(
                f"sound needs a rate and a length of a sample or more and 1 or 2 channels, not {rate} Hz, {seconds} s, {channels} channels"
            )
        items = [source.items[i] for i in self.indices]
        self.keys = [item.key for item in items]
        self.has_captions = any(item.caption for item in items)
        self.captions = [item.caption or "" for item in items]
        self.classes = list(source.classes or sorted({item.label for item in source.items if item.label is not None}))
        number = {name: n for n, name in enumerate(self.classes)}
        self.labels = [None if item.label is None else number[item.label] for item in items]
        self.columns: dict[str, list[Any]] = {name: [item.extra.get(name) for item in items] for name in items[0].extra}
        self.stand_ins: dict[int, int] = {}
        self._bad: set[int] = set()
        self._fingerprint: str | None = None
        self._clips: dict[int, Tensor] = {}  # (C, n) int16 at the set's rate
        self._clip_bytes = 0
        self._lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        words = f", {len(self.classes)} classes" if self.classes else ""
        return f"AudioSet({self.name!r}: {len(self)} clips, {self.channels} x {self.samples} at {self.rate} Hz{words})"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content (sound, captions, labels, in order) and of the preprocessing."""
        if self._fingerprint is None:
            how = f"{PREPROCESSING}; {self.samples} at {self.rate}; channels {self.channels}; level {self.level}"
            words = [f"{k}\0{c}\0{n}" for k, c, n in zip(self.keys, self.captions, self.labels, strict=True)]
            self._fingerprint = digest([how, self.source.identity(self.indices), *self.classes, *words])
        return self._fingerprint

    @property
    def speaker_column(self) -> str | None:
        """The column that says who speaks, if one does."""
        return next((name for name in SPEAKER_COLUMNS if name in self.columns), None)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The beginnings of those clips, with their words and lengths."""
        return self._with_words([self._piece(index, 0) for index in indices], indices)

    def crops(self, indices: Sequence[int], positions: Sequence[int], seed: int) -> Batch:
        """Stretches of those clips that begin anywhere, each drawn from ``(seed, position)``; short clips begin at their beginning.

        Args:
            indices: Which clips.
            positions: Of each in the run's endless stream.
            seed: The run's.
        """
        pieces = []
        for index, position in zip(indices, positions, strict=True):
            spare = self._clip(index).shape[1] - self.samples
            drawn = int.from_bytes(hashlib.blake2b(f"{seed}/crop/{position}".encode(), digest_size=8).digest(), "big")
            pieces.append(self._piece(index, drawn % (spare + 1) if spare > 0 else 0))
        return self._with_words(pieces, indices)

    def words(self, indices: Sequence[int], tokens: Tensor) -> Batch:
        """A batch of tokens ``(B, N, C)`` that were made of those clips' beginnings, with their words and lengths."""
        batch = self._words_of([self.resolve(i) for i in indices])
        return replace(batch, media=torch.empty(len(indices), 0), tokens=tokens)

    def media(self, indices: Sequence[int]) -> Tensor:
        """The beginnings of those clips, ``(B, C, T)`` float32 in [-1, 1]."""
        return self.batch(indices).media

    def clip(self, index: int) -> Tensor:
        """A whole clip, ``(C, n)`` float32 in [-1, 1], at the set's rate."""
        return self._clip(index).float() / 32_768

    def resolve(self, index: int) -> int:
        """The index of the clip that stands at ``index``: itself, or the one that replaces a broken one met so far."""
        return self.stand_ins.get(index, index)

    def length(self, index: int) -> int:
        """Samples of a clip that an item holds: all of them, or as many as go into it."""
        return min(self.full_length(index), self.samples)

    def full_length(self, index: int) -> int:
        """Samples of a whole clip at the set's rate; nothing is decoded where the file's header tells."""
        index = self.resolve(index)
        if index not in self._lengths:
            self._lengths[index] = self._told(index)
        return self._lengths[index]

    def _told(self, index: int) -> int:
        try:
            header = read_header(self.source.blob(self.indices[index]), self.keys[index])
        except BrokenAudioError:
            return self._clip(index).shape[1]
        if header.samples is None or header.kind not in _EXACT:
            return self._clip(index).shape[1]
        return max(1, round(header.samples * self.rate / header.rate))

    def _with_words(self, pieces: Sequence[Tensor], indices: Sequence[int]) -> Batch:
        batch = self._words_of([self.resolve(i) for i in indices])  # after decoding, which may have replaced some
        return replace(batch, media=torch.stack(list(pieces)))

    def _words_of(self, indices: Sequence[int]) -> Batch:
        labels = [n for n in (self.labels[i] for i in indices) if n is not None]
        return Batch(
            media=torch.empty(0),
            captions=[self.captions[i] for i in indices] if self.has_captions else None,
            labels=torch.tensor(labels) if len(labels) == len(indices) else None,
            keys=[self.keys[i] for i in indices],
            lengths=torch.tensor([self.length(i) for i in indices]),
        )

    def _piece(self, index: int, first: int) -> Tensor:
        piece = self._clip(index)[:, first : first + self.samples].float() / 32_768
        return F.pad(piece, (0, self.samples - piece.shape[1]))

    def _clip(self, index: int) -> Tensor:
        index = self.resolve(index)
        if index in self._clips:
            return self._clips[index]
        clip = self._decode_or_replace(index)
        size = clip.numel() * clip.element_size()
        if self._clip_bytes + size <= MEMORY_BYTES:
            self._clips[self.resolve(index)] = clip
            self._clip_bytes += size
        return clip

    def _decode_or_replace(self, index: int) -> Tensor:
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            if candidate in self._bad:
                continue
            try:
                waveform, rate = read_audio(self.source.blob(self.indices[candidate]), self.keys[candidate])
                clip = resample(to_channels(waveform, self.channels), rate, self.rate)
            except ValueError as error:
                self._bad.add(candidate)
                self.broken[self.keys[candidate]] = str(error)
                warnings.warn(f"{error}; the next good clip takes its place ({len(self.broken)} broken so far)", stacklevel=4)
                continue
            if candidate != index:
                self.stand_ins[index] = candidate
            return to_integers(clip if self.level is None else normalise(clip, self.level))
        raise DataError(f"{self.name}: not one of {len(self)} clips can be decoded")
