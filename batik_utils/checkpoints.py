"""What runs leave: rows in result files, and trained networks as ``.pt`` files.

``<results>/<data set>/<split>/`` holds ``runs.csv`` (one row a run), ``predictions.csv`` (one row a
run and test picture), ``history.csv`` (one row a run and epoch) and ``not_run.csv`` (recipes whose
weights could not be had). A run's row in ``runs.csv`` is written last, so an interrupted run is not
a finished one. Introduced in notebooks 02 (result files) and 05 (section "The saved model").
"""

import contextlib
import pickle
import struct
import subprocess
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from batik_utils import __version__, data, metrics, models
from batik_utils.errors import PROJECT, BatikError, NotWritten, locked, replacing
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


class Finished(NamedTuple):
    """What one run writes: values for ``RUN_COLUMNS``, test predictions and history."""

    row: dict
    predictions: pd.DataFrame
    history: pd.DataFrame


def run_name(recipe: Recipe, seed: int, fold: int = 0, n_train: int = 0) -> str:
    """Return the name of a run, e.g. ``scratch1-e10-f0-s3``, or ``...-n20`` for 20 a motif."""
    return f"{recipe.name}-e{recipe.epochs}-f{fold}-s{seed}" + (f"-n{n_train}" if n_train else "")


def finish(
    setup: "experiments.Setup",
    recipe: Recipe,
    seed: int,
    probabilities: np.ndarray,
    history: pd.DataFrame,
    started: datetime,
    seconds: float,
    facts: dict,
) -> Finished:
    """Score one run's probabilities (M, K) of the test pictures and return what it writes.

    ``facts`` are weights, params and device.
    """
    dataset, rows, n_train = setup.dataset, setup.rows("test"), len(setup.rows("train"))
    tested = dataset.manifest.iloc[rows]
    predictions = pd.DataFrame(
        {
            "path": tested["path"].to_numpy(),
            "label": tested["motif"].to_numpy(),
            "predicted": [dataset.classes[k] for k in probabilities.argmax(1)],
            **{f"p_{motif}": probabilities[:, k] for k, motif in enumerate(dataset.classes)},
        }
    )
    seconds = max(0.001, round(seconds, 3))
    row = facts | {
        "run": run_name(recipe, seed, setup.fold, setup.n_train),
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
        **{name: version for name, version in _versions().items() if name in RUN_COLUMNS},
        "git": setup.git,
        "started": started.isoformat(timespec="seconds"),
        "dataset": dataset.digest,
    }
    return Finished(row, predictions, history)


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
        """Return ``runs``, ``predictions``, ``history`` or ``not_run``; empty if not written yet.

        Raises:
            BatikError: the file is damaged.
        """
        path = self.folder / f"{name}.csv"
        if not path.exists():
            return pd.DataFrame(columns=list(_COLUMNS[name]))
        return data.read_table(path, _COLUMNS[name])

    def finished(self, dataset_digest: str, runs: Iterable[str]) -> set[str]:
        """Return which of these runs are finished.

        Raises:
            BatikError: one is there, but for other pictures.
        """
        there = self.read("runs").set_index("run")["dataset"]
        there = there[there.index.isin(list(runs))]
        if len(odd := there[there != dataset_digest]):
            raise BatikError(
                f"{self.folder / 'runs.csv'} holds run '{odd.index[0]}' of other pictures (digest "
                f"{odd.iloc[0][:8]}…, now {dataset_digest[:8]}…): move {self.folder} away, or "
                f"choose another results folder."
            )
        return set(there.index)

    def results_of(self, recipes: Iterable[tuple[str, int]]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the finished runs of recipes and epochs, in their order, and their predictions.

        Raises:
            BatikError: none of them has a finished run.
        """
        runs, predictions = self.read("runs"), self.read("predictions")
        order = {key: k for k, key in enumerate(recipes)}
        keys = pd.Series(zip(runs["recipe"], runs["epochs"], strict=True), index=runs.index)
        runs = runs.assign(place=keys.map(order)).dropna(subset="place")
        runs = runs.sort_values(["place", "seed", "fold"]).drop(columns="place")
        if runs.empty:
            names = ", ".join(name for name, _ in order)
            raise BatikError(
                f"No finished run of {names} in {self.folder}: train them first (python -m "
                f"batik_utils train). If weights are missing, not_run.csv there names the remedy."
            )
        chosen = predictions["run"].isin(runs["run"])
        return runs.reset_index(drop=True), predictions[chosen].reset_index(drop=True)

    def add(self, row: dict, predictions: pd.DataFrame, history: pd.DataFrame) -> None:
        """Write one finished run: values for ``RUN_COLUMNS``, test predictions and history.

        Raises:
            NotWritten: the run is in another folder, which the message names.
            BatikError: a column is missing or unknown.
        """
        if set(row) != set(RUN_COLUMNS):
            odd = sorted(set(row) ^ set(RUN_COLUMNS))
            raise BatikError(f"A run's row needs exactly the columns of RUN_COLUMNS; odd: {odd}.")
        tables = (predictions, history, pd.DataFrame([row])[list(RUN_COLUMNS[1:])])
        try:
            self._append_all(row["run"], tables)
        except (OSError, BatikError) as error:  # hours of work must not be lost to a full disk
            rescue = Store(Path(tempfile.mkdtemp(prefix="batik-run-")))
            rescue._append_all(row["run"], tables)
            raise NotWritten(
                f"{error} The finished run '{row['run']}' is kept in {rescue.folder}: append its "
                f"tables to those in {self.folder}, or train it again."
            ) from error

    def check_writable(self) -> None:
        """Raise `NotWritten` now if `add` would do so after hours."""
        with self._locked(), replacing(self.folder / ".lock.try") as partial:
            partial.touch()
        (self.folder / ".lock.try").unlink(missing_ok=True)

    def note_not_run(self, recipe: str, reason: str, remedy: str) -> None:
        """Remember that a recipe could not be run, and what would help."""
        with self._locked():
            table = self.read("not_run")
            row = pd.DataFrame([[recipe, reason, remedy]], columns=list(_COLUMNS["not_run"]))
            self._put("not_run", pd.concat([table[table["recipe"] != recipe], row]))

    def forget_not_run(self, recipe: str) -> None:
        """Drop the note, once the recipe did run."""
        if recipe in set(self.read("not_run")["recipe"]):
            with self._locked():
                table = self.read("not_run")
                self._put("not_run", table[table["recipe"] != recipe])

    def _append_all(self, run: str, tables: tuple[pd.DataFrame, ...]) -> None:
        with self._locked():
            for name, table in zip(("predictions", "history", "runs"), tables, strict=True):
                self._append(name, run, table)

    def _append(self, name: str, run: str, rows: pd.DataFrame) -> None:
        rows = rows.assign(run=run)[["run", *rows.columns]]
        path = self.folder / f"{name}.csv"
        before = path.read_bytes() if path.exists() else b""
        header = ",".join(rows.columns) + "\n"
        # the usual case, without taking a long table apart and putting it together again
        if (
            before.startswith(header.encode())
            and before.endswith(b"\n")
            and f"\n{run},".encode() not in before
        ):
            self._put(name, rows, before)
            return
        # rows of an interrupted or repeated run of this name make way
        table = self.read(name)
        kept = table[table["run"] != run]
        self._put(name, pd.concat([kept, rows]) if len(kept) else rows)

    def _put(self, name: str, table: pd.DataFrame, before: bytes = b"") -> None:
        text = table.to_csv(
            index=False,
            header=not before,
            float_format="%.6g",
            na_rep="nan",
            lineterminator="\n",
        )
        with replacing(self.folder / f"{name}.csv") as partial:
            partial.write_bytes(before + text.encode())

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


# --- trained networks ---------------------------------------------------------------------------

_FORMAT = "batik-checkpoint-2"
# what torch and its unpickler raise on damaged bytes and on values of another kind
_DAMAGE = (
    *(RuntimeError, EOFError, ValueError, OSError, LookupError, TypeError, AttributeError),
    *(AssertionError, OverflowError, MemoryError, zipfile.BadZipFile, struct.error),
)


class CheckpointError(BatikError):
    """A file that is not a checkpoint of ours, or not a whole one."""


class OutdatedCheckpoint(CheckpointError):
    """A checkpoint of ours that another version wrote."""


def _versions() -> dict[str, str]:
    import torchvision

    return {
        "batik_utils": __version__,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }


@dataclass(frozen=True)
class Checkpoint:
    """A trained network in evaluation mode, on the CPU, with all that is needed to use it."""

    model: nn.Module
    recipe: Recipe
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    #: Digest of the data set it was trained on.
    dataset: str
    #: Of this package, torch and torchvision.
    versions: dict[str, str] = field(default_factory=_versions)


def save(path: Path, saved: Checkpoint) -> Path:
    """Write a checkpoint; the file appears whole or not at all."""
    content = {
        "format": _FORMAT,
        "recipe": asdict(saved.recipe),
        "classes": list(saved.classes),
        "preprocessing": saved.preprocessing.as_dict(),
        "dataset": saved.dataset,
        "versions": saved.versions,
        "state": {k: v.cpu().contiguous() for k, v in saved.model.state_dict().items()},
    }
    with replacing(path) as partial, partial.open("wb") as stream:
        torch.save(content, stream)
    return path


def load(path: Path) -> Checkpoint:
    """Open a checkpoint. Nothing in the file is executed.

    Raises:
        OutdatedCheckpoint: saved by another version.
        CheckpointError: missing, damaged, foreign, or holding anything but plain values and
            tensors (as a malicious pickle would).
    """
    path = Path(path)
    content = _content(path)
    if content["format"] != _FORMAT or set(content["recipe"]) != {f.name for f in fields(Recipe)}:
        raise OutdatedCheckpoint(
            f"{path} was saved by another version of this project: remove it and train again."
        )
    recipe = Recipe(**content["recipe"])
    try:
        preprocessing = Preprocessing.from_dict(content["preprocessing"])
        model = models.build_untrained(recipe, len(content["classes"]))
        model.load_state_dict(content["state"])
    except BatikError as error:
        raise CheckpointError(f"{path} does not fit this version: {error}") from error
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path}: the saved values do not fit recipe '{recipe.name}' ({_first_line(error)})"
        ) from error
    classes, dataset = tuple(content["classes"]), content["dataset"]
    return Checkpoint(model.eval(), recipe, classes, preprocessing, dataset, content["versions"])


def _content(path: Path) -> dict:
    """Return the plain values of a file of any version of ours."""
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}: train one first (notebook 03 saves it).")
    try:
        with warnings.catch_warnings():
            # what torch would warn of in a foreign pickle, our error below says
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text advises to switch the protection off, so it is not repeated
        raise CheckpointError(
            f"{path} was refused: it holds objects that could run code, or is no checkpoint. Only "
            f"open files saved by this project."
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({_first_line(error)}): train or copy it again."
        ) from error
    kinds = {"format": str, "recipe": dict, "classes": list, "preprocessing": dict, "state": dict}
    if (
        not isinstance(content, dict)
        or set(content) != {*kinds, "dataset", "versions"}
        or not all(isinstance(content[name], kind) for name, kind in kinds.items())
        or not content["format"].startswith("batik-checkpoint-")
    ):
        raise CheckpointError(f"{path} is a file of another project: train one first.")
    return content


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
