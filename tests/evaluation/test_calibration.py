"""Calibration on predictions whose flaws are known because they were planted."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.special import softmax

from batik_utils import metrics
from batik_utils.errors import BatikError
from batik_utils.evaluation import calibration

MOTIFS = ["betawi", "sidoluhur", "tambal"]


def table_of(labels, probabilities, **columns):
    named = {f"p_{name}": np.asarray(probabilities)[:, k] for k, name in enumerate(MOTIFS)}
    defaults = {"recipe": "r", "repeat": 0, "fold": np.arange(len(labels)) % 5}
    return pd.DataFrame({"label": np.array(MOTIFS)[labels], **defaults, **columns, **named})


def honest(n, seed=0, spread=2.0):
    """Draw probabilities, and labels that keep to them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (n, 3))
    probabilities = softmax(logits, axis=1)
    labels = (rng.random(n)[:, None] > probabilities.cumsum(axis=1)).sum(axis=1)
    return labels, probabilities


def sure(confidence, right):
    """One row an answer: always betawi, with this probability."""
    confidence = np.asarray(confidence, dtype=float)
    rest = (1 - confidence) / 2
    labels = np.where(right, 0, 1)
    return table_of(labels, np.stack([confidence, rest, rest], axis=1))


def test_arrays_undo_the_rounding_of_a_file():
    labels, probabilities, classes = calibration.arrays(
        table_of([0, 2], [[0.333333, 0.333333, 0.333333], [0, 1e-6, 1]])
    )
    assert classes == MOTIFS
    assert labels.tolist() == [0, 2]
    assert probabilities.sum(axis=1) == pytest.approx([1, 1], abs=1e-15)


def test_arrays_refuse_what_is_no_probability():
    good = table_of([0], [[0.5, 0.3, 0.2]])
    with pytest.raises(BatikError, match="no probabilities"):
        calibration.arrays(good.assign(p_betawi=0.9))
    with pytest.raises(BatikError, match="no probabilities"):
        calibration.arrays(good.assign(p_betawi=np.nan))
    with pytest.raises(BatikError, match="motif 'kawung' have no column p_kawung"):
        calibration.arrays(good.assign(label="kawung"))
    with pytest.raises(BatikError, match="0 rows"):
        calibration.arrays(good[:0])


def test_calibration_error_by_hand():
    # 4 answers at 0.9 of which 3 are right, 6 at 0.6 of which 3: 0.4 * 0.15 + 0.6 * 0.10
    table = sure([0.9] * 4 + [0.6] * 6, [1, 1, 1, 0, 1, 1, 1, 0, 0, 0])
    assert calibration.expected_calibration_error(table) == pytest.approx(0.12, abs=1e-6)
    # in one bin over- and underconfidence cancel: |0.72 - 0.6|
    table = sure([0.9] * 4 + [0.6] * 6, [0, 1, 1, 0, 1, 1, 1, 1, 0, 0])
    assert calibration.expected_calibration_error(table, bins=1) == pytest.approx(0.12, abs=1e-6)
    assert calibration.expected_calibration_error(table, bins=10) == pytest.approx(
        0.4 * 0.4 + 0.6 * (4 / 6 - 0.6), abs=1e-6
    )


def test_calibration_error_is_the_distance_in_bins_of_equal_width():
    labels, probabilities = honest(500)
    table = table_of(labels, probabilities)
    bins = calibration.reliability(table, bins=8, binning="width")
    apart = (bins["answers"] * (bins["accuracy"] - bins["confidence"]).abs()).sum() / 500
    assert calibration.expected_calibration_error(table, bins=8) == pytest.approx(apart, abs=1e-6)


def test_bins_of_equal_mass_hold_equally_many():
    labels, probabilities = honest(400)
    bins = calibration.reliability(table_of(labels, probabilities), bins=8)
    assert bins["answers"].tolist() == [50] * 8
    assert bins["confidence"].is_monotonic_increasing
    assert (bins["confidence"].between(bins["low"], bins["high"])).all()
    assert (bins["low"].iloc[1:].to_numpy() == bins["high"].iloc[:-1].to_numpy()).all()
    own = probabilities.max(axis=1)
    assert (bins["answers"] * bins["confidence"]).sum() == pytest.approx(own.sum())


def test_intervals_count_repeats_once():
    once = sure([0.8] * 10, [1] * 8 + [0] * 2)
    thrice = pd.concat([once.assign(repeat=r) for r in range(3)])
    for table in (once, thrice):
        row = calibration.reliability(table).iloc[0]
        assert (row["lower"], row["upper"]) == pytest.approx(metrics.wilson(8, 10))
    assert calibration.reliability(thrice)["answers"].tolist() == [30]


def test_equal_confidences_are_one_bin():
    bins = calibration.reliability(sure([0.4] * 6, [1, 1, 0, 0, 0, 0]))
    assert bins[["accuracy", "answers"]].to_numpy().tolist() == [[pytest.approx(1 / 3), 6]]
    with pytest.raises(BatikError, match="not 'quantile' and 10"):
        calibration.reliability(sure([0.5], [1]), binning="quantile")


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_a_planted_temperature_is_found(factor):
    labels, probabilities = honest(20_000)
    # logits stretched by a factor need that temperature to come back
    stretched = softmax(np.log(probabilities) * factor, axis=1)
    assert calibration.fit_temperature(labels, stretched) == pytest.approx(factor, rel=0.05)


def test_scikit_learn_finds_the_same_temperature():
    if tuple(int(part) for part in sklearn.__version__.split(".")[:2]) < (1, 8):
        pytest.skip("scikit-learn has temperature scaling since 1.8")
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = (x @ rng.normal(size=(4, 3)) + rng.gumbel(size=(300, 3))).argmax(axis=1)
    model = LogisticRegression(C=100).fit(x[:40], y[:40])
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature")
    theirs.fit(x[40:], y[40:])
    ours = calibration.fit_temperature(y[40:], model.predict_proba(x[40:]))
    assert ours > 1
    probabilities = softmax(np.log(model.predict_proba(x[:40])) / ours, axis=1)
    assert probabilities == pytest.approx(theirs.predict_proba(x[:40]), abs=1e-4)


def test_a_certain_mistake_stays_finite():
    temperature = calibration.fit_temperature(np.array([0, 1]), np.eye(3)[[0, 0]])
    assert np.isfinite(temperature)
    assert temperature > 10


def test_scaling_mends_what_was_planted_and_keeps_the_answers():
    labels, probabilities = honest(1000)
    stretched = table_of(labels, softmax(np.log(probabilities) * 3, axis=1))
    after = calibration.scaled(stretched)
    assert after["temperature"].to_numpy() == pytest.approx(3, rel=0.2)
    assert after["temperature"].nunique() == 5
    columns = [f"p_{name}" for name in MOTIFS]
    assert (after[columns].to_numpy().argmax(1) == stretched[columns].to_numpy().argmax(1)).all()
    row = calibration.before_and_after(stretched).iloc[0]
    assert row["temperature"] == pytest.approx(3, rel=0.2)
    for score in ("nll", "brier", "ece"):
        assert row[f"{score}_scaled"] < row[score]
    truth = metrics.scores(labels, probabilities)["nll"]
    assert row["nll_scaled"] == pytest.approx(truth, rel=0.02)


def test_a_fold_s_own_labels_do_not_set_its_temperature():
    labels, probabilities = honest(200)
    table = table_of(labels, probabilities)
    # the labels of fold 2 of repeat 0 are spoilt: every temperature changes but its own
    spoilt = table.copy()
    mine = spoilt["fold"] == 2
    spoilt.loc[mine, "label"] = np.array(MOTIFS)[probabilities[mine].argmin(axis=1)]
    before, after = (calibration.scaled(t)["temperature"] for t in (table, spoilt))
    assert (before[mine] == after[mine]).all()
    assert (before[~mine] != after[~mine]).all()


def test_recipes_and_repeats_are_scaled_apart():
    labels, probabilities = honest(300)
    bold = table_of(labels, softmax(np.log(probabilities) * 3, axis=1), recipe="bold")
    again = table_of(labels, probabilities, recipe="bold", repeat=1)
    plain = table_of(labels, probabilities, recipe="plain")
    after = calibration.scaled(pd.concat([bold, plain, again]))
    alone = calibration.scaled(bold)["temperature"]
    together = after[(after["recipe"] == "bold") & (after["repeat"] == 0)]["temperature"]
    assert together.to_numpy() == pytest.approx(alone.to_numpy())
    assert after[after["repeat"] == 1]["temperature"].max() < 1.5
    table = calibration.before_and_after(pd.concat([plain, bold]))
    assert table["recipe"].tolist() == ["plain", "bold"]
    with pytest.raises(BatikError, match="'r' has one fold in repeat 0"):
        calibration.scaled(table_of(labels, probabilities, fold=0))


def test_coverage_by_hand():
    table = sure([0.9, 0.8, 0.8, 0.5], [1, 1, 0, 0])
    rows = calibration.coverage(table)
    assert rows["recipe"].tolist() == ["r"] * 3
    assert rows[["coverage", "accuracy", "confidence"]].to_numpy() == pytest.approx(
        np.array([[1 / 4, 1, 0.9], [3 / 4, 2 / 3, 0.8], [1, 1 / 2, 0.5]])
    )


def test_conformal_sets_keep_their_word_and_grow_with_it():
    labels, probabilities = honest(2000)
    found = calibration.conformal(table_of(labels, probabilities), (0.7, 0.9)).set_index("level")
    assert found["coverage"].to_dict() == pytest.approx({0.7: 0.7, 0.9: 0.9}, abs=0.02)
    assert found["size"][0.9] > found["size"][0.7] > 0.7


def test_conformal_sets_by_hand():
    # either fold's nine pictures give the right motif 0.1 to 0.9; of these nine and a new one half
    # is rank 5 from above, 0.5, and 80 % rank 8, 0.2
    p = np.tile(np.arange(1, 10) / 10, 2)
    rest = (1 - p) / 2
    table = table_of(np.zeros(18, int), np.stack([p, rest, rest], 1), fold=np.arange(18) // 9)
    found = calibration.conformal(table, (0.5, 0.8)).set_index("level")
    assert found["coverage"].to_dict() == pytest.approx({0.5: 5 / 9, 0.8: 8 / 9})
    # at 0.5 no other motif is in, its probability is 0.45 at most
    assert found["size"][0.5] == found["single"][0.5] == pytest.approx(5 / 9)
    assert found["empty"].to_dict() == pytest.approx({0.5: 4 / 9, 0.8: 0})
    with pytest.raises(BatikError, match="too few"):
        calibration.conformal(table, (0.95,))
