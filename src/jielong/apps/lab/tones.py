"""A language of tones: a letter is a tone that lasts as long as the letter does, so what a sound says can be read without a recogniser."""

from __future__ import annotations

from itertools import groupby, pairwise
from pathlib import Path

import torch
from torch import Tensor

from jielong.apps.lab.trial import Bench
from jielong.media.audio import write_audio

RATE, FRAME = 4_000, 160
"""Samples a second, and of a frame of 40 ms: every tone turns a whole number of times in one, so that frames of a letter are alike."""
LETTERS = "abcdefgh"
HERTZ = tuple(300.0 + 175.0 * place for place in range(len(LETTERS)))
FRAMES = {"a": 5, "b": 8, "c": 6, "d": 4, "e": 7, "f": 5, "g": 8, "h": 6}
"""How long a letter lasts by nature."""
SHORTEST, LONGEST = 5, 6
"""Letters of a text."""
TEMPO = (0.65, 1.65)
"""A recording's length over its text's natural one: evenly from here to there."""
LEAST = 2
"""Frames that a tone must last to be read."""


def texts(count: int, seed: int) -> list[str]:
    """Letters at random, none of them twice in a row, since two of a kind are one long tone."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        letters: list[int] = []
        wanted = int(torch.randint(SHORTEST, LONGEST + 1, (), generator=draw))
        while len(letters) < wanted:
            letter = int(torch.randint(len(LETTERS), (), generator=draw))
            if letters[-1:] != [letter]:
                letters.append(letter)
        made.append("".join(LETTERS[letter] for letter in letters))
    return made


def natural(text: str) -> float:
    """Seconds that a text lasts by nature."""
    return sum(FRAMES[letter] for letter in text) * FRAME / RATE


def spoken(text: str, seconds: float, loudness: float = 0.5) -> Tensor:
    """A text as tones, ``(1, T)`` in [-1, 1]: whole frames, shared among the letters as they last by nature."""
    lasting = torch.tensor([0, *(FRAMES[letter] for letter in text)], dtype=torch.float64).cumsum(0)
    edges = (lasting / lasting[-1] * round(seconds * RATE / FRAME)).round().long().tolist()
    times = torch.arange(edges[-1] * FRAME) / RATE
    sound = torch.zeros_like(times)
    for letter, (start, stop) in zip(text, pairwise(edges), strict=True):
        part = slice(start * FRAME, stop * FRAME)
        sound[part] = loudness * torch.sin(2 * torch.pi * HERTZ[LETTERS.index(letter)] * times[part])
    return sound[None]


def read(sound: Tensor) -> str:
    """The letters in a sound ``(1, T)``: in each frame the tone that holds more than half of its power, if it lasts two frames.

    Quiet frames, below a thirtieth of full scale, say nothing.
    """
    frames = sound[0, : sound.shape[1] // FRAME * FRAME].double().view(-1, FRAME)
    turns = 2 * torch.pi * torch.tensor(HERTZ, dtype=torch.float64)[:, None] * torch.arange(FRAME) / RATE
    power = ((frames @ turns.sin().T).square() + (frames @ turns.cos().T).square()) * 2 / FRAME**2  # mean squares, as tones have them
    whole = frames.square().mean(1)
    best, letter = power.max(1)
    clear = (best > 0.5 * whole) & (whole > 1 / 900)
    said = [LETTERS[place] if sure else " " for place, sure in zip(letter.tolist(), clear.tolist(), strict=True)]
    lasting = [name for name, run in groupby(said) if len(list(run)) >= LEAST and name != " "]
    return "".join(name for name, _ in groupby(lasting))


def recorded(bench: Bench, count: int) -> Path:
    """A folder of recordings with their texts, written once."""
    folder = bench.folder / "tones"
    if not folder.exists():
        draw = torch.Generator().manual_seed(bench.seed)
        for place, text in enumerate(texts(count, bench.seed)):
            tempo, loudness = torch.rand(2, generator=draw).tolist()
            sound = spoken(text, natural(text) * (TEMPO[0] + tempo * (TEMPO[1] - TEMPO[0])), 0.4 + 0.2 * loudness)
            write_audio(folder / f"{place:04d}.wav", sound, RATE)
            (folder / f"{place:04d}.txt").write_text(text)
    return folder
