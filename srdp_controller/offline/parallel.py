"""Independent tasks in parallel processes, through joblib: on this machine, or on a Dask or Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from srdp_controller.errors import SrdpError

Backend = Literal["loky", "dask", "ray"]
BACKENDS: tuple[Backend, ...] = ("loky", "dask", "ray")


def _backend(name: Backend, processes: int, cluster: str | None) -> AbstractContextManager[Any]:
    import joblib

    if name == "loky":
        context: AbstractContextManager[Any] = joblib.parallel_config(backend="loky", n_jobs=processes)
        return context
    try:
        if name == "dask":
            from distributed import Client

            Client(cluster) if cluster else Client(n_workers=processes, threads_per_worker=1)
            context = joblib.parallel_config(backend="dask")
        else:
            import ray
            from ray.util.joblib import register_ray

            ray.init(address=cluster, num_cpus=None if cluster else processes)
            register_ray()
            context = joblib.parallel_config(backend="ray", n_jobs=-1)
    except ImportError as error:
        package = {"dask": "dask distributed", "ray": "ray"}[name]
        raise SrdpError(f"--backend {name} needs {error.name}: pip install {package}") from None
    return context


def _one_thread(task: Callable[[], Any]) -> Any:
    import torch

    torch.set_num_threads(1)
    return task()


def run_parallel(
    tasks: Sequence[Callable[[], Any]], *, processes: int, backend: Backend = "loky", cluster: str | None = None
) -> Iterator[Any]:
    """Results of picklable tasks without arguments, as they are done; each runs with one torch thread.

    ``cluster`` is a scheduler's address for ``dask`` or ``ray``; every worker must see the same files.

    Raises:
        SrdpError: the backend's package is not installed.
    """
    import joblib

    with _backend(backend, processes, cluster):
        parallel = joblib.Parallel(return_as="generator_unordered") if backend == "loky" else joblib.Parallel()
        yield from parallel(joblib.delayed(_one_thread)(task) for task in tasks)
