"""One model for all motifs of the data set, by the same means, with honest numbers of its own.

Run it::

    python -m batik_utils build --classes all --data folder --root path/to/indonesian-batik-motifs

Twenty motifs with fifty pictures each, many of them filed under two motifs or showing no cloth,
are far harder than three. Features, heads and nested selection are those of the final model
(`batik_utils.final`, `batik_utils.selection`), without changed copies. "None of these" is the
energy of the logits alone, since no pictures of other motifs are left to learn from.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp, softmax
from torch import Tensor, nn

from batik_utils import (
    build,
    embedding,
    export,
    final,
    linear,
    metrics,
    pictures,
    rejection,
    selection,
    significance,
    splits,
)
from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.linear import Head

#: Repeats of the folds: there are six times as many pictures as of the three motifs.
REPEATS = 2
SUBSETS = ("both/three", "efficientnet_lite0/three")
HEADS = (Head("lda", 0.3), Head("lda", 1.0), Head("lda", 3.0))


class AllNetwork(nn.Module):
    """Pixels to probabilities of the motifs, and the energy of their logits.

    Args:
        network: pixels to features (N, F).
        head: logits of raw features.
        temperature: by which they are divided.
    """

    def __init__(self, network: nn.Module, head: linear.Linear, temperature: float):
        super().__init__()
        self.network = network
        for name, values in (("weight", head.weight), ("bias", head.bias)):
            self.register_buffer(name, torch.tensor(values / temperature, dtype=torch.float32))
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, K) probabilities and (N,) familiarity of uint8 pixels (N, S, S, 3)."""
        logits = self.network(pixels) @ self.weight + self.bias
        return torch.softmax(logits, 1), torch.logsumexp(logits, 1)


def run(
    dataset: Dataset,
    home: Path,
    weights_directory: str | Path | None = None,
    *,
    output: Path | None = None,
    evaluate_only: bool = False,
    progress: bool = True,
) -> Path:
    """Test by cross-validation, and unless that is all, make the model from all pictures.

    Args:
        dataset: pictures of all motifs.
        home: ``<results>/<data set>``; ``duplicate_groups.csv`` must be there. ``cv-all`` is
            written there.
        weights_directory: folder to look for pretrained weights first.
        output: folder of the model; None for ``model-all``.
        evaluate_only: write no model.
        progress: show bars.

    Returns:
        Folder of the model, or of the cross-validation if that is all.

    Raises:
        BatikError: there are no groups of near-twins.
    """
    place = home / "cv-all"
    folds = splits.open_or_make_folds(
        dataset, place / "folds.csv", home / "duplicate_groups.csv", repeats=REPEATS
    )
    fold_of = folds[[c for c in folds if c.startswith("repeat_")]].to_numpy()
    network = embedding.build(final.BRANCHES, weights_directory)
    widths, sets = network.widths(), final.subsets()
    columns = {s: embedding.columns(final.BRANCHES, widths, sets[s]) for s in SUBSETS}
    store = final.FeatureCache(network, embedding.SIZE)
    features = store.features(dataset.paths, progress=progress)
    labels, groups = np.asarray(dataset.labels), folds["group"].to_numpy()
    # the scale of the features comes from these pictures, without their labels
    bank = selection.Bank.of(features, features, columns, labels, groups)
    options = selection.candidates(SUBSETS, HEADS)
    outcome = selection.nested(bank, fold_of, options, progress=progress)
    choice = selection.choose(bank, np.arange(len(labels)), options, seed=0)
    found, by_motif, predictions = tables(dataset.classes, folds, labels, outcome)
    place.mkdir(parents=True, exist_ok=True)
    for name, table in (
        ("summary", found),
        ("motifs", by_motif),
        ("predictions", predictions),
        ("choices", outcome.choices),
    ):
        table.to_csv(place / f"{name}.csv", index=False, float_format="%.6g")
    if evaluate_only:
        return place

    chosen = choice.candidate
    scaler = linear.Scaler.of(features[:, columns[chosen.subset]])
    head = linear.fit(features[:, columns[chosen.subset]], labels, chosen.head, scaler)
    model = AllNetwork(
        embedding.build(sets[chosen.subset], weights_directory), head, choice.temperature
    )
    folder = output or home / "model-all"
    folder.mkdir(parents=True, exist_ok=True)
    export.to_onnx(
        model,
        folder / "model.onnx",
        size=embedding.SIZE,
        outputs=("probabilities", "familiarity"),
        notes={"dataset": dataset.digest, "candidate": chosen.name},
    )
    some = dataset.paths[:: max(1, len(dataset.paths) // 4)]
    pixels = np.stack([embedding.pixels_of(pictures.open_picture(path)) for path in some])
    export.check(folder / "model.onnx", model, pixels)
    # outer logits are divided by other folds' temperatures, nearly the same
    threshold = rejection.threshold_at_recall(logsumexp(outcome.logits[0], axis=1), final.RECALL)
    for name, values in (
        (
            "labels",
            {
                "classes": list(dataset.classes),
                "familiarity_threshold": threshold,
                "opset": export.OPSET,
            },
        ),
        (
            "preprocessing",
            {
                "size": embedding.SIZE,
                "fit": "squash",
                "interpolation": embedding.INTERPOLATION,
                "colour": "RGB",
            },
        ),
        ("metrics", {"candidate": chosen.name, **found.iloc[0].to_dict()}),
    ):
        text = json.dumps(values, indent=2, ensure_ascii=False, default=float)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    build.write_sums(folder)  # predict opens nothing without them
    return folder


def tables(
    classes: Sequence[str], folds: pd.DataFrame, labels: np.ndarray, outcome: selection.Nested
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return a summary of one row, one row a motif, and one row a picture and repeat.

    Args:
        classes: motifs.
        folds: of `splits.make_folds`.
        labels: (N,) class indices.
        outcome: of nested selection.

    Raises:
        BatikError: numbers of pictures differ.
    """
    if not len(folds) == len(labels) == outcome.logits.shape[1]:
        raise BatikError(f"{len(folds)} folds and {len(labels)} labels do not belong together.")
    names, probabilities = np.asarray(classes), softmax(outcome.logits, axis=-1)
    right = probabilities.argmax(-1) == labels
    per_picture, groups = right.mean(0), folds["group"]
    lower, upper = significance.group_bootstrap(per_picture, groups)
    best = np.argsort(-probabilities, axis=-1)[..., :3]
    scores = [metrics.scores(labels, p) for p in probabilities]
    summary = pd.DataFrame(
        [
            {
                "recipe": "final, all motifs",
                "motifs": len(classes),
                "repeats": len(right),
                "n_pictures": len(labels),
                "groups": groups.nunique(),
                "accuracy": per_picture.mean(),
                "lower": lower,
                "upper": upper,
                "sd_between_repeats": right.mean(1).std(ddof=1),
                "top_3": (best == labels[:, None]).any(-1).mean(),
                **{k: np.mean([s[k] for s in scores]) for k in ("f1_macro", "nll", "brier")},
                "chance": 1 / len(classes),
            }
        ]
    )
    rows, predictions = [], []
    answers = probabilities.argmax(-1)
    for k, motif in enumerate(classes):
        own = labels == k
        lower, upper = significance.group_bootstrap(per_picture[own], groups[own])
        wrong = answers[:, own][answers[:, own] != k]
        mostly = np.bincount(wrong, minlength=len(classes))
        rows.append(
            {
                "motif": motif,
                "pictures": int(own.sum()),
                "recall": per_picture[own].mean(),
                "lower": lower,
                "upper": upper,
                "precision": (labels[np.where(answers == k)[1]] == k).mean()
                if (answers == k).any()
                else np.nan,
                "mostly_taken_for": names[mostly.argmax()] if len(wrong) else "",
                "share_of_errors": mostly.max() / len(wrong) if len(wrong) else np.nan,
            }
        )
    for repeat, p in enumerate(probabilities):
        predictions.append(
            pd.DataFrame(
                {
                    "path": folds["path"],
                    "repeat": repeat,
                    "fold": folds[f"repeat_{repeat}"],
                    "label": names[labels],
                    "predicted": names[p.argmax(1)],
                    "probability": p.max(1),
                    "p_label": p[np.arange(len(labels)), labels],
                }
            )
        )
    motifs = pd.DataFrame(rows).sort_values("recall", ascending=False, kind="stable")
    return summary, motifs, pd.concat(predictions, ignore_index=True)
