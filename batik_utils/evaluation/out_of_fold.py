"""Cross-validation tables: from the result files to one row a picture.

``runs`` and ``predictions`` are rows of ``runs.csv`` and ``predictions.csv``: one run a recipe,
repeat (its ``seed``) and fold. ``results`` is ``<results>/<data set>``.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from batik_utils import data, recipes
from batik_utils.checkpoints import Store
from batik_utils.duplicates import audit
from batik_utils.errors import BatikError

#: Name of the final model's runs, and its folder below ``cv``.
FINAL = "final"
#: Kinds of labels in `label_kinds`.
LABEL_KINDS = (
    "undoubted",
    "doubted by confident learning alone",
    "doubted by a person or by a near-duplicate in another folder",
)


def read(results: Path, split: str = "cv") -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Runs, predictions and folds of a grid of finished repeats, recipes in table order.

    The runs of the final model, in a folder of their own, are among them.
    """
    folder = results / split
    folds = data.read_table(folder / "folds.csv", made_by=f"train --grid {split}")
    stores = [Store(place) for place in (folder, folder / FINAL) if (place / "runs.csv").is_file()]
    if not stores:
        raise BatikError(f"No runs in {folder}: 'python -m batik_utils train --grid {split}'.")
    runs = pd.concat([store.read("runs") for store in stores], ignore_index=True)
    predictions = pd.concat([store.read("predictions") for store in stores], ignore_index=True)
    gone = _gaps(_joined(runs, predictions)).index
    runs = runs[~pd.MultiIndex.from_frame(runs[["recipe", "seed"]]).isin(gone)]
    place = {name: k for k, name in enumerate([*recipes.RECIPES, FINAL])}
    order = runs["recipe"].map(place)
    runs = runs.iloc[np.lexsort((runs["fold"], runs["seed"], order))].reset_index(drop=True)
    return runs, predictions[predictions["run"].isin(runs["run"])], folds


def pooled(runs: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """The folds of each repeat put together, one row a recipe, repeat and picture.

    ``recipe, repeat, fold, path, label, predicted, right, p_<motif>...``, in the order of ``runs``.
    A picture that is doubled or missing in a repeat is refused.
    """
    table = _joined(runs, predictions)
    for _, row in table[table.duplicated(["recipe", "repeat", "path"])].iterrows():
        raise BatikError(
            f"Recipe '{row['recipe']}' predicts {row['path']} twice in repeat {row['repeat']}: "
            f"keep one number of epochs a recipe."
        )
    for (recipe, repeat), missing in _gaps(table).items():
        raise BatikError(
            f"Recipe '{recipe}' lacks {missing} pictures in repeat {repeat}: finish the grid "
            f"(python -m batik_utils train --grid cv)."
        )
    first = ["recipe", "repeat", "fold", "path", "label", "predicted", "right"]
    return table[first + [column for column in table.columns if column.startswith("p_")]]


def shares_right(table: pd.DataFrame) -> pd.DataFrame:
    """Share of repeats in which each recipe (column) is right about each picture (row)."""
    return table.pivot_table("right", "path", "recipe", aggfunc="mean", sort=False, observed=True)


def split_duplicates(results: Path) -> pd.DataFrame:
    """Accuracy by recipe with near-duplicates split and together, over repeats with both."""
    tables = (pooled(*read(results, name)[:2]) for name in ("cv-ungrouped", "cv"))
    split, together = (table.groupby(["recipe", "repeat"], sort=False)["right"] for table in tables)
    # each repeat tests every picture once
    both = split.mean().to_frame("split").join(together.mean().rename("together"), how="inner")
    found = both.groupby("recipe", sort=False).mean()
    return found.assign(inflated_by=found["split"] - found["together"])


def label_kinds(table: pd.DataFrame, results: Path) -> pd.DataFrame:
    """How often the final model is wrong about each picture, and who doubts the picture's label.

    ``path, label, wrong`` (number of repeats), ``repeats, kind`` (of `LABEL_KINDS`).
    """
    by_eye, by_any = audit.doubted(results), audit.doubted(results, by_any=True)
    rows = table[table["recipe"] == FINAL]
    found = rows.assign(wrong=~rows["right"]).groupby(["path", "label"], as_index=False)
    found = found.agg(wrong=("wrong", "sum"), repeats=("wrong", "size"))
    level = found["path"].isin(by_any).astype(int) + found["path"].isin(by_eye)
    return found.assign(kind=level.map(dict(enumerate(LABEL_KINDS))))


def _gaps(table: pd.DataFrame) -> pd.Series:
    """Number of pictures that a recipe and repeat lack, where it lacks some."""
    counts = table.groupby(["recipe", "repeat"], sort=False)["path"].nunique()
    gaps = table["path"].nunique() - counts
    return gaps[gaps > 0]


def _joined(runs: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    keys = runs[["run", "recipe", "seed", "fold"]].rename(columns={"seed": "repeat"})
    table = keys.merge(predictions, on="run", how="inner", validate="one_to_many")
    return table.assign(right=table["label"] == table["predicted"])
