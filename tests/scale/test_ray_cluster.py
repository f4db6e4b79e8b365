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
from batik_utils.weights import WeightsNotFound

ray = pytest.importorskip("ray", reason="needs the extra 'scale'")

#: What differs between two runs of the same thing.
TIMES = ["train_seconds", "train_images_per_second", "started"]
FOLDS = {"split": "cv-ungrouped", "folds": 3}


# Functions that workers call; they import this module, so it stands on their path.


def number(more: int, k: int) -> tuple[int, int, int]:
    """Return a square, which process computed it, and on how many threads."""
    return k * k + more, os.getpid(), torch.get_num_threads()


def die_once(folder: Path, k: int) -> int:
    """Kill the worker process the first time that unit 2 is begun."""
    with (folder / f"{k}.begun").open("a") as stream:
        stream.write("x")
    if k == 2 and (folder / "2.begun").read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
    return k


def refuse(k: int) -> int:
    """Raise what a person can mend."""
    raise WeightsNotFound("owl", ["nest: empty"], "look elsewhere")


ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def nodes():
    """Two machines of one CPU each, as processes of this one; gives the first, and adds others."""
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 1, "object_store_memory": 100_000_000}
    # workers of a cluster have their machine's environment, and not this process's
    made = Cluster(initialize_head=True, head_node_args={**settings, "include_dashboard": False})
    made.another = lambda: made.add_node(**settings)
    yield made
    made.shutdown()


def grid(setup, ray, names="majority,colour_histogram,scratch_ours", seeds=2):
    with cluster.connected(ray):
        return experiments.run_grid(setup, names, seeds, epochs=1, map=cluster.ray_map)


# --- the grid ---------------------------------------------------------------------------------


def test_a_machine_that_dies_loses_nothing_and_doubles_no_row(nodes, make, monkeypatch):
    setup, alone, second = make("struck", **FOLDS), make("alone", **FOLDS), nodes.another()
    experiments.run_grid(alone, "majority,colour_histogram,scratch_ours", 2, epochs=1)
    add, written = checkpoints.Store.add, []

    def strike(self, row, *tables):
        add(self, row, *tables)
        written.append(row["run"])
        if len(written) == 3:
            nodes.remove_node(second, allow_graceful=False)

    monkeypatch.setattr(checkpoints.Store, "add", strike)
    grid(setup, nodes.address)
    assert sorted(written) == sorted(set(written)) and len(written) == 18
    for name in ("runs", "predictions", "history"):
        one, other = (here.store.read(name) for here in (setup, alone))
        left, right = (table.drop(columns=TIMES, errors="ignore") for table in (one, other))
        pd.testing.assert_frame_equal(left, right)


def test_an_interrupted_grid_keeps_what_was_finished_and_goes_on(nodes, make, monkeypatch):
    setup = make("interrupted", **FOLDS)
    add, written = checkpoints.Store.add, []

    def stop(self, row, *tables):
        if len(written) == 4:
            raise KeyboardInterrupt
        add(self, row, *tables)
        written.append(row["run"])

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Store, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            grid(setup, nodes.address)
    assert not ray.is_initialized()
    assert len(setup.store.read("runs")) == 4
    outcome = grid(setup, nodes.address)
    assert set(outcome.reused) == set(written) and len(outcome.trained) == 14
    runs = setup.store.read("runs")["run"]
    assert sorted(runs) == sorted((*outcome.trained, *outcome.reused))


def test_recipes_without_weights_are_noted_once(nodes, make, monkeypatch, caplog):
    setup = make("without", **FOLDS)
    monkeypatch.setenv("BATIK_OFFLINE", "1")
    monkeypatch.setenv("BATIK_HUB_MIRROR", "http://127.0.0.1:9")
    outcome = grid(setup, nodes.address, names="majority,noisy_student_b2", seeds=1)
    assert list(outcome.not_run) == ["noisy_student_b2"]
    assert len(outcome.trained) == 3
    assert setup.store.read("not_run")["recipe"].tolist() == ["noisy_student_b2"]
    assert len([r for r in caplog.records if "No usable weights" in r.message]) == 1


# --- units ------------------------------------------------------------------------------------


def test_units_come_in_order_once_each_with_one_thread(nodes):
    with cluster.connected(nodes.address):
        done = list(cluster.ray_map(partial(number, 1), range(40)))
    assert [square for square, *_ in done] == [k * k + 1 for k in range(40)]
    assert {threads for *_, threads in done} == {1}
    assert os.getpid() not in {process for _, process, _ in done}


def test_a_worker_that_dies_is_replaced(nodes, tmp_path):
    with cluster.connected(nodes.address):
        done = list(cluster.ray_map(partial(die_once, tmp_path), range(4)))
    assert done == list(range(4))
    assert (tmp_path / "2.begun").read_text() == "xx"


def test_what_a_unit_raises_is_raised_here(nodes):
    with cluster.connected(nodes.address), pytest.raises(WeightsNotFound) as caught:
        list(cluster.ray_map(refuse, [1]))
    assert caught.value.remedy == "look elsewhere"


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "somewhere"])
def test_a_cluster_that_is_not_there_is_told_in_a_sentence(address):
    message = f"No Ray cluster answers at '{address}'"
    with pytest.raises(BatikError, match=message), cluster.connected(address):
        raise AssertionError
    assert not ray.is_initialized()


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    command = pytest.raises(BatikError, match=r"needs the package 'ray'.*pip install -r")
    with command, cluster.connected("auto"):
        raise AssertionError
