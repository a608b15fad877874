"""A recipe is a whole experiment in a page of YAML: which parts, which data, how long. Unknown keys and impossible pairings are refused."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from jielong.config.ending import StopHeadSettings
from jielong.config.guidance import Guidance
from jielong.config.registry import Config, Faults, OfFamily, Part, RecipeError, Schema, below, keys_of, nearest, read_settings
from jielong.config.speed import Lazy, Schedule, TwoStage
from jielong.core.medium import ALONG_ROWS, ALONG_TIME
from jielong.training.settings import Balance, TrainSettings


class Trained(Config):
    """A trained tokenizer: the name of a shipped model, or a checkpoint folder.

    Attributes:
        checkpoint: Which.
        levels: Take so many leading levels of its codes, where they are added up; all of them by default.
    """

    checkpoint: str
    levels: int | None = Field(default=None, ge=1)


Tokenizer = Annotated[SerializeAsAny[Part] | Trained, OfFamily("tokenizer", instead=Trained)]
Losses = Annotated[tuple[SerializeAsAny[Part], ...], OfFamily("loss", many=True)]
Condition = Annotated[SerializeAsAny[Part], OfFamily("condition")]
Order = Annotated[SerializeAsAny[Part], OfFamily("order")]
Backbone = Annotated[SerializeAsAny[Part], OfFamily("backbone")]
Head = Annotated[SerializeAsAny[Part], OfFamily("head")]


class DataSettings(Config):
    """Which pictures or which sound, and at what size.

    Attributes:
        set: A built-in set's name, or a path; several joined, as a list or with commas between.
        size: Side of pictures in pixels; 64 where nothing is said of sound.
        rate: Samples of sound a second; 16,000 where ``seconds`` are given.
        seconds: Length of sound; 1 where a ``rate`` is given.
        level: Decibels of full scale that every clip is brought to; as it is by default.
    """

    set: str = "emoji"
    size: int | None = Field(default=None, ge=4)
    rate: int | None = Field(default=None, ge=1_000)
    seconds: float | None = Field(default=None, gt=0)
    level: float | None = Field(default=None, le=0)

    @field_validator("set", mode="before")
    @classmethod
    def _joined(cls, given: Any) -> Any:
        if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
            return given
        from jielong.data.joined import joined_name  # which brings torch: what only reads recipes does without

        return joined_name(given)

    @model_validator(mode="before")
    @classmethod
    def _one_medium(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        said = {key: value for key, value in given.items() if value is not None or key not in cls.model_fields}
        if not said.keys() & {"rate", "seconds", "level"}:
            return {"size": 64, **said}
        if "size" in said:
            raise ValueError("size is the side of pictures, rate, seconds and level are of sound: give one or the other")
        return {"rate": 16_000, "seconds": 1.0, **said}


class Sampling(Config):
    """How to draw, unless ``generate`` is told otherwise."""

    steps: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    num_inference_steps: int | None = Field(default=None, ge=1)
    final_inference_steps: int | None = Field(default=None, ge=1)
    guidance: Guidance = Guidance()
    schedule: Schedule | None = None
    two_stage: TwoStage | None = None
    lazy: Lazy | None = None

    @property
    def speed(self) -> dict[str, Any]:
        """The options of :meth:`Generator.generate` that say how fast to go; all are off unless the recipe sets them."""
        return {"schedule": self.schedule, "two_stage": self.two_stage, "lazy": self.lazy}


class Recipe(Config):
    """Five parts, data, and a budget. Without order, backbone and head it trains the tokenizer itself."""

    data: DataSettings = DataSettings()
    tokenizer: Tokenizer
    losses: Losses = ()
    balancer: Balance | None = None
    condition: Condition | None = None
    order: Order | None = None
    backbone: Backbone | None = None
    head: Head | None = None
    stop_head: StopHeadSettings | None = None
    sampling: Sampling = Sampling()
    train: TrainSettings

    @property
    def trains_generator(self) -> bool:
        """Whether it trains a generator (and not a tokenizer)."""
        return self.order is not None

    @model_validator(mode="after")
    def _pairings(self) -> Recipe:
        chain = {"order": self.order, "backbone": self.backbone, "head": self.head}
        missing = [name for name, part in chain.items() if part is None]
        if missing and len(missing) < len(chain):
            raise ValueError(f"a generator needs order, backbone and head together; missing: {', '.join(missing)}")
        if self.trains_generator:
            if self.losses or self.balancer is not None:
                given = "losses" if self.losses else "balancer"
                raise ValueError(f"`{given}` belong to a tokenizer's recipe; a generator's loss is its head's: remove `{given}`")
            asked = [name for name in ("two_stage", "lazy") if getattr(self.sampling, name) is not None]
            if asked and getattr(self.order, "choose", None) != "random":
                raise ValueError(
                    f"sampling.{asked[0]} needs an order that chooses positions before it draws: order: {{masked: {{choose: random}}}}"
                )
            if isinstance(self.tokenizer, Part) and not getattr(self.tokenizer, "fixed", False):
                raise ValueError(
                    f"a generator needs a trained tokenizer, but {self.tokenizer.name!r} has yet to learn: train it with a recipe "
                    "of its own (such as vqgan) and write tokenizer: {checkpoint: NAME-OR-FOLDER}"
                )
        else:
            if self.stop_head is not None:
                raise ValueError("a tokenizer has no end to learn: remove `stop_head`, or add order, backbone and head for a generator")
            if self.condition is not None:
                raise ValueError("a tokenizer takes no condition: remove `condition`, or add order, backbone and head for a generator")
            if isinstance(self.tokenizer, Trained):
                raise ValueError("this tokenizer is trained already: add order, backbone and head, or describe a tokenizer to train")
            if getattr(self.tokenizer, "fixed", False):
                name = self.tokenizer.name
                raise ValueError(f"{name} have nothing to learn: choose a tokenizer such as vq, or add order, backbone and head")
            losses = {loss.name for loss in self.losses}
            self._read()
            self._judged()
            predicts = getattr(self.tokenizer, "likelihood", None)
            if "logit_laplace" in losses and predicts != "logit_laplace":
                raise ValueError("the loss logit_laplace needs a tokenizer that predicts a distribution: {vq: {likelihood: logit_laplace}}")
            if predicts is not None and predicts not in losses:
                raise ValueError(f"this tokenizer predicts a distribution that no loss reads: add losses: {{{predicts}: {{}}}}")
        return self

    def _read(self) -> None:
        """Refuse a body of another medium than that of the data."""
        if autoencoder := getattr(self.tokenizer, "autoencoder", None):
            autoencoder.check_axes(ALONG_ROWS if self.data.rate is None else ALONG_TIME)

    def _judged(self) -> None:
        """Refuse losses of another medium, and losses that do not say what is to be given back."""
        sound = self.data.rate is not None
        for loss in self.losses:
            axes = getattr(loss, "axes", None)
            if axes == ALONG_ROWS and sound:
                raise ValueError(f"the loss {loss.name} judges pictures, and the data are sound: take mel, stft or adversarial_sound")
            if axes == ALONG_TIME and not sound:
                raise ValueError(f"the loss {loss.name} judges sound, and the data are pictures: take perceptual or adversarial")
        if not any(getattr(loss, "reconstructs", False) for loss in self.losses):
            wanted = "a mel, stft or regression loss: losses: {mel: {}}" if sound else "a regression loss: losses: {regression: {kind: l2}}"
            raise ValueError(f"a tokenizer needs at least {wanted}")
        if self.balancer is not None and any(loss.name == "logit_laplace" for loss in self.losses):
            raise ValueError("a balancer weighs gradients at the reconstruction, which the loss logit_laplace does not read: remove one")

    def to_yaml(self) -> str:
        """The recipe with every default filled in."""
        data = self.model_dump(mode="json", exclude_none=True)
        data["losses"] = {name: settings for loss in data["losses"] for name, settings in loss.items()}
        for empty in [key for key in ("losses",) if not data[key]]:
            del data[empty]
        return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=140)


def built_in() -> dict[str, str]:
    """The built-in recipes: name to YAML text."""
    folder = importlib.resources.files("jielong.recipes")
    return {
        item.name[:-5]: item.read_text() for item in sorted(folder.iterdir(), key=lambda item: item.name) if item.name.endswith(".yaml")
    }


def read_text(name_or_path: str) -> tuple[str, str]:
    """Text and origin of a recipe: a built-in name, a YAML file, or a folder with ``recipe.yaml``.

    A built-in name is that recipe wherever one stands; a folder that is called so is ``./name``.

    Raises:
        RecipeError: if there is no such recipe.
    """
    recipes, path = built_in(), Path(name_or_path)
    if name_or_path in recipes:
        return recipes[name_or_path], name_or_path
    if path.is_dir():
        path = path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml") and path.exists():
        return path.read_text(), str(path)
    raise RecipeError(f"there is no recipe called {name_or_path!r}, nor such a file; {nearest(name_or_path, recipes)}")


def load(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe, with ``a.b=c`` overrides.

    Raises:
        RecipeError: with the line, what is wrong and the nearest valid choice.
    """
    text, origin = read_text(name_or_path)
    return parse(text, origin, overrides)


def parse(text: str, origin: str = "recipe", overrides: Iterable[str] = ()) -> Recipe:
    """Validate a recipe's text; see :func:`load`."""
    data, places = _read(text, origin)
    for override in overrides:
        _override(data, places, override)
    try:
        return read_settings(Recipe, data)
    except Faults as faults:
        raise RecipeError("\n".join(_explain(problem, places, origin) for problem in faults.problems)) from None


def completed(text: str) -> str:
    """A recipe as an earlier version wrote it, with today's settings: those that have come since at their defaults, without those gone.

    One that cannot be read for another reason, such as a part that there is no more, is returned as it is.
    """
    data, _ = _read(text, "recipe")
    while True:
        try:
            return read_settings(Recipe, data).to_yaml()
        except Faults as faults:
            fewer = data
            for problem in faults.problems:
                if problem["type"] == "extra_forbidden":
                    fewer = _without(fewer, problem["loc"])
            if fewer == data:
                return text
            data = fewer


def _without(value: Any, path: tuple[Any, ...]) -> Any:
    """A copy without the key at a path; parts in a list are found by their names."""
    if isinstance(value, list):
        return [_without(item, path) for item in value]
    if not isinstance(value, dict):
        return value
    first, *rest = path
    return {key: _without(inner, tuple(rest)) if key == first else inner for key, inner in value.items() if rest or key != first}


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number, as a person means it, and not a text, as YAML 1.1 has it."""


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads back: a text such as ``1e-3`` is quoted."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def _read(text: str, origin: str, above: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """YAML to a dictionary with ``extends`` resolved, and the place (file and line) of every key."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{origin} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{origin} must be a mapping of data, tokenizer, ..., train; it is {type(data).__name__}")
    places: dict[tuple[str, ...], str] = {}
    _mark(node, (), origin, places)
    base = data.pop("extends", None)
    if base is not None:
        base_text, base_origin = read_text(_beside(str(base), origin))
        if base_origin in (*above, origin):
            raise RecipeError(f"{places['extends',]}: recipes extend each other in a circle: {' -> '.join((*above, origin, base_origin))}")
        base_data, base_places = _read(base_text, base_origin, (*above, origin))
        data, places = _merge(base_data, data), base_places | places
    return data, places


def _beside(name: str, origin: str) -> str:
    """A base that is a file, looked for beside the file that extends it first."""
    path = Path(origin).parent / name
    return str(path) if name not in built_in() and path.exists() else name


def _mark(node: Any, path: tuple[str, ...], origin: str, places: dict[tuple[str, ...], str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            places[here] = f"{origin}, line {key.start_mark.line + 1}"
            _mark(value, here, origin, places)


def _merge(base: Any, change: Any, schema: Schema = Recipe) -> Any:
    """Lay a change over a base, key by key; naming another part of a family, however deep, replaces the part and its settings."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if isinstance(schema, OfFamily) and not schema.many and set(base) != set(change):
        instead = set() if schema.instead is None or not schema.is_instead(base) else set(schema.instead.model_fields)
        if not set(change) <= instead:
            return change
    return {
        key: _merge(base[key], change[key], below(schema, key)) if key in base and key in change else change.get(key, base.get(key))
        for key in {**base, **change}
    }


def _override(data: dict[str, Any], places: dict[tuple[str, ...], str], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise RecipeError(f"--set takes a.b=value, such as train.lr=1e-3, not {override!r}")
    try:
        change = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError:
        raise RecipeError(f"--set takes a.b=value with a value as in a recipe; {value!r} in {override!r} is not") from None
    path = tuple(name.split("."))
    for depth in range(len(path)):
        places.setdefault(path[: depth + 1], f"--set {override}")
    places[path] = f"--set {override}"
    for key in reversed(path):
        change = {key: change}
    merged = _merge(data, change)
    data.clear()
    data.update(merged)


def _explain(error: Any, places: dict[tuple[str, ...], str], origin: str) -> str:
    """One validation error as a sentence with the place, the reason and the nearest valid choice."""
    where = tuple(str(part) for part in error["loc"])
    path = where
    while path and path not in places:
        path = path[:-1]
    place, name = places.get(path, origin), ".".join(where)
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key {name!r}; {nearest(where[-1], _keys(where[:-1]))}"
    if error["type"] == "missing":
        return f"{place}: {name!r} is missing"
    reason = error["msg"].removeprefix("Value error, ")
    given = "" if isinstance(error["input"], Mapping | Config) else f" (it is {error['input']!r})"
    return f"{place}: {name}: {reason}{given}" if name else f"{place}: {reason}"


def _keys(path: tuple[str, ...]) -> list[str]:
    """Keys allowed at a path of a recipe."""
    schema: Schema = Recipe
    for key in path:
        schema = below(schema, key)
    return keys_of(schema) + (["extends"] if not path else [])
