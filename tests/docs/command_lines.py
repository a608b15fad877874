"""The command lines that the documents, recipes and scripts print: where they are, and whether each would run."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import typer

from jielong.apps.cli import app
from jielong.apps.lab.trial import trials
from jielong.config import recipe
from jielong.config.places import find_place
from jielong.data.joined import listed
from jielong.data.opening import BUILT_IN
from jielong.data.selection import split_name
from jielong.system.checkpoint import zoo
from running_scripts import ROOT, module_of

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SCRIPTS = sorted(path for folder in ("benchmarks", "scripts", "docs") for path in ROOT.glob(f"{folder}/*.py"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
PROGRAMS = ("jielong", "python", "torchrun", "pytest", "pip", "make")
# What a reader replaces: NAME, or three dots; and paths that a command of the reader's own made.
PLACEHOLDER = re.compile(r"^([A-Z][A-Z_]*|.*\.\.\..*)$")
THE_READERS = ("my/", "my-", "runs/", "/", "./", "hf://user/")


@dataclass(frozen=True)
class Line:
    """A command line and the file that prints it; ``whole`` unless it stands in running text, where it may name a command alone."""

    origin: str
    words: tuple[str, ...]
    whole: bool = True

    def __str__(self) -> str:
        return f"{self.origin}: {shlex.join(self.words)}"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [text for kind, text in BLOCK.findall(page.read_text("utf-8")) if kind == language]


def lines_of(script: str) -> Iterator[list[str]]:
    """The commands of a script, without comments."""
    for line in re.sub(r"\\\n\s*", "", script).splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def program_of(text: str) -> tuple[str, ...]:
    """The words of a text that begins as a command line, without variables before it; else none."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # an apostrophe in running text
        return ()
    while words and re.match(r"^[A-Z_]+=", words[0]):
        words = words[1:]
    if words and re.match(r"^(benchmarks|scripts)/\w+\.py$", words[0]):
        words = ["python", *words]
    return tuple(words) if words and words[0] in PROGRAMS else ()


def of_pages() -> Iterator[Line]:
    """Blocks of shell, and code in running text."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for script in blocks(page, "sh"):
            for words in lines_of(script):
                yield Line(page.name, program_of(shlex.join(words)) or tuple(words))
        for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", BLOCK.sub("", text)):
            if words := program_of(code):
                yield Line(page.name, words, whole=False)


def of_recipes() -> Iterator[Line]:
    """Comments of built-in recipes: a line of its own, or code in running text."""
    for name, text in recipe.built_in().items():
        for line in re.findall(r"^#[ \t]*(.*)$", text, re.M):
            if (words := program_of(line)) and words[0] in ("jielong", "python"):
                yield Line(f"{name}.yaml", words)
            for code in re.findall(r"`([^`]+)`|\((python [^()`]+)\)", line):
                if words := program_of("".join(code)):
                    yield Line(f"{name}.yaml", words, whole=False)


def of_scripts() -> Iterator[Line]:
    """Indented lines at the head of a script, and code in the comments and docstrings of the library."""
    for path in SCRIPTS:
        head = re.search(r'^"""(.*?)"""', path.read_text("utf-8"), re.S)
        for line in re.sub(r"\\\n\s*", "", head[1] if head else "").splitlines():
            if (words := program_of(line)) and words[0] in ("jielong", "python"):
                yield Line(str(path.relative_to(ROOT)), words)
    for path in sorted((ROOT / "src").rglob("*.py")):
        for code in re.findall(r"``([^`\n]+)``", path.read_text("utf-8")):
            if words := program_of(code):
                yield Line(str(path.relative_to(ROOT / "src")), words, whole=False)


def of_cards() -> Iterator[Line]:
    """Blocks of shell in the cards of shipped models, and code in running text."""
    for path in sorted(ROOT.glob("zoo/src/jielong_zoo/models/*/README.md")):
        origin = f"{path.parent.name}/README.md"
        for script in blocks(path, "sh"):
            yield from (Line(origin, tuple(words)) for words in lines_of(script))
        for code in re.findall(r"`([^`\n]+)`", BLOCK.sub("", path.read_text("utf-8"))):
            if words := program_of(code):
                yield Line(origin, words, whole=False)


def all_lines() -> list[Line]:
    """Every command line, once a file that prints it."""
    return list(dict.fromkeys([*of_pages(), *of_recipes(), *of_scripts(), *of_cards()]))


def check(line: Line) -> None:
    """Whether a command line would run: its program, options, recipes, models, sets and files exist.

    Raises:
        AssertionError: with what is not there; or the program's own usage error.
    """
    program, *rest = line.words
    if program == "jielong":
        check_jielong(line.words, line.whole)
    elif program == "python" and rest[:2] == ["-m", "jielong"]:
        check_jielong(("jielong", *rest[2:]), line.whole)
    elif program == "python" and rest[:1] == ["-m"]:
        spec = importlib.util.find_spec(rest[1])
        assert spec, f"there is no module {rest[1]}"
        check_script([str(spec.origin), *rest[2:]], line.whole)
    elif len(line.words) == 1:
        assert not line.whole or program == "make", f"{program} without arguments does nothing"
    elif program in ("torchrun", "accelerate"):
        module = rest.index("-m")
        for option, value in pairwise(rest[:module]):
            assert option != "--config_file" or (ROOT / value).is_file(), f"there is no configuration {value}"
        assert importlib.util.find_spec(rest[module + 1]), f"there is no module {rest[module + 1]}"
        check_jielong(("jielong", *rest[module + 2 :]), line.whole)
    elif program == "python":
        check_script(rest, line.whole)
    elif program == "make":
        targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.M)
        unknown = {word for word in rest if "=" not in word and not word.startswith("-")} - set(targets)
        assert not unknown, f"the Makefile has no target {', '.join(sorted(unknown))}"
    elif program == "pip":
        check_requirements(rest)
    else:
        assert program == "pytest", f"{program} is no program of ours"
        check_tests(rest)


def check_jielong(words: tuple[str, ...], whole: bool = True) -> None:
    """Parse a ``jielong`` command line as the program would, and look up the names in it."""
    command, arguments, path = typer.main.get_command(app), list(words[1:]), ["jielong"]
    while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
        if PLACEHOLDER.match(name):
            return
        assert name in command.commands, f"there is no command {' '.join([*path, name])!r}"
        command = command.commands[name]
        path.append(name)
    if not arguments and (not whole or hasattr(command, "commands")):
        return
    if any(PLACEHOLDER.match(word) and "..." in word for word in arguments):  # not to be parsed: numbers, choices
        known = {option for parameter in command.params for option in parameter.opts}
        unknown = {word for word in arguments if word.startswith("-") and word not in known}
        assert not unknown, f"{' '.join(path)} has no option {', '.join(sorted(unknown))}"
        return
    given = command.make_context(path[-1], arguments).params
    check_names(path[1:], given)


def check_names(path: list[str], given: dict[str, Any]) -> None:
    """Recipes, models, experiments and sets of a command that was parsed, and its changes to recipes."""
    overrides = list(given.get("overrides") or ())
    if path == ["show"]:
        check_shown(given.pop("name"), overrides)
    for name in [given["recipe"]] if "recipe" in given else []:
        check_recipe(name, overrides)
    for name in [given["checkpoint"]] if "checkpoint" in given else given.get("models") or []:
        check_checkpoint(name)
    for name in given.get("names") or ():
        if path[0] == "lab":
            assert PLACEHOLDER.match(name) or name in trials(), f"there is no experiment {name!r}"
        elif name in recipe.built_in():
            check_recipe(name, overrides)
        else:
            check_checkpoint(name)
    for name in (given.get("data"), given.get("name")):
        if name is not None:
            check_set(str(name))


def check_recipe(name: str, overrides: list[str]) -> None:
    """A built-in recipe with these changes is valid."""
    if not PLACEHOLDER.match(name) and not name.startswith(THE_READERS):
        check_set(recipe.load(name, overrides).data.set)


def check_shown(name: str, overrides: list[str]) -> None:
    """A recipe, a shipped model, a part or a section is called so."""
    if name in recipe.built_in():
        check_recipe(name, overrides)
    elif not (PLACEHOLDER.match(name.rpartition(".")[2]) or name.startswith(THE_READERS) or name in zoo()):
        find_place(name)


def check_checkpoint(name: str) -> None:
    """A model is shipped, or one that a reader trained."""
    known = PLACEHOLDER.match(name) or name.startswith(THE_READERS) or name in zoo()
    assert known, f"no shipped model is called {name!r}"


def check_set(name: str | list[str]) -> None:
    """A set is built in, or the reader's own folder or file."""
    for each in listed(name):
        base = split_name(each)[0] if "?" in each else each
        known = PLACEHOLDER.match(base) or base.startswith(THE_READERS) or base.startswith("hf:owner/") or "." in base or base in BUILT_IN
        assert known, f"there is no set {base!r}"


def check_tests(words: list[str]) -> None:
    """Files of tests exist, and every name after ``-k`` is in one of them."""
    chosen = words[words.index("-k") + 1] if "-k" in words else ""
    paths = [ROOT / word for word in words if not word.startswith("-") and word != chosen]
    assert all(path.exists() for path in paths), f"not all of these exist: {', '.join(map(str, paths))}"
    text = "".join(path.read_text("utf-8") for path in paths if path.is_file())
    for name in re.findall(r"\w+", chosen):
        assert name in ("and", "or", "not") or re.search(rf"def test_\w*{name}", text), f"no test is called {name}"


def check_requirements(words: list[str]) -> None:
    """What ``pip install`` names is a requirement of the project, an extra of it, or installed by the Makefile."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    mine = {re.split(r"[<>=\[]", each)[0] for each in [*project["dependencies"], *(each for extra in extras.values() for each in extra)]}
    mine |= set(re.findall(r"^WITHOUT_REQUIREMENTS := (.*)$", (ROOT / "Makefile").read_text(), re.M)[0].split()) | {"jielong-zoo"}
    names = [word for before, word in zip(["", *words], words, strict=False) if not word.startswith("-") and before not in ("-c", "-r")]
    assert names[0] == "install"
    for name in names[1:]:
        base, _, extra = name.strip("'\"").rstrip("]").partition("[")
        assert {each for each in extra.split(",") if each} <= set(extras), f"no such extra: {name}"
        assert base in {".", "jielong", "./zoo", *mine}, f"{base} is no requirement of this project"


class Parsed(Exception):  # noqa: N818  no error
    """A script's arguments were accepted."""


def check_script(words: list[str], whole: bool = True) -> None:
    """A script accepts these arguments, and the models and sets that they name exist."""
    path = ROOT / words[0]
    assert path.is_file(), f"there is no {words[0]}"
    if len(words) == 1 and not whole:
        return
    given = parsed(path, words[1:])
    for name in [*_listed(given, "checkpoints"), *_listed(given, "systems"), *_listed(given, "checkpoint"), *_listed(given, "models")]:
        check_checkpoint(name)
    for name in [*_listed(given, "recipe"), *_listed(given, "recipes")]:
        check_recipe(name, [])
    for name in [*_listed(given, "data"), *_listed(given, "set")]:
        check_set(name)


def _listed(given: argparse.Namespace, name: str) -> list[str]:
    value = getattr(given, name, None)
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def parsed(path: Path, arguments: list[str]) -> argparse.Namespace:
    """What a script's parser makes of arguments; the script goes no further."""
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise Parsed(parse(parser))

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop), mock.patch.object(sys, "argv", [str(path), *arguments]):
        try:
            module_of(path).main()
        except Parsed as found:
            return found.args[0]  # type: ignore[no-any-return]
        except SystemExit as error:
            raise AssertionError(f"{path.name} does not take {shlex.join(arguments)}: {error}") from None
    raise AssertionError(f"{path.name} reads no arguments")
