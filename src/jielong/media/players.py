"""Generated sound that saves, shows and plays itself."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from jielong.media.audio import encode_audio, write_audio
from jielong.media.images import WRITTEN, from_tensor, sheet, to_data_uri, write_image
from jielong.media.results import Results
from jielong.media.spectrograms import in_a_row, spectrogram, spectrograms


@dataclass(frozen=True, eq=False)
class Sound:
    """One clip: ``tensor`` is ``(C, T)`` float in [-1, 1], ``rate`` its samples per second, ``caption`` its prompt."""

    tensor: Tensor
    rate: int
    caption: str = ""

    @property
    def image(self) -> Image.Image:
        """Its spectrogram."""
        return from_tensor(spectrogram(self.tensor, self.rate))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it, whole or not at all; the suffix says the format (WAV when there is none); an image file gets its spectrogram."""
        if Path(path).suffix.lower() in WRITTEN:
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


class Sounds(Results[Sound]):
    """Clips of one run, ``tensor`` ``(B, C, T)`` float in [-1, 1], with silence beyond the ``lengths``."""

    suffix = ".wav"
    sample_columns = 2
    sample_suffix = ".wav"

    def __init__(self, tensor: Tensor, rate: int, captions: Sequence[str] | None = None, lengths: Sequence[int] | None = None) -> None:
        """Wrap a batch.

        Raises:
            ValueError: if it is not a batch of sound, or has another number of captions or lengths.
        """
        if tensor.ndim != 3 or not tensor.numel():
            raise ValueError(f"sound is (batch, channels, samples), not {tuple(tensor.shape)}")
        if lengths is not None:
            if len(lengths) != len(tensor) or not all(1 <= length <= tensor.shape[2] for length in lengths):
                raise ValueError(f"{len(tensor)} clips need as many lengths, from 1 to {tensor.shape[2]} samples, not {list(lengths)}")
            tensor = tensor.clone()
            for clip, length in zip(tensor, lengths, strict=True):
                clip[:, length:] = 0
        super().__init__(tensor, captions)
        self.rate, self.lengths = rate, None if lengths is None else list(lengths)

    def item(self, index: int) -> Sound:
        """One clip, without the silence beyond its length."""
        stop = None if self.lengths is None else self.lengths[index]
        return Sound(self.tensor[index][:, :stop], self.rate, self._caption(index))

    def select(self, rows: slice) -> Sounds:
        """Some of them."""
        captions = None if self.captions is None else self.captions[rows]
        return Sounds(self.tensor[rows], self.rate, captions, None if self.lengths is None else self.lengths[rows])

    def like(self, tensor: Tensor) -> Sounds:
        """Other clips ``(B, C, T)`` of the same rate, captions and lengths."""
        return Sounds(tensor, self.rate, self.captions, self.lengths)

    def sheet(self, columns: int = 4, scale: int = 1) -> Image.Image:
        """Their spectrograms on one sample grid, cut at the longest clip, with their captions."""
        longest = None if self.lengths is None else max(self.lengths)
        return sheet(spectrograms(self.tensor[..., :longest], self.rate), columns, self.captions, scale=scale)

    def summary(self, seconds: float) -> str:
        """How many, their duration, the time all took, and the real-time factor."""
        several, duration = len(self) > 1, sum(clip.tensor.shape[-1] for clip in self) / self.rate
        length = f"{duration:.2f} s{' in all' * several}"
        return f"{len(self)} clip{'s' * several} of sound, {length}, generated in {seconds:.2f} s: {duration / seconds:.2f} times real time"

    def save_joined(self, path: Path) -> Path:
        """All clips one after the other in one file of sound."""
        return write_audio(path, in_a_row([clip.tensor for clip in self], self.rate), self.rate)

    def _repr_html_(self) -> str:
        return f"<div>{''.join(clip._repr_html_() for clip in self)}</div>"

    def __repr__(self) -> str:
        return f"Sounds({len(self)} x {tuple(self.tensor.shape[1:])} at {self.rate} Hz)"
