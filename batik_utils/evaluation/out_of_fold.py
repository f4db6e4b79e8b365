"""Predictions of cross-validation, its folds put together again.

    >>> from batik_utils.evaluation import out_of_fold
    >>> table = out_of_fold.pooled(runs, predictions)

``runs`` and ``predictions`` are rows of ``runs.csv`` and ``predictions.csv``: one run a recipe,
repeat (its ``seed``) and fold, so that each repeat predicts each picture once, by a network that
was not trained on it. Introduced in notebook 04, section "Protocol".
"""

import pandas as pd

from batik_utils.errors import BatikError


def pooled(runs: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Put the folds of each repeat together.

    Args:
        runs: rows of ``runs.csv``; predictions of other runs are left out. Runs of a learning
            curve, or of one recipe with several numbers of epochs, must not be among them.
        predictions: rows of ``predictions.csv``.

    Returns:
        One row a recipe, repeat and picture, in the order of ``runs``: ``recipe, repeat, fold,
        path, label, predicted, right, p_<motif>...``.

    Raises:
        BatikError: a run without predictions, a picture doubled or missing in a repeat, or recipes
            that were not run on the same folds.
    """
    if missing := sorted(set(runs["run"]) - set(predictions["run"])):
        raise BatikError(
            f"{len(missing)} runs have no predictions (first: {missing[0]}): remove them from "
            f"runs.csv and run them again."
        )
    table = _joined(runs, predictions)
    doubled = table.duplicated(["recipe", "repeat", "path"])
    if doubled.any():
        row = table[doubled].iloc[0]
        raise BatikError(
            f"Recipe '{row['recipe']}' predicts {row['path']} twice in repeat {row['repeat']}: "
            f"keep one number of epochs a recipe, and leave out the runs of a learning curve."
        )
    odd = table.groupby("path")["label"].nunique() > 1
    if odd.any():
        raise BatikError(f"Runs disagree about the label of {odd.idxmax()}: run them again.")
    odd = table.groupby(["repeat", "path"])["fold"].nunique() > 1
    if odd.any():
        repeat, path = odd.idxmax()
        raise BatikError(
            f"Recipes test {path} in different folds of repeat {repeat}: they can only be compared "
            f"on one division into folds."
        )
    gaps = unfinished(runs, predictions)
    if len(gaps):
        row = gaps.iloc[0]
        raise BatikError(
            f"Recipe '{row['recipe']}' lacks {row['missing']} of {table['path'].nunique()} "
            f"pictures in repeat {row['repeat']}: finish the grid (python -m batik_utils train "
            f"--grid cv), or leave that repeat out (out_of_fold.unfinished lists them)."
        )
    first = ["recipe", "repeat", "fold", "path", "label", "predicted", "right"]
    return table[first + [column for column in table.columns if column.startswith("p_")]]


def unfinished(runs: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """List the repeats that a stopped grid left with pictures not yet predicted.

    Args:
        runs: rows of ``runs.csv``.
        predictions: rows of ``predictions.csv``.

    Returns:
        One row each: ``recipe, repeat, missing`` (pictures that other repeats have).
    """
    table = _joined(runs, predictions)
    counts = table.groupby(["recipe", "repeat"], sort=False)["path"].nunique()
    gaps = (table["path"].nunique() - counts).rename("missing")
    return gaps[gaps > 0].reset_index()


def shares_right(table: pd.DataFrame) -> pd.DataFrame:
    """Return the share of repeats in which each recipe is right about each picture.

    Args:
        table: of `pooled`.

    Returns:
        One row a picture (``path``), one column a recipe, 0 to 1.
    """
    return table.pivot_table("right", "path", "recipe", aggfunc="mean", sort=False, observed=True)


def difficulty(table: pd.DataFrame) -> pd.DataFrame:
    """Return how often each picture is taken for something else, hardest first.

    Args:
        table: of `pooled`; leave out recipes that are not meant to know, such as the majority
            class. Recipes count alike, however many repeats they have.

    Returns:
        One row a picture: ``path, label, recipes, wrong`` (mean over recipes of the share of
        repeats, 0 to 1), ``recipes_wrong`` (recipes wrong in more than half of their repeats) and
        ``mostly_called`` (their most frequent wrong answer; empty if there is none).
    """
    wrong = 1 - shares_right(table)
    label = table.drop_duplicates("path").set_index("path")["label"]
    mistakes = table[~table["right"]]
    called = mistakes.groupby("path")["predicted"].agg(lambda answers: answers.mode().iloc[0])
    result = pd.DataFrame(
        {
            "label": label.reindex(wrong.index),
            "recipes": wrong.notna().sum(axis=1),
            "wrong": wrong.mean(axis=1),
            "recipes_wrong": (wrong > 0.5).sum(axis=1),
            "mostly_called": called.reindex(wrong.index).fillna(""),
        }
    ).reset_index()
    return result.sort_values(["wrong", "path"], ascending=[False, True], ignore_index=True)


def learning_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy against the number of training pictures.

    Args:
        runs: rows of ``runs.csv`` on the folds, those of a learning curve (``...-n<pictures a
            motif>``) among them.

    Returns:
        One row a recipe, size and repeat: ``recipe, n_train`` (mean over folds), ``seed,
        accuracy`` (over the test pictures of all folds). Sizes with a single repeat have no band.

    Raises:
        BatikError: a repeat without all its folds.
    """
    size = runs["run"].str.extract(r"-n(\d+)$", expand=False).fillna("all").rename("size")
    keyed = runs.assign(size=size, n_right=runs["accuracy"] * runs["n_test"])
    sums = keyed.groupby(["recipe", "size", "seed"], sort=False).agg(
        n_train=("n_train", "mean"), n_right=("n_right", "sum"), n_test=("n_test", "sum")
    )
    short = sums["n_test"] < sums["n_test"].max()
    if short.any():
        recipe, size, seed = short.idxmax()
        raise BatikError(
            f"Recipe '{recipe}' with {size} pictures a motif lacks folds of repeat {seed}: finish "
            f"the grid, or leave those runs out."
        )
    sums["accuracy"] = sums["n_right"] / sums["n_test"]
    # the full folds differ in size by a picture or so from repeat to repeat
    sums["n_train"] = sums.groupby(["recipe", "size"])["n_train"].transform("mean")
    table = sums.reset_index()[["recipe", "n_train", "seed", "accuracy"]]
    return table.sort_values(["recipe", "n_train", "seed"], ignore_index=True)


def _joined(runs: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    keys = runs[["run", "recipe", "seed", "fold"]].rename(columns={"seed": "repeat"})
    table = keys.merge(predictions, on="run", how="inner", validate="one_to_many")
    return table.assign(right=table["label"] == table["predicted"])
