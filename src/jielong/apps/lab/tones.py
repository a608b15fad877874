"""A synthetic language in which each letter is a tone, so that text is decoded from audio in closed form."""

from __future__ import annotations

from itertools import groupby, pairwise
from pathlib import Path

import torch
from torch import Tensor

from jielong.apps.lab.trial import Bench
from jielong.media.audio import write_audio

RATE, FRAME = 4_000, 160
"""Sample rate in Hz, and samples of a 40 ms frame, which is a whole number of periods of every tone."""
LETTERS = "abcdefgh"
HERTZ = tuple(300.0 + 175.0 * index for index in range(len(LETTERS)))
FRAMES = {"a": 5, "b": 8, "c": 6, "d": 4, "e": 7, "f": 5, "g": 8, "h": 6}
"""Natural duration of each letter in frames."""
SHORTEST, LONGEST = 5, 6
"""Range of letters per text."""
TEMPO = (0.65, 1.65)
"""Range of a recording's duration relative to the natural one, uniform."""
LEAST = 2
"""Shortest tone that is decoded, in frames."""


def texts(count: int, seed: int) -> list[str]:
    """Random texts without repeated adjacent letters, which would be one long tone."""
    draw = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(count):
        letters: list[int] = []
        length = int(torch.randint(SHORTEST, LONGEST + 1, (), generator=draw))
        while len(letters) < length:
            letter = int(torch.randint(len(LETTERS), (), generator=draw))
            if letters[-1:] != [letter]:
                letters.append(letter)
        result.append("".join(LETTERS[letter] for letter in letters))
    return result


def natural(text: str) -> float:
    """Natural duration of a text in seconds."""
    return sum(FRAMES[letter] for letter in text) * FRAME / RATE


def spoken(text: str, seconds: float, loudness: float = 0.5) -> Tensor:
    """A text as tones, ``(1, T)`` in [-1, 1], in whole frames, in proportion to the letters' natural durations."""
    ends = torch.tensor([0, *(FRAMES[letter] for letter in text)], dtype=torch.float64).cumsum(0)
    edges = (ends / ends[-1] * round(seconds * RATE / FRAME)).round().long().tolist()
    times = torch.arange(edges[-1] * FRAME) / RATE
    sound = torch.zeros_like(times)
    for letter, (start, stop) in zip(text, pairwise(edges), strict=True):
        part = slice(start * FRAME, stop * FRAME)
        sound[part] = loudness * torch.sin(2 * torch.pi * HERTZ[LETTERS.index(letter)] * times[part])
    return sound[None]


def read(sound: Tensor) -> str:
    """Decode a sound ``(1, T)``: the tone with more than half of a frame's power, if it lasts two frames.

    Frames below 1/30 of full scale are silence.
    """
    frames = sound[0, : sound.shape[1] // FRAME * FRAME].double().view(-1, FRAME)
    turns = 2 * torch.pi * torch.tensor(HERTZ, dtype=torch.float64)[:, None] * torch.arange(FRAME) / RATE
    power = ((frames @ turns.sin().T).square() + (frames @ turns.cos().T).square()) * 2 / FRAME**2  # mean squares, as tones have them
    whole = frames.square().mean(1)
    best, letter = power.max(1)
    clear = (best > 0.5 * whole) & (whole > 1 / 900)
    frame_letters = [LETTERS[index] if voiced else " " for index, voiced in zip(letter.tolist(), clear.tolist(), strict=True)]
    lasting = [name for name, run in groupby(frame_letters) if len(list(run)) >= LEAST and name != " "]
    return "".join(name for name, _ in groupby(lasting))


def recorded(bench: Bench, count: int) -> Path:
    """Folder of recordings with their texts; written once."""
    folder = bench.folder / "tones"
    if not folder.exists():
        draw = torch.Generator().manual_seed(bench.seed)
        for index, text in enumerate(texts(count, bench.seed)):
            tempo, loudness = torch.rand(2, generator=draw).tolist()
            sound = spoken(text, natural(text) * (TEMPO[0] + tempo * (TEMPO[1] - TEMPO[0])), 0.4 + 0.2 * loudness)
            write_audio(folder / f"{index:04d}.wav", sound, RATE)
            (folder / f"{index:04d}.txt").write_text(text)
    return folder
