"""What runs write: rows appended whole, so that a stopped grid loses one run at most.

``<results>/<data set>/<split>/`` holds ``runs.csv`` (one row a run), ``predictions.csv`` (one row a
run and test picture), ``history.csv`` (one row a run and epoch) and ``not_run.csv`` (recipes whose
weights could not be had). A run's row in ``runs.csv`` is written last: with it, all is there.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from filelock import FileLock

from batik_utils.errors import BatikError

RUN_COLUMNS = (
    "run",
    "recipe",
    "family",
    "weights",
    "split",
    "fold",
    "seed",
    "epochs",
    "n_train",
    "n_test",
    "accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "nll",
    "brier",
    "train_seconds",
    "train_images_per_second",
    "params",
    "device",
    "precision",
    "torch",
    "torchvision",
    "git",
    "started",
    "dataset",
)
NOT_RUN_COLUMNS = ("recipe", "reason", "remedy")
# a commit such as 1234e56 must not be read as a number
_TEXT = dict.fromkeys(
    ("run", "recipe", "weights", "device", "torch", "torchvision", "git", "dataset", "path"), str
)


class Store:
    """The result files of one data set and split.

    Args:
        folder: ``<results>/<data set>/<split>``; made when something is first written.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def read(self, name: str) -> pd.DataFrame:
        """Return ``runs``, ``predictions``, ``history`` or ``not_run``; empty if not written yet.

        Raises:
            BatikError: the file is damaged.
        """
        path = self._path(name)
        if not path.exists():
            return pd.DataFrame(columns=_columns(name))
        try:
            table = pd.read_csv(path, keep_default_na=False, na_values=["nan"], dtype=_TEXT)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise BatikError(
                f"{path} is damaged ({error}): restore it with git, or remove it to run again."
            ) from error
        if missing := [c for c in _columns(name) if c not in table.columns]:
            raise BatikError(
                f"{path} lacks the column '{missing[0]}': restore it with git, or remove it."
            )
        return table

    def has(self, run: str, dataset_digest: str) -> bool:
        """Return whether a run is finished.

        Raises:
            BatikError: the run is there, but for other pictures.
        """
        runs = self.read("runs")
        there = runs[runs["run"] == run]
        if there.empty:
            return False
        if (made_for := there["dataset"].iloc[0]) != dataset_digest:
            raise BatikError(
                f"{self._path('runs')} holds run '{run}' of other pictures (digest "
                f"{made_for[:8]}…, now {dataset_digest[:8]}…): move {self.folder} away, or choose "
                f"another results folder."
            )
        return True

    def add(self, row: dict, predictions: pd.DataFrame, history: pd.DataFrame) -> None:
        """Write one finished run to all three files.

        Args:
            row: values for every one of ``RUN_COLUMNS``.
            predictions: ``path, label, predicted, p_<motif>...``.
            history: see `engine.fit`.

        Raises:
            BatikError: a column is missing or unknown.
        """
        if set(row) != set(RUN_COLUMNS):
            odd = sorted(set(row) ^ set(RUN_COLUMNS))
            raise BatikError(f"A run's row needs exactly the columns of RUN_COLUMNS; odd: {odd}.")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            self._append("predictions", row["run"], predictions)
            self._append("history", row["run"], history)
            self._append("runs", row["run"], pd.DataFrame([row])[list(RUN_COLUMNS[1:])])

    def arrange(self, runs: Sequence[str]) -> None:
        """Bring the rows of some runs into this order, behind all others.

        Runs that finished on many machines were written as they came.
        """
        place = {run: k for k, run in enumerate(runs)}
        with self._lock():
            # as in `add`, the table that tells what is finished comes last
            for name in ("predictions", "history", "runs"):
                table = self.read(name)
                order = table["run"].map(place).fillna(-1)
                if not order.is_monotonic_increasing:
                    self._replace(name, table.loc[order.sort_values(kind="stable").index])

    def note_not_run(self, recipe: str, reason: str, remedy: str) -> None:
        """Remember that a recipe could not be run, and what would help."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            table = self.read("not_run")
            row = pd.DataFrame([[recipe, reason, remedy]], columns=list(NOT_RUN_COLUMNS))
            self._replace("not_run", pd.concat([table[table["recipe"] != recipe], row]))

    def forget_not_run(self, recipe: str) -> None:
        """Drop the note, once the recipe did run."""
        if recipe in set(self.read("not_run")["recipe"]):
            with self._lock():
                table = self.read("not_run")
                self._replace("not_run", table[table["recipe"] != recipe])

    def _append(self, name: str, run: str, rows: pd.DataFrame) -> None:
        rows = rows.assign(run=run)[["run", *rows.columns]]
        path = self._path(name)
        before = path.read_bytes() if path.exists() else b""
        header = ",".join(rows.columns) + "\n"
        # the usual case, without taking a long table apart and putting it together again
        if (
            before.startswith(header.encode())
            and before.endswith(b"\n")
            and f"\n{run},".encode() not in before
        ):
            self._put(name, before + _as_csv(rows, header=False))
            return
        table = self.read(name)
        # rows of an interrupted or repeated run of this name make way
        kept = table[table["run"] != run]
        self._replace(name, pd.concat([kept, rows]) if len(kept) else rows)

    def _replace(self, name: str, table: pd.DataFrame) -> None:
        self._put(name, _as_csv(table))

    def _put(self, name: str, content: bytes) -> None:
        """Change a file at once, or not at all."""
        partial = self._path(name).with_suffix(".partial")
        partial.write_bytes(content)
        partial.replace(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def _lock(self) -> FileLock:
        return FileLock(self.folder / ".lock", timeout=60)


def _as_csv(table: pd.DataFrame, header: bool = True) -> bytes:
    text = table.to_csv(
        index=False, header=header, float_format="%.6g", na_rep="nan", lineterminator="\n"
    )
    return text.encode()


def _columns(name: str) -> list[str]:
    columns = {
        "runs": RUN_COLUMNS,
        "predictions": ("run", "path", "label", "predicted"),
        "history": ("run", "epoch"),
        "not_run": NOT_RUN_COLUMNS,
    }
    if name not in columns:
        raise BatikError(f"Unknown result file '{name}': use one of {', '.join(columns)}.")
    return list(columns[name])
