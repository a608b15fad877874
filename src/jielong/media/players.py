"""Generated sound as objects that save and play themselves, in notebooks too."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from PIL import Image
from torch import Tensor

from jielong.media.audio import encode_audio, write_audio
from jielong.media.images import encode, from_tensor, sheet, to_data_uri, write_image
from jielong.media.spectrograms import in_a_row, spectrogram, spectrograms


@dataclass(frozen=True, eq=False)
class Sound:
    """One clip: ``tensor`` is ``(C, T)`` float in [-1, 1], ``rate`` its samples a second, ``caption`` what it was asked to be."""

    tensor: Tensor
    rate: int
    caption: str = ""

    @property
    def image(self) -> Image.Image:
        """Its spectrogram."""
        return from_tensor(spectrogram(self.tensor, self.rate))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it, whole or not at all; the suffix says the kind (WAV when there is none), a picture's that of its spectrogram."""
        if Path(path).suffix.lower() in Image.registered_extensions():
            return write_image(path, self.image)
        return write_audio(path, self.tensor, self.rate)

    def _repr_html_(self) -> str:
        data = base64.b64encode(encode_audio(self.tensor, self.rate)).decode()
        picture = to_data_uri(spectrogram(self.tensor, self.rate))
        return (
            f'<figure style="display:inline-block;margin:4px"><img src="{picture}" width="288"><br>'
            f'<audio controls src="data:audio/wav;base64,{data}"></audio><figcaption>{html.escape(self.caption)}</figcaption></figure>'
        )

    def __repr__(self) -> str:
        channels, samples = self.tensor.shape
        return f"Sound({channels} x {samples} at {self.rate} Hz{f', {self.caption!r}' if self.caption else ''})"


class Sounds(Sequence[Sound]):
    """Clips of one run, ``tensor`` ``(B, C, T)`` float in [-1, 1]; a list of :class:`Sound`.

    ``lengths`` are the samples of each clip, where they differ; ``tensor`` holds silence behind them.
    """

    def __init__(self, tensor: Tensor, rate: int, captions: Sequence[str] | None = None, lengths: Sequence[int] | None = None) -> None:
        """Wrap a batch.

        Raises:
            ValueError: if it is not a batch of sound, or has another number of captions or lengths.
        """
        if tensor.ndim != 3 or not tensor.numel():
            raise ValueError(f"sound is (batch, channels, samples), not {tuple(tensor.shape)}")
        if captions is not None and len(captions) != len(tensor):
            raise ValueError(f"{len(tensor)} clips need as many captions, not {len(captions)}")
        if lengths is not None:
            if len(lengths) != len(tensor) or not all(1 <= length <= tensor.shape[2] for length in lengths):
                raise ValueError(f"{len(tensor)} clips need as many lengths, from 1 to {tensor.shape[2]} samples, not {list(lengths)}")
            tensor = tensor.clone()
            for clip, length in zip(tensor, lengths, strict=True):
                clip[:, length:] = 0
        self.tensor, self.rate = tensor, rate
        self.lengths = list(lengths) if lengths is not None else None
        self.captions = list(captions) if captions is not None else None

    def __len__(self) -> int:
        return len(self.tensor)

    @overload
    def __getitem__(self, index: int) -> Sound: ...
    @overload
    def __getitem__(self, index: slice) -> Sounds: ...
    def __getitem__(self, index: int | slice) -> Sound | Sounds:
        if isinstance(index, slice):
            captions = None if self.captions is None else self.captions[index]
            return Sounds(self.tensor[index], self.rate, captions, None if self.lengths is None else self.lengths[index])
        index = range(len(self))[index]
        stop = None if self.lengths is None else self.lengths[index]
        return Sound(self.tensor[index][:, :stop], self.rate, self.captions[index] if self.captions else "")

    def __iter__(self) -> Iterator[Sound]:
        return (self[index] for index in range(len(self)))

    def like(self, tensor: Tensor) -> Sounds:
        """Others in their places, ``(B, C, T)``, of the same rate, captions and lengths."""
        return Sounds(tensor, self.rate, self.captions, self.lengths)

    def sheet(self, columns: int = 4, scale: int = 1) -> Image.Image:
        """Their spectrograms on one contact sheet, as wide as the longest is long, with their captions."""
        longest = None if self.lengths is None else max(self.lengths)
        return sheet(spectrograms(self.tensor[..., :longest], self.rate), columns, self.captions, scale=scale)

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write a file each (``0000.wav``, ...) into a folder, or one file: of sound all in a row, of a picture all spectrograms.

        Captions go beside the clips as ``.txt`` files, so that the folder opens as a set again. Returns the files of sound, or the one.
        """
        path = Path(path)
        if path.suffix.lower() in Image.registered_extensions():
            return [write_image(path, self.sheet())]
        if path.suffix:
            return [write_audio(path, in_a_row([clip.tensor for clip in self], self.rate), self.rate)]
        path.mkdir(parents=True, exist_ok=True)
        written = []
        for index, clip in enumerate(self):
            written.append(clip.save(path / f"{index:04d}.wav"))
            if clip.caption:
                (path / f"{index:04d}.txt").write_text(clip.caption + "\n", "utf-8")
        return written

    def _repr_png_(self) -> bytes:
        return encode(self.sheet())

    def _repr_html_(self) -> str:
        return f"<div>{''.join(clip._repr_html_() for clip in self)}</div>"

    def __repr__(self) -> str:
        return f"Sounds({len(self)} x {tuple(self.tensor.shape[1:])} at {self.rate} Hz)"
