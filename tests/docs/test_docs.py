"""Documents that cannot go stale unnoticed: links lead somewhere, examples are the tested files."""

import re

import pytest
from command_lines import PAGES, ROOT, blocks

from jielong.config import recipe


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python(page):
    for number, text in enumerate(blocks(page, "python")):
        compile(text, f"{page.name}, block {number}", "exec")


def test_shown_files_are_the_tested_ones():
    pattern = re.compile(r"<!-- (examples/\S+) -->\n```python\n(.*?)^```", re.M | re.S)
    shown = [(page.name, *found) for page in PAGES for found in pattern.findall(page.read_text("utf-8"))]
    assert {path for _, path, _ in shown} == {str(path.relative_to(ROOT)) for path in ROOT.glob("examples/*/*.py")}
    for page, path, text in shown:
        assert text == (ROOT / path).read_text("utf-8"), f"{page} and {path} differ"


def test_the_readme_recipe_is_a_recipe():
    (text,) = blocks(ROOT / "README.md", "yaml")
    parsed = recipe.parse(text, "README.md")
    assert parsed.trains_generator
    assert parsed.order.name == "masked"
