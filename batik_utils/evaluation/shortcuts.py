"""Does a network know the motif, or something that comes with it? Accuracy on masked pictures.

    >>> from batik_utils.evaluation import shortcuts
    >>> found = shortcuts.run(dataset, folds, results / "kaggle" / "cv", ["efficientnet_lite0"])
    >>> print(found)

A linear probe on a fixed backbone is fitted and tested in the grouped folds of `splits.make_folds`
twice for each kind of `masking.KINDS`:

- trained on whole pictures, tested on masked ones: what an existing model lives on. Masked
  pictures look unlike anything it was trained on, which costs accuracy by itself.
- trained and tested on masked ones: what there is to know in the part that is left.

Where a person has listed the pictures that bear a shop's watermark (``watermarks_by_eye.csv``), two
more trainings ask whether the probe has learned it: without the listed pictures, and, as a control,
without as many others of the same motifs. Then a watermark is printed on pictures that have none.

Nothing is chosen by any test picture: the probe's one setting is fixed. `run` also draws, out of
fold, the heat maps of `explain` and counts where they lie. Introduced in notebook 04, section
"What do the models look at?".
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm

from batik_utils import models, recipes, splits, transforms
from batik_utils import training as engine
from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.evaluation import explain, masking, significance
from batik_utils.recipes import Recipe

log = logging.getLogger(__name__)

#: Inverse strength of the probe's L2 penalty, as in `audit`; never chosen by a test picture.
PENALTY = 0.01
#: Networks looked into unless others are named.
RECIPES = ("mobilenet_v2_probe", "efficientnet_lite0")
#: What a probe may be trained on, besides whole pictures and pictures masked as in its test.
UNMARKED, CONTROL = "whole, watermarked left out", "whole, as many others left out"
COLUMNS = (
    "recipe",
    "kind",
    "trained_on",
    "accuracy",
    "lower",
    "upper",
    "change",
    "change_lower",
    "change_upper",
    "repeats",
    "pictures",
    "groups",
    "dataset",
)


@dataclass(frozen=True)
class Found:
    """What a look into some networks found; every table is written as a CSV of its name.

    Attributes:
        folder: where the files are.
        shortcuts: see `summarise`.
        shortcuts_pictures: see `answers`, with ``recipe``.
        watermark: see `watermark_effect`, with ``recipe``; empty if no watermarks are listed.
        heat: one row a recipe and picture: ``recipe, path, motif, watermark`` (listed or not),
            ``predicted`` and the share of the heat in each of `masking.regions`; predicted and
            drawn by the probe of repeat 0 that was not trained on the picture.
        randomisation: see `explain.randomisation`, with ``recipe``.
    """

    folder: Path
    shortcuts: pd.DataFrame
    shortcuts_pictures: pd.DataFrame
    watermark: pd.DataFrame
    heat: pd.DataFrame
    randomisation: pd.DataFrame

    def __str__(self) -> str:
        parts = [
            describe(self.shortcuts),
            describe_watermark(self.watermark),
            describe_heat(self.heat),
            LIMITS,
            *(
                f"{recipe}\n{explain.describe_randomisation(rows)}"
                for recipe, rows in self.randomisation.groupby("recipe", sort=False)
            ),
            str(self.folder),
        ]
        return "\n\n".join(parts).replace("**", "").replace("`", "")


def run(
    dataset: Dataset,
    folds: pd.DataFrame,
    folder: Path,
    names: Sequence[str] = RECIPES,
    *,
    watermarked: Sequence[str] = (),
    weights_directory: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Found:
    """Look into some networks and write what was found. Repeating it gives the same files.

    Args:
        dataset: the data set.
        folds: of `splits.make_folds`, for this data set.
        folder: where the CSV files belong.
        names: recipes with a fixed backbone.
        watermarked: paths of the pictures with a printed watermark, of `read_watermarks`.
        weights_directory: folder to look for pretrained weights first, or None.
        device: see `engine.choose_device`.
        progress: show bars.

    Raises:
        BatikError: a recipe whose backbone is not fixed, or folds of other pictures.
        WeightsNotFound: a network's weights cannot be had.
    """
    chosen = check_recipes(names)
    if list(folds["path"]) != list(dataset.manifest["path"]):
        raise BatikError("These folds belong to other pictures, or to another order of them.")
    labels = np.array(dataset.labels)
    tables, per_picture, effects, heats, randomised = [], [], [], [], []
    for recipe in chosen:
        with engine.seeded(0):  # for recipes without weights, and for the head
            model, _ = models.build(recipe, len(dataset.classes), weights_directory)
        model.to(engine.choose_device(device))
        preprocessing = models.preprocessing_of(recipe)
        pixels = transforms.load_pixels(dataset, preprocessing)
        values = {}
        bar = tqdm(
            masking.KINDS, desc=f"{recipe.name}: features", unit="kind", disable=not progress
        )
        for kind in bar:
            batch = masking.masked(pixels, kind)
            values[kind] = engine.features(model, preprocessing, batch).cpu().numpy()
        pictures = answers(
            values, labels, folds, dataset.classes, watermarked=watermarked, progress=progress
        )
        table = summarise(pictures, folds, dataset.classes)
        tables.append(table.assign(recipe=recipe.name, dataset=dataset.digest))
        per_picture.append(pictures.assign(recipe=recipe.name))
        effects.append(watermark_effect(pictures, watermarked).assign(recipe=recipe.name))

        looks = []
        bar = tqdm(
            range(splits.n_folds(folds)),
            desc=f"{recipe.name}: heat maps",
            unit="fold",
            disable=not progress,
        )
        for fold in bar:
            test = (folds["repeat_0"] == fold).to_numpy(copy=True)
            fitted = probe(values["whole"][~test], labels[~test])
            whole = as_classifier(model, fitted)
            predicted = fitted.predict(values["whole"][test])
            maps = explain.heat_map(whole, preprocessing, pixels[torch.from_numpy(test)], predicted)
            looks.append(
                dataset.manifest.loc[test, ["path", "motif"]]
                .reset_index(drop=True)
                .assign(
                    watermark=lambda rows: rows["path"].isin(list(watermarked)),
                    predicted=[dataset.classes[k] for k in predicted],
                )
                .join(explain.where(maps))
            )
            if fold == 0:
                for explanation, name in (
                    (explain.heat_map, "Grad-CAM"),
                    (explain.edge_map, "edges of the picture"),
                ):
                    check = explain.randomisation(
                        whole,
                        preprocessing,
                        pixels[torch.from_numpy(test)],
                        predicted,
                        explanation=explanation,
                        name=name,
                        progress=progress,
                    )
                    randomised.append(check.assign(recipe=recipe.name))
        order = {path: i for i, path in enumerate(dataset.manifest["path"])}
        heat = pd.concat(looks).sort_values("path", key=lambda p: p.map(order))
        heats.append(heat.assign(recipe=recipe.name))

    found = Found(
        folder,
        pd.concat(tables, ignore_index=True)[list(COLUMNS)],
        *(_first("recipe", parts) for parts in (per_picture, effects, heats, randomised)),
    )
    for name, table in vars(found).items():
        if isinstance(table, pd.DataFrame) and len(table):
            rounded = table.round(dict.fromkeys(table.select_dtypes("floating").columns, 6))
            splits.save(rounded, folder / f"{name}.csv")
    return found


def check_recipes(names: Sequence[str]) -> list[Recipe]:
    """Return the recipes of these names.

    Raises:
        BatikError: no or an unknown name, or a recipe that trains its backbone.
    """
    chosen = [recipes.get(name) for name in names]
    if not chosen:
        raise BatikError(f"No recipe was named: give one such as {RECIPES[0]}.")
    for recipe in chosen:
        if recipe.frozen != "backbone":
            raise BatikError(
                f"Recipe '{recipe.name}' trains its backbone, and a probe for each fold needs a "
                f"fixed one: choose recipes with frozen='backbone', such as {', '.join(RECIPES)}."
            )
    return chosen


def read_watermarks(path: Path, dataset: Dataset) -> list[str]:
    """Read which pictures bear a printed watermark, as a person listed them.

    Args:
        path: CSV with the columns ``path`` and ``watermark`` (what it looks like).
        dataset: the data set.

    Returns:
        Paths; none if there is no such file.

    Raises:
        BatikError: the file is damaged, or names a picture that is not there.
    """
    if not path.is_file():
        log.warning("No list of watermarks at %s: what they do is not tested.", path)
        return []
    try:
        listed = pd.read_csv(path, dtype=str, keep_default_na=False)["path"].tolist()
    except (ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        raise BatikError(f"{path} is damaged ({error}): restore it with git, or remove it.") from (
            error
        )
    if missing := sorted(set(listed) - set(dataset.manifest["path"])):
        raise BatikError(f"{path} lists {missing[0]}, which is not in {dataset.root}: mend it.")
    return listed


def probe(features: np.ndarray, labels: np.ndarray) -> Pipeline:
    """Fit standardised multinomial logistic regression.

    Args:
        features: (N, F).
        labels: (N,) class indices.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=2000))
    return model.fit(features, labels)


def as_classifier(model: nn.Module, fitted: Pipeline) -> nn.Module:
    """Return a network that says what a probe of its features says.

    The standardisation becomes part of one linear layer:
    W (f - m) / s + b = (W / s) f + (b - (W / s) m).

    Args:
        model: gives the backbone, which is shared, not copied.
        fitted: of `probe`, with three or more motifs.
    """
    scaler, regression = fitted[0], fitted[-1]
    weight = regression.coef_ / scaler.scale_
    bias = regression.intercept_ - weight @ scaler.mean_
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    head.to(next(model.parameters()).device)
    return models.TransferClassifier(model.backbone, head, "backbone").eval()


def answers(
    features: Mapping[str, np.ndarray],
    labels: Sequence[int],
    folds: pd.DataFrame,
    classes: Sequence[str],
    *,
    watermarked: Sequence[str] = (),
    progress: bool = True,
) -> pd.DataFrame:
    """Test a probe on every kind of picture, trained on whole ones and on its own kind.

    Args:
        features: (N, F) by kind, in the order of the folds; ``whole`` must be there. Kinds that end
            in ``added`` are tested, never trained on.
        labels: (N,) class indices.
        folds: of `splits.make_folds`.
        classes: motifs in class order.
        watermarked: paths that are left out of two more trainings, see above; the control draws
            others anew in each repeat.
        progress: show a bar.

    Returns:
        One row a kind, training and picture: ``kind, trained_on, path, motif, group, right`` (share
        of the repeats in which the answer was right) and ``said_<motif>``, the share of each
        answer.
    """
    labels = np.asarray(labels)
    marked = folds["path"].isin(list(watermarked)).to_numpy()
    own = {kind: [kind] for kind in features if kind != "whole" and not kind.endswith("added")}
    #: what is trained on, and the kinds that are tested with it
    tests = {"whole": list(features), **own}
    if marked.any():
        few = [kind for kind in ("whole", "band masked", "watermark added") if kind in features]
        tests |= {UNMARKED: few, CONTROL: few}
    said = {
        (trained, kind): np.zeros((len(labels), len(classes)))
        for trained, kinds in tests.items()
        for kind in kinds
    }
    repeats, n_folds = splits.n_repeats(folds), splits.n_folds(folds)
    bar = tqdm(
        total=repeats * n_folds * len(tests), desc="Probes", unit="probe", disable=not progress
    )
    with bar:
        for repeat in range(repeats):
            fold_of = folds[f"repeat_{repeat}"].to_numpy()
            left_out = {UNMARKED: marked, CONTROL: _as_many(marked, labels, repeat)}
            for fold in range(n_folds):
                test = np.flatnonzero(fold_of == fold)
                for trained, kinds in tests.items():
                    train = (fold_of != fold) & ~left_out.get(trained, np.False_)
                    source = features[trained if trained in features else "whole"]
                    fitted = probe(source[train], labels[train])
                    for kind in kinds:
                        predicted = fitted.predict(features[kind][test])
                        said[trained, kind][test, predicted] += 1 / repeats
                    bar.update()
    tables = []
    for (trained, kind), shares in said.items():
        table = folds[["path", "motif", "group"]].reset_index(drop=True)
        table = table.assign(right=shares[np.arange(len(labels)), labels])
        table[[f"said_{motif}" for motif in classes]] = shares
        table.insert(0, "kind", kind)
        table.insert(1, "trained_on", trained)
        tables.append(table)
    return pd.concat(tables, ignore_index=True).round(6)


def watermark_effect(pictures: pd.DataFrame, watermarked: Sequence[str]) -> pd.DataFrame:
    """Return what a printed watermark does to a probe that has, or has not, learned from some.

    Args:
        pictures: of `answers`, of one recipe.
        watermarked: paths with a watermark of their own.

    Returns:
        One row a training on whole pictures: ``trained_on, motif`` (the one that most watermarked
        pictures belong to); ``before`` and ``after``: the share of answers with that motif to the
        other motifs' pictures without a watermark, as they are and with one printed on; ``change``,
        ``lower, upper`` with a 95 % interval as in `summarise`; ``less``: how much smaller the
        change is than in the control, paired by picture, with ``less_lower, less_upper``;
        ``pictures``: how many; then the share of right answers to the motif's own pictures as they
        are, ``right_marked`` and ``right_unmarked``, and the number ``marked``. Empty if nothing is
        watermarked.
    """
    whole = pictures[pictures["kind"] == "whole"]
    listed = whole[whole["path"].isin(list(watermarked)) & (whole["trained_on"] == "whole")]
    if listed.empty:
        return pd.DataFrame()
    motif = listed["motif"].mode().iloc[0]
    said = f"said_{motif}"
    rows = []
    in_control = None
    for trained in (CONTROL, "whole", UNMARKED):
        before = whole[whole["trained_on"] == trained].set_index("path")
        after = pictures[
            (pictures["kind"] == "watermark added") & (pictures["trained_on"] == trained)
        ].set_index("path")
        has = before.index.isin(list(watermarked))
        own = before["motif"] == motif
        change = (after[said] - before[said])[~own & ~has]
        group = before.loc[change.index, "group"]
        in_control = change if in_control is None else in_control
        lower, upper = significance.group_bootstrap(change, group)
        less = significance.group_bootstrap(in_control - change, group)
        rows.append(
            {
                "trained_on": trained,
                "motif": motif,
                "before": before.loc[change.index, said].mean(),
                "after": after.loc[change.index, said].mean(),
                "change": change.mean(),
                "lower": lower,
                "upper": upper,
                "less": (in_control - change).mean(),
                "less_lower": less[0],
                "less_upper": less[1],
                "pictures": len(change),
                "right_marked": before.loc[own & has, "right"].mean(),
                "right_unmarked": before.loc[own & ~has, "right"].mean(),
                "marked": int((own & has).sum()),
            }
        )
    return pd.DataFrame(rows)


def summarise(
    pictures: pd.DataFrame, folds: pd.DataFrame, classes: Sequence[str], *, seed: int = 0
) -> pd.DataFrame:
    """Return the accuracy of each kind and training with intervals.

    Args:
        pictures: of `answers`.
        folds: of `splits.make_folds`; gives the number of repeats.
        classes: motifs, for the check that every picture is there.
        seed: of the bootstrap.

    Returns:
        ``kind, trained_on, accuracy, lower, upper, change, change_lower, change_upper, repeats,
        pictures, groups``. The accuracy is the mean over pictures of the share of right repeats;
        ``change`` is its difference to whole pictures, paired by picture. Intervals (95 %) are the
        percentiles of a bootstrap that draws groups of near-twins, as twins are no separate
        evidence. They hold the models fixed: that other training pictures would give other models
        is not in them.

    Raises:
        BatikError: pictures are missing somewhere.
    """
    base = pictures[(pictures["kind"] == "whole") & (pictures["trained_on"] == "whole")]
    counts = pictures.groupby(["kind", "trained_on"], sort=False).size()
    if not len(base) or set(counts) != {len(folds)} or set(base["motif"]) != set(classes):
        raise BatikError("Every kind needs an answer for every picture, whole ones included.")
    rows, values = [], []
    for (kind, trained), table in pictures.groupby(["kind", "trained_on"], sort=False):
        right = table["right"].to_numpy()
        values += [right, right - base["right"].to_numpy()]
        rows.append(
            {
                "kind": kind,
                "trained_on": trained,
                "repeats": splits.n_repeats(folds),
                "pictures": len(table),
                "groups": table["group"].nunique(),
            }
        )
    intervals = significance.group_bootstraps(np.stack(values, 1), base["group"], seed=seed).T
    for row, right, change, of_right, of_change in zip(
        rows, values[::2], values[1::2], intervals[::2], intervals[1::2], strict=True
    ):
        row |= {"accuracy": right.mean(), "lower": of_right[0], "upper": of_right[1]}
        row |= {"change": change.mean(), "change_lower": of_change[0], "change_upper": of_change[1]}
    columns = [c for c in COLUMNS if c not in ("recipe", "dataset")]
    return pd.DataFrame(rows, columns=columns)


#: What none of the tables can show, for the reader of `describe`.
LIMITS = (
    "What this cannot show: an accuracy that stays when a part is hidden proves that the rest "
    "suffices, not that the part is never used; one that falls may fall because such pictures "
    "look strange. Masks are rectangles: nobody has drawn where cloth ends and background begins. "
    "A heat map is coarse (7 × 7 places for 224 px) and says where, not what. All of this is "
    "about linear probes of fixed ImageNet features; networks trained from scratch may look "
    "elsewhere."
)


def describe(table: pd.DataFrame) -> str:
    """Say in words what the models live on, in Markdown.

    Args:
        table: rows of ``shortcuts.csv``.
    """
    lines = []
    for recipe, rows in table.groupby("recipe", sort=False):
        rows = rows.set_index(["kind", "trained_on"])
        whole = rows.loc[("whole", "whole")]
        lines.append(
            f"`{recipe}`: **{whole['accuracy']:.1%}** on whole pictures "
            f"({whole['lower']:.0%} to {whole['upper']:.0%}; {whole['pictures']:.0f} pictures in "
            f"{whole['groups']:.0f} groups of near-twins, {whole['repeats']:.0f} repeats). Changes "
            f"in points, with 95 % intervals:\n"
        )
        for kind, meaning in masking.KINDS.items():
            if kind == "whole" or (kind, "whole") not in rows.index:
                continue
            row = rows.loc[(kind, "whole")]
            text = f"- **{kind}** ({meaning}): {row['accuracy']:.1%}, {_change(row)}"
            if (kind, kind) in rows.index:
                own = rows.loc[(kind, kind)]
                text += f"; trained on such pictures {own['accuracy']:.1%}, {_change(own)}"
            lines.append(text + ".")
        lines.append("")
    return "\n".join(lines).strip()


def describe_watermark(table: pd.DataFrame) -> str:
    """Say in words whether the models have learned a watermark, in Markdown.

    Args:
        table: rows of ``watermark.csv``, or none.
    """
    if table.empty:
        return "No pictures with a watermark are listed, so what it does was not tested."
    lines = []
    for recipe, rows in table.groupby("recipe", sort=False):
        rows = rows.set_index("trained_on")
        usual, control, without = (rows.loc[name] for name in ("whole", CONTROL, UNMARKED))
        motif = usual["motif"]
        text = (
            f"`{recipe}`: a watermark printed on {usual['pictures']:.0f} pictures of other motifs "
            f"makes the model call {usual['after']:.0%} of them {motif}, {usual['before']:.0%} "
            f"without it ({_points(usual)}). "
        )
        if usual["lower"] > 0 and without["less_lower"] > 0:
            text += (
                f"**It has learned that a watermark means {motif}**: trained without the "
                f"{usual['marked']:.0f} watermarked pictures of {motif} the effect is "
                f"{_points(without)}, trained without as many others {_points(control)} (a "
                f"difference of {100 * without['less']:.0f} points, "
                f"{_range(without, 'less_lower', 'less_upper', 0)})."
            )
        else:
            text += (
                f"Trained without the {usual['marked']:.0f} watermarked pictures the effect is "
                f"{_points(without)}, trained without as many others {_points(control)}: **no "
                f"proof that the watermark was learned.**"
            )
        text += (
            f" Of those {usual['marked']:.0f} pictures it knows {usual['right_marked']:.0%} when "
            f"it has seen others of their kind, and {without['right_marked']:.0%} when it has not "
            f"({control['right_marked']:.0%} in the control); they come from one shop and may "
            f"share more than its watermark."
        )
        lines.append(text)
    return "\n\n".join(lines)


def describe_heat(heat: pd.DataFrame) -> str:
    """Say in words where the heat maps lie, in Markdown.

    Args:
        heat: rows of ``heat.csv``.
    """
    area = explain.areas()
    lines = []
    for recipe, rows in heat.groupby("recipe", sort=False):
        shares = rows[list(area.index)].mean()
        text = (
            f"`{recipe}`: its heat maps have {shares['centre']:.0%} of their heat in the middle "
            f"half of the picture (an even map: {area['centre']:.0%}), {shares['band']:.0%} in the "
            f"strip of the watermark ({area['band']:.0%}) and {shares['seal']:.1%} in the corner "
            f"of the seal ({area['seal']:.1%})."
        )
        if rows["watermark"].any():
            band = rows.groupby("watermark")["band"].mean()
            text += (
                f" On pictures with a watermark the strip has {band[True]:.0%}, on the others "
                f"{band[False]:.0%}."
            )
        lines.append(text)
    return "\n\n".join(lines)


def _change(row: pd.Series) -> str:
    text = f"{100 * row['change']:+.1f} ({_range(row, 'change_lower', 'change_upper')})"
    sure = row["change_lower"] > 0 or row["change_upper"] < 0
    return text if sure else f"{text}, which may be chance"


def _points(row: pd.Series) -> str:
    return f"{100 * row['change']:+.0f} points, {_range(row, 'lower', 'upper', 0)}"


def _range(row: pd.Series, lower: str, upper: str, digits: int = 1) -> str:
    return f"{100 * row[lower]:+.{digits}f} to {100 * row[upper]:+.{digits}f}"


def _as_many(marked: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Choose as many pictures of each class as are marked, among the others as far as they go."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros_like(marked)
    for label in np.unique(labels[marked]):
        others = np.flatnonzero((labels == label) & ~marked)
        n = min(int((marked & (labels == label)).sum()), len(others))
        chosen[rng.choice(others, n, replace=False)] = True
    return chosen


def _first(column: str, tables: list[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(tables, ignore_index=True)
    return table[[column, *(c for c in table.columns if c != column)]]
