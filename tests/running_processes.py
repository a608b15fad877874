"""Processes of a distributed run, forked from one that has imported what they would each import for seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from torch import multiprocessing as torch_multiprocessing


def run_processes(function: Callable[..., None], *arguments: Any, count: int = 2) -> None:
    """``function(rank, *arguments)`` in so many processes, to the end of all; an error of one is raised here.

    The server that forks them has no threads and has computed nothing. It has the environment of its start, so what a process needs of that
    is set in the function.
    """
    multiprocessing.set_forkserver_preload(["torch", "jielong.training.experiment"])
    torch_multiprocessing.start_processes(function, args=arguments, nprocs=count, start_method="forkserver")
