"""Nested selection: near-twins stay together, tested pictures decide nothing."""

import numpy as np
import pytest

from batik_utils import baselines
from batik_utils.baselines import Head
from batik_utils.classifier import selection
from batik_utils.errors import BatikError

N = 60


@pytest.fixture
def material():
    rng = np.random.default_rng(0)
    labels = np.arange(N) % 3
    groups = np.array([f"g{i}" for i in range(N)])
    useful = rng.normal(size=(N, 8)) + 1.5 * np.eye(3, 8)[labels] * 2
    features = np.concatenate([useful, rng.normal(size=(N, 8))], 1)
    sets = {"noise": np.arange(8, 16), "useful": np.arange(8)}
    reference = rng.normal(size=(40, 16))
    return features, reference, sets, labels, groups


@pytest.fixture
def bank(material):
    return selection.Bank.of(*material)


OPTIONS = [
    selection.Candidate(subset, head)
    for subset in ("noise", "useful")
    for head in (Head("lda", 1.0), Head("logistic", 10.0))
]


def test_it_chooses_the_useful_features(bank):
    choice = selection.choose(bank, np.arange(N), OPTIONS, seed=0)
    assert choice.candidate.subset == "useful"
    assert choice.accuracy > 0.8 > choice.table["accuracy"][0]
    assert choice.temperature > 0


def test_every_picture_is_predicted_once_a_repeat(bank):
    fold_of = np.stack([np.arange(N) // 3 % 5, np.arange(N) // 12], 1)
    outcome = selection.nested(bank, fold_of, OPTIONS, progress=False)
    assert outcome.logits.shape == (2, N, 3) and np.isfinite(outcome.logits).all()
    assert len(outcome.choices) == 10
    assert (outcome.logits.argmax(2) == bank.labels).mean() > 0.8


def test_labels_of_tested_pictures_change_nothing(material):
    features, reference, sets, labels, groups = material
    fold_of = (np.arange(N) // 3 % 5)[:, None]
    tested = fold_of[:, 0] == 2
    wrong = np.where(tested, (labels + 1) % 3, labels)
    found = [
        selection.nested(
            selection.Bank.of(features, reference, sets, given, groups),
            fold_of,
            OPTIONS,
            progress=False,
        )
        for given in (labels, wrong)
    ]
    assert np.array_equal(found[0].logits[0, tested], found[1].logits[0, tested])


def test_out_of_fold_is_blind_to_the_fold_itself(bank):
    fold_of = np.arange(N) // 3 % 5
    logits = selection.out_of_fold(bank, OPTIONS[2], fold_of)[0]
    train, test = np.flatnonzero(fold_of != 1), np.flatnonzero(fold_of == 1)
    assert np.allclose(logits[test], selection.predict(bank, OPTIONS[2], train, test))


def test_inner_folds_keep_near_twins_together(material, monkeypatch):
    features, reference, sets, labels, _ = material
    groups = np.array([f"g{i // 2}" for i in range(N)])  # pairs, of two motifs even
    bank = selection.Bank.of(features, reference, sets, labels, groups)
    seen = []
    true = selection.out_of_fold

    def spy(bank, option, fold_of, copies):
        seen.append(fold_of)
        return true(bank, option, fold_of, copies)

    monkeypatch.setattr(selection, "out_of_fold", spy)
    selection.choose(bank, np.arange(N), OPTIONS[:1], seed=0)
    assert all(len(set(fold_of[groups == g])) == 1 for fold_of in seen for g in set(groups))


def test_what_does_not_belong_together_is_refused(material):
    features, reference, sets, labels, groups = material
    with pytest.raises(BatikError, match="belong together"):
        selection.Bank.of(features[:-1], reference, sets, labels, groups)


def test_copies_of_training_pictures_are_learned_from_and_tested(material):
    features, reference, sets, labels, groups = material
    rng = np.random.default_rng(5)
    copy = features + rng.normal(size=features.shape)
    bank = selection.Bank.of(features, reference, sets, labels, groups, [copy])
    option = selection.Candidate("useful", Head("lda", 1.0), copies=1)
    fold_of = np.arange(N) // 3 % 5
    found = selection.out_of_fold(bank, option, fold_of, copies=1)
    assert found.shape == (2, N, 3)
    # by hand: both rows of each training picture, neither of a tested one
    train, test = fold_of != 0, fold_of == 0
    scaler = baselines.Scaler.of(reference)
    columns = sets["useful"]
    both = np.concatenate([scaler(features)[train], scaler(copy)[train]])[:, columns]
    identity = baselines.Scaler(np.zeros(8), np.ones(8))
    fitted = baselines.fit_linear(both, np.tile(labels[train], 2), option.head, identity)
    assert np.allclose(found[0, test], fitted.logits(scaler(features)[test][:, columns]))
    assert np.allclose(found[1, test], fitted.logits(scaler(copy)[test][:, columns]))
