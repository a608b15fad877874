"""The demo's page from known contents."""

import base64
import io
import itertools
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from jielong.apps.demo import markup
from jielong.apps.demo.page import Reconstruction, Report, Strategy, fill, render
from jielong.apps.demo.scratch import Run, Scratch
from jielong.apps.demo.trace_view import Speed, Trace, shown_values
from jielong.core.tokens import Layout, Tokens
from jielong.media.images import to_float, write_image
from jielong.training.trainer import Summary

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects addresses and commands."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.commands: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.loads += [values[name] for name in ("src", "href") if name in values]
        if values.get("class") == "command":
            self.commands.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID and tag not in ("path",):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "code" and self.commands:
            self.commands[-1] += data


def a_trace(caption: str, steps: int) -> Trace:
    sampled = [1 + index * steps // 4 for index in range(4)]
    frames = torch.linspace(-1, 1, steps)[:, None, None, None].expand(steps, 3, 8, 8)
    return Trace(caption, (2, 2), [3, 1, 3, 0], sampled, frames)


def a_report(folder: Path) -> Report:
    prompts = ["a <red> heart", "pizza & wine"]
    grey = torch.zeros(3, 8, 8)
    pictures, traces = [grey, grey], [a_trace(prompt, 4) for prompt in prompts]
    strategies = [
        Strategy("raster", "llamagen-faces", True, 1_000_000, pictures, Speed(0.5, 0.25, 2), 0.875, traces),
        Strategy("masked", "maskgit-faces", True, 1_000_000, pictures, Speed(0.1, 0.05, 2)),
        Strategy("masked", "mar-faces", False, 1_000_000, pictures, Speed(0.1, 0.05, 2), None, traces),
    ]
    grid = write_image(folder / "samples-000000000064.png", grey)
    summary = Summary(64, 4, 0, 3.0, 1234, 1, "budget", {}, {"heldout_psnr": 20.5})
    log = [{"samples": n, "regression": 1 / n, "loss": 5 - n / 100} for n in range(1, 65)]
    run = Run(folder, f"jielong train {folder}/tokenizer.yaml --budget 3s --out {folder}-again", summary, log, [(64, grid)])
    tokenizer = SimpleNamespace(layout=SimpleNamespace(vocabulary=16), media=SimpleNamespace(size=(8, 8)))
    return Report(
        machine="a machine",
        seed=0,
        command="jielong demo --out demo",
        prompts=prompts,
        strategies=strategies,
        real={prompts[0]: grey},
        heldout=frozenset(prompts[:1]),
        reconstructions=[Reconstruction("fog", grey, [1, 2, 3, 4], (2, 2), grey, 30.0)],
        tokenizer="vq-faces",
        scratch=Scratch(run, run, SimpleNamespace(tokenizer=tokenizer), 100.0),
        scratch_traces=[a_trace("food", 2)],
        missing={"other-emoji": "it is not installed"},
        memory={"generating": 500.0},
        seconds=200.0,
    )


def test_the_page_is_well_formed_and_self_contained(tmp_path):
    text = render(a_report(tmp_path))
    page = Page(text)
    assert all(address.startswith("data:") for address in page.loads)
    assert len(page.loads) > 8
    assert "{{" not in text
    assert "<red>" not in text
    assert "a &lt;red&gt; heart" in text


def test_every_section_has_its_command(tmp_path):
    text = render(a_report(tmp_path))
    sections = re.findall(r"<section>.*?</section>", text, re.S)
    assert len(sections) == 6
    assert all('<code class="command">' in section for section in sections)
    assert "it is not installed" in text


def test_every_model_has_a_row_and_every_kind_of_order_an_animation(tmp_path):
    text = render(a_report(tmp_path))
    matrix = re.search(r'<table class="matrix">.*?</table>', text, re.S)[0]
    assert re.findall(r"<th>([\w -]+)<small>", matrix) == ["llamagen-faces", "maskgit-faces", "mar-faces", "data set"]
    assert matrix.count("<img") == 3 * 2 + 1  # the data set has one of the two captions
    assert [title for title in re.findall(r"<h2>(.*?)</h2>", text) if "tokens in" in title] == [
        "Raster: 4 tokens in 4 steps",
        "Masked, continuous: 4 tokens in 4 steps",
    ]
    assert "87.5%" in text


def test_commands_parse(tmp_path):
    typer = pytest.importorskip("typer")
    import shlex

    from jielong.apps.cli import app

    program = typer.main.get_command(app)
    commands = Page(render(a_report(tmp_path))).commands
    assert len(commands) >= 8
    for line in commands:
        name, *arguments = shlex.split(line)
        assert name == "jielong"
        program.commands[arguments[0]].make_context(arguments[0], arguments[1:])  # raises a usage error


def test_missing_models_are_listed(tmp_path):
    text = render(Report(machine="m", seed=0, command="jielong demo", prompts=["x"], missing={"maskgit-faces": "not installed"}))
    Page(text)
    assert "maskgit-faces" in text
    assert "not installed" in text


def test_a_frame_strip_keeps_every_frame_exactly():
    frames = to_float(torch.randint(256, (5, 3, 6, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8))
    kind, _, data = markup.frame_strip(frames, 3).partition(",")
    assert kind == "data:image/webp;base64"
    strip = torch.tensor(list(Image.open(io.BytesIO(base64.b64decode(data))).tobytes())).view(12, 12, 3)
    for index, frame in enumerate(frames):
        top, left = index // 3 * 6, index % 3 * 4
        torch.testing.assert_close(to_float(strip[top : top + 6, left : left + 4].permute(2, 0, 1)), frame)


def test_a_player_holds_codes_and_steps():
    found = re.search(r'<script type="application/json">(.*)</script>', markup.player([a_trace("x", 4)]))
    assert found
    data = json.loads(found[1])
    assert (data["grid"], data["step_count"], data["size"], data["columns"]) == ([2, 2], 4, [8, 8], 2)
    assert data["items"][0]["codes"] == [3, 1, 3, 0]
    assert data["items"][0]["steps"] == [1, 2, 3, 4]


def test_a_parallel_trace_has_no_token_map():
    sequential = a_trace("x", 4)
    parallel, single = replace(sequential, steps=[4] * 4), replace(sequential, steps=[1] * 4, frames=sequential.frames[:1])
    assert [trace.parallel for trace in (parallel, sequential, single)] == [True, False, False]
    assert ("tokens map" in markup.player([parallel]), "tokens map" in markup.player([sequential])) == (False, True)
    assert '"spatial":false' in markup.player([parallel])  # no region is covered
    assert '"spatial":true' in markup.player([sequential])


def test_one_of_several_traces_can_be_chosen():
    assert markup.player([a_trace("x", 4)]).count("<button") == 1
    assert markup.player([a_trace("x", 4), a_trace("y", 4)]).count("<button") == 1 + 2


def test_equal_codes_have_equal_colours_and_others_differ():
    hues = re.findall(r"--h:([\d.]+)", markup.token_map([5, 9, 5], (1, 3)))
    assert hues[0] == hues[2] != hues[1]


def test_near_numbers_have_near_colours():
    hues = [float(hue) for hue in re.findall(r"--h:([\d.]+)", markup.token_map([-1.0, -0.9, 1.0, 40.0], (1, 4)))]
    assert abs(hues[0] - hues[1]) < 10 < abs(hues[1] - hues[2])
    assert 0 <= min(hues) <= max(hues) < 360


def test_a_player_of_continuous_tokens():
    trace = a_trace("x", 4)
    numbers = replace(trace, codes=shown_values(Tokens(torch.tensor([[[0.14], [-2.0], [3.0], [1.26]]]), Layout((2, 2), 1)))[0])
    assert numbers.codes == [0.1, -2.0, 3.0, 1.3]
    assert (trace.discrete, numbers.discrete) == (True, False)
    assert '"discrete":false' in markup.player([numbers])
    assert '"discrete":true' in markup.player([trace])


@pytest.mark.parametrize("logarithmic", [False, True])
def test_chart_coordinates(logarithmic):
    points = [(0.0, 100.0), (50.0, 10.0), (60.0, math.nan), (100.0, 1.0)]
    text = markup.chart(points, "samples", "loss", logarithmic=logarithmic)
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", text)[0])
    curve = [tuple(map(float, pair.split(","))) for pair in svg.find("polyline").get("points").split()]
    assert len(curve) == 3
    (x0, y0), (x1, y1), (x2, y2) = curve
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 < y1 < y2  # downwards
    half = (y1 - y0) / (y2 - y0)
    assert half == pytest.approx(0.5 if logarithmic else 90 / 99, abs=0.01)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 40448.0), (3.1, 5.7), (-2.0, 2.0), (0.0, 1e-3)])
def test_ticks_are_round_few_and_inside(low, high):
    ticks = markup._ticks(low, high, False)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(ticks)}
    assert len(steps) == 1


def test_a_short_run_has_no_curve():
    assert "too short" in markup.chart([(1.0, 2.0)], "x", "y")


def test_a_template_name_without_a_value_is_an_error():
    assert fill("<p>{{a}}</p>", a="b") == "<p>b</p>"
    with pytest.raises(KeyError):
        fill("{{a}} {{b}}", a="x")
