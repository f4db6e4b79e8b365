"""What notebook 04 says about cross-validation: tables and sentences from the result files.

Introduced in notebook 04, section "Main result".
"""

import json
from pathlib import Path

import pandas as pd

from batik_utils import recipes, splits
from batik_utils.checkpoints import Store
from batik_utils.duplicates import audit
from batik_utils.errors import BatikError
from batik_utils.evaluation import cost, out_of_fold, significance

#: Recipe name of the final model, and its folder below ``cv``.
FINAL = cost.FINAL
#: Said where `shortcuts.run` was not.
NO_EXPLANATIONS = "Not looked at here: `python -m batik_utils explain` does."


def read(results: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return runs, predictions and folds of a data set's cross-validation.

    Repeats that a stopped grid left unfinished are left out. The runs of the final model, which
    ``build`` keeps in a folder of their own, are among them.

    Args:
        results: ``<results>/<data set>``.

    Raises:
        BatikError: there is none.
    """
    store, path = Store(results / "cv"), results / "cv" / "folds.csv"
    runs, predictions = (
        pd.concat(tables, ignore_index=True) if len(tables[1]) else tables[0]
        for name in ("runs", "predictions")
        for tables in [(store.read(name), Store(store.folder / FINAL).read(name))]
    )
    if runs.empty or not path.is_file():
        raise BatikError(
            f"No cross-validation in {store.folder}: run notebook 03 (or 'python -m batik_utils "
            f"train --grid cv') first, or name another DATASET."
        )
    return *_finished(runs, predictions), pd.read_csv(path)


def summary(
    runs: pd.DataFrame, predictions: pd.DataFrame, folds: pd.DataFrame, results: Path
) -> pd.DataFrame:
    """Return `significance.summary` with each recipe's ``latency_ms`` and ``megabytes``.

    Args:
        runs: of `read`.
        predictions: of `read`.
        folds: of `read`.
        results: ``<results>/<data set>``; recipes that `cost.measure` did not see stay empty.
    """
    table = significance.summary(runs, predictions, folds)
    costs = cost.read(results / "cv")[["recipe", "latency_ms", "megabytes"]]
    return table.merge(costs.astype({"recipe": object}), on="recipe", how="left")


def describe_protocol(runs: pd.DataFrame, folds: pd.DataFrame) -> str:
    """Return a few sentences on how it was measured, in Markdown."""
    sizes = folds["group"].value_counts()
    return (
        f"**{len(folds)} pictures in {len(sizes)} groups** of near-twins (the largest has "
        f"{sizes.max()} pictures), divided into {splits.n_folds(folds)} folds, "
        f"{runs['seed'].nunique()} times anew. Each fold is the test once, and a group is never "
        f"split: no network is asked about a picture whose twin it has seen. {len(runs):,} runs of "
        f"{runs['recipe'].nunique()} recipes; each scored once, after its last epoch."
    )


def main_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the main table, ready to read.

    Args:
        summary: see `summary`.
    """
    return pd.DataFrame(
        {
            "recipe": summary["recipe"],
            "family": summary["family"],
            "repeats": summary["repeats"],
            "accuracy": summary["accuracy"].map("{:.1%}".format),
            "95 % interval": _interval(summary, "lower", "upper"),
            "F1 macro": summary["f1_macro"].map("{:.3f}".format),
            "log-loss": summary["nll"].map("{:.2f}".format),
            "Brier": summary["brier"].map("{:.3f}".format),
            "calibration error": summary["ece"].map("{:.3f}".format),
        }
    ).set_index("recipe")


def describe_main(summary: pd.DataFrame) -> str:
    """Say in words what the main table shows, in Markdown.

    Args:
        summary: see `summary`.
    """
    best = summary.iloc[0]
    text = (
        f"Best: `{best['recipe']}` with **{best['accuracy']:.1%}** (95 % interval "
        f"{best['lower']:.0%} to {best['upper']:.0%})."
    )
    baselines = summary[summary["family"] == "baseline"]
    if baselines.empty:
        return text
    top = baselines.iloc[0]
    text += f" Best without a network: `{top['recipe']}` with {top['accuracy']:.1%}."
    below = summary[(summary["family"] != "baseline") & (summary["accuracy"] <= top["accuracy"])]
    if len(below):
        names = ", ".join(f"`{name}`" for name in below["recipe"])
        text += f" Networks that do no better than that: {names}."
    return text


def reference_of(summary: pd.DataFrame) -> str:
    """Return the recipe that the others are compared with: the most accurate network.

    Args:
        summary: see `summary`.
    """
    networks = summary[summary["family"] != "baseline"]
    return str((networks if len(networks) else summary)["recipe"].iloc[0])


def differences_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return `significance.pairwise` against one reference, ready to read."""
    return pd.DataFrame(
        {
            "recipe": pairs["recipe_b"],
            "behind by": pairs["difference"].map("{:+.1%}".format),
            "95 % interval": [
                f"{low:+.1%} to {high:+.1%}"
                for low, high in zip(pairs["lower"], pairs["upper"], strict=True)
            ],
            "pictures that differ": pairs["pictures"],
            "p (groups)": pairs["p_groups_holm"].map(_p),
            "p (McNemar)": pairs["p_mcnemar_holm"].map(_p),
            "p (corrected t)": pairs["p_corrected_t_holm"].map(_p),
        }
    ).set_index("recipe")


def describe_differences(pairs: pd.DataFrame, alpha: float = 0.05) -> str:
    """Say in words which recipes are shown to be worse than the reference, in Markdown.

    Args:
        pairs: `significance.pairwise` with a reference.
        alpha: level after Holm's correction.
    """
    reference = pairs["recipe_a"].iloc[0]
    told = pairs["p_groups_holm"] < alpha
    sure = told & (pairs["p_corrected_t_holm"] < alpha)

    fewest, most = pairs["repeats"].min(), pairs["repeats"].max()
    often = f"{most}" if fewest == most else f"{fewest} to {most}"

    def listed(rows: pd.Series) -> str:
        return ", ".join(f"`{name}`" for name in pairs.loc[rows, "recipe_b"]) or "none"

    return (
        f"Against `{reference}`, each on the {often} repeats that both have, after Holm's "
        f"correction for {len(pairs)} comparisons:\n"
        f"- **shown to be different** (sign flips of whole groups): {listed(told)};\n"
        f"- of these also if trained again on other pictures (corrected t-test): {listed(sure)};\n"
        f"- **not told apart**: {listed(~told)}. That is no proof of equality.\n\n"
        f"The reference was chosen because it came out best here, so its lead is somewhat "
        f"overstated."
    )


def lead(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    folds: pd.DataFrame,
    ours: str,
    family: str = "scratch",
) -> pd.DataFrame | None:
    """Compare one recipe with every one of a family.

    Args:
        runs: see `read`.
        predictions: see `read`.
        folds: see `read`.
        ours: recipe.
        family: whose recipes it is compared with.

    Returns:
        See `significance.pairwise`; None where either side was not run.
    """
    there = runs.drop_duplicates("recipe").set_index("recipe")["family"]
    others = list(there.index[there == family])
    if ours not in there.index or not others:
        return None
    return significance.pairwise(
        runs, predictions, folds, pairs=[(ours, other) for other in sorted(others)]
    )


def describe_lead(pairs: pd.DataFrame | None, alpha: float = 0.05) -> str:
    """Say in words how far one recipe is ahead of others, in Markdown.

    Args:
        pairs: of `lead`.
        alpha: level after Holm's correction.
    """
    if pairs is None:
        return "Not run here."
    ahead = pairs["difference"] > 0
    told = ahead & (pairs["p_groups_holm"] < alpha)
    nearest = pairs.loc[pairs["difference"].idxmin()]
    points = 100 * pairs["difference"]
    return (
        f"`{pairs['recipe_a'].iloc[0]}` names more pictures rightly than **{ahead.sum()} of "
        f"{len(pairs)}** published scratch recipes that were run on the same folds and seeds, by "
        f"{points.min():.1f} to {points.max():.1f} points; the "
        f"nearest is `{nearest['recipe_b']}`. The lead over {told.sum()} of them is shown by the "
        f"test (sign flips of whole groups, Holm's correction for {len(pairs)} comparisons); the "
        f"others are not told apart."
    )


def twins_flatter(results: Path) -> pd.DataFrame | None:
    """Set the accuracy in folds that part near-twins beside that in folds that do not.

    Args:
        results: ``<results>/<data set>``.

    Returns:
        By recipe: accuracy in either division over the repeats that both have, and the difference;
        None where ``train --grid cv-ungrouped`` was not run.
    """
    store = Store(results / "cv-ungrouped")
    apart_runs, apart_predictions = store.read("runs"), store.read("predictions")
    if apart_runs.empty:
        return None
    runs, predictions, _ = read(results)
    together = out_of_fold.pooled(runs, predictions)
    apart = out_of_fold.pooled(*_finished(apart_runs, apart_predictions))
    rows = []
    for recipe in dict.fromkeys(apart["recipe"]):
        one, other = (t[t["recipe"] == recipe] for t in (apart, together))
        common = set(one["repeat"]) & set(other["repeat"])
        if not common:
            continue
        scores = [t.loc[t["repeat"].isin(common), "right"].mean() for t in (one, other)]
        rows.append(
            {
                "recipe": recipe,
                "twins parted": scores[0],
                "twins together": scores[1],
                "flattered by": scores[0] - scores[1],
            }
        )
    return pd.DataFrame(rows).set_index("recipe")


def cleaned(table: pd.DataFrame, results: Path) -> pd.DataFrame | None:
    """Set the accuracy on all pictures beside that without doubtful ones.

    Only the scoring changes; the networks learned from all pictures. Left out are pictures that a
    person found to be no finished cloth or captioned otherwise, and those filed under two motifs;
    what confident learning alone doubts stays, because it doubts what models get wrong.

    Args:
        table: of `out_of_fold.pooled`.
        results: ``<results>/<data set>``.

    Returns:
        By recipe, best first: ``all``, ``cleaned``, ``difference``; None without an audit.
    """
    doubted = audit.doubted(results)
    if doubted is None:
        return None
    kept = table[~table["path"].isin(doubted)]
    scores = pd.DataFrame(
        {
            name: t.groupby("recipe")["right"].mean()
            for name, t in (("all", table), ("cleaned", kept))
        }
    )
    scores["difference"] = scores["cleaned"] - scores["all"]
    scores = scores.sort_values("all", ascending=False, kind="stable")
    scores.attrs["left_out"] = table["path"].nunique() - kept["path"].nunique()
    return scores


#: Kinds of labels in `label_kinds`, the surest first.
LABEL_KINDS = ("undoubted", "doubted by confident learning alone", "doubted by a person or a twin")


def label_kinds(table: pd.DataFrame, results: Path, recipe: str = FINAL) -> pd.DataFrame | None:
    """Return how often one recipe is wrong about every picture, and who doubts its label.

    Args:
        table: of `out_of_fold.pooled`.
        results: ``<results>/<data set>``.
        recipe: which.

    Returns:
        One row a picture: ``path, label, wrong`` (number of repeats), ``repeats, kind`` (of
        `LABEL_KINDS`); None without an audit.

    Raises:
        BatikError: the recipe is not in the table.
    """
    by_eye, by_any = audit.doubted(results), audit.doubted(results, by_any=True)
    if by_eye is None or by_any is None:
        return None
    rows = table[table["recipe"] == recipe]
    if rows.empty:
        raise BatikError(f"There is no recipe '{recipe}' among the predictions.")
    found = rows.assign(wrong=~rows["right"]).groupby(["path", "label"], as_index=False)
    found = found.agg(wrong=("wrong", "sum"), repeats=("wrong", "size"))
    level = found["path"].isin(by_any).astype(int) + found["path"].isin(by_eye)
    return found.assign(kind=level.map(dict(enumerate(LABEL_KINDS))))


def ceiling(kinds: pd.DataFrame) -> pd.DataFrame:
    """Count by kind of label what a model gets wrong again and again.

    Args:
        kinds: of `label_kinds`.

    Returns:
        Rows of `LABEL_KINDS` and ``all``: ``pictures, accuracy, wrong in most repeats, wrong in
        all repeats``.
    """
    share = kinds["wrong"] / kinds["repeats"]
    counted = pd.DataFrame(
        {
            "pictures": 1,
            "accuracy": 1 - share,
            "wrong in most repeats": (share > 0.5).astype(int),
            "wrong in all repeats": (share == 1).astype(int),
        }
    )
    how = dict.fromkeys(counted, "sum") | {"accuracy": "mean"}
    table = counted.groupby(kinds["kind"]).agg(how).reindex(LABEL_KINDS).dropna()
    table.loc["all"] = counted.agg(how)
    whole = [name for name in table if name != "accuracy"]
    return table.astype(dict.fromkeys(whole, int))


def describe_ceiling(table: pd.DataFrame | None) -> str:
    """Say in Markdown how much of the error is in doubted labels.

    Args:
        table: of `ceiling`.
    """
    if table is None:
        return "Doubtful labels were not looked for here: `python -m batik_utils audit` does."
    wrong = table["wrong in most repeats"]
    doubted, total = int(wrong["all"] - wrong.get(LABEL_KINDS[0], 0)), int(wrong["all"])
    return (
        f"**{total}** of {table['pictures']['all']} pictures are named wrongly in most repeats; "
        f"**{doubted}** of these carry a doubted label. On the undoubted pictures accuracy is "
        f"{table['accuracy'].get(LABEL_KINDS[0], float('nan')):.1%}. Confident learning doubts "
        f"what models get wrong, so its share is no proof of wrong labels."
    )


def describe_cleaned(scores: pd.DataFrame | None) -> str:
    """Say how many pictures the cleaned result leaves out, in Markdown."""
    if scores is None:
        return "Doubtful labels were not looked for here: `python -m batik_utils audit` does."
    return (
        f"Without the **{scores.attrs['left_out']} doubtful pictures** (printed paper, unfinished "
        f"cloth, another motif's caption, or filed under two motifs) accuracy moves by "
        f"{scores['difference'].min():+.1%} to {scores['difference'].max():+.1%}."
    )


def learning(results: Path) -> pd.DataFrame | None:
    """Return `out_of_fold.learning_table` of the thin runs and their full counterparts.

    Args:
        results: ``<results>/<data set>``.

    Returns:
        None where ``train --grid cv --n-train`` was not run.
    """
    thin = Store(results / "cv" / "learning").read("runs")
    if thin.empty:
        return None
    runs, _, _ = read(results)
    full = runs[runs["recipe"].isin(thin["recipe"]) & runs["seed"].isin(thin["seed"])]
    return out_of_fold.learning_table(pd.concat([thin, full], ignore_index=True))


def final_model(results: Path) -> dict | None:
    """Return what ``build`` wrote about the final model, ``metrics.json``; None without one.

    Args:
        results: ``<results>/<data set>``.
    """
    path = results / "model" / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def describe_final(model: dict | None) -> str:
    """Say in words what the final model can do, in Markdown.

    Args:
        model: of `final_model`.
    """
    if model is None:
        return "No final model here: `python -m batik_utils build` makes one."

    def share(value: dict) -> str:
        return f"{value['value']:.1%} ({value['lower']:.0%} to {value['upper']:.0%})"

    group = model["accuracy_without_largest_group"]
    doubted = model["accuracy_without_doubted_labels"]
    recalls = ", ".join(f"{motif} {share(value)}" for motif, value in model["recall"].items())
    return (
        f"**{share(model['accuracy'])}** of the pictures named rightly in {model['protocol']}; "
        f"without the {group['size']} pictures of one print {share(group)}, on the "
        f"{doubted['pictures']} pictures with undoubted labels {share(doubted)}. Recall: "
        f"{recalls}. One ONNX file of {model['model']['megabytes']:.1f} MB."
    )


def none_of_these(model: dict | None) -> pd.DataFrame | None:
    """Return how well scores tell pictures of other things, one row a score and kind.

    Args:
        model: of `final_model`.
    """
    return None if model is None else pd.DataFrame(model["none_of_these"]["rows"])


def ablation(results: Path) -> pd.DataFrame | None:
    """Return ``cv/ablation.csv``, what each step gave; None without one.

    Args:
        results: ``<results>/<data set>``.
    """
    path = results / "cv" / "ablation.csv"
    return pd.read_csv(path) if path.is_file() else None


def steps(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a step: how many variants were tried, the lowest accuracy, and the best one.

    Args:
        table: of `ablation`.

    Returns:
        By step, in order: ``variants``, ``lowest``, ``best``, its 95 % ``lower`` and ``upper``
        (missing where they were not computed), its ``megabytes`` and ``description``.
    """
    groups = table.groupby("step", sort=False)["accuracy"]
    best = table.loc[groups.idxmax()].set_index("step")
    best = best.rename(columns={"accuracy": "best"})
    best = best.assign(variants=groups.size(), lowest=groups.min())
    columns = ["variants", "lowest", "best", "lower", "upper", "megabytes", "description"]
    return best.loc[table["step"].unique(), columns]


def all_motifs(results: Path) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return what ``build --classes all`` left: its summary, and one row a motif, best first.

    Args:
        results: ``<results>/<data set>``.

    Returns:
        None where it was not run.
    """
    folder = results / "cv-all"
    if not (folder / "summary.csv").is_file():
        return None
    return pd.read_csv(folder / "summary.csv"), pd.read_csv(folder / "motifs.csv")


def describe_all_motifs(found: tuple[pd.DataFrame, pd.DataFrame] | None) -> str:
    """Say in Markdown how well all motifs are told apart.

    Args:
        found: of `all_motifs`.
    """
    if found is None:
        return "Not run here: `python -m batik_utils build --classes all` does."
    row, motifs = found[0].iloc[0], found[1]
    best, worst = motifs.iloc[0], motifs.iloc[-1]
    return (
        f"One model for {row['motifs']:.0f} motifs names **{row['accuracy']:.1%}** "
        f"({row['lower']:.0%} to {row['upper']:.0%}) of {row['n_pictures']:.0f} pictures rightly, "
        f"guessing {row['chance']:.0%}; among its three likeliest is the right one in "
        f"{row['top_3']:.1%}. Near-twins stay on one side, also those filed under two motifs. "
        f"Easiest: {best['motif']} ({best['recall']:.0%}); hardest: {worst['motif']} "
        f"({worst['recall']:.0%}, mostly taken for {worst['mostly_taken_for']})."
    )


def explanations(results: Path) -> dict[str, pd.DataFrame] | None:
    """Return what `shortcuts.run` left: ``shortcuts, watermark, heat`` and ``randomisation``.

    Args:
        results: ``<results>/<data set>``.

    Returns:
        Tables by name; None where it was not run.
    """
    names = ("shortcuts", "watermark", "heat", "randomisation")
    paths = {name: results / "cv" / f"{name}.csv" for name in names}
    if not all(path.is_file() for path in paths.values()):
        return None
    return {name: pd.read_csv(path) for name, path in paths.items()}


def hardest(difficulty: pd.DataFrame, most: int = 10) -> pd.DataFrame:
    """Return the pictures that are most often taken for another motif.

    Args:
        difficulty: of `out_of_fold.difficulty`.
        most: number of pictures.
    """
    table = difficulty.head(most).set_index("path")
    return pd.DataFrame(
        {
            "motif": table["label"],
            "wrong": table["wrong"].map("{:.0%}".format),
            "recipes that fail": table["recipes_wrong"].astype(str)
            + " of "
            + table["recipes"].astype(str),
            "mostly called": table["mostly_called"],
        }
    )


def _finished(runs: pd.DataFrame, predictions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Leave out the repeats that a stopped grid left unfinished, and put recipes in table order."""
    gaps = out_of_fold.unfinished(runs, predictions)
    gone = set(zip(gaps["recipe"], gaps["repeat"], strict=True))
    keys = zip(runs["recipe"], runs["seed"], strict=True)
    runs = runs[[key not in gone for key in keys]]
    place = {name: k for k, name in enumerate(recipes.RECIPES)}
    order = runs["recipe"].map(place).fillna(len(place))
    runs = runs.assign(order=order).sort_values(["order", "recipe", "seed", "fold"])
    runs = runs.drop(columns="order").reset_index(drop=True)
    return runs, predictions[predictions["run"].isin(runs["run"])]


def _interval(table: pd.DataFrame, low: str, high: str) -> list[str]:
    return [f"{a:.0%} to {b:.0%}" for a, b in zip(table[low], table[high], strict=True)]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
