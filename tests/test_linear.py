"""Linear heads: equal to scikit-learn's where that can compute them, and blind to row order."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from batik_utils import linear
from batik_utils.errors import BatikError
from batik_utils.evaluation import calibration
from batik_utils.linear import Head


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    features = rng.normal(size=(60, 12)) + 1.2 * rng.normal(size=(3, 12))[labels]
    return features, labels


def unscaled(n_features):
    return linear.Scaler(np.zeros(n_features), np.ones(n_features))


def test_lda_is_that_of_scikit_learn(clouds):
    features, labels = clouds
    residuals = features - np.stack([features[labels == c].mean(0) for c in range(3)])[labels]
    mean_variance = (residuals**2).mean()
    ridge = 0.7
    shrinkage = ridge / mean_variance / (1 + ridge / mean_variance)
    theirs = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=shrinkage, priors=np.full(3, 1 / 3)
    ).fit(features, labels)
    # ours is with S + r I, theirs with (1 - s) S + s m I, the same but for the factor 1 - s
    expected = theirs.decision_function(features) * (1 - shrinkage)
    found = linear.fit(features, labels, Head("lda", ridge), unscaled(12)).logits(features)
    gap = found - expected
    assert np.allclose(gap, gap.mean(1, keepdims=True), atol=1e-8)


def test_logistic_is_that_of_scikit_learn(clouds):
    features, labels = clouds
    centred = features - features.mean(0)
    unit = np.sqrt((centred**2).sum(1).mean())
    theirs = LogisticRegression(C=3.0, max_iter=3000, tol=1e-6).fit(centred / unit, labels)
    expected = theirs.predict_proba(centred / unit)
    found = linear.fit(features, labels, Head("logistic", 3.0), unscaled(12)).logits(features)
    assert np.allclose(softmax(found, axis=-1), expected, atol=1e-3)


def test_a_weight_counts_equal_pictures(clouds):
    features, labels = clouds
    times = np.random.default_rng(2).integers(0, 4, 60)
    new = features + 0.3
    repeated = linear.fit(
        np.repeat(features, times, axis=0), np.repeat(labels, times), Head("lda", 0.7), unscaled(12)
    )
    weighted = linear.fit(features, labels, Head("lda", 0.7), unscaled(12), times)
    assert np.allclose(weighted.logits(new), repeated.logits(new))
    # and it is no matter of how large all weights are
    tenfold = linear.fit(features, labels, Head("lda", 0.7), unscaled(12), 10 * times)
    assert np.allclose(weighted.logits(new), tenfold.logits(new))
    assert not np.allclose(
        weighted.logits(new),
        linear.fit(features, labels, Head("lda", 0.7), unscaled(12)).logits(new),
    )
    with pytest.raises(BatikError, match="weights"):
        linear.fit(features, labels, Head("lda", 0.7), unscaled(12), -times)


def test_copies_together_count_as_much_as_the_picture():
    weights = linear.copy_weights(3, 4)
    assert weights[:3].sum() == weights[3:].sum() == 3 and len(weights) == 15
    assert linear.copy_weights(3, 0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("head", [Head("lda", 1.0), Head("logistic", 10.0)])
def test_products_and_features_give_the_same_with_more_features_than_pictures(head):
    rng = np.random.default_rng(1)
    features, new = rng.normal(2, 3, (15, 200)), rng.normal(2, 3, (4, 200))
    labels = np.arange(15) % 3
    scaler = linear.Scaler.of(features)
    a, b = scaler(features), scaler(new)
    dual, bias = linear.fit_dual(a @ a.T, labels, head)
    found = linear.fit(features, labels, head, scaler).logits(new)
    assert np.allclose(b @ a.T @ dual + bias, found)


def test_two_classes_of_logistic_have_two_logits():
    features = np.array([[0.0], [0.2], [1.0], [1.2]])
    head = linear.fit(features, np.array([0, 0, 1, 1]), Head("logistic", 100.0), unscaled(1))
    assert head.logits(features).argmax(1).tolist() == [0, 0, 1, 1]


def test_a_constant_feature_is_not_blown_up():
    scaled = linear.Scaler.of(np.array([[1.0, 5.0], [3.0, 5.0]]))(np.array([[1.0, 5.0001]]))
    assert abs(scaled[0, 1]) < 1


def test_temperature_finds_by_how_much_logits_boast():
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (4000, 3))
    chances = softmax(honest, axis=-1)
    labels = (chances.cumsum(1) < rng.random((4000, 1))).sum(1)
    assert calibration.temperature_of(5 * honest, labels) == pytest.approx(5, rel=0.1)


def test_wrong_settings_are_refused():
    with pytest.raises(BatikError, match="positive strength"):
        Head("lda", 0)
    with pytest.raises(BatikError, match="one of lda, logistic"):
        Head("svm", 1)
    with pytest.raises(BatikError, match="Every class"):
        linear.fit_dual(np.eye(3), np.array([0, 2, 2]), Head("lda", 1))
