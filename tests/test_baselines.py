"""Baselines: what they see and learn; linear classifiers: equal to those of scikit-learn."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from batik_utils import baselines, recipes

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


# --- the closed form --------------------------------------------------------------------------


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
    theirs = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=shrinkage, priors=np.full(3, 1 / 3)
    ).fit(features, labels)
    # ours is with S + r I, theirs with (1 - s) S + s m I, the same but for the factor 1 - s
    expected = theirs.decision_function(features) * (1 - shrinkage)
    weight, bias = baselines.discriminant(features, labels, 0.7)
    gap = features @ weight + bias - expected
    assert np.allclose(gap, gap.mean(1, keepdims=True), atol=1e-8)


def test_a_head_does_not_depend_on_the_scale_of_features_and_a_constant_one_does_no_harm():
    features, labels = clouds()
    features = np.c_[features, np.full(60, 5.0)]
    answers = []
    for scale in (1.0, 100.0):
        head = nn.Linear(13, 3)
        views = torch.tensor(features * scale).float()[None]
        loss, accuracy = baselines.fit_head(head, 0.3, views, torch.tensor(labels))
        assert accuracy > 0.9
        answers.append(loss)
    assert answers[0] == pytest.approx(answers[1], rel=1e-3)
