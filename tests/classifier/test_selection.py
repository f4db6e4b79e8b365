"""Nested choice of the head, and the bank of products."""

import dataclasses

import numpy as np
import pandas as pd
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from small_network import bank_of

from batik_utils.classifier import selection

FOLDS = (np.arange(60) // 6 % 5)[:, None]


def test_rows_of_copies_and_others_stand_behind_the_pictures():
    bank = bank_of()
    assert list(bank.rows(np.array([0, 59]))) == [0, 59, 60, 119]
    assert list(bank.other_rows(np.array([0]))) == [120]
    assert len(bank.scaled) == 120 + 100


def test_the_discriminant_is_that_of_scikit_learn():
    bank = bank_of()
    rows = bank.rows(np.arange(60), copies=False)
    fitted = bank.fit(rows, bank.labels, 1e-6)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3)
    theirs.fit(bank.scaled[rows][:, :8], bank.labels)
    small = dataclasses.replace(
        bank, scaled=bank.scaled[:, :8], gram=bank.scaled[:, :8] @ bank.scaled[:, :8].T
    )
    fitted = small.fit(rows, bank.labels, 1e-9)
    ours = fitted.logits(small.scaled[:60])
    wanted = theirs.decision_function(bank.scaled[:60, :8])
    np.testing.assert_allclose(
        ours - ours.mean(1, keepdims=True), wanted - wanted.mean(1, keepdims=True), rtol=0.05
    )


def test_nested_predicts_every_picture_and_says_what_was_chosen():
    outcome = selection.nested(bank_of(), FOLDS)
    assert outcome.logits.shape == (1, 60, 3) and np.isfinite(outcome.logits).all()
    assert (outcome.logits[0].argmax(1) == bank_of().labels).mean() > 0.9
    assert len(outcome.choices) == 5
    assert (outcome.choices["temperature"] > 0).all()


def test_a_tested_picture_has_no_part_in_its_own_answer():
    bank = bank_of()
    before = selection.nested(bank, FOLDS)
    tested = FOLDS[:, 0] == 0
    labels = np.where(tested, (bank.labels + 1) % 3, bank.labels)
    after = selection.nested(dataclasses.replace(bank, labels=labels), FOLDS)
    np.testing.assert_allclose(before.logits[0, tested], after.logits[0, tested])
    pd.testing.assert_series_equal(before.choices.iloc[0], after.choices.iloc[0])


def test_the_head_that_generalises_is_chosen():
    bank = bank_of()
    choice = selection.choose(bank, np.arange(60), 0, (1e9, 1.0))
    assert choice.accuracy >= 0.9
    assert selection.choose(bank, np.arange(60), 0) == selection.choose(bank, np.arange(60), 0)
