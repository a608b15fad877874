"""The demo's page: one self-contained HTML file, with the command next to each figure."""

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
from jielong.apps.demo.audio_samples import AudioSection
from jielong.apps.demo.scratch import Run, Scratch
from jielong.apps.demo.trace_view import Speed, Trace


@dataclass(frozen=True)
class Strategy:
    """The prompts generated with one order.

    Attributes:
        order: Name of the order.
        model: Name of the model.
        parameters: Parameters of its generator.
        traces: One per prompt.
        speed: Seconds per image.
    """

    order: str
    model: str
    parameters: int
    traces: Sequence[Trace]
    speed: Speed


@dataclass(frozen=True)
class Reconstruction:
    """An image, its tokens and its reconstruction; images are ``(C, H, W)``."""

    caption: str
    original: Tensor
    codes: Sequence[int | float]
    grid: tuple[int, int]
    rebuilt: Tensor
    psnr: float


@dataclass(frozen=True)
class Report:
    """Contents of the page.

    Attributes:
        machine: Description of the machine and library versions.
        seed: Seed of all samples.
        command: Command that reproduces the page.
        prompts: Captions generated.
        strategies: Results of each text-to-image model.
        real: Images of the data set by caption, where it has them.
        heldout: Prompts of the held-out split.
        reconstructions: Images with their tokens and reconstructions.
        tokenizer: Name of the tokenizer of the reconstructions.
        scratch: The runs from scratch.
        scratch_traces: Images of the generator trained from scratch.
        sound_sections: Sections of audio models.
        missing: Unavailable models, with the reason.
        memory: Peak memory of the process in megabytes, by stage.
        seconds: Wall time of the demo.
    """

    machine: str
    seed: int
    command: str
    prompts: Sequence[str]
    strategies: Sequence[Strategy] = ()
    real: Mapping[str, Tensor] = field(default_factory=dict)
    heldout: frozenset[str] = frozenset()
    reconstructions: Sequence[Reconstruction] = ()
    tokenizer: str = ""
    scratch: Scratch | None = None
    scratch_traces: Sequence[Trace] = ()
    sound_sections: Sequence[AudioSection] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


ORDERS = {
    "raster": "Row by row from the top left corner: each token is sampled given all previous tokens.",
    "masked": "At each step all masked tokens are sampled in parallel, independently of one another. Only those with the highest "
    "confidence are kept and the rest re-masked; the number kept grows with the step.",
    "next_scale": "From a single token for the whole image to the finest scale. The tokens of a scale are sampled in parallel and encode "
    "the residual of the sum of the coarser scales.",
}


def generate_command(model: str, prompts: Sequence[str], seed: int) -> str:
    """The command that generates these prompts."""
    return f"jielong generate {model} {' '.join(f'--text {shlex.quote(prompt)}' for prompt in prompts)} --seed {seed} --out {model}"


def render(report: Report) -> str:
    """The page as HTML."""
    sections = [
        _compare(report),
        *(_order_section(report, strategy) for strategy in report.strategies),
        _tokens(report),
        *(_section(section.title, *content(section)) for section in report.sound_sections),
        _scratch(report),
        _cost(report),
    ]
    facts = {"Machine": report.machine, "Seed": str(report.seed), "Time": _minutes(report.seconds), "Command": report.command}
    return fill(
        _read("page.html"),
        style=_read("page.css"),
        script=_read("page.js"),
        lead="A tokenizer encodes an image or a clip as tokens; a generator samples tokens step by step; the tokenizer decodes them. "
        "Below: two orders with one tokenizer, one architecture and one sampling loop, models of speech and sounds, and a small system "
        "trained from scratch.",
        facts="".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items()),
        sections="\n".join(section for section in sections if section),
        credits="<p>Drawings: Noto Emoji (Google, Apache-2.0) and Twemoji (graphics by Twitter and contributors, CC BY 4.0).</p>",
    )


def fill(template: str, **values: str) -> str:
    """Replace each ``{{name}}`` with its value.

    Raises:
        KeyError: if the template has a name without a value.
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _read(name: str) -> str:
    return (importlib.resources.files("jielong.apps.demo") / name).read_text(encoding="utf-8")


def _section(title: str, *content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>"


def _absent(report: Report) -> str:
    return "".join(
        f'<p class="absent"><code>{escape(model)}</code> skipped: {escape(reason)}</p>' for model, reason in report.missing.items()
    )


def _compare(report: Report) -> str:
    if not report.strategies:
        return _section("No trained model is installed", _absent(report))
    cards = []
    for index, prompt in enumerate(report.prompts):
        columns = [(strategy.order, strategy.traces[index].picture) for strategy in report.strategies]
        if prompt in report.real:
            columns.append(("original", report.real[prompt]))
        row = "".join(
            f"<div>{markup.picture(tensor, f'{prompt}, {label}')}<small>{escape(label)}</small></div>" for label, tensor in columns
        )
        tag = ' <span class="tag">held out</span>' if prompt in report.heldout else ""
        cards.append(f'<figure class="card"><div class="row">{row}</div><figcaption>{escape(prompt)}{tag}</figcaption></figure>')
    held = (
        "<p class='note'>The data set has each emoji in two styles. A prompt marked <span class='tag'>held out</span> is a combination of "
        "emoji and style that is not in the training split, which has the emoji in the other style.</p>"
    )
    return _section(
        f"{_count(report.prompts, 'prompt')}, {_count(report.strategies, 'strategy')}".capitalize(),
        "<p>One seed for all images, the first sample of each, not selected.</p>",
        held if report.heldout else "",
        f'<div class="cards">{"".join(cards)}</div>',
        *(markup.command(generate_command(strategy.model, report.prompts, report.seed)) for strategy in report.strategies),
        _absent(report),
    )


def _order_section(report: Report, strategy: Strategy) -> str:
    steps, tokens = len(strategy.traces[0].frames), len(strategy.traces[0].codes)
    title = f"{strategy.order.capitalize()}: {tokens} tokens in {steps} steps"
    return _section(
        title,
        f"<p>{ORDERS.get(strategy.order, '')}</p>",
        f"<p class='note'>{_player_caption(strategy.traces[0])}</p>",
        markup.player(strategy.traces),
        markup.command(f"{generate_command(strategy.model, report.prompts[:1], report.seed)} --trace"),
    )


def _player_caption(trace: Trace) -> str:
    """Caption of a player."""
    if trace.parallel:
        return "All tokens are denoised in parallel: the image decoded after each step."
    values = "codebook indices, equal ones in equal colours" if trace.discrete else "their first channel, from blue (low) to red (high)"
    masked = "regions not sampled yet are covered" if trace.spatial else "tokens not sampled yet are those of a white image"
    return f"Left, the tokens: {values}; those of this step are outlined. Right, the image decoded so far; {masked}."


def _tokens(report: Report) -> str:
    if not report.reconstructions:
        return ""
    figures = "".join(
        f'<figure><div class="row">{markup.picture(each.original, each.caption)}{markup.token_map(each.codes, each.grid)}'
        f"{markup.picture(each.rebuilt, each.caption + ', reconstruction')}</div>"
        f"<figcaption>{escape(each.caption)} <small>· {each.psnr:.1f} dB</small></figcaption></figure>"
        for each in report.reconstructions
    )
    codes = not isinstance(report.reconstructions[0].codes[0], float)
    mean = sum(each.psnr for each in report.reconstructions) / len(report.reconstructions)
    return _section(
        "Reconstruction",
        "<p>Left, a held-out image; in the middle, its tokens; right, its reconstruction: an upper bound on the quality of a generator "
        f"over these tokens. Mean PSNR of these {len(report.reconstructions)}: {mean:.1f} dB.</p>",
        f'<div class="views">{figures}</div>',
        f"<p class='note'>The same over all held-out images{', with codebook usage' if codes else ''}:</p>",
        markup.command(f"jielong evaluate {report.tokenizer}"),
    )


def _scratch(report: Report) -> str:
    scratch = report.scratch
    if scratch is None:
        return ""
    tokenizer = scratch.system.tokenizer
    codes = tokenizer.layout.vocabulary
    uniform = (math.log(codes), f"uniform over {codes} codes") if codes else None
    return _section(
        f"Trained from scratch in {_minutes(scratch.seconds)}",
        "<p>The demo trained a small tokenizer, and then a small masked generator on its tokens, on the built-in data set at "
        f"{' x '.join(map(str, tokenizer.media.size))} pixels.</p>",
        "<h3>Tokenizer</h3>",
        _run(scratch.tokenizer, "squared reconstruction error", "regression", True, None, "Each image next to its reconstruction."),
        "<h3>Generator</h3>",
        _run(scratch.generator, "cross-entropy, nats per token", "loss", False, uniform, "Class-conditional samples, with the same seeds."),
        _class_samples(scratch, report.scratch_traces, report.seed) if report.scratch_traces else "",
    )


def _class_samples(scratch: Scratch, traces: Sequence[Trace], seed: int) -> str:
    classes = " ".join(f"--class {shlex.quote(trace.caption)}" for trace in traces)
    return (
        f"<h3>Samples</h3><p>One per class. {len(traces[0].codes)} tokens in {len(traces[0].frames)} steps.</p>"
        + markup.player(traces)
        + markup.command(f"jielong generate {scratch.generator.folder} {classes} --seed {seed} --out samples --trace")
    )


def _run(run: Run, name: str, key: str, logarithmic: bool, reference: tuple[float, str] | None, note: str) -> str:
    """A run's loss curve and sample grids."""
    points = [(float(line["samples"]), float(line[key])) for line in run.log if line.get(key) is not None]
    shown = [run.grids[index] for index in sorted({0, len(run.grids) // 2, len(run.grids) - 1})] if run.grids else []
    grids = "".join(markup.sample_grid(path, f"after {samples:,} samples") for samples, path in shown)
    figures = "".join(
        f"; {name.replace('_', ' ')} {value:.3g}" for name, value in run.summary.evaluation.items() if isinstance(value, float)
    )
    words = f"{run.summary.samples:,} samples in {_minutes(run.summary.seconds)}, {run.summary.parameters:,} parameters{figures}."
    curve = markup.chart(points, "samples seen", name, logarithmic=logarithmic, reference=reference)
    return (
        f"<p class='note'>{escape(words)} {note}</p>"
        f'<div class="pair">{curve}<div class="sheets">{grids}</div></div>{markup.command(run.command)}'
    )


def _cost(report: Report) -> str:
    rows = [
        [
            f"{s.order}, {s.model}",
            f"{s.parameters / 1e6:.2f} M",
            str(len(s.traces[0].frames)),
            f"{s.speed.single:.3f} s",
            f"{s.speed.batched:.3f} s",
        ]
        for s in report.strategies
    ]
    if not rows and not report.memory:
        return ""
    size = report.strategies[0].speed.batch if report.strategies else 0
    head = ["strategy", "parameters", "steps", "s per image, single", f"s per image, batch of {size}"]
    speeds = markup.table(head, rows) if rows else ""
    note = "<p class='note'>Generation with guidance and decoding, with cached text embeddings.</p>" if rows else ""
    memory = (
        markup.table(["peak memory of the process", ""], [[name, f"{value:,.0f} MB"] for name, value in report.memory.items()])
        if report.memory
        else ""
    )
    return _section("Cost", speeds, note, memory, markup.command(report.command))


def _count(things: Sequence[object], name: str) -> str:
    """A count in words: ``eight prompts``."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    number = words[len(things)] if len(things) < len(words) else str(len(things))
    plural = name if len(things) == 1 else name.removesuffix("y") + "ies" if name.endswith("y") else name + "s"
    return f"{number} {plural}"


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
