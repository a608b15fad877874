from __future__ import annotations

import gc
import io
import signal
from collections.abc import Callable, Iterator
from functools import cache

import matplotlib as mpl
import pytest
import typer.testing
from hypothesis import HealthCheck, settings
from matplotlib.figure import Figure

from jielong.config import registry as config
from jielong.core import plots
from jielong.data.opening import BUILT_IN
from jielong.media.kinds import base as media_kinds
from jielong.media.kinds.base import kinds
from jielong.training import loss_curve

# Chosen by --hypothesis-profile; tests that set their own numbers are not changed by them.
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
settings.register_profile("quick", max_examples=40, derandomize=True, deadline=None, suppress_health_check=SLOW)
settings.register_profile("thorough", max_examples=3_000, derandomize=False, deadline=None, suppress_health_check=SLOW)
settings.load_profile("quick")


def pytest_collection_finish() -> None:
    """Modules and tests live to the end: the garbage collector need not look through a million objects again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def only_the_projects_own_parts() -> Iterator[None]:
    """A part that another test or an example declares must not be seen here, nor one declared here elsewhere."""
    everything = {family: dict(config.parts_of(family)) for family in config.FAMILIES}
    for family, parts in everything.items():
        _replace(family, {name: part for name, part in parts.items() if part.__module__.startswith("jielong.")})
    media = dict(kinds())
    yield
    media_kinds._KINDS.clear()
    media_kinds._KINDS.update({name: kind for name, kind in media.items() if type(kind).__module__.startswith("jielong.")})
    for family, parts in everything.items():
        _replace(family, parts)


def _replace(family: str, parts: dict[str, type[config.Part]]) -> None:
    config._parts[family].clear()
    config._parts[family].update(parts)


@pytest.fixture(scope="session", autouse=True)
def _shipped_sets_are_opened_once() -> Iterator[None]:
    """The sets that ship with jielong-zoo, thousands of rows each, are opened once for all tests, most of which read a few items."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("emoji", "faces"):
            patch.setitem(BUILT_IN, name, cache(BUILT_IN[name]))
        yield


@pytest.fixture(scope="session", autouse=True)
def _loss_curves_are_sketched() -> Iterator[None]:
    """Every run draws its loss curve, which takes longer than the steps of a small one: the lines are drawn here, without axes and words.

    Tests of the curve itself draw all of it.
    """

    def sketched(draw: Callable[[Figure], None], size: tuple[float, float]) -> bytes:
        with mpl.rc_context(plots.STYLE | {"figure.dpi": 40}):
            figure, buffer = Figure(figsize=size), io.BytesIO()
            draw(figure)
            for axes in figure.axes:
                axes.set_axis_off()
                if (legend := axes.get_legend()) is not None:
                    legend.remove()
            figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_curve, "plot_png", sketched)
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_are_made_once() -> Iterator[None]:
    """The commands of an application, a tenth of a second from the signatures of their functions, are made once, not for each call."""
    made = cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", made)
        patch.setattr(typer.testing, "_get_command", made)
        yield


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Signals that the suite ignores, as under ``nohup`` or in the background of a shell, have their usual effect in the test."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, usual[number]) for number in usual if signal.getsignal(number) is signal.SIG_IGN}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
