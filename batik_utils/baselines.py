"""Classifiers without a network, so that a network has something to beat.

    >>> from batik_utils import baselines
    >>> sorted(baselines.BASELINES)
    ['colour_histogram', 'file_facts', 'majority', 'texture']

What a file's size, a picture's colours or the texture books of the 1990s already tell is nothing
that a network should be praised for. Settings are the libraries' usual ones, chosen beforehand.
Introduced in notebook 04, section "Baselines".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from skimage.color import rgb2gray, rgb2hsv
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

#: Bins of a colour histogram, for each of hue, saturation and value.
COLOUR_BINS = 16
#: Neighbours and radius (px) of the local binary patterns.
LBP_SCALES = ((8, 1), (16, 2), (24, 3))
#: Grey levels, distances (px) and directions of the co-occurrence matrices.
GLCM_LEVELS = 32
GLCM_DISTANCES = (1, 2, 4, 8)
GLCM_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
GLCM_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")


@dataclass(frozen=True)
class Baseline:
    """A description of a picture and what learns from it.

    Attributes:
        describe: manifest rows (N) and uint8 pixels (N, 3, S, S) to float features (N, F).
        classifier: seed to an unfitted scikit-learn classifier with ``predict_proba``.
    """

    describe: Callable[[pd.DataFrame, np.ndarray], np.ndarray]
    classifier: Callable[[int], ClassifierMixin]


def file_facts(manifest: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    """Return what is known without a look: bytes, width, height, their ratio, bytes a pixel."""
    size, width, height = (manifest[c].to_numpy(float) for c in ("size", "width", "height"))
    return np.stack([size, width, height, width / height, size / (width * height)], 1)


def colour_histogram(manifest: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    """Return square roots of hue, saturation and value histograms, (N, 3 * COLOUR_BINS).

    The root makes the distance of two histograms Hellinger's, which rare colours do not drown in.
    """
    rows = []
    for picture in pixels:
        hsv = rgb2hsv(picture.transpose(1, 2, 0)).reshape(-1, 3)
        counts = [np.histogram(hsv[:, k], COLOUR_BINS, (0, 1))[0] for k in range(3)]
        rows.append(np.sqrt(np.concatenate(counts) / len(hsv)))
    return np.array(rows)


def texture(manifest: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    """Return grey texture: local binary patterns and co-occurrence statistics.

    Sources: Ojala et al., 2002 (https://doi.org/10.1109/TPAMI.2002.1017623), uniform
    rotation-invariant patterns; Haralick et al., 1973
    (https://doi.org/10.1109/TSMC.1973.4309314), mean and range over four directions.
    """
    rows = []
    for picture in pixels:
        grey = (rgb2gray(picture.transpose(1, 2, 0)) * 255).round().astype(np.uint8)
        parts = []
        for neighbours, radius in LBP_SCALES:
            patterns = local_binary_pattern(grey, neighbours, radius, "uniform")
            parts.append(
                np.histogram(patterns, neighbours + 2, (0, neighbours + 2), density=True)[0]
            )
        levels = (grey // (256 // GLCM_LEVELS)).astype(np.uint8)
        matrices = graycomatrix(
            levels, GLCM_DISTANCES, GLCM_ANGLES, GLCM_LEVELS, symmetric=True, normed=True
        )
        for name in GLCM_PROPERTIES:
            values = graycoprops(matrices, name)
            parts += [values.mean(1), np.ptp(values, 1)]
        rows.append(np.concatenate(parts))
    return np.array(rows)


def _nothing(manifest: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    return np.zeros((len(manifest), 1))


def _forest(seed: int) -> ClassifierMixin:
    return RandomForestClassifier(500, min_samples_leaf=2, random_state=seed)


def _linear(seed: int) -> ClassifierMixin:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def _svm(seed: int) -> ClassifierMixin:
    # an SVM gives no probabilities of its own: Platt's sigmoid on held-out scores
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    return make_pipeline(StandardScaler(), CalibratedClassifierCV(SVC(), cv=folds, ensemble=False))


#: By the name of the architecture in `recipes`.
BASELINES: dict[str, Baseline] = {
    "majority": Baseline(_nothing, lambda seed: DummyClassifier(strategy="prior")),
    "file_facts": Baseline(file_facts, _forest),
    "colour_histogram": Baseline(colour_histogram, _linear),
    "texture": Baseline(texture, _svm),
}


def fit_predict(
    name: str,
    features: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Learn from some pictures and return the probabilities of others.

    Args:
        name: key of ``BASELINES``.
        features: of its ``describe``, (N, F).
        labels: class indices (N,); every class occurs in the training pictures.
        train: positions to learn from.
        test: positions to predict, (M,).
        seed: of what is random in the classifier.

    Returns:
        float64 array (M, K); rows sum to 1.
    """
    classifier = BASELINES[name].classifier(seed)
    return classifier.fit(features[train], labels[train]).predict_proba(features[test])
