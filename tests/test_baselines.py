"""Baselines: what they see and learn; the discriminant: that of scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from batik_utils import baselines
from batik_utils.errors import BatikError

RANDOM = np.random.default_rng(0)


def noise(n, low, high, side=24):
    return RANDOM.integers(low, high, (n, 3, side, side), dtype=np.uint8)


def test_file_facts_do_not_look_at_the_picture():
    row = pd.DataFrame({"size": [3000], "width": [40], "height": [50]})
    np.testing.assert_allclose(baselines.file_facts(row, None), [[3000, 40, 50, 0.8, 1.5]])


def test_a_colour_histogram_knows_colours_and_no_places():
    picture = noise(1, 0, 256)
    mixed = picture.reshape(1, 3, -1)[..., RANDOM.permutation(24 * 24)].reshape(picture.shape)
    first, second = (baselines.colour_histogram(None, p) for p in (picture, mixed))
    np.testing.assert_allclose(first, second)
    red = np.zeros((1, 3, 8, 8), np.uint8)
    red[:, 0] = 255
    expected = np.zeros((3, 16))
    expected[0, 0] = expected[1, -1] = expected[2, -1] = 1  # hue 0, full saturation and value
    found = baselines.colour_histogram(None, red)
    np.testing.assert_allclose(found, expected.reshape(1, -1))


def test_texture_is_blind_to_hue_and_sees_grain():
    grey = np.repeat(noise(1, 0, 256, 48)[:, :1], 3, axis=1)
    coarse = np.kron(grey[..., ::4, ::4], np.ones((4, 4), np.uint8))
    fine, swapped, rough = (
        baselines.texture(None, picture) for picture in (grey, grey[:, ::-1], coarse)
    )
    np.testing.assert_allclose(fine, swapped)
    assert np.abs(fine - rough).max() > 0.1


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_probabilities_of_the_test_pictures_repeat_with_the_seed(name):
    # dark, middle and bright pictures of three sizes: every baseline but the majority can tell
    labels = np.repeat([0, 1, 2], 12)
    pixels = [noise(12, low, low + span) for low, span in ((0, 9), (90, 60), (0, 255))]
    manifest = pd.DataFrame({"size": labels * 10_000 + 500, "width": 40, "height": 50})
    features = baselines.BASELINES[name].describe(manifest, np.concatenate(pixels))
    train, test = np.split(RANDOM.permutation(36), [27])
    once, again = (
        baselines.fit_predict(name, features, labels, train, test, seed=3) for _ in range(2)
    )
    np.testing.assert_array_equal(once, again)
    np.testing.assert_allclose(once.sum(1), np.ones(9))
    if name == "majority":
        np.testing.assert_allclose(once[0], np.bincount(labels[train]) / 27)
    else:
        assert (once.argmax(1) == labels[test]).mean() > 0.8


def clouds(n_features=12):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    means = 1.2 * rng.normal(size=(3, n_features))
    return rng.normal(size=(60, n_features)) + means[labels], labels


def test_the_discriminant_is_that_of_scikit_learn():
    features, labels = clouds()
    residuals = features - np.stack([features[labels == c].mean(0) for c in range(3)])[labels]
    share = 0.7 / (residuals**2).mean()
    shrinkage = share / (1 + share)
    theirs = LinearDiscriminantAnalysis("lsqr", shrinkage, np.full(3, 1 / 3)).fit(features, labels)
    # ours is with S + r I, theirs with (1 - s) S + s m I, the same but for the factor 1 - s
    expected = theirs.decision_function(features) * (1 - shrinkage)
    dual, bias = baselines.fit_gram(features @ features.T, labels, 0.7)
    gap = features @ features.T @ dual + bias - expected
    assert np.allclose(gap, gap.mean(1, keepdims=True), atol=1e-8)


def test_a_weight_counts_pictures_and_every_class_needs_one():
    features, labels = clouds()
    twice, weights = np.r_[:60, :10], np.r_[np.full(10, 2.0), np.ones(50)]
    fitted = [
        baselines.fit_gram(features[rows] @ features[rows].T, labels[rows], 0.7, given)
        for rows, given in ((np.arange(60), weights), (twice, None))
    ]
    answers = [
        features @ features[rows].T @ dual + bias
        for rows, (dual, bias) in zip((np.arange(60), twice), fitted, strict=True)
    ]
    np.testing.assert_allclose(*answers, atol=1e-8)
    with pytest.raises(BatikError, match="Every class"):
        baselines.fit_gram(np.eye(4), np.array([0, 0, 2, 2]), 1.0)


def test_a_head_does_not_depend_on_the_scale_of_features_and_a_constant_one_does_no_harm():
    features, labels = clouds()
    features = np.c_[features, np.full(60, 5.0)]
    answers = []
    for scale in (1.0, 100.0):
        scaled = baselines.Scaler.of(features * scale)(features * scale)
        dual, bias = baselines.fit_gram(scaled @ scaled.T, labels, 0.3)
        answers.append(scaled @ scaled.T @ dual + bias)
    assert (answers[0].argmax(1) == labels).mean() > 0.9
    np.testing.assert_allclose(*answers, rtol=1e-3)
