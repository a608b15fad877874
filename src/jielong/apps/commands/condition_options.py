"""Options of ``jielong generate`` that supply the inputs of conditions, generated from their declarations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from jielong.conditions.inputs import ConditionInput

INPUTS = "jielong.inputs"


class ConditionCommand(TyperCommand):
    """A command with an option for each registered condition input; :func:`inputs_of` returns their values."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Arguments, condition inputs and options, in this order."""
        params = super().get_params(ctx)
        first = next((index for index, param in enumerate(params) if param.param_type_name == "option"), len(params))
        return [*params[:first], *_options(), *params[first:]]


def inputs_of(context: typer.Context) -> dict[str, list[object]]:
    """Values of condition inputs, by keyword of :meth:`jielong.system.System.generate`."""
    return dict(context.meta.get(INPUTS, {}))


def _options() -> list[Any]:
    """Click parameters of all inputs, built by Typer from a function signature."""
    from jielong.conditions.base import registered_inputs
    from jielong.conditions.text import NEGATIVE_TEXT

    def command(**values: object) -> None:
        pass

    types = {
        f"input_{index}": Annotated[list[str] | None, _option(each)]
        for index, each in enumerate([*registered_inputs().values(), NEGATIVE_TEXT])
        if not each.generated
    }
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in types.items()]
    command.__annotations__ = types
    vars(command)["__signature__"] = inspect.Signature(parameters)
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return [param for param in typer.main.get_command(app).params if param.name in types]


def _option(each: ConditionInput) -> Any:
    return typer.Option(each.option, help=each.help, metavar=each.metavar, expose_value=False, callback=_reader(each))


def _reader(each: ConditionInput) -> Callable[[typer.Context, list[str] | None], None]:
    def read(context: typer.Context, texts: list[str] | None) -> None:
        try:
            values = [each.parse(text) for text in texts or ()]
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=each.option) from None
        if values:
            context.meta.setdefault(INPUTS, {})[each.keyword] = values

    return read
