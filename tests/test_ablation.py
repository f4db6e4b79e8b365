"""Steps that were tried: each way of fitting against a plain computation."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

from batik_utils import ablation, final, linear
from batik_utils.errors import BatikError
from batik_utils.linear import Head


@pytest.fixture
def trial():
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    told = np.eye(3)[labels] @ rng.normal(size=(3, 8)) * 2
    motifs = np.repeat([f"m{i}" for i in range(6)], 10)
    material = final.Material(
        paths=np.array([f"k/{i}" for i in range(30)]),
        labels=labels,
        groups=np.array([f"k{i}" for i in range(30)]),
        features=told + rng.normal(size=(30, 8)),
        copies=tuple(told + rng.normal(size=(30, 8)) for _ in range(2)),
        others=pd.DataFrame(
            {"path": [f"o/{i}" for i in range(60)], "motif": motifs, "group": np.arange(60)}
        ),
        other_features=rng.normal(size=(60, 8)) - 1,
        foreign={"photographs": rng.normal(size=(5, 8)) - 9},
        columns={name: np.arange(8) for name in ("efficientnet_lite0/three", "both/three")},
        typical={name: (slice(0, 4),) for name in ("efficientnet_lite0/three", "both/three")},
    )
    fold_of = np.stack([np.arange(30) // 3 % 5, np.arange(30) // 6], 1)
    return ablation.trial_of(material, fold_of, {"k/1"}, {"k/1", "k/2"})


def test_every_picture_is_predicted_from_the_other_folds_and_their_copies(trial):
    labels, gram = trial.material.labels, trial.gram("both/three")
    seen = []

    def spy(products, classes, train):
        seen.append(train)
        assert products.shape == (2 * len(train),) * 2
        assert classes.tolist() == [*labels[train], *labels[train]]
        return linear.fit_dual(products, classes, Head("lda", 1.0))

    logits = ablation.outer(gram, labels, trial.fold_of, 1, spy, 2)
    assert logits.shape == (3, 2, 30, 3) and np.isfinite(logits).all()
    folds = [np.flatnonzero(trial.fold_of[:, r] != f) for r in range(2) for f in range(5)]
    assert all(np.array_equal(a, b) for a, b in zip(seen, folds, strict=True))
    # the second half of the first fold's answers are those on the first copy
    scaler = linear.Scaler.of(trial.material.other_features)
    train, test = folds[0], np.flatnonzero(trial.fold_of[:, 0] == 0)
    m = trial.material
    head = linear.fit(
        np.concatenate([m.features[train], m.copies[0][train]]),
        np.tile(labels[train], 2),
        Head("lda", 1.0),
        scaler,
    )
    assert np.allclose(logits[1, 0, test], head.logits(m.copies[0][test]))


def explicit(features, labels, weights, scatter, ridge):
    """Discriminant with a scatter matrix that is given."""
    means = np.stack([np.average(features[labels == c], 0, weights[labels == c]) for c in range(3)])
    directions = np.linalg.solve(scatter + ridge * np.eye(features.shape[1]), means.T)
    return features @ directions - 0.5 * np.einsum("kf,fk->k", means, directions)


def test_scatter_within_pictures_is_added(trial):
    m, train = trial.material, np.arange(30)
    scaler = linear.Scaler.of(m.other_features)
    x = scaler(np.concatenate([m.features, *m.copies]))
    labels, weights = np.tile(m.labels, 3), np.repeat([1, 0.5, 0.5], 30)
    means = np.stack([np.average(x[labels == c], 0, weights[labels == c]) for c in range(3)])
    gaps = x - means[labels]
    within = (weights[:, None] * gaps).T @ gaps / weights.sum()
    by_picture = x.reshape(3, 30, 8)
    apart = (by_picture - by_picture.mean(0)).reshape(90, 8)
    for strength in (0.0, 2.0):
        dual, bias = ablation.nuisance(0.7, 2, strength)(x @ x.T, labels, train)
        expected = explicit(x, labels, weights, within + strength * apart.T @ apart / 90, 0.7)
        assert np.allclose(x @ (x.T @ dual) + bias, expected)


def test_a_teacher_that_is_sure_and_right_changes_nothing(trial):
    gram, labels = trial.gram("both/three"), trial.material.labels
    rows = ablation.rows_of(np.arange(30), 30, 1)
    products = gram[np.ix_(rows, rows)]
    hard = ablation.weighted(Head("lda", 1.0), 1, 1.0)(products, np.tile(labels, 2), np.arange(30))
    for teacher, share, equal in (
        (np.eye(3)[labels], 0.6, True),
        (np.full((30, 3), 1 / 3), 0.0, True),
        (np.full((30, 3), 1 / 3), 0.5, False),
    ):
        fit = ablation.distilled(teacher, Head("lda", 1.0), 1, share)
        dual, bias = fit(products, np.tile(labels, 2), np.arange(30))
        assert np.allclose(products @ dual + bias, products @ hard[0] + hard[1], atol=1e-6) == equal


def test_doubted_pictures_of_weight_0_are_not_learned_from(trial):
    labels, gram = trial.material.labels, trial.gram("both/three")
    weights = np.where(trial.doubted_by_any, 0.0, 1.0)
    kept = np.flatnonzero(weights)
    fit = ablation.weighted(Head("lda", 1.0), 0, 1.0, weights)
    dual, bias = fit(gram[:30, :30], labels, np.arange(30))
    without = linear.fit_dual(gram[np.ix_(kept, kept)], labels[kept], Head("lda", 1.0))
    assert np.allclose(gram[:30, :30] @ dual + bias, gram[:30, kept] @ without[0] + without[1])


def test_the_loss_is_calibrated_by_other_folds():
    labels, folds = np.arange(32) % 2, (np.arange(32) // 16)[:, None]
    # three of four are right in either fold, always equally sure
    right = np.arange(32) // 2 % 4 > 0
    logits = 7.0 * np.eye(2)[np.where(right, labels, 1 - labels)]
    found = ablation.calibrated_loss(logits[None], labels, folds)
    share = right.mean()
    best = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert found == pytest.approx(best, abs=1e-2)
    assert -log_softmax(logits, 1)[np.arange(32), labels].mean() > 2 * best


def test_rows_go_into_the_table_once(trial, tmp_path):
    path = ablation.run(trial, "distillation", tmp_path, "a", progress=False)
    first = pd.read_csv(path)
    assert len(first) == 2 and first["accuracy"].between(0.5, 1).all()
    assert first["repeats"].tolist() == [2, 2] and first["notes"].str.contains("undoubted").all()
    ablation.run(trial, "distillation", tmp_path, "a", progress=False)
    pd.testing.assert_frame_equal(pd.read_csv(path), first)
    ablation.run(trial, "distillation", tmp_path, "b", progress=False)
    assert pd.read_csv(path)["command"].tolist() == ["a", "a", "b", "b"]
    with pytest.raises(BatikError, match="no step"):
        ablation.run(trial, "luck", tmp_path, "a")


def test_none_of_these_has_a_row_a_score(trial, tmp_path):
    table = pd.read_csv(ablation.run(trial, "none", tmp_path, "a", progress=False))
    assert table.groupby("features")["score"].count().tolist() == [12, 12]
    shares = table.filter(like="rejected")
    assert shares.shape[1] == 5 and shares.stack().between(0, 1).all()
    combined = table.set_index("score").loc["combined"]
    assert (combined["rejected_unseen_picture_at_90"] >= combined["rejected_unseen_picture"]).all()
