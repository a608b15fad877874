"""The demonstration: pictures from words by two strategies, sound, a system trained from nothing, and one page that shows it all."""

from __future__ import annotations

import sys
import time
import webbrowser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from jielong.apps.demo.audio_samples import listen
from jielong.apps.demo.page import Report, Strategy, View, render
from jielong.apps.demo.scratch import Scratch, train_from_scratch
from jielong.apps.demo.trace_view import Story, board, measure_pace, tell, told
from jielong.data.opening import open_data
from jielong.data.source import DataError
from jielong.data.splits import Split
from jielong.evaluation.provenance import machine
from jielong.evaluation.reconstruction import psnr
from jielong.media.images import write_bytes
from jielong.system import System, load, zoo

PROMPTS = (
    "smiling face with sunglasses, Twemoji style",
    "red heart, Noto style",
    "woman farmer: dark skin tone, Noto style",
    "man teacher: medium skin tone, Twemoji style",
    "flag: Denmark, Noto style",
    "sunflower, Twemoji style",
    "pizza, Noto style",
    "cat face, Noto style",
)
MODELS = ("llamagen-emoji", "maskgit-emoji")
TOKENIZER = "vq-emoji"
VIEWS = 6


def run(
    out: Path = Path("demo"),
    minutes: float = 4.0,
    *,
    seed: int = 0,
    models: Sequence[str] = MODELS,
    tokenizer: str = TOKENIZER,
    sounds: Sequence[str] | None = None,
    prompts: Sequence[str] = PROMPTS,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    show: bool = False,
) -> Path:
    """Generate, train, and write ``out/index.html``.

    Args:
        out: The folder of the page and of the runs from scratch.
        minutes: Wall time for training from scratch; 0 leaves it out.
        seed: Of all pictures.
        models: Generators to compare: names of shipped models, or checkpoint folders. One that is missing is named and left out.
        tokenizer: The tokenizer whose tokens are shown.
        sounds: Models of sound to hear, names or folders; those that are shipped by default.
        prompts: What to draw.
        overrides: ``a.b=c`` changes to both recipes from scratch.
        console: Where to print; standard output if not given.
        show: Open the page in a browser.

    Returns:
        The page's path.
    """
    begun = time.perf_counter()
    console = console or Console()
    missing: dict[str, str] = {}
    strategies = [strategy for name in models if (strategy := _strategy(name, prompts, seed, missing, console)) is not None]
    real, heldout = _real(prompts) if strategies else ({}, frozenset())
    views = _views(tokenizer, missing)
    hearings = listen(seed, missing, sounds)
    memory = {}
    if strategies:
        memory["generating"] = peak_memory()
    scratch = train_from_scratch(out / "from-scratch", minutes, console, overrides) if minutes > 0 else None
    if scratch is not None:
        memory["generating and training from scratch" if strategies else "training from scratch"] = peak_memory()
    report = Report(
        machine=machine(),
        seed=seed,
        again=f"jielong demo --out {out} --minutes {minutes:g} --seed {seed}",
        prompts=prompts,
        strategies=strategies,
        real=real,
        heldout=heldout,
        views=views,
        tokenizer=tokenizer,
        scratch=scratch,
        scratch_stories=_draw_classes(scratch, len(prompts), seed) if scratch is not None else (),
        hearings=hearings,
        missing=missing,
        memory={name: value for name, value in memory.items() if value is not None},
        seconds=time.perf_counter() - begun,
    )
    page = write_bytes(out / "index.html", render(report).encode())
    for name, reason in missing.items():
        console.print(f"without {name}: {reason}", highlight=False)
    console.print(f"done in {time.perf_counter() - begun:.0f} s; open the page:", highlight=False)
    console.print(str(page.resolve()), style="bold", highlight=False, soft_wrap=True)
    if show:
        webbrowser.open(page.resolve().as_uri())
    return page


def _load(name: str, missing: dict[str, str]) -> System | None:
    """A model, or ``None`` and the reason."""
    if name not in zoo() and not Path(name).is_dir():
        here = ", ".join(zoo()) or "none; the distribution jielong-zoo brings them"
        missing[name] = f"it is not among the installed models ({here})"
        return None
    try:
        return load(name, "cpu")
    except ValueError as error:
        missing[name] = str(error)
        return None


def _strategy(name: str, prompts: Sequence[str], seed: int, missing: dict[str, str], console: Console) -> Strategy | None:
    """Draw the prompts with one model, and time it."""
    system = _load(name, missing)
    if system is None:
        return None
    if system.generator is None or system.inputs != ("text",) or system.recipe.order is None:
        missing[name] = "it does not draw from words"
        return None
    console.print(f"[bold]{name}[/bold]: {len(prompts)} prompts", highlight=False)
    stories = tell(system, prompts, prompts, seed)
    pace = measure_pace(system, prompts, seed)
    console.print(f"  {pace.together:.2f} s a picture, {pace.batch} at once; {pace.alone:.2f} s alone", highlight=False)
    parameters = sum(weight.numel() for weight in system.generator.parameters())
    return Strategy(system.recipe.order.name, name, parameters, stories, pace)


def _real(prompts: Sequence[str]) -> tuple[dict[str, torch.Tensor], frozenset[str]]:
    """The built-in set's own drawings of the prompts, and which of them were held out of training."""
    found: dict[str, torch.Tensor] = {}
    heldout: set[str] = set()
    splits: tuple[Split, ...] = ("train", "heldout")
    for split in splits:
        try:
            images = open_data("emoji", split=split)
        except DataError:
            return {}, frozenset()
        places = {caption: place for place, caption in enumerate(images.captions)}
        for prompt in prompts:
            if prompt in places:
                found[prompt] = images.media([places[prompt]])[0]
                if split == "heldout":
                    heldout.add(prompt)
    return found, frozenset(heldout)


def _views(name: str, missing: dict[str, str]) -> list[View]:
    """Held-out drawings, spread over the set, through the tokenizer and back."""
    system = _load(name, missing)
    if system is None:
        return []
    try:
        images = open_data(system.recipe.data.set, size=system.tokenizer.media.size[0], split="heldout")
    except DataError as error:
        missing["the pictures of the token maps"] = str(error)
        return []
    rows = [(2 * index + 1) * len(images) // (2 * VIEWS) for index in range(VIEWS)]
    originals = images.media(rows)
    tokens = system.encode(originals)
    rebuilt = system.decode(tokens)
    grid = board(tokens.layout)
    codes = told(tokens)
    return [
        View(images.captions[row] or images.keys[row], original, code, grid, back, psnr(back[None], original[None]).value)
        for row, original, code, back in zip(rows, originals, codes, rebuilt, strict=True)
    ]


def _draw_classes(scratch: Scratch, count: int, seed: int) -> list[Story]:
    """A picture of each of the largest groups, by the generator trained from scratch."""
    system = scratch.system
    images = open_data(system.recipe.data.set, split="train")
    sizes = Counter(label for label in images.labels if label is not None)
    names = [images.classes[label] for label, _ in sizes.most_common(count)]
    return tell(system, names, names, seed)


def peak_memory() -> float | None:
    """Most memory that this process ever held, in megabytes; ``None`` where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most / 1e3
