"""two-world-lines: its choice of models, the count of evaluations, its verdict both ways, and a run with tiny models."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from captioned_squares import generator_of_squares
from jielong.apps.lab import Verdict, conclude, run
from jielong.apps.lab.experiments import two_world_lines
from jielong.apps.lab.experiments.two_world_lines import AT_ONCE, FRAMES, STRATEGIES, Drawn, counted, judge, moving, shipped, watch
from jielong.config import recipe
from jielong.system import find, load


def drawn(right: float, distance: float, frames: int = 3) -> Drawn:
    generator = torch.Generator().manual_seed(round(1000 * right))
    noise = 0.02 * torch.randn(2, 64, generator=generator, dtype=torch.float64)
    shown = torch.linspace(-1, 1, frames)[:, None, None, None, None].expand(frames, 2, 3, 8, 8)
    return Drawn("a-model", torch.zeros(64, 3, 8, 8), right + noise[0], distance + noise[1], distance, torch.ones(3), frames, shown)


def test_claim_can_hold_and_fail() -> None:
    chains = {"raster": drawn(0.96, 0.8), "masked": drawn(0.95, 0.7), "next scale": drawn(0.94, 0.9)}
    assert conclude(judge(chains | {AT_ONCE: drawn(0.97, 0.5)}, 0)) is Verdict.HOLDS
    assert conclude(judge(chains | {AT_ONCE: drawn(0.93, 0.5)}, 0)) is Verdict.HOLDS  # within five points
    assert conclude(judge(chains | {AT_ONCE: drawn(0.80, 0.5)}, 0)) is Verdict.FAILS
    assert conclude(judge(chains | {AT_ONCE: drawn(0.97, 0.75)}, 0)) is Verdict.FAILS  # less realistic than masked
    assert conclude(judge(chains | {AT_ONCE: drawn(0.91, 0.5)}, 0)) is Verdict.UNKNOWN  # five points below raster
    assert len(judge({"masked": drawn(0.9, 0.8), AT_ONCE: drawn(0.9, 0.5), "at once, GAN": drawn(0.5, 2.0)}, 0)) == 2


def test_models_are_chosen_by_what_they_do() -> None:
    found = shipped()
    assert {"raster", "masked", "next scale", AT_ONCE} <= found.keys()
    for name, model in found.items():
        chosen = recipe.load(str(find(model)))
        assert STRATEGIES[name](chosen)
        assert chosen.data.set == two_world_lines.SET


def test_an_animation_shows_every_model_from_its_first_to_its_last_step() -> None:
    data = moving({"masked": drawn(0.9, 0.5, 2), AT_ONCE: drawn(0.9, 0.5, 6), "at once, GAN": drawn(0.9, 0.5, 1)})
    with Image.open(io.BytesIO(data)) as film:
        assert film.n_frames == 6
        shown = []
        for index in range(6):
            film.seek(index)
            row = torch.tensor(list(film.convert("L").crop((0, 2, film.width, 18)).tobytes())).view(16, film.width)
            shown.append([int(row[8, 2 + 18 * column + 8]) for column in range(3)])
    masked, flow, gan = zip(*shown, strict=True)
    assert flow == tuple(sorted(flow))
    assert len(set(flow)) == 6
    assert masked == tuple(sorted(masked))
    assert len(set(masked)) == 2
    assert set(gan) == {0}  # the first and only frame of its noise here


@pytest.fixture(scope="module")
def models() -> dict[str, str]:
    """A masked model over pixels and one that draws patches at once."""
    return {"masked": str(generator_of_squares("maskgit-tiny", 4)), AT_ONCE: str(generator_of_squares("jit-tiny", 8))}


def test_evaluations_are_those_of_the_recipes(models: dict[str, str]) -> None:
    masked, flow = (load(models[name], "cpu") for name in ("masked", AT_ONCE))
    frames, evaluations = watch(masked, ["colour 1", "colour 2"], 0)
    assert evaluations == masked.recipe.order.steps == len(frames)  # type: ignore[union-attr]
    frames, evaluations = watch(flow, ["colour 1"], 0)
    steps = flow.generator.head.steps  # type: ignore[union-attr]
    assert evaluations == steps
    assert len(frames) == min(FRAMES, steps // 2)  # a state after each of Heun's intervals
    with counted(flow) as calls:
        pass
    flow.generate(["colour 1"])
    assert calls == []  # nothing is counted outside


def test_it_runs(models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_world_lines, "shipped", lambda: models)
    monkeypatch.setattr(two_world_lines.TwoWorldLines, "needs", tuple(models.values()))
    result = run("two-world-lines", tmp_path, budget=0.1)
    record = json.loads((tmp_path / "result.json").read_text())
    assert result.verdict in Verdict
    assert record["figures"]["evaluations per image, masked"]["value"] > 1
    assert record["figures"][f"images seen, {AT_ONCE}"]["value"] == 16
    assert "raster: no shipped model" in record["remarks"]
    with Image.open(tmp_path / "animation.webp") as film:
        assert film.n_frames > 1


def test_pictures_of_a_caption_do_not_depend_on_the_batch(models: dict[str, str]) -> None:
    system = load(models["masked"], "cpu")
    captions = [f"colour {index}" for index in range(10)]
    pictures, seconds = two_world_lines.draw_timed(system, captions, 3)
    whole = system.decode(system.generate_tokens(captions, seed=3))
    torch.testing.assert_close(pictures, whole, rtol=0, atol=1e-5)
    assert len(seconds) == 2
    assert bool((seconds > 0).all())


def test_a_model_of_one_step_has_one_frame() -> None:
    one = replace(drawn(0.9, 0.5), frames=torch.zeros(1, 2, 3, 8, 8))
    with Image.open(io.BytesIO(moving({AT_ONCE: one, "masked": one}))) as film:
        assert film.n_frames == 1
