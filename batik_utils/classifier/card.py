"""The model card, and its numbers: ``card.md`` filled from ``metrics.json``.

Form: Mitchell et al., 2019, Model Cards for Model Reporting (https://arxiv.org/abs/1810.03993).
"""

from collections.abc import Sequence
from pathlib import Path
from string import Template

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax

from batik_utils import checkpoints
from batik_utils.classifier import evaluate
from batik_utils.classifier.selection import Bank, Nested
from batik_utils.data import Dataset
from batik_utils.evaluation import calibration


def summary(dataset: Dataset, bank: Bank, nested: Nested, doubted: set[str]) -> dict:
    """Return accuracy and calibration, with intervals over groups of near-duplicates."""
    labels, groups, classes = bank.labels, bank.groups, np.asarray(dataset.classes)
    right = nested.logits.argmax(2) == labels  # (R, N)
    shares, probabilities = right.mean(0), softmax(nested.logits, axis=-1)
    chance = probabilities[:, np.arange(len(labels)), labels]
    pooled = pd.DataFrame({"label": np.tile(classes[labels], len(right))})
    pooled[[f"p_{motif}" for motif in classes]] = probabilities.reshape(-1, len(classes))
    n_folds = nested.choices["fold"].nunique()
    names, sizes = np.unique(groups, return_counts=True)
    smaller = groups != names[sizes.argmax()]
    paths = dataset.manifest["path"]
    clean = ~paths.isin(doubted).to_numpy()
    once = pd.Series(shares).groupby(groups).mean()
    found = {
        "dataset": dataset.digest,
        "pictures": len(labels),
        "groups": len(names),
        "protocol": f"{n_folds} grouped folds x {len(right)} repeats, nested",
        "accuracy": evaluate.share(shares, groups),
        "accuracy_groups": evaluate.share(once, np.arange(len(once))),
        "accuracy_sd_between_repeats": float(right.mean(1).std(ddof=1)),
        "accuracy_largest_group": {"size": int(sizes.max()), "value": shares[~smaller].mean()},
        "accuracy_without_largest_group": evaluate.share(shares[smaller], groups[smaller]),
        "accuracy_without_doubted_labels": {
            "pictures": int(clean.sum()),
            **evaluate.share(shares[clean], groups[clean]),
        },
        "recall": {
            motif: evaluate.share(shares[labels == k], groups[labels == k])
            for k, motif in enumerate(classes)
        },
        "nll": float(-np.log(np.maximum(chance, 1e-12)).mean()),
        "expected_calibration_error": calibration.expected_calibration_error(pooled),
        "chosen_in_folds": nested.choices["candidate"].value_counts().to_dict(),
        "wrong_in_most_repeats": [*paths[shares < 0.5]],
    }
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    return found | {"git": checkpoints.git_commit()} | versions


def text(found: dict, classes: Sequence[str]) -> str:
    """Return the model card: ``card.md`` with the numbers of ``metrics.json``."""
    values = {"classes": ", ".join(classes), "n_classes": str(len(classes))}

    def add(prefix: str, value: object) -> None:
        if isinstance(value, dict) and {"value", "lower", "upper"} <= set(value):
            shown = f"{value['value']:.1%} [{value['lower']:.1%}, {value['upper']:.1%}]"
            values[prefix.strip("_")] = shown
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{prefix}{key}_", inner)
        elif isinstance(value, float):
            values.setdefault(prefix.strip("_"), f"{value:.3g}")
            values[f"{prefix}percent"] = f"{value:.1%}"
        elif not isinstance(value, list):
            values[prefix.strip("_")] = "none" if value is None else str(value)

    add("", found)
    values["recalls"] = "\n".join(
        f"| recall of {motif} | {values[f'recall_{motif}']} |" for motif in classes
    )
    values["refusals"] = "\n".join(
        f"| {row['kind']} | {row['n']} | {row['refused']:.1%} "
        f"[{row['lower']:.1%}, {row['upper']:.1%}] | {row['no_cloth']:.0%} | {row['auroc']:.3f} | "
        f"{row['sure_and_wrong']:.2%} |"
        for row in found["refusal"]
    )
    values["weights"] = "\n".join(f"- {name}" for name in found["model"]["weights"])
    values["learned_from"] = ", ".join(f"{n} {k}" for k, n in found["counter_examples"].items())
    template = (Path(__file__).with_name("card.md")).read_text(encoding="utf-8")
    known = {name: values.get(name, "not measured") for name in _names(template)}
    return Template(template).substitute(known)


def _names(template: str) -> list[str]:
    return [m["braced"] for m in Template.pattern.finditer(template) if m["braced"]]
