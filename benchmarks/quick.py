"""Small sets and checkpoints of two steps, in a folder that lasts as long as the process: what ``--quick`` measures."""

from __future__ import annotations

import atexit
import math
import tempfile
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from jielong.config import recipe
from jielong.media.audio import write_audio
from jielong.media.espeak import speak
from jielong.training import experiment

RATE = 8_000
STEPS = ("train.samples=16", "train.batch=8", "train.warmup=8", "train.sample_every=16", "train.save_every=16", "train.precision=fp32")


@cache
def scratch() -> Path:
    """A folder that is removed when the process ends."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def pictures() -> str:
    """Captioned squares of three colours, 16 x 16: 24 to train on and 6 held out."""
    root = scratch() / "pictures"
    for split, count in (("train", 8), ("heldout", 2)):
        for name, colour in {"red": (220, 40, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}.items():
            (root / split / name).mkdir(parents=True)
            for place in range(count):
                image = Image.new("RGB", (16, 16), "white")
                image.paste(colour, (place, place, place + 8, place + 8))
                image.save(root / split / name / f"{place}.png")
                (root / split / name / f"{place}.txt").write_text(f"a {name} square, number {place}, {split}")
    return str(root)


@cache
def tones() -> str:
    """Named tones of 0.8 s at 8 kHz: 16 to train on and 4 held out."""
    root = scratch() / "tones"
    root.mkdir()
    rows = ["path,text,split"]
    for index in range(20):
        time = torch.arange(int(0.8 * RATE)) / RATE
        write_audio(root / f"{index}.wav", 0.5 * torch.sin(2 * math.pi * (200 + 40 * index) * time)[None], RATE)
        rows.append(f"{index}.wav,tone {index},{'heldout' if index % 5 == 4 else 'train'}")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return str(root)


@cache
def spoken() -> str:
    """Sentences by two voices of eSpeak NG, two clips each."""
    root = scratch() / "spoken"
    root.mkdir()
    rows = ["path,text,voice"]
    for voice in ("en-us", "en-us+f3"):
        for number, sentence in enumerate(("Please enter your password now.", "The weather is fine today.")):
            waveform, rate = speak(sentence, voice)
            name = f"{voice}-{number}.wav"
            write_audio(root / name, waveform, rate)
            rows.append(f"{name},{sentence},{voice}")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return str(root)


@cache
def trained(name: str, data: str | None = None, tokenizer: str | None = None) -> str:
    """The folder of a ``-tiny`` recipe after two steps, on pictures by default; ``tokenizer`` is the folder of its tokenizer."""
    out = Path(tempfile.mkdtemp(dir=scratch())) / name
    made_of = () if tokenizer is None else (f"tokenizer={{checkpoint: {tokenizer}}}",)
    experiment.run(recipe.load(name, [*STEPS, *made_of]), out, data=data or pictures(), progress=False, evaluate=False)
    return str(out)
