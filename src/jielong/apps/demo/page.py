"""The demo's page: one self-contained HTML file, with the command beside every figure."""

from __future__ import annotations

import importlib.resources
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from torch import Tensor

from jielong.apps.demo import markup
from jielong.apps.demo.audio_html import content
from jielong.apps.demo.audio_samples import Hearing
from jielong.apps.demo.scratch import Run, Scratch
from jielong.apps.demo.trace_view import Pace, Story


@dataclass(frozen=True)
class Strategy:
    """What one strategy made of the prompts.

    Attributes:
        order: Its order's name.
        model: The model's name.
        parameters: Trained numbers of its generator.
        stories: A picture a prompt.
        pace: Seconds a picture.
    """

    order: str
    model: str
    parameters: int
    stories: Sequence[Story]
    pace: Pace


@dataclass(frozen=True)
class View:
    """A real picture, its tokens, and what comes back from them; pictures are ``(C, H, W)``."""

    caption: str
    original: Tensor
    codes: Sequence[int | float]
    grid: tuple[int, int]
    rebuilt: Tensor
    psnr: float


@dataclass(frozen=True)
class Report:
    """Everything the page shows.

    Attributes:
        machine: The machine and the versions, in words.
        seed: Of all pictures.
        again: The command that makes the page again.
        prompts: What was asked for.
        strategies: What each strategy made of it.
        real: The set's own drawings of the prompts, by prompt, where it has them.
        heldout: Prompts whose drawing no model was shown in training.
        views: Real pictures and their tokens.
        tokenizer: The model that made the views.
        scratch: The runs from scratch.
        scratch_stories: Pictures of the generator trained from scratch.
        hearings: What models of sound made.
        missing: Models that are not there, and why.
        memory: Peak memory of the process in megabytes, by when it was read.
        seconds: Wall time of the whole demo.
    """

    machine: str
    seed: int
    again: str
    prompts: Sequence[str]
    strategies: Sequence[Strategy] = ()
    real: Mapping[str, Tensor] = field(default_factory=dict)
    heldout: frozenset[str] = frozenset()
    views: Sequence[View] = ()
    tokenizer: str = ""
    scratch: Scratch | None = None
    scratch_stories: Sequence[Story] = ()
    hearings: Sequence[Hearing] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


HOW = {
    "raster": "Row by row, from the top left corner. Each token is drawn knowing all before it, and is never changed again.",
    "masked": "At every step all missing tokens are drawn at once, but tokens drawn together do not know of each other: only the few that "
    "the model is surest of are kept, and the rest is covered again. A few at first, then more and more.",
    "next_scale": "First one token for the whole picture, then a few for a sketch, and so on to the finest. The tokens of a scale are "
    "drawn at once, and say what the coarser scales, added up, still lack.",
}


def generate_command(model: str, prompts: Sequence[str], seed: int) -> str:
    """The command that draws these prompts."""
    return f"jielong generate {model} {' '.join(f'--text {shlex.quote(prompt)}' for prompt in prompts)} --seed {seed} --out {model}"


def render(report: Report) -> str:
    """The page as HTML."""
    sections = [
        _compare(report),
        *(_story(report, strategy) for strategy in report.strategies),
        _tokens(report),
        *(_section(hearing.title, *content(hearing)) for hearing in report.hearings),
        _scratch(report),
        _cost(report),
    ]
    facts = {"Machine": report.machine, "Seed": str(report.seed), "Made in": _minutes(report.seconds), "Made again by": report.again}
    return fill(
        _read("page.html"),
        style=_read("page.css"),
        script=_read("page.js"),
        lead="A picture or a sound is cut into tokens, the tokens are produced step by step, and turned back. Below, two strategies for "
        "the steps of a picture share one tokenizer, one network and one loop, models of sound speak and clatter, and a small system "
        "learns all of it from nothing.",
        facts="".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items()),
        sections="\n".join(section for section in sections if section),
        credits="<p>Drawings: Noto Emoji (Google, Apache-2.0) and Twemoji (graphics by Twitter and contributors, CC BY 4.0).</p>",
    )


def fill(template: str, **values: str) -> str:
    """Put values in the place of ``{{name}}``.

    Raises:
        KeyError: if the template has a place that no value is given for.
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _read(name: str) -> str:
    return (importlib.resources.files("jielong.apps.demo") / name).read_text(encoding="utf-8")


def _section(title: str, *content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>"


def _absent(report: Report) -> str:
    """What could not be shown, and why."""
    return "".join(
        f'<p class="absent">Without <code>{escape(model)}</code>: {escape(reason)}</p>' for model, reason in report.missing.items()
    )


def _compare(report: Report) -> str:
    if not report.strategies:
        return _section("The trained models are not here", _absent(report))
    cards = []
    for index, prompt in enumerate(report.prompts):
        columns = [(strategy.order, strategy.stories[index].picture) for strategy in report.strategies]
        if prompt in report.real:
            columns.append(("original", report.real[prompt]))
        row = "".join(
            f"<div>{markup.picture(tensor, f'{prompt}, {label}')}<small>{escape(label)}</small></div>" for label, tensor in columns
        )
        tag = ' <span class="tag">held out</span>' if prompt in report.heldout else ""
        cards.append(f'<figure class="card"><div class="row">{row}</div><figcaption>{escape(prompt)}{tag}</figcaption></figure>')
    held = (
        "<p class='note'>The set has every emoji in two styles. A prompt marked <span class='tag'>held out</span> names a pair of emoji "
        "and style that no model was shown in training: it saw the emoji in the other style, and the style on other emoji.</p>"
    )
    return _section(
        f"{_count(report.prompts, 'prompt')}, {_count(report.strategies, 'strategy')}".capitalize(),
        "<p>The same words, the same seed, the first draw of each; none was picked.</p>",
        held if report.heldout else "",
        f'<div class="cards">{"".join(cards)}</div>',
        *(markup.command(generate_command(strategy.model, report.prompts, report.seed)) for strategy in report.strategies),
        _absent(report),
    )


def _story(report: Report, strategy: Strategy) -> str:
    steps, tokens = len(strategy.stories[0].film), len(strategy.stories[0].codes)
    title = f"{strategy.order.capitalize()}: {tokens} tokens in {steps} steps"
    return _section(
        title,
        f"<p>{HOW.get(strategy.order, '')}</p>",
        f"<p class='note'>{_shown(strategy.stories[0])}</p>",
        markup.player(strategy.stories),
        markup.command(f"{generate_command(strategy.model, report.prompts[:1], report.seed)} --trace"),
    )


def _shown(story: Story) -> str:
    """What a player shows, in words."""
    if story.at_once:
        return "The tokens begin as noise, and every step takes some of it away: the picture they decode to after each."
    return (
        f"Left, the tokens: {_written(story)}; those of this step are outlined. "
        f"Right, the picture they decode to so far; {_unknown(story)}."
    )


def _written(story: Story) -> str:
    """What stands on the board, in words."""
    if story.discrete:
        return "a number out of the tokenizer&rsquo;s vocabulary each, equal numbers in equal colours"
    return "the first of the numbers that each holds, blue where it is low and red where it is high"


def _unknown(story: Story) -> str:
    """What is shown in the place of tokens that are not known yet, in words."""
    return "what is not known yet is covered" if story.placed else "in the place of tokens not known yet stand those of a white picture"


def _tokens(report: Report) -> str:
    if not report.views:
        return ""
    figures = "".join(
        f'<figure><div class="row">{markup.picture(view.original, view.caption)}{markup.token_map(view.codes, view.grid)}'
        f"{markup.picture(view.rebuilt, view.caption + ', from its tokens')}</div>"
        f"<figcaption>{escape(view.caption)} <small>· {view.psnr:.1f} dB</small></figcaption></figure>"
        for view in report.views
    )
    codes = not isinstance(report.views[0].codes[0], float)
    mean = sum(view.psnr for view in report.views) / len(report.views)
    return _section(
        "What a token holds",
        "<p>Left, a drawing that the tokenizer was not trained on; in the middle, its tokens; right, what the decoder makes of the tokens "
        "alone. A generator can be no better than this. Peak signal-to-noise ratio "
        f"of these {len(report.views)}: {mean:.1f} dB on average.</p>",
        f'<div class="views">{figures}</div>',
        f"<p class='note'>The same over every held-out drawing{', with the share of the vocabulary that is used' if codes else ''}:</p>",
        markup.command(f"jielong evaluate {report.tokenizer}"),
    )


def _scratch(report: Report) -> str:
    scratch = report.scratch
    if scratch is None:
        return ""
    tokenizer = scratch.system.tokenizer
    codes = tokenizer.layout.vocabulary
    uniform = (math.log(codes), f"guessing among {codes} codes") if codes else None
    return _section(
        f"From nothing, in {_minutes(scratch.seconds)}",
        "<p>While this page was made, a small tokenizer and then a small masked generator on its tokens learned from the built-in "
        f"drawings, {tokenizer.media.size[0]} pixels a side. Not a good model, but a whole one.</p>",
        "<h3>First, the tokenizer</h3>",
        _run(scratch.tokenizer, "squared error of the reconstruction", "regression", True, None, "Each drawing beside its reconstruction."),
        "<h3>Then, the generator</h3>",
        _run(scratch.generator, "cross-entropy, nats a token", "loss", False, uniform, "Drawn from classes, the same seeds at each time."),
        _drawn(scratch, report.scratch_stories, report.seed) if report.scratch_stories else "",
    )


def _drawn(scratch: Scratch, stories: Sequence[Story], seed: int) -> str:
    """What the generator trained from scratch draws."""
    words = " ".join(f"--class {shlex.quote(story.caption)}" for story in stories)
    return (
        f"<h3>What it draws</h3><p>One word each: a group of emoji. {len(stories[0].codes)} tokens in {len(stories[0].film)} steps.</p>"
        + markup.player(stories)
        + markup.command(f"jielong generate {scratch.generator.folder} {words} --seed {seed} --out drawn --trace")
    )


def _run(run: Run, name: str, key: str, logarithmic: bool, reference: tuple[float, str] | None, what: str) -> str:
    """One run's loss curve and sample sheets."""
    points = [(float(line["samples"]), float(line[key])) for line in run.log if line.get(key) is not None]
    shown = [run.sheets[index] for index in sorted({0, len(run.sheets) // 2, len(run.sheets) - 1})] if run.sheets else []
    sheets = "".join(markup.sheet(path, f"after {samples:,} samples") for samples, path in shown)
    figures = "".join(
        f"; {name.replace('_', ' ')} {value:.3g}" for name, value in run.summary.evaluation.items() if isinstance(value, float)
    )
    words = f"{run.summary.samples:,} samples in {_minutes(run.summary.seconds)}, {run.summary.parameters:,} parameters{figures}."
    curve = markup.chart(points, "samples seen", name, logarithmic=logarithmic, reference=reference)
    return (
        f"<p class='note'>{escape(words)} {what}</p>"
        f'<div class="pair">{curve}<div class="sheets">{sheets}</div></div>{markup.command(run.command)}'
    )


def _cost(report: Report) -> str:
    rows = [
        [
            f"{s.order}, {s.model}",
            f"{s.parameters / 1e6:.2f} M",
            str(len(s.stories[0].film)),
            f"{s.pace.alone:.3f} s",
            f"{s.pace.together:.3f} s",
        ]
        for s in report.strategies
    ]
    if not rows and not report.memory:
        return ""
    size = report.strategies[0].pace.batch if report.strategies else 0
    head = ["strategy", "parameters", "steps", "a picture alone", f"a picture, {size} at once"]
    paces = markup.table(head, rows) if rows else ""
    note = "<p class='note'>From words whose encoding is kept to pixels, guidance included.</p>" if rows else ""
    memory = (
        markup.table(["peak memory of the process", ""], [[name, f"{value:,.0f} MB"] for name, value in report.memory.items()])
        if report.memory
        else ""
    )
    return _section("What it costs", paces, note, memory, markup.command(report.again))


def _count(things: Sequence[object], name: str) -> str:
    """How many, in words: ``eight prompts``."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    number = words[len(things)] if len(things) < len(words) else str(len(things))
    plural = name if len(things) == 1 else name.removesuffix("y") + "ies" if name.endswith("y") else name + "s"
    return f"{number} {plural}"


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
