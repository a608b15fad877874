"""The check-up finds what is wrong, and only that."""

from __future__ import annotations

import pytest
import torch

from jielong.apps import doctor
from jielong.data.source import DataError

from .conftest import command, succeed


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "gigaflops", lambda device, dtype: 10.0 if dtype is torch.float32 else 1.0)


def test_a_sound_installation_passes() -> None:
    shown = succeed("doctor", "--device", "cpu").stdout
    for words in ("versions", "device", "extra text", "data emoji", "7,572 pictures", "numerics: attention", "speed"):
        assert words in shown
    assert "bf16 is slower" in shown  # advice that follows from the figures


@pytest.mark.parametrize("family", doctor.OPERATIONS)
def test_numerics_agree_on_the_cpu(family: str) -> None:
    assert doctor.numerics(family, doctor.OPERATIONS[family], torch.device("cpu")).state == "ok"


def test_wrong_numerics_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(make: object) -> torch.Tensor:
        result = doctor._matmul(make)  # type: ignore[arg-type]
        return result * 1.001 if result.dtype == torch.float32 else result

    monkeypatch.setitem(doctor.OPERATIONS, "matrix product", wrong)
    result = command("doctor", "--device", "cpu")
    assert result.exit_code == 1
    assert "off by" in result.stdout


def test_nan_is_broken() -> None:
    def nothing(make: object) -> torch.Tensor:
        result = doctor._matmul(make)  # type: ignore[arg-type]
        return result * float("nan") if result.dtype == torch.float32 else result

    assert doctor.numerics("x", nothing, torch.device("cpu")).state == "broken"


def test_what_is_absent_is_noted_with_the_line_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise DataError("run this to get it")

    monkeypatch.setitem(doctor.BUILT_IN, "emoji", absent)
    monkeypatch.setitem(doctor.EXTRAS, "text", (("no_such_module",), "words"))
    monkeypatch.setattr(doctor, "zoo", dict)
    shown = succeed("doctor", "--device", "cpu").stdout
    assert "pip install 'jielong[text]'" in shown
    assert "run this to get it" in shown
    assert "pip install jielong-zoo" in shown


def test_a_damaged_model_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(doctor, "zoo", lambda: {"no-such-model": tmp_path})
    result = command("doctor", "--device", "cpu")
    assert result.exit_code == 1
    assert "no-such-model" in result.stdout


def test_speed_is_measured() -> None:
    from importlib import reload

    fresh = reload(doctor)
    assert fresh.gigaflops(torch.device("cpu"), torch.float32, side=64, seconds=0.01) > 0
