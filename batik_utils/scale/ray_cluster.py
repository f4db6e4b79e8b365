"""Ray: find a cluster or start one on this machine, and send it units of work that stand alone.

    >>> from batik_utils.scale import ray_cluster as cluster
    >>> with cluster.connected("auto"):
    ...     for k, result in cluster.finished(function, shared, units):  # as they finish
    ...         ...

Only this process, the driver, writes results: a unit that is repeated because its worker died is
handed over once all the same. The package travels with the work, so a worker needs Ray, torch and
the other requirements, and neither a checkout nor the driver's files.
Source: Moritz et al., Ray, 2018 (https://arxiv.org/abs/1712.05889).
"""

import contextlib
import functools
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from batik_utils.errors import PROJECT, BatikError, need

log = logging.getLogger(__name__)

#: How often a unit is begun again because its worker or its machine died.
RETRIES = 10
#: Shared memory of a Ray that is started here (bytes): pictures pass through it, none stays.
OBJECT_STORE = 1_000_000_000
#: One thread a unit: units fill the cores, and one thread gives the same digits on every machine
#: of a kind.
_THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}


@contextlib.contextmanager
def connected(address: str, *, cpus: int | None = None) -> Iterator[Any]:
    """Connect to Ray for as long as the block runs.

    Args:
        address: ``auto`` for the cluster that ``RAY_ADDRESS`` or ``ray start`` tells of, and where
            there is none, for a Ray of this machine that ends with the block; ``local`` for the
            latter in any case; or ``HOST:PORT``, ``ray://HOST:PORT``.
        cpus: cores of a Ray that is started here; None for all. A cluster has its own.

    Yields:
        The module ``ray``.

    Raises:
        BatikError: Ray is not installed, or no cluster answers.
    """
    # no other server is asked for anything
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
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


def environment() -> dict:
    """Return what a worker is given: this package, one thread, and the settings of this process."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("BATIK_", "MALLOC_")) or name == "TORCH_HOME"
    }
    return {
        "py_modules": [str(PROJECT / "batik_utils")],
        "env_vars": {**passed, **_THREADS},
    }


def cpus() -> int:
    """Return the number of cores of the cluster."""
    ray = need("ray", "--ray")
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def finished(
    function: Callable[..., Any],
    shared: Any,
    units: Sequence[tuple],
    *,
    gpus: int = 0,
    wanted: Callable[[tuple], bool] = lambda unit: True,
) -> Iterator[tuple[int, Any]]:
    """Compute ``function(shared, *unit)`` for every unit on the cluster, in any order.

    Args:
        function: of a module of this package; must not write anything.
        shared: first argument of all; each worker process gets it once.
        units: further arguments.
        gpus: of one unit.
        wanted: asked just before a unit is sent; False leaves it out.

    Yields:
        The unit's number and its result, as they finish.

    Raises:
        BatikError: what a unit raised, or its worker died `RETRIES` times.
    """
    ray = need("ray", "--ray")
    task = ray.remote(_work).options(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)
    # in a list, so that Ray hands over the reference and not a copy for every unit
    reference = [ray.put(shared)]
    waiting = iter(enumerate(units))
    under_way: dict[Any, int] = {}
    try:
        while True:
            # as many as keep a growing cluster busy, and few enough to leave some out later
            while len(under_way) < max(16, 4 * cpus()):
                number, unit = next(waiting, (None, None))
                if number is None:
                    break
                if wanted(unit):
                    under_way[task.remote(function, reference, unit)] = number
            if not under_way:
                return
            (done,), _ = ray.wait(list(under_way), num_returns=1)
            number = under_way.pop(done)
            yield number, _got(ray, done, units[number])
    finally:
        for unfinished in under_way:
            ray.cancel(unfinished, force=True)


def _connect(ray, address: str, cpus: int | None) -> None:
    settings = {
        "runtime_env": environment(),
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


def _got(ray, reference, unit: tuple) -> Any:
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


def _work(function: Callable[..., Any], reference: list, unit: tuple) -> Any:
    return function(_fetched(*reference), *unit)


@functools.lru_cache(maxsize=1)
def _fetched(reference: Any) -> Any:
    """Return the shared argument; one worker process keeps it, and what it remembers, for all."""
    import ray

    return ray.get(reference)
