"""What runs leave: rows in result files, and trained networks as ``.pt`` files.

``<results>/<data set>/<split>/`` holds ``runs.csv`` (a row a run; written last, so an interrupted
run is not a finished one), ``predictions.csv`` (a row a run and test picture), ``history.csv`` (a
row a run and epoch) and ``not_run.csv`` (recipes without weights). Introduced in notebook 02.
"""

import contextlib
import pickle
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
import torchvision
from torch import nn

from batik_utils import data, metrics, models
from batik_utils.errors import PROJECT, BatikError, NotWritten, expanded, locked, replacing
from batik_utils.images.resize import Preprocessing
from batik_utils.recipes import Recipe

if TYPE_CHECKING:
    from batik_utils import experiments

RUN_COLUMNS = (
    *("run", "recipe", "family", "weights", "split", "fold", "seed", "epochs", "n_train", "n_test"),
    *("accuracy", "precision_macro", "recall_macro", "f1_macro", "nll", "brier"),
    *("train_seconds", "train_images_per_second", "params", "device", "precision"),
    *("torch", "torchvision", "git", "started", "dataset"),
)
_COLUMNS = {
    "runs": RUN_COLUMNS,
    "predictions": ("run", "path", "label", "predicted"),
    "history": ("run", "epoch"),
    "not_run": ("recipe", "reason", "remedy"),
}
_FORMAT = "batik-checkpoint-2"


def run_name(recipe: Recipe, seed: int, fold: int = 0) -> str:
    """Return the name of a run, e.g. ``scratch1-e10-f0-s3``."""
    return f"{recipe.name}-e{recipe.epochs}-f{fold}-s{seed}"


class Finished(NamedTuple):
    """What one run writes: values for ``RUN_COLUMNS``, test predictions and history."""

    row: dict
    predictions: pd.DataFrame
    history: pd.DataFrame


def finish(
    setup: "experiments.Setup",
    recipe: Recipe,
    seed: int,
    probabilities: np.ndarray,
    history: pd.DataFrame,
    facts: dict,
) -> Finished:
    """Score a run's probabilities (M, K) of the test pictures.

    ``facts``: weights, params, device, started (a datetime), train_seconds.
    """
    dataset, rows, n_train = setup.dataset, setup.rows("test"), len(setup.rows("train"))
    tested, seconds = dataset.manifest.iloc[rows], max(0.001, round(facts["train_seconds"], 3))
    columns = {
        "path": tested["path"].to_numpy(),
        "label": tested["motif"].to_numpy(),
        "predicted": [dataset.classes[k] for k in probabilities.argmax(1)],
        **{f"p_{motif}": probabilities[:, k] for k, motif in enumerate(dataset.classes)},
    }
    row = facts | {
        "run": run_name(recipe, seed, setup.fold),
        "recipe": recipe.name,
        "family": recipe.family,
        "split": setup.split_name,
        "fold": setup.fold,
        "seed": seed,
        "epochs": recipe.epochs,
        "n_train": n_train,
        "n_test": len(rows),
        **metrics.scores([dataset.labels[k] for k in rows], probabilities),
        "train_seconds": seconds,
        # a baseline counts as one pass over the pictures
        "train_images_per_second": round(n_train * max(1, len(history)) / seconds, 1),
        "precision": setup.precision,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "git": setup.git,
        "started": facts["started"].isoformat(timespec="seconds"),
        "dataset": dataset.digest,
    }
    return Finished(row, pd.DataFrame(columns), history)


def git_commit() -> str:
    """Return the short commit of this checkout, with ``+`` if files differ; empty outside git."""
    words = ("git", "describe", "--always", "--dirty=+", "--exclude=*")
    try:
        return subprocess.run(words, cwd=PROJECT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


class Store:
    """The result files of one data set and split; the folder is made when something is written."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def read(self, name: str) -> pd.DataFrame:
        """Return one of the four tables by name; empty if not written yet."""
        path = self.folder / f"{name}.csv"
        if not path.exists():
            return pd.DataFrame(columns=list(_COLUMNS[name]))
        return data.read_table(path, _COLUMNS[name])

    def finished(self, dataset_digest: str, runs: Iterable[str]) -> set[str]:
        """Return which of these runs are finished; BatikError if one is of other pictures."""
        there = self.read("runs").set_index("run")["dataset"]
        there = there[there.index.isin(list(runs))]
        if len(odd := there[there != dataset_digest]):
            raise BatikError(
                f"{self.folder / 'runs.csv'} holds run '{odd.index[0]}' of other pictures (digest "
                f"{odd.iloc[0][:8]}…, now {dataset_digest[:8]}…): move {self.folder} away, or "
                f"choose another results folder."
            )
        return set(there.index)

    def add(self, row: dict, predictions: pd.DataFrame, history: pd.DataFrame) -> None:
        """Write one finished run; if that fails, in another folder that the error names."""
        runs = pd.DataFrame([row])[list(RUN_COLUMNS[1:])]
        tables = {"predictions": predictions, "history": history, "runs": runs}
        for name, table in tables.items():
            tables[name] = table.assign(run=row["run"])[["run", *table.columns]]
        try:
            self._replace("run", row["run"], tables)
        except (OSError, BatikError) as error:  # hours of work must not be lost to a full disk
            kept = f"kept in {place}" if (place := _rescued(tables)) else "lost, no disk takes it"
            raise NotWritten(
                f"{error} The finished run '{row['run']}' is {kept}: append its tables to those in "
                f"{self.folder}, or train it again."
            ) from error

    def check_writable(self) -> None:
        """Raise now what `add` would raise after hours: a full disk, a damaged table."""
        for name in _COLUMNS:
            self.read(name)
        with self._locked(), replacing(self.folder / ".lock.try") as partial:
            partial.touch()
        (self.folder / ".lock.try").unlink(missing_ok=True)

    def note_not_run(self, recipe: str, remedy: str = "") -> None:
        """Remember what would give a recipe its weights; without remedy, that it has them."""
        if remedy or recipe in set(self.read("not_run")["recipe"]):
            rows = [[recipe, "not run: weights not reachable", remedy]] if remedy else []
            table = pd.DataFrame(rows, columns=list(_COLUMNS["not_run"]))
            self._replace("recipe", recipe, {"not_run": table})

    def _replace(self, key: str, name: str, tables: dict[str, pd.DataFrame]) -> None:
        """Write rows in place of those that are there of this run, or recipe."""
        with self._locked():
            for file, rows in tables.items():
                there = self.read(file)
                there = there[there[key] != name]
                table = pd.concat([there, rows]) if len(there) else rows
                settings = {"float_format": "%.6g", "na_rep": "nan", "lineterminator": "\n"}
                with replacing(self.folder / f"{file}.csv") as partial:
                    table.to_csv(partial, index=False, **settings)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder / ".lock", 60))
            except OSError as error:
                raise NotWritten(
                    f"{self.folder} cannot be written ({error.strerror or error}): allow writing "
                    f"there, wait for another program that does, or choose another --results."
                ) from error
            yield


def _rescued(tables: dict[str, pd.DataFrame]) -> Path | None:
    """Write the tables of a run to a new folder, wherever that is possible."""
    for parent in (tempfile.gettempdir(), expanded("~"), Path.cwd(), "/dev/shm"):
        with contextlib.suppress(OSError, BatikError):
            folder = Path(tempfile.mkdtemp(prefix="batik-run-", dir=parent))
            for name, table in tables.items():
                data.write_table(table, folder / f"{name}.csv")
            return folder
    return None


class CheckpointError(BatikError):
    """A file that is no whole checkpoint of this version of the project."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network in evaluation mode, on the CPU, with all that is needed to use it."""

    model: nn.Module
    recipe: Recipe
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    #: Digest of the data set it was trained on.
    dataset: str


def save(path: Path, saved: Checkpoint) -> Path:
    """Write a checkpoint; the file appears whole or not at all."""
    content = {
        "format": _FORMAT,
        "recipe": asdict(saved.recipe),
        "classes": list(saved.classes),
        "preprocessing": asdict(saved.preprocessing),
        "dataset": saved.dataset,
        "state": {k: v.cpu().contiguous() for k, v in saved.model.state_dict().items()},
    }
    with replacing(path) as partial, partial.open("wb") as stream:
        torch.save(content, stream)
    return path


def load(path: Path) -> Checkpoint:
    """Open a checkpoint; nothing in the file is executed.

    CheckpointError: it is missing, damaged, of another version, or more than values and tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}: train one first (notebook 03 saves it).")
    try:
        with warnings.catch_warnings():
            # what torch would warn of in a foreign pickle, our error below says
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or "batik-checkpoint" not in content["format"]:
            raise ValueError("a file of another project")
        parts = {"recipe": Recipe, "preprocessing": Preprocessing}
        known = [set(content[k]) == {f.name for f in fields(kind)} for k, kind in parts.items()]
        if content["format"] != _FORMAT or not all(known):
            raise ValueError("saved by another version of this project")
        recipe, classes = Recipe(**content["recipe"]), tuple(content["classes"])
        model = models.build_untrained(recipe, len(classes))
        model.load_state_dict(content["state"])
        seen = Preprocessing(**content["preprocessing"])
        return Checkpoint(model.eval(), recipe, classes, seen, content["dataset"])
    except pickle.UnpicklingError as error:
        # torch's own text advises to switch the protection off, so it is not repeated
        raise CheckpointError(
            f"{path} was refused: it holds objects that could run code, or is no checkpoint. Only "
            f"open files saved by this project."
        ) from error
    # torch and its unpickler raise almost anything on damaged bytes and values of another kind
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path} is no whole checkpoint of this version ({reason}): remove it and train again."
        ) from error
