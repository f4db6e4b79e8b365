"""Baselines: what they see and learn; linear classifiers: equal to those of scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from batik_utils import baselines, recipes
from batik_utils.baselines import Head, Scaler, fit_linear
from batik_utils.errors import BatikError

RANDOM = np.random.default_rng(0)
NAMES = sorted(baselines.BASELINES)


def a_manifest(n):
    return pd.DataFrame(
        {
            "size": RANDOM.integers(1_000, 90_000, n),
            "width": RANDOM.integers(100, 900, n),
            "height": RANDOM.integers(100, 900, n),
        }
    )


def noise(n, low, high, side=24):
    return RANDOM.integers(low, high, (n, 3, side, side), dtype=np.uint8)


def test_each_baseline_is_a_recipe_and_each_such_recipe_a_baseline():
    found = {r.architecture for r in recipes.select("baseline")}
    assert found == set(baselines.BASELINES)
    assert all(r.epochs == 0 and r.name == r.architecture for r in recipes.select("baseline"))


@pytest.mark.parametrize("name", NAMES)
def test_descriptions_have_one_finite_row_a_picture(name):
    manifest, pixels = a_manifest(5), noise(5, 0, 256)
    rows = baselines.BASELINES[name].describe(manifest, pixels)
    assert rows.shape[0] == 5 and rows.ndim == 2
    assert np.isfinite(rows).all()


def test_file_facts_do_not_look_at_the_picture():
    manifest = a_manifest(4)
    one, two = (baselines.file_facts(manifest, noise(4, 0, 256)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    row = pd.DataFrame({"size": [3000], "width": [40], "height": [50]})
    np.testing.assert_allclose(
        baselines.file_facts(row, noise(1, 0, 2)), [[3000, 40, 50, 0.8, 1.5]]
    )


def test_a_colour_histogram_knows_colours_and_no_places():
    picture = noise(1, 0, 256)
    mixed = picture.reshape(1, 3, -1)[..., RANDOM.permutation(24 * 24)].reshape(picture.shape)
    first, second = (baselines.colour_histogram(a_manifest(1), p) for p in (picture, mixed))
    np.testing.assert_allclose(first, second)
    np.testing.assert_allclose((first.reshape(3, -1) ** 2).sum(1), 1)
    red = np.zeros((1, 3, 8, 8), np.uint8)
    red[:, 0] = 255
    expected = np.zeros((3, baselines.COLOUR_BINS))
    expected[0, 0] = expected[1, -1] = expected[2, -1] = 1  # hue 0, full saturation and value
    np.testing.assert_allclose(
        baselines.colour_histogram(a_manifest(1), red), expected.reshape(1, -1)
    )


def test_texture_is_blind_to_hue_and_sees_grain():
    grey = np.repeat(noise(1, 0, 256, 48)[:, :1], 3, axis=1)
    # weights of rgb2gray; swapping equal channels changes nothing
    np.testing.assert_allclose(
        baselines.texture(a_manifest(1), grey), baselines.texture(a_manifest(1), grey[:, ::-1])
    )
    coarse = np.kron(grey[..., ::4, ::4], np.ones((4, 4), np.uint8))
    difference = baselines.texture(a_manifest(1), grey) - baselines.texture(a_manifest(1), coarse)
    assert np.abs(difference).max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_of_the_test_pictures_repeat_with_the_seed(name):
    # dark, middle and bright pictures of three sizes: every baseline but the majority can tell
    labels = np.repeat([0, 1, 2], 12)
    pixels = np.concatenate(
        [noise(12, low, low + span) for low, span in ((0, 9), (90, 60), (0, 255))]
    )
    manifest = a_manifest(36).assign(size=labels * 10_000 + 500)
    features = baselines.BASELINES[name].describe(manifest, pixels)
    order = RANDOM.permutation(36)
    train, test = order[:27], order[27:]
    once, again = (
        baselines.fit_predict(name, features, labels, train, test, seed=3) for _ in range(2)
    )
    np.testing.assert_array_equal(once, again)
    assert once.shape == (9, 3)
    np.testing.assert_allclose(once.sum(1), 1)
    accuracy = (once.argmax(1) == labels[test]).mean()
    if name == "majority":
        np.testing.assert_allclose(once[0], np.bincount(labels[train]) / 27)
    else:
        assert accuracy > 0.8


# --- linear classifiers in closed form ---------------------------------------------------------


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    features = rng.normal(size=(60, 12)) + 1.2 * rng.normal(size=(3, 12))[labels]
    return features, labels


def unscaled(n_features):
    return Scaler(np.zeros(n_features), np.ones(n_features))


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
    found = fit_linear(features, labels, Head("lda", ridge), unscaled(12)).logits(features)
    gap = found - expected
    assert np.allclose(gap, gap.mean(1, keepdims=True), atol=1e-8)


def test_logistic_is_that_of_scikit_learn(clouds):
    features, labels = clouds
    centred = features - features.mean(0)
    unit = np.sqrt((centred**2).sum(1).mean())
    theirs = LogisticRegression(C=3.0, max_iter=3000, tol=1e-6).fit(centred / unit, labels)
    expected = theirs.predict_proba(centred / unit)
    found = fit_linear(features, labels, Head("logistic", 3.0), unscaled(12)).logits(features)
    assert np.allclose(softmax(found, axis=-1), expected, atol=1e-3)


def test_a_weight_counts_equal_pictures(clouds):
    features, labels = clouds
    times = np.random.default_rng(2).integers(0, 4, 60)
    new = features + 0.3
    repeated = fit_linear(
        np.repeat(features, times, axis=0), np.repeat(labels, times), Head("lda", 0.7), unscaled(12)
    )
    weighted = fit_linear(features, labels, Head("lda", 0.7), unscaled(12), times)
    assert np.allclose(weighted.logits(new), repeated.logits(new))
    # and it is no matter of how large all weights are
    tenfold = fit_linear(features, labels, Head("lda", 0.7), unscaled(12), 10 * times)
    assert np.allclose(weighted.logits(new), tenfold.logits(new))
    assert not np.allclose(
        weighted.logits(new),
        fit_linear(features, labels, Head("lda", 0.7), unscaled(12)).logits(new),
    )
    with pytest.raises(BatikError, match="weights"):
        fit_linear(features, labels, Head("lda", 0.7), unscaled(12), -times)


def test_copies_together_count_as_much_as_the_picture():
    weights = baselines.copy_weights(3, 4)
    assert weights[:3].sum() == weights[3:].sum() == 3 and len(weights) == 15
    assert baselines.copy_weights(3, 0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("head", [Head("lda", 1.0), Head("logistic", 10.0)])
def test_products_and_features_give_the_same_with_more_features_than_pictures(head):
    rng = np.random.default_rng(1)
    features, new = rng.normal(2, 3, (15, 200)), rng.normal(2, 3, (4, 200))
    labels = np.arange(15) % 3
    scaler = Scaler.of(features)
    a, b = scaler(features), scaler(new)
    dual, bias = baselines.fit_gram(a @ a.T, labels, head)
    found = fit_linear(features, labels, head, scaler).logits(new)
    assert np.allclose(b @ a.T @ dual + bias, found)


def test_two_classes_of_logistic_have_two_logits():
    features = np.array([[0.0], [0.2], [1.0], [1.2]])
    head = fit_linear(features, np.array([0, 0, 1, 1]), Head("logistic", 100.0), unscaled(1))
    assert head.logits(features).argmax(1).tolist() == [0, 0, 1, 1]


def test_a_constant_feature_is_not_blown_up():
    scaled = Scaler.of(np.array([[1.0, 5.0], [3.0, 5.0]]))(np.array([[1.0, 5.0001]]))
    assert abs(scaled[0, 1]) < 1


def test_wrong_settings_are_refused():
    with pytest.raises(BatikError, match="positive strength"):
        Head("lda", 0)
    with pytest.raises(BatikError, match="svm"):
        Head("svm", 1)
    with pytest.raises(BatikError, match="Every class"):
        baselines.fit_gram(np.eye(3), np.array([0, 2, 2]), Head("lda", 1))
