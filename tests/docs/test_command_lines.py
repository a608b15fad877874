"""Every command line that documents, recipes, scripts and model cards print would run: see ``command_lines``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from command_lines import Line, all_lines, check, of_recipes, program_of

from jielong.config import recipe, registry
from running_scripts import ROOT, module_of

LINES = all_lines()


@pytest.fixture
def _examples() -> Iterator[None]:
    """The parts of ``examples/``, as if they stood among the project's own; removed with everything else of a test."""
    for path in sorted(ROOT.glob("examples/*/*.py")):
        if not path.stem.startswith("test_"):
            module = module_of(path)
            for part in vars(module).values():
                if isinstance(part, type) and issubclass(part, registry.Part) and part.__module__ == module.__name__ and part.name:
                    registry._parts[part.family][part.name] = part
    return


@pytest.mark.parametrize("line", LINES, ids=str)
@pytest.mark.usefixtures("_examples")
def test_it_would_run(line: Line) -> None:
    check(line)


def test_they_are_found() -> None:
    pages = {line.origin for line in LINES}
    assert {"README.md", "CONTRIBUTING.md", "speech.md", "maskgit.yaml", "benchmarks/mar.py", "maskgit-emoji/README.md"} <= pages
    assert len(LINES) > 250


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("jielong generate maskgit-emoji --no-such", "no-such"),
        ("jielong drawing", "drawing"),
        ("jielong train maskgit-none", "maskgit-none"),
        ("jielong train maskgit --set order.masked.stepz=4", "stepz"),
        ("jielong evaluate no-such-model", "no-such-model"),
        ("jielong serve no-such-model", "no-such-model"),
        ("jielong generate RUN --texts ...", "--texts"),
        ("jielong lab run no-such-experiment", "no-such-experiment"),
        ("jielong data build nothing", "nothing"),
        ("jielong tokenize vq-emoji --data nothing --out tokens.safetensors", "nothing"),
        ("python benchmarks/none.py", "none.py"),
        ("python benchmarks/backbone.py --only nothing", "backbone.py does not take"),
        ("OMP_NUM_THREADS=2 python benchmarks/systems.py maskgit-emoji no-such-model", "no-such-model"),
        ("torchrun -m jielong.no_such train maskgit", "no_such"),
        ("make everything", "everything"),
        ("pip install leftpad", "leftpad"),
        ("pip install 'jielong[no-such]'", "no-such"),
        ("pytest tests/none.py", "none.py"),
        ("pytest tests/docs/test_docs.py -k nothing_of_this_name", "nothing_of_this_name"),
    ],
)
def test_what_would_not_run_is_found(text: str, says: str) -> None:
    with pytest.raises(Exception, match=says):
        check(Line("here", program_of(text)))


@pytest.mark.parametrize("name", sorted(recipe.built_in()))
def test_a_recipe_says_how_to_train_it(name: str) -> None:
    words = [line.words[:3] for line in of_recipes() if line.origin == f"{name}.yaml"]
    assert ("jielong", "train", name) in words
