"""Shortcuts: does a network know the motif, or something that comes with it?

A linear probe on a frozen backbone is tested in the grouped folds on pictures from which something
was removed (`KINDS`), and on pictures with a printed watermark, trained with and without the
pictures that bear one. The command ``audit`` writes ``shortcuts.csv`` and ``watermark.csv``.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional
from tqdm.auto import tqdm

from batik_utils import baselines, data, models, recipes, splits, training, transforms
from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.evaluation import significance
from batik_utils.images import changes

#: Networks that are tested: recipes with a frozen backbone.
RECIPES = ("mobilenet_v2_probe", "efficientnet_lite0")
#: What is done to a picture, and what remains of it.
KINDS = {
    "whole": "the picture as it is",
    "band masked": "without the strip at half height where shops print their watermark",
    "watermarks masked": "without that strip and without the corner at the lower right (a seal)",
    "centre only": "the middle half of the area alone",
    "border only": "the outer half of the area alone",
    "colour removed": "in grey",
    "blurred": "smoothed until the motif is gone: colours and coarse layout remain",
    "shuffled tiles": "cut into 4 × 4 tiles that change places: texture without layout",
    "watermark added": "with a watermark printed on it",
}
#: Columns of shortcuts.csv, explained in results/README.md.
COLUMNS = (
    *("recipe", "kind", "trained_on", "accuracy", "lower", "upper"),
    *("change", "change_lower", "change_upper", "repeats", "pictures", "groups", "dataset"),
)
#: What a probe is trained on besides whole pictures and pictures of the tested kind.
UNMARKED, CONTROL = "whole, watermarked left out", "whole, as many others left out"


def run(
    dataset: Dataset,
    folds: pd.DataFrame,
    folder: Path,
    *,
    watermarked: Sequence[str] = (),
    weights_directory: str | None = None,
    device: str = "auto",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test the networks of `RECIPES` and write the tables of `summarise` and `watermark_effect`.

    ``watermarked`` lists the paths of pictures with a printed watermark.
    """
    if list(folds["path"]) != list(dataset.manifest["path"]):
        raise BatikError("These folds belong to other pictures, or to another order of them.")
    tables, effects = [], []
    for name in RECIPES:
        recipe = recipes.get(name)
        with training.seeded(0):
            model, _ = models.build(recipe, len(dataset.classes), weights_directory)
        model.to(training.choose_device(device))
        seen = models.preprocessing_of(recipe)
        pixels = transforms.load_pixels(dataset, seen)
        features = {
            kind: training.features(model, seen, masked(pixels, kind)).cpu().numpy()
            for kind in tqdm(KINDS, desc=f"{name}: features", unit="kind", disable=None)
        }
        pictures = answers(features, np.array(dataset.labels), folds, dataset.classes, watermarked)
        tables.append(summarise(pictures, folds).assign(dataset=dataset.digest, recipe=name))
        effects.append(watermark_effect(pictures, watermarked).assign(recipe=name))
    found = tuple(pd.concat(parts, ignore_index=True).round(6) for parts in (tables, effects))
    for table, stem in zip(found, ("shortcuts", "watermark"), strict=True):
        table.insert(0, "recipe", table.pop("recipe"))
        if stem == "shortcuts" or len(watermarked):
            data.write_table(table, folder / f"{stem}.csv", digits=None)
    return found


def masked(pixels: Tensor, kind: str, *, seed: int = 0) -> Tensor:
    """Pictures, uint8 (N, 3, S, S), with one of `KINDS` done to them.

    What is hidden takes the mean colour of the rest; ``seed`` decides the order of tiles.
    """
    side = pixels.shape[-1]
    y, x = (np.mgrid[:side, :side] + 0.5) / side  # the middle of a pixel decides
    band, seal = (y >= 0.45) & (y < 0.55), (y >= 0.78) & (x >= 0.78)
    # centre and border have half of the area each
    centre = np.maximum(abs(y - 0.5), abs(x - 0.5)) < math.sqrt(0.5) / 2
    hidden = {
        "band masked": band,
        "watermarks masked": band | seal,
        "centre only": ~centre,
        "border only": centre,
    }
    if kind in hidden:
        mask = torch.from_numpy(hidden[kind]).to(pixels.device)
        mean = (pixels * ~mask).sum((2, 3), keepdim=True, dtype=torch.float) / (~mask).sum()
        return torch.where(mask, mean.round().to(torch.uint8), pixels)
    if kind == "colour removed":
        luma = torch.tensor([0.299, 0.587, 0.114], device=pixels.device).view(1, 3, 1, 1)
        return (pixels * luma).sum(1, keepdim=True).round().to(torch.uint8).repeat(1, 3, 1, 1)
    if kind == "blurred":
        sigma = side / 28
        return functional.gaussian_blur(pixels, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma] * 2)
    if kind == "shuffled tiles":
        rng = np.random.default_rng(seed)
        tiles = pixels.unfold(2, side // 4, side // 4).unfold(3, side // 4, side // 4).flatten(2, 3)
        order = torch.from_numpy(np.stack([rng.permutation(16) for _ in pixels]))
        moved = torch.stack([tile[:, own] for tile, own in zip(tiles, order, strict=True)])
        return moved.unflatten(2, (4, 4)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    if kind == "watermark added":
        overlay, height = Image.new("RGBA", (side, side)), 0.065 * side
        strip = (side - height) / 2, (side + height) / 2 - 1, (0, 0, 0, 165)
        words, middle = "0123.456.789   /   BATIK SHOP", (side / 2, side / 2)
        ink = (255, 255, 255, 165)
        changes.watermark(overlay, words, middle, round(0.6 * height), ink, strip, "mm")
        values = torch.from_numpy(np.asarray(overlay, dtype=np.float32)).permute(2, 0, 1)
        alpha = values[3].to(pixels.device) / 255
        printed = pixels * (1 - alpha) + values[:3].to(pixels.device) * alpha
        return printed.round().to(torch.uint8)
    if kind == "whole":
        return pixels.clone()
    raise BatikError(f"Unknown kind of masking '{kind}': choose one of {', '.join(KINDS)}.")


def answers(
    features: Mapping[str, np.ndarray],
    labels: np.ndarray,
    folds: pd.DataFrame,
    classes: Sequence[str],
    watermarked: Sequence[str] = (),
) -> pd.DataFrame:
    """Answers of probes to every kind of picture, from features (N, F) by kind.

    One row a kind, training and picture, with the share of the repeats in which the answer was
    ``right``, and that of each answer, ``said_<motif>``.
    """
    marked = folds["path"].isin(list(watermarked)).to_numpy()
    own = {kind: [kind] for kind in features if kind != "whole" and not kind.endswith("added")}
    tests = {"whole": list(features), **own}
    if marked.any():
        few = [kind for kind in ("whole", "band masked", "watermark added") if kind in features]
        tests |= {UNMARKED: few, CONTROL: few}
    said = {
        (trained, kind): np.zeros((len(labels), len(classes)))
        for trained, kinds in tests.items()
        for kind in kinds
    }
    repeats = splits.n_repeats(folds)
    parts = [(repeat, fold) for repeat in range(repeats) for fold in range(splits.n_folds(folds))]
    for repeat, fold in tqdm(parts, desc="Probes", unit="fold", disable=None):
        test = (folds[f"repeat_{repeat}"] == fold).to_numpy()
        left_out = {UNMARKED: marked, CONTROL: _as_many(marked, labels, repeat)}
        for trained, kinds in tests.items():
            train = ~test & ~left_out.get(trained, np.False_)
            source = features[trained if trained in features else "whole"]
            fitted = baselines.linear_probe().fit(source[train], labels[train])
            for kind in kinds:
                predicted = fitted.predict(features[kind][test])
                said[trained, kind][np.flatnonzero(test), predicted] += 1 / repeats
    tables = []
    for (trained, kind), shares in said.items():
        table = folds[["path", "motif", "group"]].reset_index(drop=True)
        table = table.assign(right=shares[np.arange(len(labels)), labels])
        table[[f"said_{motif}" for motif in classes]] = shares
        tables.append(table.assign(kind=kind, trained_on=trained))
    return pd.concat(tables, ignore_index=True).round(6)


def summarise(pictures: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each kind and training, and its change from whole pictures, with 95 % intervals.

    They are bootstrapped over groups of near-duplicates and hold the probes fixed.
    """
    base = pictures[(pictures["kind"] == "whole") & (pictures["trained_on"] == "whole")]
    rows, values = [], []
    for (kind, trained), table in pictures.groupby(["kind", "trained_on"], sort=False):
        right = table["right"].to_numpy()
        change = right - base["right"].to_numpy()
        values += [right, change]
        rows.append((kind, trained, right.mean(), change.mean(), len(table)))
    ends = significance.group_bootstraps(np.stack(values, 1), base["group"])
    result = pd.DataFrame(rows, columns=["kind", "trained_on", "accuracy", "change", "pictures"])
    result[["lower", "change_lower"]] = ends[0].reshape(-1, 2)
    result[["upper", "change_upper"]] = ends[1].reshape(-1, 2)
    result = result.assign(repeats=splits.n_repeats(folds), groups=base["group"].nunique())
    return result[[name for name in COLUMNS if name in result]]


def watermark_effect(pictures: pd.DataFrame, watermarked: Sequence[str]) -> pd.DataFrame:
    """Effect of a printed watermark on probes that have, or have not, learned from watermarks."""
    whole = pictures[pictures["kind"] == "whole"]
    listed = whole[whole["path"].isin(list(watermarked)) & (whole["trained_on"] == "whole")]
    if listed.empty:
        return pd.DataFrame()
    motif = listed["motif"].mode().iloc[0]
    rows, in_control = [], None
    for trained in (CONTROL, "whole", UNMARKED):
        own_rows = pictures[pictures["trained_on"] == trained].set_index("path")
        kinds = ("whole", "watermark added")
        before, after = (own_rows[own_rows["kind"] == kind] for kind in kinds)
        has, own = before.index.isin(list(watermarked)), before["motif"] == motif
        others = before.index[~own & ~has]
        said = [table.loc[others, f"said_{motif}"] for table in (before, after)]
        change = said[1] - said[0]
        in_control = change if in_control is None else in_control
        group = before.loc[others, "group"]
        lower, upper = significance.group_bootstrap(change, group)
        less = significance.group_bootstrap(in_control - change, group)
        rows.append(
            {"trained_on": trained, "motif": motif}
            | {"before": said[0].mean(), "after": said[1].mean()}
            | {"change": change.mean(), "lower": lower, "upper": upper}
            | {"less": (in_control - change).mean(), "less_lower": less[0], "less_upper": less[1]}
            | {
                "pictures": len(change),
                "right_marked": before.loc[own & has, "right"].mean(),
                "right_unmarked": before.loc[own & ~has, "right"].mean(),
                "marked": int((own & has).sum()),
            }
        )
    return pd.DataFrame(rows)


def _as_many(marked: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """As many pictures of each class as are marked, drawn from the others."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros_like(marked)
    for label in np.unique(labels[marked]):
        others = np.flatnonzero((labels == label) & ~marked)
        n = min(int((marked & (labels == label)).sum()), len(others))
        chosen[rng.choice(others, n, replace=False)] = True
    return chosen
