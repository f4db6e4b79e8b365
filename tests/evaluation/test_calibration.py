"""Calibration of predictions whose flaws are known because they were planted."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from batik_utils import metrics
from batik_utils.errors import BatikError
from batik_utils.evaluation import calibration

MOTIFS = ["betawi", "sidoluhur", "tambal"]


def table_of(labels, probabilities, **columns):
    named = {f"p_{name}": np.asarray(probabilities)[:, k] for k, name in enumerate(MOTIFS)}
    defaults = {"recipe": "r", "repeat": 0, "fold": np.arange(len(labels)) % 5}
    return pd.DataFrame({"label": np.array(MOTIFS)[labels], **defaults, **columns, **named})


def calibrated(n, seed=0, spread=2.0):
    """Probabilities, and labels drawn with them."""
    rng = np.random.default_rng(seed)
    probabilities = softmax(rng.normal(0, spread, (n, 3)), axis=1)
    labels = (rng.random(n)[:, None] > probabilities.cumsum(axis=1)).sum(axis=1)
    return labels, probabilities


def test_arrays_undo_the_rounding_of_a_file_and_refuse_what_is_no_probability():
    good = table_of([0, 2], [[0.333333, 0.333333, 0.333333], [0, 1e-6, 1]])
    labels, probabilities, classes = calibration.arrays(good)
    assert (labels.tolist(), classes) == ([0, 2], MOTIFS)
    assert probabilities.sum(axis=1) == pytest.approx([1, 1], abs=1e-15)
    odd = [good.assign(p_betawi=value) for value in (0.9, np.nan)]
    for table in (*odd, good.assign(label="kawung"), good[:0]):
        with pytest.raises(BatikError, match="no probability"):
            calibration.arrays(table)


def test_calibration_error_by_hand():
    # 4 answers at 0.9 of which 3 are right, 6 at 0.6 of which 3: 0.4 * 0.15 + 0.6 * 0.10
    stated = np.array([0.9] * 4 + [0.6] * 6)
    probabilities = np.stack([stated, (1 - stated) / 2, (1 - stated) / 2], axis=1)
    table = table_of([0, 0, 0, 1, 0, 0, 0, 1, 1, 1], probabilities)
    assert calibration.expected_calibration_error(table) == pytest.approx(0.12)


def test_bins_hold_equally_many_and_intervals_count_repeats_once():
    table = table_of(*calibrated(400))
    thrice = pd.concat([table.assign(repeat=r) for r in range(3)])
    for rows in (table, thrice):
        bins = calibration.reliability(rows, bins=8)
        assert len(bins) == 8 and bins["confidence"].is_monotonic_increasing
        row = bins.iloc[0]
        wilson = metrics.wilson(round(50 * row["accuracy"]), 50)
        assert (row["lower"], row["upper"]) == pytest.approx(wilson)


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_a_temperature_undoes_what_stretched_the_logits(factor):
    labels, probabilities = calibrated(1000)
    found = calibration.temperature_of(np.log(probabilities) * factor, labels)
    assert found == pytest.approx(factor, rel=0.2)
