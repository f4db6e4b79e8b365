"""A grid on Ray: the rows of one process, whatever the workers, and whichever of them dies."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from batik_utils import checkpoints, experiments
from batik_utils.errors import BatikError
from batik_utils.scale import ray_cluster as cluster

ray = pytest.importorskip("ray", reason="needs the extra 'scale'")

#: What differs between two runs of the same thing.
TIMES = ["train_seconds", "train_images_per_second", "started"]
FOLDS = {"split": "cv-ungrouped", "folds": 3}
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


def unit(folder: Path, k: int) -> tuple[int, int, int]:
    """Return k, which process had it, and on how many threads; the first to begin 2 is killed."""
    begun = folder / "begun"
    if k == 2 and not begun.exists():
        begun.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return k, os.getpid(), torch.get_num_threads()


# workers do not find this module
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def nodes():
    """A cluster of one machine of one CPU, as processes of this one."""
    from ray.cluster_utils import Cluster

    # workers of a cluster have their machine's environment, and not this process's
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield made
    made.shutdown()


def test_a_machine_that_dies_loses_nothing_and_doubles_no_row(nodes, make, monkeypatch):
    setup, alone, second = make("struck", **FOLDS), make("alone", **FOLDS), nodes.add_node(**NODE)
    wanted = ("majority,colour_histogram,scratch_ours", 2)
    experiments.run_grid(alone, *wanted, epochs=1)
    add, written = checkpoints.Store.add, []

    def strike(self, row, *tables):
        add(self, row, *tables)
        written.append(row["run"])
        if len(written) == 3:
            nodes.remove_node(second, allow_graceful=False)

    monkeypatch.setattr(checkpoints.Store, "add", strike)
    with cluster.connected(nodes.address):
        experiments.run_grid(setup, *wanted, epochs=1, map=cluster.ray_map)
    assert sorted(written) == sorted(set(written)) and len(written) == 18
    for name in ("runs", "predictions", "history"):
        one, other = (here.store.read(name) for here in (setup, alone))
        left, right = (table.drop(columns=TIMES, errors="ignore") for table in (one, other))
        pd.testing.assert_frame_equal(left, right)


def test_recipes_without_weights_are_noted_once(nodes, make, monkeypatch, caplog):
    setup = make("without", **FOLDS)
    monkeypatch.setenv("BATIK_OFFLINE", "1")
    monkeypatch.setenv("BATIK_HUB_MIRROR", "http://127.0.0.1:9")
    with cluster.connected(nodes.address):
        names = "majority,noisy_student_b2"
        outcome = experiments.run_grid(setup, names, 1, map=cluster.ray_map)
    assert list(outcome.not_run) == ["noisy_student_b2"]
    assert len(outcome.trained) == 3
    assert setup.store.read("not_run")["recipe"].tolist() == ["noisy_student_b2"]
    assert len([r for r in caplog.records if "No usable weights" in r.message]) == 1


def test_units_come_in_order_once_each_with_one_thread_though_a_worker_dies(nodes, tmp_path):
    with cluster.connected(nodes.address):
        done = list(cluster.ray_map(partial(unit, tmp_path), range(40)))
    assert [k for k, *_ in done] == [*range(40)]
    assert {threads for *_, threads in done} == {1}
    assert os.getpid() not in {process for _, process, _ in done}
    assert (tmp_path / "begun").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "somewhere"])
def test_a_cluster_that_is_not_there_is_told_in_a_sentence(address):
    message = f"No Ray cluster answers at '{address}'"
    with pytest.raises(BatikError, match=message), cluster.connected(address):
        raise AssertionError
    assert not ray.is_initialized()
