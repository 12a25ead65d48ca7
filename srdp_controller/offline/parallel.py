"""Independent tasks in parallel processes of this machine, through joblib."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib


def _one_thread(task: Callable[[], Any]) -> Any:
    import torch

    before = torch.get_num_threads()  # a single process is the caller's own
    torch.set_num_threads(1)
    try:
        return task()
    finally:
        torch.set_num_threads(before)


def run_parallel(tasks: Sequence[Callable[[], Any]], processes: int) -> Iterator[Any]:
    """Results of picklable tasks without arguments, in the order of the tasks; each runs with one torch thread."""
    parallel = joblib.Parallel(n_jobs=min(processes, len(tasks)) or 1, backend="loky", return_as="generator")
    yield from parallel(joblib.delayed(_one_thread)(task) for task in tasks)
