"""The table of audio generators (benchmarks/speech.py): rows of a checkpoint, and their values."""

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


def test_steps_are_of_the_head_or_the_order_or_none(benchmark: Any) -> None:
    masked, raster = SimpleNamespace(steps=8), SimpleNamespace()
    assert benchmark.settings(system(True, raster), [1, 4]) == [(1, {"num_inference_steps": 1}), (4, {"num_inference_steps": 4})]
    assert benchmark.settings(system(False, masked), [2]) == [(2, {"steps": 2})]
    assert benchmark.settings(system(False, raster), [1, 4]) == [(None, {})]
    assert benchmark.settings(system(True, raster), []) == [(None, {})]
    with pytest.raises(ValueError, match="toy generates no audio"):
        benchmark.settings(system(True, raster, sound=False), [])


def test_table_has_one_row_per_side_and_dashes(benchmark: Any) -> None:
    values = {"wer": 0.25, "wer_real": 0.05, "wer_rebuilt": 0.1, "times_real_time": 3.0}
    evaluation = Evaluation(
        {name: Measurement(name, value, 4) for name, value in values.items()},
        {"dnsmos": "not installed"},
        1.0,
        {"reference": {"n": 4}, "draws": {"seconds_per_clip": 0.5, "num_inference_steps": 16}},
    )
    real, rebuilt, generated = benchmark.sides("toy", None, evaluation)
    assert (real["wer"], rebuilt["wer"], generated["wer"]) == (0.05, 0.1, 0.25)
    assert (generated["steps"], generated["seconds"]) == (16, 2.0)
    assert "times_real_time" not in real
    lines = benchmark.table([real, rebuilt, generated]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["generator", "steps", "WER", "%", "seconds", "x", "real", "time"]
    assert lines[1].split() == ["toy:", "real", "-", "5.0", "-", "-"]
    assert lines[3].split() == ["toy", "16", "25.0", "2.0", "3.00"]
