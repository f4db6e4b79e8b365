"""A grid on Ray: find a cluster or start one on this machine, and map a function on it.

>>> with ray_cluster.connected("auto"):
...     experiments.run_grid(setup, "scratch1", 10, map=ray_cluster.ray_map)

Only this process writes results; the package and the pictures travel with the work.
"""

import contextlib
import functools
import itertools
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from batik_utils.errors import PROJECT, BatikError, need

#: How often a unit is begun again because its worker or its machine died.
RETRIES = 10


@contextlib.contextmanager
def connected(address: str, *, cpus: int | None = None) -> Iterator[Any]:
    """Connect to Ray for as long as the block runs, and yield the module ``ray``.

    ``auto`` is the cluster of ``RAY_ADDRESS`` or ``ray start``, else ``local``: a Ray of this
    machine that ends with the block; or ``HOST:PORT``, ``ray://HOST:PORT``.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = need("ray", "--ray")
    if ray.is_initialized():
        yield ray
        return
    passed = {k: v for k, v in os.environ.items() if k.startswith(("BATIK_", "TQDM_", "TORCH_"))}
    # one thread gives the same digits on every machine of a kind
    passed |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    environment = {"py_modules": [str(PROJECT / "batik_utils")], "env_vars": passed}
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    here = {"num_cpus": cpus or os.cpu_count(), "object_store_memory": 1_000_000_000}
    start = functools.partial(ray.init, runtime_env=environment, **quiet)
    try:
        if address not in ("auto", "local"):
            host, _, port = address.removeprefix("ray://").rpartition(":")
            # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        try:
            start(address, **(here if address == "local" else {}))
        except ConnectionError:
            if address != "auto" or os.environ.get("RAY_ADDRESS"):
                raise
            start("local", include_dashboard=False, **here)
    except Exception as error:  # a node that starts too slowly is a bare one
        raise BatikError(
            f"No Ray cluster answers at '{address}' ({str(error).splitlines()[0]}): start one with "
            f"'ray start --head', or use --ray local."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def ray_map(function: Callable[[Any], Any], units: Iterable, *, gpus: int = 0) -> Iterator:
    """Compute like `map`, but on the connected cluster; ``gpus`` are those of one unit.

    Results come in the order of the units. The function travels once to each worker process.
    """
    ray = need("ray", "--ray")
    task = ray.remote(_work).options(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)
    # in a list, so that Ray hands over the reference and not a copy for every unit
    reference = [ray.put(function)]
    waiting, under_way = iter(units), deque()
    try:
        while True:
            # as many as keep a growing cluster busy, and few enough to leave some out later
            room = max(16, 4 * int(ray.cluster_resources().get("CPU", 1))) - len(under_way)
            for unit in itertools.islice(waiting, max(0, room)):
                under_way.append(task.remote(reference, unit))
            if not under_way:
                return
            yield ray.get(under_way[0])
            under_way.popleft()
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):  # what the function raised
            raise
        raise BatikError(
            f"A worker died {RETRIES + 1} times ({type(error).__name__}), often out of memory: "
            f"what is finished is kept, call again."
        ) from error
    finally:
        for unfinished in under_way if ray.is_initialized() else ():
            ray.cancel(unfinished, force=True)


def _work(reference: list, unit: Any) -> Any:
    return _fetched(*reference)(unit)


@functools.lru_cache(maxsize=1)
def _fetched(reference: Any) -> Any:
    """Return the mapped function; one worker process keeps it, and what it remembers, for all."""
    return need("ray", "--ray").get(reference)
