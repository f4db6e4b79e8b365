"""What notebook 04 says: sentences and tables computed from the result files alone.

Introduced in notebook 04.
"""

from pathlib import Path

import pandas as pd

from batik_utils import recipes
from batik_utils.checkpoints import Store
from batik_utils.data import TITLES
from batik_utils.errors import BatikError


def data_title(dataset: str) -> str:
    """Return what to call the data set whose results lie in the folder of that name."""
    kind = dataset.split("-")[0]
    title = TITLES.get(kind, TITLES["folder"])
    return title if dataset == kind else f"{title} ({dataset})"


def read_data(results: Path, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return manifest and split of a data set's results.

    Args:
        results: ``<results>/<data set>``.
        split: name of the split.

    Raises:
        BatikError: there are no such results.
    """
    paths = (results / "manifest.csv", results / split / "split.csv")
    for path in paths:
        if not path.is_file():
            raise BatikError(
                f"No results at {path}: run notebooks 02 and 03 (or `make report`) first, or name "
                f"another DATASET or SPLIT."
            )
    return pd.read_csv(paths[0]), pd.read_csv(paths[1])


def read_runs(store: Store) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]:
    """Return runs, their predictions, and the published accuracies by recipe name.

    Args:
        store: result files.

    Raises:
        BatikError: there are no runs.
    """
    runs, predictions = store.read("runs"), store.read("predictions")
    if runs.empty:
        raise BatikError(f"No runs in {store.folder}: run notebooks 02 and 03 first.")
    order = {name: k for k, name in enumerate(recipes.RECIPES)}
    runs = runs.sort_values(["recipe", "epochs", "seed"], key=lambda c: c.map(order).fillna(c))
    published = {r.name: r.published for r in recipes.RECIPES.values() if r.published is not None}
    return runs.reset_index(drop=True), predictions, published


def describe_data(manifest: pd.DataFrame, title: str) -> str:
    """Return a sentence or two on the pictures, in Markdown."""
    text = (
        f"**{title}**: {len(manifest)} pictures of {manifest['motif'].nunique()} motifs, "
        f"{manifest['width'].min()} to {manifest['width'].max()} px wide."
    )
    if title.startswith(TITLES["synthetic"]):
        text += (
            " **These are drawings by a program. Nothing below is a result about batik**; it only "
            "shows what the report looks like."
        )
    return text


def read_twins(results: Path, split: str) -> pd.DataFrame | None:
    """Return the split's test pictures with their number of twins in training.

    Args:
        results: ``<results>/<data set>``.
        split: name of the split.

    Returns:
        See `splits.twins_in_training`; None where `audit` was not run.
    """
    path = results / f"{split}_twins.csv"
    return pd.read_csv(path, keep_default_na=False) if path.is_file() else None


def describe_twins(twins: pd.DataFrame | None) -> str:
    """Say how many test pictures have a near-twin in training, in Markdown."""
    if twins is None:
        return "Near-twins were not looked for here: `python -m batik_utils audit` does."
    found = int((twins["by_group"] > 0).sum())
    return (
        f"**{found} of {len(twins)} test pictures have a near-twin among the training pictures** "
        f"(the same photograph, cloth or print; see notebook 01). They are no fair test."
    )


def leakage(predictions: pd.DataFrame, runs: pd.DataFrame, twins: pd.DataFrame) -> pd.DataFrame:
    """Return each recipe's accuracy on test pictures with and without a twin in training.

    Args:
        predictions: rows of ``predictions.csv``.
        runs: rows of ``runs.csv``; only these runs count.
        twins: see `read_twins`.

    Returns:
        By recipe: accuracy on either kind, and the difference.
    """
    known = set(twins.loc[twins["by_group"] > 0, "path"])
    rows = predictions.merge(runs[["run", "recipe"]], on="run")
    rows = rows.assign(
        right=rows["label"] == rows["predicted"],
        kind=rows["path"].isin(known).map({True: "with a twin", False: "without"}),
    )
    table = rows.pivot_table("right", "recipe", "kind", aggfunc="mean")
    table = table.reindex(columns=["with a twin", "without"])
    table["difference"] = table["with a twin"] - table["without"]
    table.columns.name = None
    return table.sort_values("without", ascending=False, kind="stable")


def describe_protocol(runs: pd.DataFrame, split: str) -> str:
    """Return a sentence or two on what was run, in Markdown."""
    counts = runs.groupby(["recipe", "epochs"]).size()
    seeds = (
        f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    )
    devices = ", ".join(sorted(runs["device"].unique()))
    return (
        f"**{len(runs)} runs** of {runs['recipe'].nunique()} recipes with {seeds} seeds each on "
        f"the split `{split}`: {runs['n_train'].iloc[0]} training and {runs['n_test'].iloc[0]} "
        f"test pictures. Computed on: {devices}; torch {', '.join(sorted(runs['torch'].unique()))}."
    )


def main_table(summary: pd.DataFrame, published: dict[str, float]) -> pd.DataFrame:
    """Return the main table, ready to read.

    Args:
        summary: see `metrics.summarise`.
        published: accuracy by recipe name.
    """
    return pd.DataFrame(
        {
            "recipe": summary["recipe"],
            "epochs": summary["epochs"],
            "runs": summary["runs"],
            "accuracy": summary["accuracy"].map("{:.1%}".format),
            "95 % interval": [
                f"{low:.0%} to {high:.0%}"
                for low, high in zip(summary["lower"], summary["upper"], strict=True)
            ],
            "lowest to highest": [
                f"{low:.0%} to {high:.0%}"
                for low, high in zip(summary["min"], summary["max"], strict=True)
            ],
            "F1 macro": summary["f1_macro"].round(3),
            "log-loss": summary["nll"].round(2),
            "published": [
                f"{published[name]:.2%}" if name in published else "–" for name in summary["recipe"]
            ],
        }
    ).set_index("recipe")


def describe_reproduction(reproduction: pd.DataFrame, least_runs: int = 3) -> str:
    """Say in words which published numbers our runs bear out, in Markdown.

    Args:
        reproduction: see `metrics.reproduction`.
        least_runs: recipes with fewer runs have no range to speak of and are only counted.
    """
    repeated = reproduction[reproduction["runs"] >= least_runs]
    if repeated.empty:
        return f"No published recipe has {least_runs} runs here yet."
    inside = repeated["published"].between(repeated["min"] - 1e-4, repeated["max"] + 1e-4)
    text = (
        f"**{inside.sum()} of {len(repeated)}** published accuracies lie within the range of our "
        f"runs of the same recipe"
    )
    if fewer := len(reproduction) - len(repeated):
        text += f" ({fewer} recipes with fewer than {least_runs} runs are left out)"
    spread = 100 * (repeated["max"] - repeated["min"]).max()
    between = 100 * (repeated["published"].max() - repeated["published"].min())
    text += (
        f". Two runs of one recipe differ by up to {spread:.0f} points in accuracy, by the luck of "
        f"the seed alone; these published accuracies differ by {between:.0f} points."
    )
    for row in repeated[~inside].itertuples():
        side = "above" if row.published > row.max else "below"
        text += (
            f"\n- `{row.recipe}`: published {row.published:.1%}, {side} all {row.runs} of ours "
            f"({row.min:.1%} to {row.max:.1%})."
        )
    return text


def describe_differences(summary: pd.DataFrame) -> str:
    """Say in words which recipes the test can tell from the best one.

    Args:
        summary: see `metrics.summarise`.
    """
    best = summary.iloc[0]
    others = summary.iloc[1:]
    apart = others[others["upper"] < best["lower"]]
    text = (
        f"Best on average: `{best['recipe']}` with {best['accuracy']:.1%}; one test of "
        f"{best['n_test']} pictures leaves anything from {best['lower']:.0%} to "
        f"{best['upper']:.0%} open. One picture is {1 / best['n_test']:.1%}."
    )
    if others.empty:
        return text
    if apart.empty:
        return text + (
            f" The interval of every one of the other {len(others)} recipes overlaps with it: "
            f"**by this reading no recipe is shown to be better than another.** Overlap is no "
            f"proof that they are equal: the test is too small to tell, and a paired comparison on "
            f"more pictures could see more."
        )
    names = ", ".join(f"`{name}`" for name in apart["recipe"])
    return text + (
        f" Intervals that do not even overlap with it: {names}. With the other "
        f"{len(others) - len(apart)} recipes the test **cannot tell** which is better."
    )


def describe_baselines(summary: pd.DataFrame) -> str:
    """Say in words what the same test gives without a network, in Markdown; empty if not run.

    Args:
        summary: see `metrics.summarise`.
    """
    family = summary["recipe"].map({r.name: r.family for r in recipes.RECIPES.values()})
    baselines = summary[family == "baseline"]
    scratch = summary[family == "scratch"]
    if baselines.empty or scratch.empty:
        return ""
    said = ", ".join(f"`{row.recipe}` {row.accuracy:.1%}" for row in baselines.itertuples())
    best = baselines.loc[baselines["accuracy"].idxmax()]
    better = (scratch["accuracy"] > best["accuracy"]).sum()
    return (
        f"Without a network the same test gives: {said}. **{better or 'None'} of the "
        f"{len(scratch)} published scratch recipes** {'have' if better > 1 else 'has'} more on "
        f"average than `{best['recipe']}` (the best of them: {scratch['accuracy'].max():.1%})."
    )


def hardest(predictions: pd.DataFrame, runs: pd.DataFrame, most: int = 8) -> pd.DataFrame:
    """Return the test pictures that most runs get wrong.

    Args:
        predictions: rows of ``predictions.csv``.
        runs: rows of ``runs.csv``; only these runs count.
        most: number of pictures.

    Returns:
        By picture: its motif, the share of runs that are wrong, and their most frequent answer.
    """
    rows = predictions[predictions["run"].isin(runs["run"])]
    rows = rows.assign(wrong=rows["label"] != rows["predicted"])
    table = rows.groupby("path").agg(motif=("label", "first"), wrong=("wrong", "mean"))
    mistaken = rows[rows["wrong"]].groupby("path")["predicted"].agg(lambda c: c.mode().iloc[0])
    table["mostly called"] = mistaken
    table = table[table["wrong"] > 0].sort_values("wrong", ascending=False, kind="stable")
    return table.head(most).assign(wrong=table["wrong"].map("{:.0%}".format))


def open_rows(runs: pd.DataFrame, not_run: pd.DataFrame) -> pd.DataFrame:
    """Return the recipes of the table that have no runs, with the reason.

    Args:
        runs: rows of ``runs.csv``.
        not_run: rows of ``not_run.csv``.
    """
    there = set(runs["recipe"])
    known = not_run.set_index("recipe")
    rows = [
        {
            "recipe": recipe.name,
            "published": "–" if recipe.published is None else f"{recipe.published:.2%}",
            "state": known["reason"].get(recipe.name, "open: not run yet"),
            "remedy": known["remedy"].get(
                recipe.name, f"python -m batik_utils train --recipes {recipe.name}"
            ),
        }
        for recipe in recipes.RECIPES.values()
        if recipe.name not in there
    ]
    return pd.DataFrame(rows, columns=["recipe", "published", "state", "remedy"]).set_index(
        "recipe"
    )
