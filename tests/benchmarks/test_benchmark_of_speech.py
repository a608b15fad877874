"""The table of generators of sound (benchmarks/speech.py): which rows a checkpoint has, and what stands in them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jielong.evaluation.evaluate import Evaluation
from jielong.evaluation.provenance import Measurement
from running_scripts import ROOT, module_of


@pytest.fixture
def benchmark() -> Any:
    return module_of(ROOT / "benchmarks" / "speech.py")


def system(iterative: bool, order: Any, sound: bool = True) -> Any:
    return SimpleNamespace(
        name="toy",
        generator=SimpleNamespace(head=SimpleNamespace(iterative=iterative)),
        tokenizer=SimpleNamespace(media=SimpleNamespace(timed=sound)),
        recipe=SimpleNamespace(order=order),
    )


def test_steps_are_the_heads_or_the_orders_or_none(benchmark: Any) -> None:
    masked, raster = SimpleNamespace(steps=8), SimpleNamespace()
    assert benchmark.settings(system(True, raster), [1, 4]) == [(1, {"num_inference_steps": 1}), (4, {"num_inference_steps": 4})]
    assert benchmark.settings(system(False, masked), [2]) == [(2, {"steps": 2})]
    assert benchmark.settings(system(False, raster), [1, 4]) == [(None, {})]
    assert benchmark.settings(system(True, raster), []) == [(None, {})]
    with pytest.raises(ValueError, match="toy generates no sound"):
        benchmark.settings(system(True, raster, sound=False), [])


def test_rows_are_sides_and_a_dash_is_what_does_not_apply(benchmark: Any) -> None:
    values = {"wer": 0.25, "wer_real": 0.05, "wer_rebuilt": 0.1, "times_real_time": 3.0}
    told = Evaluation(
        {name: Measurement(name, value, 4) for name, value in values.items()},
        {"dnsmos": "not installed"},
        1.0,
        {"reference": {"n": 4}, "draws": {"seconds_per_clip": 0.5, "num_inference_steps": 16}},
    )
    real, rebuilt, made = benchmark.sides("toy", None, told)
    assert (real["wer"], rebuilt["wer"], made["wer"]) == (0.05, 0.1, 0.25)
    assert (made["evaluations"], made["seconds"]) == (16, 2.0)
    assert "times_real_time" not in real
    lines = benchmark.table([real, rebuilt, made]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["generator", "steps", "WER", "%", "seconds", "x", "real", "time"]
    assert lines[1].split() == ["toy:", "real", "-", "5.0", "-", "-"]
    assert lines[3].split() == ["toy", "16", "25.0", "2.0", "3.00"]
