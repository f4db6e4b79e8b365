"""Tests of the deployed classifier on pictures that it did not learn from.

Accuracy comes from `selection.nested`. Refusal is tested fold by fold: the pictures of the motifs
in the fold, a fifth of the other motifs, and half of the classes of every other kind are left out
together. `independent/` holds photographs of other collections, on which nothing is fitted.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter
from scipy.special import softmax
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from batik_utils import checkpoints, metrics
from batik_utils.classifier import features, refusal
from batik_utils.classifier.export import FinalNetwork
from batik_utils.classifier.refusal import PARTS, Refusal
from batik_utils.classifier.selection import FeatureSet, Nested
from batik_utils.data import Dataset
from batik_utils.evaluation import calibration, significance
from batik_utils.images import files

RECALL, CLOTH_RECALL = 0.95, 0.97
#: Other motifs are left out in so many lots.
LOTS, LEFT_OUT = 5, "half of the classes, a fifth of the motifs"
#: Answers called sure, and probable, are right in at least this share; of counter-examples at most
#: this share is called sure.
SURE_RIGHT, PROBABLY_RIGHT, SURE_AND_WRONG = 0.98, 0.75, 0.004
#: Probabilities from which answers may be called sure, and probable.
SURE_CUTS, PROBABLY_CUTS = np.arange(80, 100) / 100, np.arange(50, 90, 5) / 100
#: Shares of places that are blurred to test the evidence.
SHARES = (0.1, 0.2, 0.3)


def accuracy(dataset: Dataset, samples: FeatureSet, nested: Nested, doubted: set[str]) -> dict:
    """Return accuracy and calibration, with intervals over groups of near-duplicates."""
    labels, groups, classes = samples.labels, samples.groups, np.asarray(dataset.classes)
    right = nested.logits.argmax(2) == labels  # (R, N)
    shares, probabilities = right.mean(0), softmax(nested.logits, axis=-1)
    chance = probabilities[:, np.arange(len(labels)), labels]
    pooled = pd.DataFrame({"label": np.tile(classes[labels], len(right))})
    pooled[[f"p_{motif}" for motif in classes]] = probabilities.reshape(-1, len(classes))
    largest = groups == pd.Series(groups).mode()[0]
    clean = ~dataset.manifest["path"].isin(doubted).to_numpy()
    once = pd.Series(shares).groupby(groups).mean()
    undoubted, folds = share(shares[clean], groups[clean]), nested.choices["fold"].nunique()
    motifs = [(motif, labels == k) for k, motif in enumerate(classes)]
    return {
        "dataset": dataset.digest,
        "pictures": len(labels),
        "groups": len(once),
        "protocol": f"{folds} grouped folds x {len(right)} repeats, nested",
        "accuracy": share(shares, groups),
        "accuracy_groups": share(once, once.index),
        "accuracy_largest_group": {"size": int(largest.sum()), "value": shares[largest].mean()},
        "accuracy_without_largest_group": share(shares[~largest], groups[~largest]),
        "accuracy_without_doubted_labels": {"pictures": int(clean.sum()), **undoubted},
        "recall": {m: share(shares[own], groups[own]) for m, own in motifs},
        "nll": float(-np.log(np.maximum(chance, 1e-12)).mean()),
        "expected_calibration_error": calibration.expected_calibration_error(pooled),
        "git": checkpoints.git_commit(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def share(values: Sequence[float], groups: Sequence | None = None) -> dict[str, float]:
    """Return a mean with its interval: bootstrapped over groups, or Wilson's without groups."""
    ends = metrics.wilson(round(np.sum(values)), len(values))
    if groups is not None:
        ends = significance.group_bootstrap(values, groups)
    return {"value": float(np.mean(values)), "lower": float(ends[0]), "upper": float(ends[1])}


def answers(fitted: Refusal, scaled: np.ndarray, labels: Sequence[int]) -> pd.DataFrame:
    """Return one row a picture: the refusal's `PARTS`, ``probability, familiarity, right``.

    A label of -1 is no motif: whatever is said of it is wrong.
    """
    probabilities, parts = fitted.answer(torch.from_numpy(scaled))
    return pd.DataFrame(parts.numpy(), columns=PARTS).assign(
        probability=probabilities.amax(1).numpy(),
        familiarity=fitted.familiarity(parts).numpy(),
        right=probabilities.argmax(1).numpy() == labels,
    )


def refused(
    samples: FeatureSet, others: pd.DataFrame, fold_of: np.ndarray, choices: pd.DataFrame
) -> pd.DataFrame:
    """Answer about pictures while neither they nor their classes were learned from.

    ``others`` has one row a counter-example: ``path, kind, name, group``; ``fold_of`` and
    ``choices`` are those of `selection.nested`. Adds ``kind`` (``motifs`` for the known ones),
    ``index, repeat, fold`` to `answers`. Known ones of all folds calibrate the familiarity.
    """
    tables = []
    for choice in tqdm([*choices.itertuples()], desc="Refusal", disable=None):
        tested, held = fold_of[:, choice.repeat] == choice.fold, held_out(others, choice.fold)
        near = others["group"].isin(set(others.loc[held, "group"])).to_numpy()
        learned = np.flatnonzero(~tested), np.flatnonzero(~held & ~near)
        fitted = refusal.fit(samples, *learned, choice.ridge, choice.temperature)
        known, other = np.flatnonzero(tested), np.flatnonzero(held)
        rows = np.r_[known, samples.other_rows(other)]
        labels = np.r_[samples.labels[known], np.full(len(other), -1)]
        table = answers(fitted, samples.scaled[rows], labels)
        table["kind"] = ["motifs"] * len(known) + [*samples.kinds[other]]
        table["index"] = np.r_[known, other]
        tables.append(table.assign(repeat=choice.repeat, fold=choice.fold))
    table = pd.concat(tables, ignore_index=True)
    parts = table[[*PARTS]].to_numpy(copy=True)
    calibrated = fitted.calibrated(parts[table["kind"] == "motifs"])
    table["familiarity"] = calibrated.familiarity(torch.from_numpy(parts)).numpy()
    return table


def held_out(others: pd.DataFrame, fold: int) -> np.ndarray:
    """Return which counter-examples a fold is tested on: whole motifs, half of other classes."""
    held = np.zeros(len(others), bool)
    for kind, names in others.groupby("kind")["name"]:
        classes = np.random.default_rng(1).permutation(sorted(names.unique()))
        lots = min(LOTS if kind == "batik" else 2, len(classes))
        if lots > 1:  # otherwise nothing to learn from would be left
            lot = {name: i % lots for i, name in enumerate(classes)}
            held[names.index] = names.map(lot).to_numpy() == fold % lots
    return held


def choose_words(tested: pd.DataFrame) -> dict[str, float]:
    """Choose the thresholds of ``labels.json`` from answers of `refused`.

    Among cuts at which enough answers called sure are right, and few enough counter-examples get
    one, the pair that calls most pictures of the motifs sure wins. Where nothing but cloth was
    learned from there is no ``cloth_threshold``.
    """
    is_known = tested["kind"] == "motifs"
    known, other = tested[is_known], tested[~is_known]
    threshold = refusal.threshold_at_recall(known["familiarity"], RECALL)
    known = known[known["familiarity"] >= threshold]
    best = (0, 1.0, float(max(threshold, tested["familiarity"].max())))
    for cut in SURE_CUTS:
        above = np.sort(other.loc[other["probability"] >= cut, "familiarity"])[::-1]
        allowed = int(SURE_AND_WRONG * len(other))
        limit = np.nextafter(above[allowed], np.inf) if len(above) > allowed else threshold
        limit = max(threshold, limit)
        sure = known[(known["probability"] >= cut) & (known["familiarity"] >= limit)]
        if len(sure) > best[0] and sure["right"].mean() >= SURE_RIGHT:
            best = (len(sure), float(cut), float(limit))
    words = {"familiarity_threshold": threshold}
    cloth = tested.loc[tested["kind"].isin(("motifs", "batik")), "cloth"]
    if cloth.any():
        words["cloth_threshold"] = refusal.threshold_at_recall(cloth, CLOTH_RECALL)
    words |= {"sure_from": best[1], "sure_familiarity": best[2]}
    spans = [known["probability"].between(c, c + 0.15, inclusive="left") for c in PROBABLY_CUTS]
    good = np.array([known.loc[span, "right"].mean() for span in spans]) >= PROBABLY_RIGHT
    probably = float(PROBABLY_CUTS[good.argmax()]) if good.any() else 0.7
    return words | {"probably_from": min(probably, best[1])}


def with_words(table: pd.DataFrame, words: dict[str, float]) -> pd.DataFrame:
    """Add ``level`` and ``words`` to answers, by the rules of the app."""
    probability, familiarity = table["probability"], table["familiarity"]
    is_motif = familiarity >= words["familiarity_threshold"]
    is_cloth = table["cloth"] >= words.get("cloth_threshold", -np.inf)
    sure = (probability >= words["sure_from"]) & (familiarity >= words["sure_familiarity"])
    probably = probability >= words["probably_from"]
    return table.assign(
        level=np.select([is_motif, is_cloth], ["motif", "other_cloth"], "no_cloth"),
        words=np.select([~is_motif, sure, probably], ["", "sure", "probably"], "either"),
    )


def refusal_rows(tested: pd.DataFrame, words: dict[str, float]) -> pd.DataFrame:
    """Return one row a kind of counter-example: what is refused where 95 % of the motifs pass."""
    answered = with_words(tested, words)
    known, rows = answered.loc[answered["kind"] == "motifs", "familiarity"], []
    for kind, table in answered[answered["kind"] != "motifs"].groupby("kind", sort=False):
        no = table["level"] != "motif"
        lower, upper = significance.group_bootstrap(no, table["index"], n=2000)
        is_known = np.repeat([True, False], [len(known), len(table)])
        rows.append(
            {
                "kind": {"batik": "other motifs"}.get(kind, kind),
                "left_out": LEFT_OUT,
                "n": table["index"].nunique(),
                "refused": no.mean(),
                "lower": lower,
                "upper": upper,
                "no_cloth": (table["level"] == "no_cloth").mean(),
                "auroc": roc_auc_score(is_known, np.r_[known, table["familiarity"]]),
                "sure_and_wrong": (table["words"] == "sure").mean(),
            }
        )
    return pd.DataFrame(rows)


def words_rows(tested: pd.DataFrame) -> dict:
    """Return how words hold where the cuts were chosen on the other half of the folds."""
    # both halves of the classes are in both, so counter-examples are divided by number
    half = np.where(tested["kind"] == "motifs", tested["fold"], tested["index"]) % 2
    parts = [with_words(tested[half == h], choose_words(tested[half != h])) for h in (0, 1)]
    answered = pd.concat(parts)
    known = answered["kind"] == "motifs"
    sure = answered.loc[~known, "words"] == "sure"
    return words_summary(answered[known]) | {"sure_and_wrong_of_counter_examples": sure.mean()}


def words_summary(answered: pd.DataFrame) -> dict:
    """Return share and accuracy of each word among pictures of the motifs."""
    found = {"n": len(answered), "refused": float((answered["words"] == "").mean())}
    for word in ("sure", "probably", "either"):
        right = answered.loc[answered["words"] == word, "right"]
        accuracy = float(right.mean()) if len(right) else None
        found[word] = {"share": len(right) / len(answered), "right": accuracy}
    return found


def independent(answered: pd.DataFrame) -> dict:
    """Return accuracy, refusals and words on photographs of other collections.

    ``answered`` is of `with_words`, with a column ``label``: ``clear`` or ``doubtful``.
    """
    clear = answered[answered["label"] == "clear"]
    return {
        "clear": {"n": len(clear), **share(clear["right"])},
        "all": {"n": len(answered), **share(answered["right"])},
        "clear_refused": share(clear["level"] != "motif"),
        "words": words_summary(clear),
    }


def evidence_checks(network: FinalNetwork, paths: Sequence[Path], seed: int = 0) -> pd.DataFrame:
    """Return one row a picture: does the evidence map mean anything?

    *Deletion*: places of most evidence, of least, and of most evidence in a map that is moved at
    random (places as clustered as those) are blurred; ``p_<order>_<percent>`` is the probability
    that remains of the motif named before.
    *Randomisation* (Adebayo et al., 2018): ``rho_head`` and ``rho_backbone`` are rank correlations
    of the map with that of a network with a shuffled head, or with re-initialised last stages.
    """
    rng = np.random.default_rng(seed)
    shuffled, drawn = (FinalNetwork.restored(network.facts(), network.state_dict()) for _ in "ab")
    order = torch.tensor(rng.permutation(len(network.weight)))
    shuffled.weight.copy_(network.weight[order])
    torch.manual_seed(seed)
    for branch in drawn.network.branches:
        for module in branch.pieces[-1].modules():
            if isinstance(module, torch.nn.Conv2d):
                module.reset_parameters()
    rows = []
    for path in tqdm(paths, desc="Evidence", disable=None):
        picture = features.pixels_of(files.open_image(path), network.size)
        probabilities, places = _seen(network, picture)
        motif = int(probabilities.argmax())
        own = places[motif]
        row = {"probability": float(probabilities[motif]), "sum": float(own.sum())}
        for name, other in (("rho_head", shuffled), ("rho_backbone", drawn)):
            row[name] = float(spearmanr(own, _seen(other, picture)[1][motif], axis=None)[0])
        moved = np.roll(own, rng.integers(1, len(own), 2), (0, 1))
        for name, values in (("most", -own), ("least", own), ("random", -moved)):
            for part in SHARES:
                hidden = np.argsort(values, axis=None)[: int(part * own.size)]
                left = _seen(network, _blurred(picture, hidden, len(own)))[0][motif]
                row[f"p_{name}_{round(100 * part)}"] = float(left)
        rows.append(row)
    return pd.DataFrame(rows)


def _seen(network: FinalNetwork, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        probabilities, _, _, places = network(torch.from_numpy(picture[None]))
    return probabilities[0].numpy(), places[0].numpy()


def _blurred(picture: np.ndarray, places: np.ndarray, grid: int) -> np.ndarray:
    stride, mask = len(picture) // grid, np.zeros((grid, grid), bool)
    mask.ravel()[places] = True
    mask = mask.repeat(stride, 0).repeat(stride, 1)
    blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(2 * stride / 3))
    return np.where(mask[:, :, None], np.asarray(blurred), picture)
