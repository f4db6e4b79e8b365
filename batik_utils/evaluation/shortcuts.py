"""Shortcuts: does a network know the motif, or something that comes with it?

A linear probe on a frozen backbone is tested in the grouped folds on pictures from which something
was removed (`KINDS`), and on pictures with a printed watermark.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
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
from batik_utils.evaluation import significance
from batik_utils.images import changes

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
#: What a probe is trained on besides whole pictures and pictures of the tested kind.
UNMARKED, CONTROL = "whole, watermarked left out", "whole, as many others left out"


def run(
    dataset: Dataset, folds: pd.DataFrame, folder: Path, watermarked: Sequence[str] = ()
) -> list[pd.DataFrame]:
    """Test the networks of `RECIPES`; write tables of `summarise`, `watermark_effect` (if any)."""
    watermarked = sorted(set(watermarked) & set(folds["path"]))
    folds = folds.set_index("path").loc[dataset.manifest["path"]].reset_index()
    pictures = {}
    for name in RECIPES:
        recipe = recipes.get(name)
        with training.seeded(0):
            model, _ = models.build(recipe, len(dataset.classes))
        model.to(training.choose_device())
        seen = models.preprocessing_of(recipe)
        pixels = transforms.load_pixels(dataset, seen)
        features = {
            kind: training.features(model, seen, masked(pixels, kind)).cpu().numpy()
            for kind in tqdm(KINDS, desc=f"{name}: features", unit="kind", disable=None)
        }
        pictures[name] = answers(features, folds, watermarked)
    found = {"shortcuts": {name: summarise(rows, folds) for name, rows in pictures.items()}}
    if watermarked:
        effects = {name: watermark_effect(rows, watermarked) for name, rows in pictures.items()}
        found["watermark"] = effects
    tables = [pd.concat(parts, names=["recipe"]).reset_index("recipe") for parts in found.values()]
    tables[0]["dataset"] = dataset.digest
    for stem, table in zip(found, tables, strict=True):
        data.write_table(table.round(6), folder / f"{stem}.csv", digits=None)
    return tables


def masked(pixels: Tensor, kind: str) -> Tensor:
    """Pictures, uint8 (N, 3, S, S), after one of `KINDS`; what is hidden takes the mean colour."""
    side = pixels.shape[-1]
    y, x = (np.mgrid[:side, :side] + 0.5) / side  # the middle of a pixel decides
    band, seal = (y >= 0.45) & (y < 0.55), (y >= 0.78) & (x >= 0.78)
    # centre and border have half of the area each
    centre = np.maximum(abs(y - 0.5), abs(x - 0.5)) < math.sqrt(0.5) / 2
    hidden = {"band masked": band, "watermarks masked": band | seal}
    hidden |= {"centre only": ~centre, "border only": centre}
    if kind in hidden:
        mask = torch.from_numpy(hidden[kind])
        mean = (pixels * ~mask).sum((2, 3), keepdim=True, dtype=torch.float) / (~mask).sum()
        return torch.where(mask, mean.round().to(torch.uint8), pixels)
    if kind == "colour removed":
        luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        return (pixels * luma).sum(1, keepdim=True).round().to(torch.uint8).repeat(1, 3, 1, 1)
    if kind == "blurred":
        return functional.gaussian_blur(
            pixels, [2 * math.ceil(3 * side / 28) + 1] * 2, [side / 28] * 2
        )
    if kind == "shuffled tiles":
        rng = np.random.default_rng(0)
        tiles = pixels.unfold(2, side // 4, side // 4).unfold(3, side // 4, side // 4).flatten(2, 3)
        order = torch.from_numpy(np.stack([rng.permutation(16) for _ in pixels]))
        moved = torch.stack([tile[:, own] for tile, own in zip(tiles, order, strict=True)])
        return moved.unflatten(2, (4, 4)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    if kind == "watermark added":
        overlay, height = Image.new("RGBA", (side, side)), 0.065 * side
        strip = (side - height) / 2, (side + height) / 2 - 1, (0, 0, 0, 165)
        printed = ("0123.456.789   /   BATIK SHOP", (side / 2, side / 2), round(0.6 * height))
        changes.watermark(overlay, *printed, (255, 255, 255, 165), strip, "mm")
        values = torch.from_numpy(np.asarray(overlay, dtype=np.float32)).permute(2, 0, 1)
        alpha = values[3] / 255
        return (pixels * (1 - alpha) + values[:3] * alpha).round().to(torch.uint8)
    return pixels


def answers(
    features: Mapping[str, np.ndarray], folds: pd.DataFrame, watermarked: Sequence[str] = ()
) -> pd.DataFrame:
    """Motif ``said`` by probes for each picture, kind and training, from features (N, F)."""
    motifs, marked = folds["motif"].to_numpy(), folds["path"].isin(watermarked).to_numpy()
    tests = {kind: [kind] for kind in features if kind != "watermark added"}
    tests["whole"] = list(features)
    if marked.any():
        few = [kind for kind in ("whole", "band masked", "watermark added") if kind in features]
        tests |= {UNMARKED: few, CONTROL: few}
    parts = list(product(range(splits.n_repeats(folds)), range(splits.n_folds(folds))))
    found = []
    for repeat, fold in tqdm(parts, desc="Probes", unit="fold", disable=None):
        test = (folds[f"repeat_{repeat}"] == fold).to_numpy()
        tested = folds.loc[test, ["path", "motif", "group"]]
        left_out = {UNMARKED: marked, CONTROL: _as_many(marked, motifs, repeat)}
        for trained, kinds in tests.items():
            train = ~test & ~left_out.get(trained, np.False_)
            source = features[trained if trained in features else "whole"]
            fitted = baselines.linear_probe().fit(source[train], motifs[train])
            for kind in kinds:
                said = fitted.predict(features[kind][test])
                found.append(tested.assign(kind=kind, trained_on=trained, said=said))
    return pd.concat(found, ignore_index=True)


def summarise(pictures: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each kind and training and its change from whole pictures; 95 % by groups."""
    right = pictures.assign(right=pictures["said"] == pictures["motif"])
    right = right.pivot_table("right", "path", ["kind", "trained_on"], sort=False)
    right = right.loc[folds["path"]]
    change = right.sub(right["whole", "whole"], axis=0)
    result = right.columns.to_frame(index=False)
    for name, prefix, values in (("accuracy", "", right), ("change", "change_", change)):
        result[name] = values.mean().to_numpy()
        ends = significance.group_bootstrap(values, folds["group"])
        result[[f"{prefix}lower", f"{prefix}upper"]] = ends.T
    numbers = {"repeats": splits.n_repeats(folds), "pictures": len(folds)}
    return result.assign(**numbers, groups=folds["group"].nunique())


def watermark_effect(pictures: pd.DataFrame, watermarked: Sequence[str]) -> pd.DataFrame:
    """Effect of a printed watermark on probes that have, or have not, learned from watermarks."""
    marked = pictures["path"].isin(watermarked)
    motif = pictures.loc[marked, "motif"].mode().iloc[0]
    pictures = pictures.assign(said=pictures["said"] == motif, marked=marked)
    rows, control = [], 0.0
    for trained in (CONTROL, "whole", UNMARKED):
        tested = pictures[pictures["trained_on"] == trained]
        others = tested[(tested["motif"] != motif) & ~tested["marked"]]
        said = others.pivot_table("said", ["path", "group"], "kind")
        change = said["watermark added"] - said["whole"]
        control = control if rows else change
        row = {"trained_on": trained, "motif": motif}
        row |= {"before": said["whole"].mean(), "after": said["watermark added"].mean()}
        for name, prefix, values in (("change", "", change), ("less", "less_", control - change)):
            ends = significance.group_bootstrap(values, said.index.get_level_values("group"))
            row |= {name: values.mean(), f"{prefix}lower": ends[0], f"{prefix}upper": ends[1]}
        own = tested[(tested["motif"] == motif) & (tested["kind"] == "whole")]
        right = own.groupby("marked")["said"].mean().reindex([True, False])
        row |= {"pictures": len(said), "right_marked": right[True], "right_unmarked": right[False]}
        rows.append(row | {"marked": own.loc[own["marked"], "path"].nunique()})
    return pd.DataFrame(rows)


def _as_many(marked: np.ndarray, motifs: np.ndarray, seed: int) -> np.ndarray:
    """As many pictures of each motif as are marked, drawn from the others."""
    rng, chosen = np.random.default_rng(seed), np.zeros_like(marked)
    for motif in np.unique(motifs[marked]):
        others = np.flatnonzero((motifs == motif) & ~marked)
        n = min(int((marked & (motifs == motif)).sum()), len(others))
        chosen[rng.choice(others, n, replace=False)] = True
    return chosen
