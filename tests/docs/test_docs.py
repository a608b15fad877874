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


def ragged(text: str) -> list[str]:
    """Rows of tables, outside of code blocks, whose number of cells is not that of the first row."""
    found: list[str] = []
    width = 0
    for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if width and cells and cells != width:
            found.append(line)
        width = (width or cells) if cells else 0
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_rows_of_a_table_have_its_columns(page):
    assert not ragged(page.read_text())


def test_a_row_of_another_table_is_found():
    assert ragged("| a | b |\n|---|---|\n| 1 | 2 | 3 |\n| 4 | 5\\|6 |\n\n| c |\n|---|\n") == ["| 1 | 2 | 3 |"]


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
