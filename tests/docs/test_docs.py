"""Documents that cannot go stale unnoticed: links lead somewhere, commands are commands, examples are the tested files."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from jielong.apps.cli import app
from jielong.config import recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [text for kind, text in BLOCK.findall(page.read_text("utf-8")) if kind == language]


def lines_of(script: str) -> Iterator[list[str]]:
    """The commands of a script, without comments."""
    for line in script.splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def check_command(words: list[str]) -> None:
    """Parse a ``jielong`` command line as the program would, without running it; raises a usage error."""
    assert words[0] == "jielong"
    command, arguments = typer.main.get_command(app), words[1:]
    while hasattr(command, "commands"):
        name, *arguments = arguments
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    command.make_context(words[1], arguments)


SCRIPTS = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)}") for page in PAGES for text in blocks(page, "sh") for words in lines_of(text)
]


@pytest.mark.parametrize("words", SCRIPTS)
def test_commands_exist(words):
    if words[0] == "jielong":
        check_command(words)
    elif words[0] == "make":
        targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(words[1:]) <= set(targets)
    else:
        assert words[0] in ("torchrun", "pytest", "python", "pip")


def test_there_are_commands_to_check():
    assert len(SCRIPTS) > 20
    with pytest.raises(Exception, match="no-such"):
        check_command(["jielong", "generate", "x", "--no-such"])
    with pytest.raises(AssertionError, match="drawing"):
        check_command(["jielong", "drawing"])


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
    shown = re.findall(r"<!-- (examples/\S+) -->\n```python\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M | re.S)
    assert len(shown) == 2
    for path, text in shown:
        assert text == (ROOT / path).read_text("utf-8"), f"CONTRIBUTING.md and {path} differ"


@pytest.mark.parametrize("name", sorted(recipe.built_in()))
def test_recipe_headers_give_commands_that_parse(name):
    header = [line.lstrip("# ") for line in recipe.built_in()[name].splitlines() if line.startswith("#")]
    commands = [line for line in header if line.startswith("jielong ")]
    for line in commands:
        check_command(shlex.split(line))
    assert any(line.split()[:3] == ["jielong", "train", name] for line in commands), f"the header of {name} does not say how to train it"


def test_the_readme_recipe_is_a_recipe():
    (text,) = blocks(ROOT / "README.md", "yaml")
    parsed = recipe.parse(text, "README.md")
    assert parsed.trains_generator
    assert parsed.order.name == "masked"
