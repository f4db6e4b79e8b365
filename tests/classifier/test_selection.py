"""Nested choice of the ridge, and products of features."""

import dataclasses

import numpy as np
import pandas as pd
from small_network import samples_of

from batik_utils.classifier import selection

FOLDS = (np.arange(60) // 6 % 5)[:, None]


def test_rows_of_copies_and_others_stand_behind_the_pictures():
    samples = samples_of()
    assert list(samples.rows(np.array([0, 59]))) == [0, 59, 60, 119]
    assert list(samples.other_rows(np.array([0]))) == [120]
    assert len(samples.scaled) == 120 + 100


def test_a_tested_picture_has_no_part_in_its_own_answer():
    samples = samples_of()
    before = selection.nested(samples, FOLDS)
    assert (before.logits[0].argmax(1) == samples.labels).mean() > 0.9
    tested = FOLDS[:, 0] == 0
    labels = np.where(tested, (samples.labels + 1) % 3, samples.labels)
    after = selection.nested(dataclasses.replace(samples, labels=labels), FOLDS)
    np.testing.assert_allclose(before.logits[0, tested], after.logits[0, tested])
    pd.testing.assert_series_equal(before.choices.iloc[0], after.choices.iloc[0])


def test_the_ridge_that_generalises_is_chosen():
    choice = selection.choose(samples_of(), np.arange(60), 0, (1e9, 1.0))
    assert choice.inner_accuracy >= 0.9 and choice.ridge == 1
