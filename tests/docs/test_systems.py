"""docs/systems.md is what its generator writes, and the figures in it are those of the model cards."""

from __future__ import annotations

from types import ModuleType

import pytest

from jielong.config.recipe import built_in
from running_scripts import ROOT, module_of


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    pytest.importorskip("jielong_zoo")
    return module_of(ROOT / "docs" / "make_systems.py")


def test_the_page_is_up_to_date(generator: ModuleType) -> None:
    assert (ROOT / "docs" / "systems.md").read_text("utf-8") == generator.page(), "run python docs/make_systems.py"


def test_every_recipe_has_a_row_with_its_paper(generator: ModuleType) -> None:
    rows = {row[0].strip("`"): row for row in generator.systems()}
    assert set(rows) == {name for name in built_in() if not name.endswith("-tiny")}
    assert all("arxiv.org" in row[2] for row in rows.values())


def test_figures_are_formatted_with_those_of_real_data(generator: ModuleType) -> None:
    shown = ", ".join(generator.figures({"wer": 0.1234, "wer_real": 0.05, "frechet": 10.4, "frechet_real": 3.0, "seconds": 9.0}))
    assert shown == "Fréchet distance 10, WER 12.3% (real 5.0%)"
