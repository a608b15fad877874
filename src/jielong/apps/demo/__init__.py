"""Demo: samples of every shipped strategy, a system trained from scratch, and one HTML page with the results."""

from __future__ import annotations

import sys
import time
import webbrowser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from jielong.apps.demo.audio_samples import sound_sections
from jielong.apps.demo.clips import clip_sections
from jielong.apps.demo.edits import EditedPicture, WordEdit, edit_in_words, editors
from jielong.apps.demo.page import ORDERS, Reconstruction, Report, Strategy, render
from jielong.apps.demo.scratch import Scratch, train_from_scratch
from jielong.apps.demo.trace_view import Trace, measure_speed, shown_values, token_grid, trace
from jielong.config.hub_address import is_address
from jielong.core.files import write_bytes
from jielong.data.licences import terms
from jielong.data.opening import open_data
from jielong.data.source import DataError
from jielong.data.splits import Split
from jielong.evaluation.provenance import machine
from jielong.evaluation.reconstruction import psnr
from jielong.heads.continuous import IterativeHead
from jielong.system import System, load, zoo
from jielong.system.shipped import shipped_figure, shipped_generators

PROMPTS = (
    "Micah style, blue quiff, dark skin, round glasses, blue collared shirt, smiling",
    "a laughing person with a green quiff, dark skin, closed eyes and a beard, wearing a green top, Micah style",
    "a grinning person with pink hair in a low bun and medium skin, wearing a grey top, Open Peeps style",
    "Personas style, shoulder-length brown hair, light skin, sunglasses, purple checked shirt, smirking",
    "Personas portrait of a surprised person with a purple bob and dark skin, wearing glasses and a yellow T-shirt",
    "pixel art style, pink bob, dark skin, blue eyes, glasses, yellow T-shirt, smiling",
    "pixel art style, long green hair, dark skin, green eyes, yellow striped shirt, grinning",
    "Toon Head style, spiky black hair, dark skin, goatee, purple T-shirt, sad",
)
"""Captions of held-out combinations of style, hair and its color."""
EDITS = (
    WordEdit(PROMPTS[0], (0, 0, 64, 32), PROMPTS[0].replace("blue quiff", "pink quiff"), "make the hair pink"),
    WordEdit(PROMPTS[5], (0, 48, 64, 16), PROMPTS[5].replace("yellow T-shirt", "green T-shirt"), "make the T-shirt green"),
    WordEdit(PROMPTS[3], (8, 24, 48, 16), PROMPTS[3].replace("sunglasses", "glasses"), "replace the sunglasses by glasses"),
)
"""Changes of pictures of the data set; regions are whole tokens of 8 x 8 pixels."""
SET = "faces"
TOKENIZER = "vq-faces"
RECONSTRUCTIONS = 6


def shipped_models(data: str = SET) -> list[str]:
    """Shipped text-to-image models trained on a set, ordered as :data:`jielong.apps.demo.page.ORDERS`, and the most accurate first."""
    recipes, orders = shipped_generators(data), list(ORDERS)
    places = {name: orders.index(each.order.name) for name, each in recipes.items() if each.order is not None}
    return sorted(places, key=lambda name: (places[name], -(shipped_figure(name) or 0.0), name))


def run(
    out: Path = Path("demo"),
    minutes: float = 4.0,
    *,
    seed: int = 0,
    models: Sequence[str] | None = None,
    tokenizer: str = TOKENIZER,
    sounds: Sequence[str] | None = None,
    clips: Sequence[str] | None = None,
    prompts: Sequence[str] = PROMPTS,
    edits: Sequence[WordEdit] = EDITS,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    show: bool = False,
) -> Path:
    """Generate, train, and write ``out/index.html``.

    Args:
        out: Folder of the page and of the runs from scratch.
        minutes: Wall time for training from scratch; 0 skips it.
        seed: Seed of all samples.
        models: Generators to compare: names of shipped models, or checkpoint folders; :func:`shipped_models` by default. Missing ones are
            listed and skipped.
        tokenizer: Tokenizer whose reconstructions are shown.
        sounds: Audio models, names or folders; all shipped ones by default.
        clips: Generators of clips, names or folders; all shipped ones by default.
        prompts: Captions to generate.
        edits: Changes in words, of pictures of the data set whose captions are among the prompts.
        overrides: ``a.b=c`` changes to both recipes from scratch.
        console: Standard output by default.
        show: Open the page in a browser.

    Returns:
        The page's path.
    """
    started = time.perf_counter()
    console = console or Console()
    missing: dict[str, str] = {}
    strategies = _strategies(shipped_models() if models is None else models, prompts, seed, missing, console)
    real, heldout = _real(prompts) if strategies else ({}, frozenset())
    edited = _edited(edits, real, out, seed, missing, console)
    reconstructions = _reconstructions(tokenizer, missing)
    sections = sound_sections(seed, missing, sounds)
    shown_clips = clip_sections(seed, out / "clips", missing, clips, lambda text: console.print(text, highlight=False))
    memory = {}
    if strategies:
        memory["generating"] = peak_memory()
    scratch = train_from_scratch(out / "from-scratch", minutes, console, overrides) if minutes > 0 else None
    if scratch is not None:
        memory["generating and training from scratch" if strategies else "training from scratch"] = peak_memory()
    report = Report(
        machine=machine(),
        seed=seed,
        command=f"jielong demo --out {out} --minutes {minutes:g} --seed {seed}",
        prompts=prompts,
        strategies=strategies,
        real=real,
        heldout=heldout,
        edited=edited,
        reconstructions=reconstructions,
        tokenizer=tokenizer,
        scratch=scratch,
        scratch_traces=_draw_classes(scratch, len(prompts), seed) if scratch is not None else (),
        sound_sections=sections,
        clip_sections=shown_clips,
        credits=[str(each) for each in terms(SET)] if real else (),
        missing=missing,
        memory={name: value for name, value in memory.items() if value is not None},
        seconds=time.perf_counter() - started,
    )
    page = write_bytes(out / "index.html", render(report).encode())
    if missing:
        console.print(f"not shown: {'; '.join(f'{name} ({reason})' for name, reason in missing.items())}", highlight=False, soft_wrap=True)
    console.print(f"done in {time.perf_counter() - started:.0f} s; open the page:", highlight=False)
    console.print(str(page.resolve()), style="bold", highlight=False, soft_wrap=True)
    if show:
        webbrowser.open(page.resolve().as_uri())
    return page


def _load(name: str, missing: dict[str, str]) -> System | None:
    """Load a model; returns ``None`` and adds the reason to ``missing`` if it cannot be loaded."""
    if name not in zoo() and not is_address(name) and not Path(name).is_dir():
        installed = ", ".join(zoo()) or "none; install the distribution jielong-zoo"
        missing[name] = f"it is not among the installed models ({installed})"
        return None
    try:
        return load(name, "cpu")
    except ValueError as error:
        missing[name] = str(error)
        return None


def _strategies(names: Sequence[str], prompts: Sequence[str], seed: int, missing: dict[str, str], console: Console) -> list[Strategy]:
    """Generate the prompts with each model and measure its speed; the first of each kind of order records its steps.

    A model that draws all tokens in one step has nothing to record.
    """
    strategies: list[Strategy] = []
    for name in names:
        system = _load(name, missing)
        if system is None:
            continue
        if system.generator is None or system.inputs != ("text",) or system.recipe.order is None:
            missing[name] = "it is not a text-to-image model"
            continue
        console.print(f"[bold]{name}[/bold]: {len(prompts)} prompts", highlight=False)
        order, discrete = system.recipe.order.name, system.tokenizer.layout.discrete
        new = (order, discrete) not in {(each.order, each.discrete) for each in strategies if each.traces} and not _one_step(system)
        traces = trace(system, prompts, prompts, seed) if new else ()
        pictures = [each.picture for each in traces] or [sample.tensor for sample in system.generate(list(prompts), seed=seed)]
        speed = measure_speed(system, prompts, seed)
        console.print(f"  {speed.batched:.2f} s per image in a batch of {speed.batch}; {speed.single:.2f} s for one image", highlight=False)
        parameters = sum(weight.numel() for weight in system.generator.parameters())
        strategies.append(Strategy(order, name, discrete, parameters, pictures, speed, shipped_figure(name), traces))
    return strategies


def _one_step(system: System) -> bool:
    """Whether all tokens are drawn together in one evaluation, so that there is nothing to watch."""
    if system.generator is None or not system.generator.head.joint or system.recipe.order is None or system.recipe.order.name != "at_once":
        return False
    head = system.generator.head
    return not isinstance(head, IterativeHead) or (system.recipe.sampling.num_inference_steps or head.steps) == 1


def _edited(
    edits: Sequence[WordEdit], pictures: dict[str, torch.Tensor], out: Path, seed: int, missing: dict[str, str], console: Console
) -> list[EditedPicture]:
    """The edits by each model that edits, of the pictures that there are."""
    chosen = [each for each in edits if each.caption in pictures]
    found: list[EditedPicture] = []
    for name, instructed in editors(SET).items() if chosen else ():
        system = _load(name, missing)
        if system is not None:
            console.print(f"[bold]{name}[/bold]: {len(chosen)} edits in words", highlight=False)
            found += edit_in_words(system, chosen, pictures, out / "edits", seed, instructed)
    return found


def _real(prompts: Sequence[str]) -> tuple[dict[str, torch.Tensor], frozenset[str]]:
    """Images of the built-in set with these captions, and the captions that are in the held-out split."""
    found: dict[str, torch.Tensor] = {}
    heldout: set[str] = set()
    splits: tuple[Split, ...] = ("train", "heldout")
    for split in splits:
        try:
            images = open_data(SET, split=split)
        except DataError:
            return {}, frozenset()
        rows = {caption: row for row, caption in enumerate(images.captions)}
        for prompt in prompts:
            if prompt in rows:
                found[prompt] = images.media([rows[prompt]])[0]
                if split == "heldout":
                    heldout.add(prompt)
    return found, frozenset(heldout)


def _reconstructions(name: str, missing: dict[str, str]) -> list[Reconstruction]:
    """Reconstructions of held-out images, evenly spread over the set."""
    system = _load(name, missing)
    if system is None:
        return []
    try:
        images = open_data(system.recipe.data.set, size=system.tokenizer.media.size, split="heldout")
    except DataError as error:
        missing["reconstructions"] = str(error)
        return []
    rows = [(2 * index + 1) * len(images) // (2 * RECONSTRUCTIONS) for index in range(RECONSTRUCTIONS)]
    originals = images.media(rows)
    tokens = system.encode(originals)
    rebuilt = system.decode(tokens)
    grid = token_grid(tokens.layout)
    codes = shown_values(tokens)
    return [
        Reconstruction(images.captions[row] or images.keys[row], original, code, grid, back, psnr(back[None], original[None]).value)
        for row, original, code, back in zip(rows, originals, codes, rebuilt, strict=True)
    ]


def _draw_classes(scratch: Scratch, count: int, seed: int) -> list[Trace]:
    """Generate one image of each of the largest classes with the generator trained from scratch."""
    system = scratch.system
    images = open_data(system.recipe.data.set, split="train")
    sizes = Counter(label for label in images.labels if label is not None)
    names = [images.classes[label] for label, _ in sizes.most_common(count)]
    return trace(system, names, names, seed)


def peak_memory() -> float | None:
    """Peak memory of this process in megabytes; ``None`` where the platform does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
