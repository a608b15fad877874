"""Edits in words on the demo's page, with a tiny model, and the two world lines side by side."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_demo_page import Page, a_report, a_trace

from captioned_squares import generator_of_squares
from jielong.apps import demo
from jielong.apps.demo.edits import EditedPicture, WordEdit, edit_in_words, editors
from jielong.apps.demo.page import Strategy, render
from jielong.apps.demo.picture_html import two_world_lines
from jielong.apps.demo.trace_view import Speed, Trace
from jielong.system import System, load
from jielong.system.shipped import best_of, shipped_figure, shipped_generators


def noise_to_picture(caption: str, steps: int) -> Trace:
    return replace(a_trace(caption, steps), codes=[0.1, 0.2, 0.3, 0.4], steps=[steps] * 4)


def strategy(model: str, discrete: bool, accuracy: float | None, traces: list[Trace]) -> Strategy:
    grey = torch.zeros(3, 8, 8)
    return Strategy("at_once" if not discrete else "masked", model, discrete, 1_000_000, [grey, grey], Speed(0.1, 0.1, 2), accuracy, traces)


# --- the page -------------------------------------------------------------------------------------------------------------------------


def test_the_most_accurate_of_each_line_are_side_by_side(tmp_path: Path) -> None:
    report = a_report(tmp_path)
    chain, better = strategy("a", True, 0.8, [a_trace("x", 4)]), strategy("b", True, 0.9, [a_trace("x", 4)])
    flow, unwatched = strategy("c", False, None, [noise_to_picture("x", 5)]), strategy("d", False, 0.99, [])
    assert two_world_lines([chain, better, flow, unwatched]) == (better, flow)
    assert two_world_lines([chain, better, unwatched]) is None
    text = render(replace(report, strategies=[chain, better, flow, unwatched]))
    Page(text)
    section = re.search(r"<section><h2>Two world lines</h2>.*?</section>", text, re.S)
    assert section
    assert section[0].count('class="player"') == 2
    assert "b: " in section[0]
    assert "5 steps" in section[0]
    assert "Two world lines" not in render(replace(report, strategies=[chain]))


def test_edits_are_shown_with_their_region_and_command(tmp_path: Path) -> None:
    grey = torch.zeros(3, 8, 8)
    edit = EditedPicture(
        "maskgit-faces", "red <hat>", "blue", grey, grey, (2, 0, 4, 2), "jielong edit maskgit-faces a.png --region 2,0,4,2"
    )
    text = render(replace(a_report(tmp_path), edited=[edit, replace(edit, region=None, words="make it red")]))
    page = Page(text)
    assert "jielong edit maskgit-faces a.png --region 2,0,4,2" in page.commands
    assert 'style="left:25%;top:0%;width:50%;height:25%"' in text
    assert "red &lt;hat&gt;" in text
    assert text.count('<div class="outlined">') == 2
    assert text.count('<i style="left') == 1
    assert "Edited in words" not in render(a_report(tmp_path))


def test_what_the_steps_of_an_order_are_depends_on_the_tokens(tmp_path: Path) -> None:
    traced = {True: [a_trace("x", 4)], False: [noise_to_picture("x", 4)]}
    codes, vectors = (replace(strategy("a", discrete, 0.8, traced[discrete]), order="next_scale") for discrete in (True, False))
    texts = [render(replace(a_report(tmp_path), strategies=[each])) for each in (codes, vectors)]
    assert ["encode the residual of their sum" in text for text in texts] == [True, False]
    assert ["Those of a scale are denoised together" in text for text in texts] == [False, True]


# --- the edits ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> System:
    """A masked model over the pixels of pictures of 4 x 4."""
    return load(str(generator_of_squares("maskgit-tiny", 4)), "cpu")


def test_only_the_region_changes(model: System, tmp_path: Path) -> None:
    picture = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    edits = [WordEdit("colour 1", (0, 0, 4, 2), "colour 2", "make it two"), WordEdit("absent", (0, 0, 4, 2), "colour 3", "make it three")]
    (done,) = edit_in_words(model, edits, {"colour 1": picture}, tmp_path, 0, instructed=False)
    assert torch.equal(done.after[:, 2:], picture[:, 2:])
    assert not torch.equal(done.after[:, :2], picture[:, :2])
    assert (done.words, done.region) == ("colour 2", (0, 0, 4, 2))
    assert (tmp_path / "before-1.png").exists()
    assert f"jielong edit {model.name} {tmp_path / 'before-1.png'} --region 0,0,4,2 --text 'colour 2' --seed 0" in done.command
    (again,) = edit_in_words(model, edits[:1], {"colour 1": picture}, tmp_path, 0, instructed=False)
    assert torch.equal(again.after, done.after)


def test_the_commands_of_the_demos_edits_parse() -> None:
    typer = pytest.importorskip("typer")
    from jielong.apps.cli import app

    program = typer.main.get_command(app)
    for each in demo.EDITS:
        assert each.caption in demo.PROMPTS
        assert each.text != each.caption
        left, top, width, height = each.region
        assert 0 <= left < left + width <= 64
        assert 0 <= top < top + height <= 64
        line = [
            "edit",
            "maskgit-faces",
            "a.png",
            "--region",
            ",".join(map(str, each.region)),
            "--text",
            each.text,
            "--seed",
            "0",
            "--out",
            "b.png",
        ]
        program.commands["edit"].make_context("edit", line[1:])


# --- shipped models -------------------------------------------------------------------------------------------------------------------


def test_editors_are_shipped_models_that_fill_regions_or_are_instructed() -> None:
    for name, instructed in editors(demo.SET).items():
        found = load(name, "cpu")
        assert ("picture" in found.inputs) is instructed
        assert found.recipe.order is not None
        assert instructed or found.recipe.order.name == "masked"


def test_shipped_models_of_the_demo_are_in_the_order_of_the_page_and_the_most_accurate_first() -> None:
    names, recipes = demo.shipped_models(), shipped_generators(demo.SET)
    assert sorted(names) == sorted(recipes)
    orders = [recipes[name].order.name for name in names]  # type: ignore[union-attr]
    assert orders == sorted(orders, key=list(demo.ORDERS).index)
    for first, second, one, two in zip(orders, orders[1:], names, names[1:], strict=False):
        if first == second:
            assert (shipped_figure(one) or 0) >= (shipped_figure(two) or 0)


def test_the_best_is_that_with_the_greatest_figure() -> None:
    recipes = shipped_generators(demo.SET)
    best = best_of(recipes, lambda each: True)
    assert best is not None
    assert all((shipped_figure(best) or 0) >= (shipped_figure(name) or 0) for name in recipes)
    assert best_of(recipes, lambda each: False) is None
    assert shipped_figure("kl-faces") is None  # a tokenizer follows no caption
