"""Scripts of the project (``benchmarks/``, ``scripts/``, ``docs/``) run or read in the tests' own process."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[1]


@cache
def module_of(path: Path) -> ModuleType:
    """A script as a module; beside it lie the modules that it imports."""
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    with mock.patch.object(sys, "path", [str(path.parent), *sys.path]):
        spec.loader.exec_module(module)
    return module


def run_script(path: Path, *arguments: object) -> None:
    """``python PATH ARGUMENTS``; PyTorch's threads and random numbers are afterwards as they were before."""
    threads, main = torch.get_num_threads(), module_of(path).main
    try:
        with mock.patch.object(sys, "argv", [str(path), *map(str, arguments)]), torch.random.fork_rng(devices=[]):
            main()
    finally:
        torch.set_num_threads(threads)
