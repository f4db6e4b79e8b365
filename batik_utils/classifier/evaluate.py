"""Tests of the deployed classifier on pictures that it did not learn from.

    >>> tested = evaluate.refused(bank, others, fold_of, nested.choices)
    >>> words = evaluate.choose_words(tested)

Accuracy comes from `selection.nested`. Refusal is tested fold by fold: the pictures of the motifs
in the fold, a fifth of the other motifs, and half of the classes of every other kind are left out
together. `independent/` holds photographs of other collections, on which nothing is fitted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter
from scipy.special import softmax
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from batik_utils import metrics
from batik_utils.classifier import refusal
from batik_utils.classifier.network import FinalNetwork
from batik_utils.classifier.refusal import Refusal
from batik_utils.classifier.selection import Bank
from batik_utils.evaluation import significance

PARTS = ["energy", "contrast", "nearness", "cloth"]
RECALL, CLOTH_RECALL = 0.95, 0.97
#: Other motifs are left out in so many lots.
LOTS = 5
LEFT_OUT = "half of the classes, a fifth of the motifs"
#: Answers called sure are right in at least this share; of counter-examples at most this share is.
SURE_RIGHT, SURE_AND_WRONG = 0.98, 0.005
#: Less probable answers are not called sure.
SURE_LEAST = 0.8
#: Shares of places that are blurred to test the evidence.
SHARES = (0.1, 0.2, 0.3)
#: Answers called probable are right in at least this share.
PROBABLY_RIGHT = 0.75


@dataclass(frozen=True)
class Words:
    """Thresholds of the answer's level and words, see ``labels.json``."""

    familiarity_threshold: float
    cloth_threshold: float | None
    sure_from: float
    sure_familiarity: float
    probably_from: float

    def as_json(self) -> dict:
        """Return plain values; without textures or photographs there is no cloth threshold."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def answers(
    fitted: Refusal, scaled: np.ndarray, temperature: float, labels: Sequence[int] | None = None
) -> pd.DataFrame:
    """Return one row a picture: ``predicted, probability, right``, and the refusal's `PARTS`.

    ``right`` is False where there are no labels: whatever is said of a counter-example is wrong.
    """
    logits, parts = fitted.motifs.logits(scaled), fitted.parts(scaled)
    table = pd.DataFrame(parts, columns=PARTS)
    return table.assign(
        predicted=logits.argmax(1),
        probability=softmax(logits / temperature, axis=1).max(1),
        familiarity=fitted.familiarity(parts),
        right=False if labels is None else logits.argmax(1) == labels,
    )


def refused(
    bank: Bank, others: pd.DataFrame, fold_of: np.ndarray, choices: pd.DataFrame
) -> pd.DataFrame:
    """Answer about pictures while neither they nor their classes were learned from.

    Args:
        bank: features of all pictures and counter-examples.
        others: one row a counter-example, in the bank's order: ``path, kind, name, group``.
        fold_of: (N, R) fold in which a picture of the motifs is tested, by repeat.
        choices: of `selection.nested`.

    Returns:
        Columns of `answers`, and ``kind`` (``motifs`` for the known ones), ``index, repeat, fold``.
        The familiarity is calibrated on the known ones of all folds.
    """
    parts, everything = [], np.arange(len(others))
    for choice in tqdm([*choices.itertuples()], desc="Refusal", disable=None):
        tested = fold_of[:, choice.repeat] == choice.fold
        held = held_out(others, choice.fold)
        near = others["group"].isin(set(others.loc[held, "group"])).to_numpy()
        ridge = float(choice.candidate.split()[-1])
        fitted = refusal.fit(bank, np.flatnonzero(~tested), everything[~held & ~near], ridge)
        for kind, index, labels in (
            ("motifs", np.flatnonzero(tested), bank.labels[tested]),
            ("", everything[held], None),
        ):
            rows = index if kind else bank.other_rows(index)
            table = answers(fitted, bank.scaled[rows], choice.temperature, labels)
            table["kind"] = kind or others["kind"].to_numpy()[index]
            parts.append(table.assign(index=index, repeat=choice.repeat, fold=choice.fold))
    table = pd.concat(parts, ignore_index=True)
    known = table.loc[table["kind"] == "motifs", PARTS].to_numpy()
    table["familiarity"] = fitted.calibrated(known).familiarity(table[PARTS].to_numpy())
    return table


def held_out(others: pd.DataFrame, fold: int) -> np.ndarray:
    """Return which counter-examples a fold is tested on: whole motifs, half of other classes."""
    held = np.zeros(len(others), bool)
    for kind, names in others.groupby("kind")["name"]:
        classes = np.random.default_rng(1).permutation(sorted(names.unique()))
        lots = min(LOTS if kind == "batik" else 2, len(classes))
        if len(classes) < 2:  # nothing to learn from, were it left out
            continue
        lot = {name: i % lots for i, name in enumerate(classes)}
        held[names.index] = names.map(lot).to_numpy() == fold % lots
    return held


def choose_words(tested: pd.DataFrame, has_cloth: bool = True) -> Words:
    """Choose the thresholds from answers of `refused`.

    Among cuts at which enough answers called sure are right, and few enough counter-examples get
    one, the pair of cuts that calls most pictures of the motifs sure wins.
    """
    is_known = tested["kind"] == "motifs"
    known, other = tested[is_known], tested[~is_known]
    threshold = refusal.threshold_at_recall(known["familiarity"], RECALL)
    known = known[known["familiarity"] >= threshold]
    best = (0, 1.0, float(max(threshold, tested["familiarity"].max())))
    for cut in np.arange(100 * SURE_LEAST, 100) / 100:
        above = np.sort(other.loc[other["probability"] >= cut, "familiarity"])[::-1]
        allowed = int(SURE_AND_WRONG * len(other))
        limit = np.nextafter(above[allowed], np.inf) if len(above) > allowed else threshold
        limit = max(threshold, limit)
        sure = known[(known["probability"] >= cut) & (known["familiarity"] >= limit)]
        if len(sure) > best[0] and sure["right"].mean() >= SURE_RIGHT:
            best = (len(sure), float(cut), float(limit))
    _, sure_from, sure_familiarity = best
    probably = 0.7
    for cut in np.arange(50, 90, 5) / 100:
        middle = known[(known["probability"] >= cut) & (known["probability"] < cut + 0.15)]
        if len(middle) and middle["right"].mean() >= PROBABLY_RIGHT:
            probably = float(cut)
            break
    cloth = tested.loc[tested["kind"].isin(("motifs", "batik")), "cloth"]
    return Words(
        threshold,
        refusal.threshold_at_recall(cloth, CLOTH_RECALL) if has_cloth else None,
        sure_from,
        sure_familiarity,
        min(probably, sure_from),
    )


def with_words(table: pd.DataFrame, words: Words) -> pd.DataFrame:
    """Add ``level`` and ``words`` to answers, by the rules of the app."""
    is_motif = table["familiarity"] >= words.familiarity_threshold
    has_cloth = words.cloth_threshold is not None
    is_cloth = table["cloth"] >= (words.cloth_threshold if has_cloth else -np.inf)
    sure = (table["probability"] >= words.sure_from) & (
        table["familiarity"] >= words.sure_familiarity
    )
    probably = table["probability"] >= words.probably_from
    return table.assign(
        level=np.select([is_motif, is_cloth], ["motif", "other_cloth"], "no_cloth"),
        words=np.select([~is_motif, sure, probably], ["", "sure", "probably"], "either"),
    )


def refusal_rows(tested: pd.DataFrame, words: Words) -> pd.DataFrame:
    """Return one row a kind of counter-example: what is refused where 95 % of the motifs pass."""
    answered = with_words(tested, words)
    known, rows = answered.loc[answered["kind"] == "motifs", "familiarity"], []
    for kind, table in answered[answered["kind"] != "motifs"].groupby("kind", sort=False):
        no = table["level"] != "motif"
        lower, upper = significance.group_bootstrap(no, table["index"], n=2000)
        rows.append(
            {
                "kind": {"batik": "other motifs"}.get(kind, kind),
                "left_out": LEFT_OUT,
                "n": table["index"].nunique(),
                "refused": no.mean(),
                "lower": lower,
                "upper": upper,
                "no_cloth": (table["level"] == "no_cloth").mean(),
                "auroc": refusal.auroc(known, table["familiarity"]),
                "sure_and_wrong": (table["words"] == "sure").mean(),
            }
        )
    return pd.DataFrame(rows)


def words_rows(tested: pd.DataFrame) -> dict:
    """Return how words hold where the cuts were chosen on the other half of the folds."""
    parts = []
    for half in (0, 1):
        own = tested["fold"] % 2 == half
        # both halves of the classes are in both, so counter-examples are divided by number
        own = np.where(tested["kind"] == "motifs", own, tested["index"] % 2 == half)
        parts.append(with_words(tested[own], choose_words(tested[~own])))
    answered = pd.concat(parts)
    known = answered["kind"] == "motifs"
    return words_summary(answered[known]) | {
        "sure_and_wrong_of_counter_examples": float(
            (answered.loc[~known, "words"] == "sure").mean()
        )
    }


def words_summary(answered: pd.DataFrame) -> dict:
    """Return share and accuracy of each word among pictures of the motifs."""
    found = {"n": len(answered), "refused": float((answered["words"] == "").mean())}
    for word in ("sure", "probably", "either"):
        right = answered.loc[answered["words"] == word, "right"]
        found[word] = {
            "share": len(right) / len(answered),
            "right": float(right.mean()) if len(right) else None,
        }
    return found


def share(values: Sequence[float], groups: Sequence | None = None) -> dict[str, float]:
    """Return a mean with its interval: bootstrapped over groups, or Wilson's without groups."""
    values = np.asarray(values, dtype=float)
    if groups is None:
        lower, upper = metrics.wilson(int(values.sum()), len(values))
    else:
        lower, upper = significance.group_bootstrap(values, groups)
    return {"value": float(values.mean()), "lower": lower, "upper": upper}


def independent(answered: pd.DataFrame, table: pd.DataFrame) -> dict:
    """Return accuracy, refusals and words on photographs of other collections.

    ``answered`` is of `with_words`; ``table`` has a column ``label``: ``clear`` or ``doubtful``.
    """
    clear = (table["label"] == "clear").to_numpy()
    return {
        "clear": {"n": int(clear.sum()), **share(answered.loc[clear, "right"])},
        "all": {"n": len(answered), **share(answered["right"])},
        "clear_refused": share(answered.loc[clear, "level"] != "motif"),
        "words": words_summary(answered[clear]),
    }


def evidence_checks(
    network: FinalNetwork, pixels: Sequence[np.ndarray], seed: int = 0
) -> pd.DataFrame:
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
    for picture in tqdm(pixels, desc="Evidence", disable=None):
        probabilities, _, _, places = _run(network, [picture])
        motif = int(probabilities[0].argmax())
        own = places[0, motif]
        row = {"probability": float(probabilities[0, motif]), "sum": float(own.sum())}
        for name, other in (("rho_head", shuffled), ("rho_backbone", drawn)):
            row[name] = float(
                spearmanr(own.ravel(), _run(other, [picture])[3][0, motif].ravel())[0]
            )
        moved = np.roll(own, rng.integers(1, len(own), 2), (0, 1))
        ranks = {"most": -own.ravel(), "least": own.ravel(), "random": -moved.ravel()}
        changed = {
            f"p_{name}_{round(100 * part)}": _blurred(
                picture, np.argsort(rank)[: int(part * own.size)], own.shape
            )
            for name, rank in ranks.items()
            for part in SHARES
        }
        left = [_run(network, [one])[0][0, motif] for one in changed.values()]
        rows.append(row | dict(zip(changed, map(float, left), strict=True)))
    return pd.DataFrame(rows)


def _run(network: FinalNetwork, pixels: Sequence[np.ndarray]) -> list[np.ndarray]:
    with torch.inference_mode():
        return [found.numpy() for found in network(torch.from_numpy(np.stack(pixels)))]


def _blurred(picture: np.ndarray, places: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(grid, bool)
    mask.ravel()[places] = True
    stride = len(picture) // len(mask)
    mask = mask.repeat(stride, 0).repeat(stride, 1)
    blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(2 * stride / 3))
    return np.where(mask[:, :, None], np.asarray(blurred), picture)
