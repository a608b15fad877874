"""Everything that `list` names can be shown, at 80 columns and in a pipe: every key, nothing cut off, and as YAML that reads back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from rich.cells import cell_len

from jielong.apps.commands import showing
from jielong.apps.commands.screen import one_line, results
from jielong.apps.commands.showing_parts import settings_keys
from jielong.config import catalogue
from jielong.config.data import media_kinds, settings_kind
from jielong.config.described import REQUIRED, keys
from jielong.config.places import ROOTS, find_place
from jielong.config.recipe import built_in, load, parse
from jielong.config.registry import FAMILIES, Faults, Mark, RecipeError, parse_part, parts_of
from jielong.config.zoo import zoo

from .conftest import command, succeed

PARTS = [entry.name for entry in catalogue.parts()]
SECTIONS = [
    "recipe",
    "train",
    "sampling",
    "sampling.guidance",
    "sampling.lazy",
    "balancer",
    "stop_head",
    "data",
    "data.image",
    "data.audio",
]
AXES = {("rows", "columns"): "image", ("time",): "audio", ("time", "rows", "columns"): "video", None: None}


@pytest.fixture(autouse=True)
def _no_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derived sizes have tests of their own, and take seconds."""

    def refuse(*_: object) -> None:
        raise ValueError("not in this test")

    monkeypatch.setattr(showing, "prepared", refuse)


def shown(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What a command prints in a pipe, which is the same in a terminal of 80 columns; its lines are checked."""
    printed = []
    monkeypatch.delenv("COLUMNS", raising=False)
    for width in (80, None):
        monkeypatch.setattr(results, "_width", width)
        printed.append(succeed(*words).stdout)
    assert printed[0] == printed[1]
    lines = printed[0].splitlines()
    assert lines
    assert max(map(cell_len, lines)) <= 80
    assert all(line.strip() for line in lines)
    assert not re.search("\x1b|…$", printed[0], re.M)
    return printed[0]


def joined(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("name", sorted({*PARTS, *SECTIONS, *ROOTS}))
def test_every_part_and_section_is_shown_with_every_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, place = shown(monkeypatch, "show", name), find_place(name)
    if isinstance(place.schema, Mark) and name != "data":
        assert all(f"{place.schema.family}.{part}" in text for part in parts_of(place.schema.family))  # type: ignore[attr-defined]
        return
    found = settings_keys(place.schema)
    assert {key.path for key in found if "." not in key.path} == set(fields(place.schema))
    for key in (key for key in found if key.path.startswith(place.key)):
        assert re.search(rf"^{re.escape(key.path)}(  |$)", text, re.M)
        assert joined(key.about.rstrip(".")) in joined(text)
        assert joined(key.default) in joined(text)
        for choice in parts_of(key.family) if key.family else ():
            assert choice in text


def fields(schema: type[BaseModel] | Mark) -> Iterator[str]:
    for settings in [kind.settings for kind in media_kinds().values()] if isinstance(schema, Mark) else [schema]:
        yield from settings.model_fields


def test_every_key_is_described() -> None:
    places = [find_place(name) for name in (*PARTS, *SECTIONS)]
    assert not [f"{place.name}.{key.path}" for place in places for key in settings_keys(place.schema) if not key.about]


@pytest.mark.parametrize("name", PARTS)
def test_yaml_of_a_part_holds_its_defaults(name: str) -> None:
    family, _, part = name.partition(".")
    written = yaml.safe_load(succeed("show", name, "--yaml").stdout)
    assert list(written) == ["losses" if family == "loss" else family]
    ((_, settings),) = written.items()
    model = parts_of(family)[part]
    required = [key for key, field in model.model_fields.items() if field.is_required()]
    if required:
        with pytest.raises(Faults) as refused:
            parse_part(family, settings)
        assert {problem["loc"][-1] for problem in refused.value.problems} == set(required)
    else:
        assert parse_part(family, settings) == model()


@pytest.mark.parametrize("name", built_in())
def test_every_recipe_is_shown_with_the_source_of_every_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, recipe = shown(monkeypatch, "show", name), load(name)
    source = f"(?:{'|'.join(('recipe', 'default', 'derived', *built_in()))})?"  # stands beside the first line of a long value
    whole = joined(text)
    for path, value, _ in showing.settings_of(recipe):
        assert path in whole
        assert re.search(source.join(map(re.escape, joined(value))), whole)
    assert parse(succeed("show", name, "--yaml").stdout) == recipe


@pytest.mark.parametrize("name", zoo())
def test_every_model_is_shown_with_its_figures_size_and_licence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, "show", name)
    provenance = json.loads((zoo()[name] / "evaluation.json").read_text())["provenance"]
    assert re.search(rf"^parameters +{provenance['parameters']:,}$", text, re.M)
    assert re.search(r"^weights +[\d.]+ MB$", text, re.M)
    assert re.search(r"^figures  ", text, re.M)
    assert re.search(r"^licence  ", text, re.M)
    assert re.search(r"^trained on  ", text, re.M)
    assert parse(succeed("show", name, "--yaml").stdout) == load(str(zoo()[name]))


def test_a_value_of_a_base_recipe_is_said_to_be_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: maskgit\ntrain: {lr: 0.5}\n")
    rows = {line.split()[0]: line.split()[-1] for line in shown(monkeypatch, "show", str(mine), "--set", "train.ema=0.9").splitlines()}
    assert (rows["train.lr"], rows["train.batch"], rows["train.ema"], rows["train.seed"]) == ("recipe", "maskgit", "--set", "default")


def test_a_trained_run_is_shown(painter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, "show", str(painter))
    assert "generator of 8 x 8 pictures" in text
    assert joined(f"jielong generate {painter}") in joined(text)


def test_yaml_has_the_changes_of_the_command_line() -> None:
    changed = succeed("show", "maskgit", "--yaml", "--data", "sounds?x=1", "--set", "train.lr=0.5").stdout
    assert yaml.safe_load(changed)["data"]["set"] == "sounds?x=1"
    assert parse(changed).train.lr == 0.5


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("maskgitt", "maskgit"),
        ("maskgit-emojis", "maskgit-emoji"),
        ("mean_flow", "head.mean_flow"),
        ("head.meanflow", "head.mean_flow"),
        ("head.mean_flow.stps", "head.mean_flow.steps"),
        ("tokenizer.vq.quantizer.vectr", "tokenizer.vq.quantizer.vector"),
        ("tran", "train"),
        ("sampling.gidance", "sampling.guidance"),
        ("sampling.lazy.refesh", "sampling.lazy.refresh"),
        ("quantiser", "quantizer"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_of_all_kinds(name: str, near: str) -> None:
    refused = command("show", name)
    assert refused.exit_code == 1
    assert name in refused.stderr
    assert re.search(rf"did you mean (.* or )?{re.escape(near)}( or |\?)", refused.stderr)


def test_a_part_takes_no_options_of_recipes() -> None:
    assert "--data" in command("show", "head.softmax", "--data", "emoji").stderr
    assert "such as head." in command("show", "head", "--yaml").stderr


def test_one_key_is_shown_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, "show", "train.lr")
    assert "0.0003" in text
    assert "weight_decay" not in text
    assert yaml.safe_load(succeed("show", "train.lr", "--yaml").stdout) == {"train": {"lr": 3e-4}}


# --- list -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["recipes", "models", "parts", "data"])
def test_list_has_a_line_each(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"recipes": catalogue.recipes, "models": catalogue.models, "parts": catalogue.parts, "data": catalogue.sets}[kind]()
    lines = shown(monkeypatch, "list", kind).splitlines()
    assert [line.split()[0] for line in lines] == [entry.name for entry in entries]
    assert all(len(line.split()) > 2 for line in lines)
    assert len({len(line) - len(line.split(maxsplit=1)[1]) for line in lines}) == 1  # aligned


def test_list_alone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [line.split() for line in shown(monkeypatch, "list").splitlines()]
    counts = {row[0]: int(row[1]) for row in rows if row[1].isdigit()}
    assert counts == {"recipes": len(built_in()), "models": len(zoo()), "parts": len(PARTS), "data": len(catalogue.SETS)}


def test_list_by_medium_agrees_with_what_is_built() -> None:
    assert {entry.name: entry.medium for entry in catalogue.recipes()} == {name: settings_kind(load(name).data).name for name in built_in()}
    assert {entry.name: entry.medium for entry in catalogue.parts()} == {
        f"{family}.{name}": AXES[part.axes] for family in FAMILIES for name, part in parts_of(family).items()
    }
    sound = {line.split()[0] for line in succeed("list", "recipes", "--medium", "audio").stdout.splitlines()}
    assert {"vocos", "valle"} <= sound
    assert not {"maskgit", "var"} & sound
    assert "smell" in command("list", "parts", "--medium", "smell").stderr


def test_a_description_is_cut_at_a_comma_or_marked() -> None:
    assert one_line("short (arXiv 1234.5678).", 40) == ["short"]
    assert one_line("a first part that is long enough, and a second one", 40) == ["a first part that is long enough"]
    assert one_line("first, and then a second one without an end", 20) == ["first, and then ..."]


# --- what a key takes -----------------------------------------------------------------------------------------------------------------


def test_types_bounds_and_defaults_are_those_of_the_settings() -> None:
    found = {key.path: key for key in keys(parts_of("head")["mean_flow"])}
    assert (found["steps"].takes, found["steps"].default) == ("int >= 1", "1")
    assert found["same"].takes == "number in [0, 1]"
    assert found["times.mean"].default == "0.4"  # of this head, not of the settings' class
    assert found["times.kind"].takes == "uniform | logit_normal"
    assert (found["network"].family, found["network"].default) == ("network", "mlp")
    titok = {key.path: key for key in keys(parts_of("tokenizer")["titok"])}
    assert (titok["proxy"].default, titok["finetune_at"].default) == ("null", REQUIRED)
    assert titok["quantizer"].default == "{vector: {codebook_size: 4096, normalize: true}}"


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_their_choices_are_what_yaml_reads_them_as(family: str) -> None:
    """``null: table`` is a key of no text in YAML, as ``on`` is true."""
    for name, settings in parts_of(family).items():
        words = [name, *(word for key in keys(settings) for word in key.path.split("."))]
        assert yaml.safe_load("".join(f"- {word}\n" for word in words)) == words


def test_the_recipe_of_a_model_is_found_by_its_name_and_a_built_in_one_comes_first() -> None:
    name, folder = next(iter(zoo().items()))
    assert load(showing.source_of(name)) == load(str(folder))
    assert showing.source_of("flow") == "flow"
    assert showing.source_of("./flow") == "./flow"


def test_a_place_that_is_none_is_refused() -> None:
    for name in ("", ".", "head.", "train.lr.x", "order.none"):
        with pytest.raises(RecipeError):
            find_place(name)
