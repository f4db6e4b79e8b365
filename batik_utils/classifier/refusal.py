"""Refusal: is it one of the motifs, another cloth, or no cloth at all?

The familiarity adds, each over its own spread, the *energy*, log-sum-exp of the motifs' logits (Liu
et al., 2020), and the *contrast*, log-odds of the motifs against all counter-examples. Something
else altogether may score high in both by chance, as they are linear where one motif prevails. So it
costs to have less than nearly all known pictures have of *nearness*, minus the Mahalanobis distance
to the nearest motif (Lee et al., 2018), and of *cloth*, log-odds of cloth against no cloth where
the motifs and all `KINDS` are classes of their own. Spreads, starts and thresholds come from known
pictures while they were held out.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from batik_utils.baselines import Linear, Scaler, copy_weights, rescaled
from batik_utils.classifier.selection import FeatureSet

#: Kinds of counter-examples, by the folder they come from, and whether they are cloth. The motifs
#: that are not among the classes are of the first kind.
KINDS = {"batik": True, "songket": True, "textures": False, "photographs": False}
PARTS = ("energy", "contrast", "nearness", "cloth")
#: Ridge of the discriminants and of the distance; features vary by about 1.
RIDGE = 1.0
#: Shares of known pictures with too little nearness and cloth, and what each unit of it costs.
TOO_LITTLE, LOSS = (0.01, 0.04), 4.0
#: What is learned: ``weight`` (F, K + 1 + K + R) and ``bias`` of the logits of the motifs, of the
#: contrast, and of the motifs with each kind of counter-example; which of these last are cloth;
#: mean and scale of features; for the distance the motifs' means (K, F) and the covariance's
#: directions ``axes`` (F, r), with ``shrink`` v / (v + ridge) for each direction's variance v;
#: standard deviations of the `PARTS`, and nearness and cloth below which familiarity is lost.
NUMBERS = ("weight", "bias", "temperature", "is_cloth", "centre", "scale", "means", "axes")
NUMBERS += ("shrink", "spread", "start")


class Refusal(nn.Module):
    """Features (N, F) to probabilities of the motifs and to the parts of the familiarity."""

    def __init__(self, numbers: dict[str, Tensor]):
        super().__init__()
        for name in NUMBERS:
            self.register_buffer(name, torch.as_tensor(numbers[name]).clone())

    def answer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities (N, K) and `PARTS` (N, 4) of features (N, F).

        Contrast and cloth are 0 where there was nothing to compare with.
        """
        n_motifs, values = len(self.means), x @ self.weight + self.bias
        motifs, contrast, kinds = values.split([n_motifs, 1, len(self.is_cloth)], 1)
        gaps = ((x - self.centre) / self.scale)[:, None] - self.means  # (N, K, F)
        lengths = gaps.square().sum(2) - (gaps @ self.axes).square() @ self.shrink
        energy = torch.logsumexp(motifs, 1)
        nearness, cloth = -lengths.amin(1) / RIDGE, _log_odds(kinds, self.is_cloth)
        parts = torch.stack([energy, contrast[:, 0], nearness, cloth], 1)
        return torch.softmax(motifs / self.temperature, 1), parts

    def familiarity(self, parts: Tensor) -> Tensor:
        """Return (N,) of `PARTS` (N, 4), higher is more like the motifs."""
        too_little = torch.relu((self.start - parts[:, 2:]) / self.spread[2:]).sum(1)
        return (parts / self.spread)[:, :2].sum(1) - LOSS * too_little

    def calibrated(self, known: np.ndarray) -> "Refusal":
        """Return it with spreads and starts of the `PARTS` (N, 4) of held-out known pictures."""
        spread = known.std(0)
        start = [np.quantile(known[:, 2 + k], part) for k, part in enumerate(TOO_LITTLE)]
        numbers = {"spread": np.where(spread > 0, spread, 1.0), "start": np.array(start)}
        return Refusal(self.state_dict() | numbers)

    def of_raw(self, scaler: Scaler) -> "Refusal":
        """Return the same of raw features, where this one is of scaled ones."""
        raw = rescaled(Linear(self.weight.numpy(), self.bias.numpy()), scaler)
        numbers = vars(raw) | {"centre": scaler.mean, "scale": scaler.scale}
        return Refusal(self.state_dict() | numbers)


def _log_odds(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the log-odds of chosen columns against the others, 0 if there are none."""
    low = torch.full_like(logits, -1e9)
    own, others = (torch.logsumexp(torch.where(c, logits, low), 1) for c in (chosen, ~chosen))
    return torch.where(chosen.all(), torch.zeros_like(own), own - others)


def fit(
    samples: FeatureSet, pictures: np.ndarray, others: np.ndarray, ridge: float, temperature=1.0
) -> Refusal:
    """Learn from pictures of the motifs and from counter-examples; it takes scaled features.

    The motifs and the contrast learn from changed copies, too; against counter-examples a picture
    and its copies count as one. Cloth and distance do not: they are of pictures as they are.
    """
    labels, n_motifs = samples.labels[pictures], samples.labels.max() + 1
    present = [kind for kind in KINDS if (samples.kinds[others] == kind).any()]
    number = {kind: n_motifs + i for i, kind in enumerate(present)}
    classes = np.r_[labels, [number[kind] for kind in samples.kinds[others]]].astype(int)
    of_others, copied = samples.other_rows(others), samples.rows(pictures)
    motifs = samples.fit_motifs(pictures, ridge)
    kinds = samples.fit(np.r_[pictures, of_others], classes, RIDGE)
    contrast = Linear(np.zeros((samples.scaled.shape[1], 2)), np.zeros(2))
    if len(others):
        is_motif = np.r_[np.ones(len(copied), int), np.zeros(len(others), int)]
        weights = np.r_[copy_weights(len(pictures), samples.copies) / 2, np.ones(len(others))]
        contrast = samples.fit(np.r_[copied, of_others], is_motif, RIDGE, weights)
    known = samples.scaled[pictures]
    means = np.stack([known[labels == k].mean(0) for k in range(n_motifs)])
    residuals = known - means[labels]
    values, vectors = np.linalg.eigh(residuals @ residuals.T / len(known))
    keep = values > max(values[-1], 1e-300) * 1e-10
    values, vectors = values[keep], vectors[:, keep]
    return Refusal(
        {
            "weight": np.c_[motifs.weight, np.diff(contrast.weight), kinds.weight],
            "bias": np.r_[motifs.bias, np.diff(contrast.bias), kinds.bias],
            "temperature": np.float64(temperature),
            "is_cloth": np.array([True] * n_motifs + [KINDS[kind] for kind in present]),
            "centre": np.zeros(known.shape[1]),
            "scale": np.ones(known.shape[1]),
            "means": means,
            "axes": residuals.T @ (vectors / np.sqrt(len(known) * values)),
            "shrink": values / (values + RIDGE),
            "spread": np.ones(len(PARTS)),
            "start": np.full(2, -np.inf),
        }
    )


def threshold_at_recall(known: Sequence[float], recall: float) -> float:
    """Return the largest threshold that at least that share of known scores reaches."""
    return float(np.sort(known)[::-1][int(np.ceil(recall * len(known) - 1e-9)) - 1])
