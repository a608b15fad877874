"""Jielong: every way of generating images, sound and video is a choice of five parts.

In a notebook::

    import jielong

    jielong.list_recipes()                                            # names and one line each
    system = jielong.train("maskgit-tiny", data="my/pictures")        # train, or resume
    system.generate(text="a red square", seed=0)                      # images show themselves
    jielong.compare(["llamagen-tiny", "maskgit-tiny"], samples=2000)  # a table at an equal budget

Everything is imported when it is used: importing this package does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.core.version import __version__

if TYPE_CHECKING:
    from jielong.apps.comparison import Comparison
    from jielong.data.hub import HubData
    from jielong.data.sets import MediaSet
    from jielong.data.splits import Split
    from jielong.system import System

__all__ = ["__version__", "compare", "list_models", "list_recipes", "load", "open_data", "train"]


def load(name_or_folder: str | Path, device: str = "auto", adapters: Sequence[str | Path] = ()) -> System:
    """Load a shipped model by name (``maskgit-emoji``), a checkpoint folder, or one of the Hub (``hf://user/name@REVISION``).

    Args:
        name_or_folder: The model.
        device: ``auto``, ``cpu``, ``cuda[:i]`` or ``mps``.
        adapters: Names or paths of adapters of that model, each with its weight, such as ``@me:0.8``; several are summed.

    Raises:
        CheckpointError: if it is missing, unfinished or damaged, or an adapter is of another model.
    """
    from jielong.system import load as load_system

    return load_system(str(name_or_folder), device, adapters=[str(each) for each in adapters])


def train(
    recipe: str | Path,
    data: str | Path | HubData | None = None,
    *,
    out: str | Path | None = None,
    budget: str | None = None,
    samples: int | None = None,
    overrides: Sequence[str] = (),
    tokens: str | Path | None = None,
    trackers: Sequence[str] = (),
    device: str = "auto",
) -> System:
    """Train a recipe, or resume the run in its folder; the arguments are those of ``jielong train``.

    Args:
        recipe: A built-in recipe, a YAML file, or a folder with ``recipe.yaml``.
        data: A built-in set, a path, or a ``Dataset`` or ``DatasetDict`` of Hugging Face's `datasets`, in place of the recipe's.
        out: The run's folder; ``runs/RECIPE`` by default.
        budget: Wall time, such as ``10m``; the recipe's samples by default.
        samples: Training samples, with which all schedules scale; the recipe's by default.
        overrides: Changed settings, such as ``["train.lr=1e-3", "order.masked.steps=4"]``.
        tokens: A token file of ``jielong tokenize``, for a generator.
        trackers: Experiment trackers by name, such as ``tensorboard`` or ``wandb``.
        device: ``auto``, ``cpu``, ``cuda[:i]`` or ``mps``.

    Returns:
        The trained system, with its EMA weights.

    Raises:
        RecipeError: if the recipe or an override is wrong.
        KeyboardInterrupt: if the run was interrupted; its state is saved, and the same call resumes it.
    """
    from jielong.config.recipe import load as load_recipe
    from jielong.config.runs import default_out, seconds_of, with_samples
    from jielong.data.opening import set_name
    from jielong.training.experiment import run

    changes = with_samples(overrides, samples)
    settings, where = load_recipe(str(recipe), changes), None if data is None else set_name(data)
    folder = default_out(str(recipe), settings, where, changes) if out is None else Path(out)
    seconds = None if budget is None else seconds_of(budget)
    file = None if tokens is None else Path(tokens)
    summary = run(settings, folder, where, file, device=device, budget=seconds, trackers=trackers)
    if not summary.finished:
        raise KeyboardInterrupt(f"interrupted after {summary.samples:,} samples; the same call resumes the run in {folder}")
    return load(folder, device)


def open_data(name: str | Path | HubData, split: Split | None = None, **options: Any) -> MediaSet:
    """Open a built-in set or your own data: a folder, WebDataset shards, Parquet or idx files, or a data set of Hugging Face.

    Args:
        name: The set's name, a path, ``hf:owner/name``, or a ``Dataset`` or ``DatasetDict`` of Hugging Face's `datasets`.
        split: ``train``, ``heldout``, or ``None`` for all.
        options: Keys of a recipe's ``data`` section, such as ``size`` of images or ``sample_rate`` and ``duration`` of audio.

    Raises:
        DataError: if there is no such set, it is empty, or an option is unknown.
    """
    from jielong.data.opening import open_data as open_set
    from jielong.data.opening import set_name

    return open_set(set_name(name), split, **options)


def compare(
    names: Sequence[str],
    *,
    budget: str | None = None,
    samples: int | None = None,
    out: str | Path = "comparison",
    data: str | Path | HubData | None = None,
    overrides: Sequence[str] = (),
    count: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Comparison:
    """Train recipes at an equal budget and measure them and checkpoints in the same way; the arguments are those of ``jielong compare``.

    Args:
        names: Recipes, shipped models and checkpoint folders.
        budget: Wall time per recipe, such as ``10m``; ``3m`` where ``samples`` are not given either.
        samples: Samples per recipe, in place of a time.
        out: The folder of runs, figures and pages; a comparison in it is resumed.
        data: A set as of :func:`train`, in place of the recipes' own.
        overrides: Changed settings of every recipe.
        count: Held-out items; all by default.
        seed: Of training and sampling.
        device: ``auto``, ``cpu``, ``cuda[:i]`` or ``mps``.

    Raises:
        ValueError: if both budgets are given, a name is unknown, or the data of the compared differ.
    """
    from jielong.apps.comparison import Budget
    from jielong.apps.comparison import compare as run
    from jielong.apps.comparison.report import write
    from jielong.config.runs import seconds_of
    from jielong.data.opening import set_name

    if budget is not None and samples is not None:
        raise ValueError("an equal budget is a time or a number of samples: give one of `budget` and `samples`")
    limit = Budget(samples, None if samples is not None else seconds_of(budget or "3m"))
    source = None if data is None else set_name(data)
    comparison = run(names, Path(out), limit, data=source, overrides=overrides, count=count, seed=seed, device=device, progress=True)
    write(comparison, f"jielong.compare({list(names)!r})")
    return comparison


def list_recipes(tiny: bool = False) -> dict[str, str]:
    """The built-in recipes by name, each with the line that describes it; with ``tiny`` also those for tests."""
    from jielong.config.recipe import built_in, headline

    return {name: headline(text) for name, text in sorted(built_in().items()) if tiny or not name.endswith("-tiny")}


def list_models() -> dict[str, str]:
    """The shipped models by name, each with the first line of its card; none where jielong-zoo is not installed."""
    from jielong.config.zoo import card_line, zoo

    return {name: card_line(folder) for name, folder in zoo().items()}


def __dir__() -> list[str]:
    return __all__
