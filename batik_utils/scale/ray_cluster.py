"""A grid on Ray: find a cluster or start one on this machine, and map a function on it.

    >>> from batik_utils.scale import ray_cluster
    >>> with ray_cluster.connected("auto"):
    ...     experiments.run_grid(setup, "scratch1", 10, map=ray_cluster.map_on())

Only this process writes results. The package travels with the work, so a worker needs Ray, torch
and the other requirements, and neither a checkout nor the files of the data set.
Source: Moritz et al., Ray, 2018 (https://arxiv.org/abs/1712.05889).
"""

import contextlib
import functools
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from batik_utils.errors import PROJECT, BatikError, need

log = logging.getLogger(__name__)

#: How often a unit is begun again because its worker or its machine died.
RETRIES = 10
#: Shared memory of a Ray that is started here (bytes): pictures pass through it, none stays.
OBJECT_STORE = 1_000_000_000
#: One thread a unit: units fill the cores, and one thread gives the same digits on every machine
#: of a kind.
_SETTINGS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@contextlib.contextmanager
def connected(address: str, *, cpus: int | None = None) -> Iterator[Any]:
    """Connect to Ray for as long as the block runs, and yield the module ``ray``.

    Args:
        address: ``auto`` for the cluster that ``RAY_ADDRESS`` or ``ray start`` names, and where
            there is none, for a Ray of this machine that ends with the block; ``local`` for the
            latter in any case; or ``HOST:PORT``, ``ray://HOST:PORT``.
        cpus: cores of a Ray that is started here; None for all.

    Raises:
        BatikError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = need("ray", "--ray")
    if ray.is_initialized():
        yield ray
        return
    try:
        _connect(ray, address, cpus)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise BatikError(
            f"No Ray cluster answers at '{address}' ({str(error).splitlines()[0]}): start one with "
            f"'ray start --head', or use --ray local."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def cpus() -> int:
    """Return the number of cores of the cluster."""
    ray = need("ray", "--ray")
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def map_on(*, gpus: int = 0) -> Callable[[Callable, Iterable], Iterator]:
    """Return a function like `map` that computes on the connected cluster.

    It yields results in the order of the units, and takes the next unit when there is room. The
    mapped function travels once to each worker process. ``gpus`` are those of one unit.
    """

    def ray_map(function: Callable[[Any], Any], units: Iterable) -> Iterator:
        ray = need("ray", "--ray")
        task = ray.remote(_work).options(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)
        # in a list, so that Ray hands over the reference and not a copy for every unit
        reference = [ray.put(function)]
        waiting, under_way = iter(units), deque()
        try:
            while True:
                # as many as keep a growing cluster busy, and few enough to leave some out later
                while len(under_way) < max(16, 4 * cpus()):
                    try:
                        unit = next(waiting)
                    except StopIteration:
                        break
                    under_way.append((unit, task.remote(reference, unit)))
                if not under_way:
                    return
                yield _got(ray, *under_way[0])
                under_way.popleft()
        finally:
            for _, unfinished in under_way if ray.is_initialized() else ():
                ray.cancel(unfinished, force=True)

    return ray_map


def _connect(ray, address: str, cpus: int | None) -> None:
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("BATIK_", "MALLOC_", "TQDM_")) or name == "TORCH_HOME"
    }
    settings = {
        "runtime_env": {
            "py_modules": [str(PROJECT / "batik_utils")],
            "env_vars": {**passed, **_SETTINGS},
        },
        "logging_level": logging.ERROR,
        "log_to_driver": False,
    }
    if address == "auto":
        try:
            ray.init("auto", **settings)
        except ConnectionError:
            if os.environ.get("RAY_ADDRESS"):
                raise
            address = "local"
    elif address != "local":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not (host and port.isdigit()):
            raise ValueError("it is neither 'auto', 'local' nor HOST:PORT")
        # Ray itself would try for minutes
        socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, **settings)
    if address == "local":
        here = cpus or os.cpu_count() or 1
        log.info("No Ray cluster is used: one is started on this machine, with %d CPUs", here)
        ray.init(
            "local",
            num_cpus=here,
            object_store_memory=OBJECT_STORE,
            include_dashboard=False,
            **settings,
        )


def _got(ray, unit: Any, reference) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BatikError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise BatikError(
            f"The worker of {unit} died {RETRIES + 1} times ({type(error).__name__}): what is "
            f"finished is kept; look at the machine's memory, and call again."
        ) from error


def _work(reference: list, unit: Any) -> Any:
    return _fetched(*reference)(unit)


@functools.lru_cache(maxsize=1)
def _fetched(reference: Any) -> Any:
    """Return the mapped function; one worker process keeps it, and what it remembers, for all."""
    import ray

    return ray.get(reference)
