"""The models of a server: what each takes, and a request as the arguments of :meth:`jielong.system.System.generate`."""

from __future__ import annotations

import mimetypes
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from jielong.apps.serving.settings import settings_of
from jielong.conditions.inputs import ConditionInput, InputError
from jielong.conditions.length import SECONDS
from jielong.conditions.text import NEGATIVE_TEXT
from jielong.config.sampling import SamplingConfig, check_names
from jielong.core.json import JSON
from jielong.generation.callbacks import StepCallback
from jielong.media.kinds.base import kind_of
from jielong.media.reading.libraries import MissingLibraryError
from jielong.media.results import ResultItem, Results
from jielong.system import System
from jielong.system.inputs import call_inputs, is_timed, takes_negative_text

_TYPES = mimetypes.MimeTypes()
for _ending, _type in {"webp": "image/webp", "wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "g722": "audio/G722"}.items():
    _TYPES.add_type(_type, f".{_ending}")
for _ending, _type in {
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "webm": "video/webm",
    "mkv": "video/x-matroska",
    "apng": "image/apng",
}.items():
    _TYPES.add_type(_type, f".{_ending}")
for _ending in ("ogg", "oga", "opus"):
    _TYPES.add_type("audio/ogg", f".{_ending}")


@dataclass(frozen=True)
class Limits:
    """What a server accepts.

    Attributes:
        count: Items of one request.
        queue: Requests that wait while one is answered.
        text: Characters of one text.
        body: Bytes of one request.
    """

    count: int = 16
    queue: int = 8
    text: int = 2_000
    body: int = 1 << 22


class GenerateRequest(BaseModel):
    """The JSON of ``POST /generate``. All further keys are inputs of the model, such as ``text``: one value, or a list of several."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str | None = Field(default=None, description="the name of a model; the first by default")
    count: int = Field(default=1, ge=1, description="items per set of inputs")
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="item i depends on the seed and i alone")
    sampling: dict[str, JsonValue] = Field(default={}, description="sampling parameters in place of the model's, as in a recipe")
    format: str | None = Field(default=None, description="the format of the items, such as png or wav; the model's first by default")
    answer: Literal["json", "file"] = Field(default="json", description="JSON with the items in base64, or the file of a single item")


@dataclass(frozen=True)
class ServedModel:
    """A model, and what a request to it may say.

    Attributes:
        name: Its name in requests.
        system: The model.
        about: One sentence.
        limits: Of the server.
    """

    name: str
    system: System
    about: str = ""
    limits: Limits = field(default_factory=Limits)

    @cached_property
    def inputs(self) -> dict[str, ConditionInput]:
        """The inputs that a request may have, by name."""
        inputs = list(call_inputs(self.system))
        if takes_negative_text(self.system):
            inputs.append(NEGATIVE_TEXT)
        if is_timed(self.system.recipe) and SECONDS not in inputs:
            inputs.append(SECONDS)
        return {each.name: each for each in inputs}

    @cached_property
    def formats(self) -> tuple[str, ...]:
        """Formats that this installation can write such items to; the first is the default."""
        medium, found = self.system.tokenizer.media, list[str]()
        kind = kind_of(medium)
        for ending in kind.written or sorted(kind.suffixes):
            try:
                kind.check_written(Path(f"item{ending}"), medium)
            except (ValueError, MissingLibraryError):
                continue
            found.append(ending.removeprefix("."))
        return tuple(found)

    def description(self) -> JSON:
        """What ``GET /models`` says of it."""
        return {
            "name": self.name,
            "about": self.about,
            "medium": str(self.system.tokenizer.media),
            "inputs": [{"name": each.name, "type": "file" if each.file else "text", "about": each.noun} for each in self.inputs.values()],
            "formats": list(self.formats),
            "sampling": settings_of(self.system),
        }

    def arguments_of(self, request: GenerateRequest) -> dict[str, Any]:
        """A request as arguments of :meth:`System.generate`, checked without drawing anything.

        Raises:
            ValueError: if the model cannot answer it.
        """
        inputs, given = self.inputs, dict(request.model_extra or {})
        check_names(given, [*GenerateRequest.model_fields, *inputs], "key")
        check_names(request.sampling, SamplingConfig.model_fields)
        SamplingConfig().override(**request.sampling)
        if (request.format or self.formats[0]) not in self.formats:
            raise ValueError(f"format: {self.name} writes {', '.join(self.formats)}, not {request.format!r}")
        values = {inputs[name].keyword: self._values(inputs[name], value) for name, value in given.items() if value is not None}
        arguments: dict[str, Any] = {**values, **request.sampling, "count": request.count, "seed": request.seed}
        try:
            items = self.system.check(**arguments)
        except InputError as error:
            raise ValueError(error.naming(lambda each: repr(each.name))) from error
        if items > self.limits.count:
            raise ValueError(f"count: {items} items are more than this server draws for one request, {self.limits.count}")
        if items > 1 and request.answer == "file":
            raise ValueError(f"answer: a file holds one item, and this request has {items}: take 'json'")
        return arguments

    def _values(self, each: ConditionInput, value: object) -> list[object]:
        values = value if isinstance(value, list) else [value]
        if not 1 <= len(values) <= self.limits.count:
            raise ValueError(f"{each.name}: give 1 to {self.limits.count} values, not {len(values)}")
        if any(isinstance(one, str) and len(one) > self._longest(each) for one in values):
            raise ValueError(f"{each.name}: a value has more than {self._longest(each):,} characters")
        try:
            return [each.from_json(one) for one in values]
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{each.name}: {error}") from error

    def _longest(self, each: ConditionInput) -> int:
        """Most characters of a value; files are as large as a request."""
        return self.limits.body if each.file else self.limits.text

    def draw(self, arguments: Mapping[str, Any], on_step: StepCallback | None = None) -> Results[ResultItem]:
        """The items of checked arguments."""
        return self.system.generate(**arguments, on_step=on_step)


def encoded(item: ResultItem, form: str) -> bytes:
    """The file that an item is saved to."""
    with tempfile.TemporaryDirectory() as folder:
        return item.save(Path(folder) / f"item.{form}").read_bytes()


def media_type(form: str) -> str:
    """The MIME type of a format."""
    return _TYPES.guess_type(f"item.{form}")[0] or "application/octet-stream"
