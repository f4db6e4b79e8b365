"""Refusal learned from counter-examples, and how it is tested."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from small_network import fitted_to, samples_of

from batik_utils.classifier import evaluate, refusal, selection

EVERYTHING = np.arange(60)
FOLDS = (np.arange(60) // 6 % 10)[:, None]
WORDS = {"familiarity_threshold": 1.0, "cloth_threshold": 0.0, "sure_from": 0.9}
WORDS |= {"sure_familiarity": 2.0, "probably_from": 0.6}


def others_of(samples):
    """A table of counter-examples: five classes of each kind, every picture a group of its own."""
    names = [f"{kind}{i // 4 % 5}" for i, kind in enumerate(samples.kinds)]
    groups = np.arange(len(names))
    return pd.DataFrame({"kind": samples.kinds, "name": names, "group": groups})


def scored(fitted, scaled):
    """Parts and familiarity of scaled features."""
    _, parts = fitted.answer(torch.from_numpy(scaled))
    return parts.numpy(), fitted.familiarity(parts).numpy()


def auroc(known, other):
    return roc_auc_score(np.r_[np.ones(len(known)), np.zeros(len(other))], np.r_[known, other])


def test_counter_examples_are_less_familiar_and_no_cloth_is_known():
    samples = samples_of()
    learned, tested = np.arange(52), np.arange(52, 100)  # of each kind the same share
    fitted = refusal.fit(samples, EVERYTHING[::2], learned, 0.3)
    fitted = fitted.calibrated(scored(fitted, samples.scaled[1:60:2])[0])
    _, known = scored(fitted, samples.scaled[1:60:2])
    parts, other = scored(fitted, samples.scaled[samples.other_rows(tested)])
    assert auroc(known, other) > 0.9
    cloth = np.array([refusal.KINDS[kind] for kind in samples.kinds[tested]])
    assert auroc(parts[cloth, 3], parts[~cloth, 3]) > 0.9
    _, far = scored(fitted, 30 * samples.scaled[:1])
    assert far < known.min()


def test_textures_alone_will_do_as_counter_examples():
    samples = samples_of(kinds=("textures",))
    assert np.isfinite(scored(fitted_to(samples), samples.scaled)[1]).all()


@pytest.mark.parametrize(
    ("recall", "threshold"), [(1, 1.0), (0.95, 1.0), (0.9, 2.0), (0.5, 6.0), (0.1, 10.0)]
)
def test_the_threshold_is_the_largest_that_enough_scores_reach(recall, threshold):
    assert refusal.threshold_at_recall(np.arange(1.0, 11), recall) == threshold


def test_classes_are_left_out_whole():
    others = others_of(samples_of())
    held = [evaluate.held_out(others, fold) for fold in range(10)]
    for one in held:
        kinds = others[["kind", "name"]].assign(held=one).groupby(["kind", "name"])["held"]
        assert set(kinds.nunique()) == {1}
        assert set(others["kind"][one]) == set(others["kind"])
    assert np.any(held, axis=0).all()


def test_refusal_is_tested_on_all_pictures_that_were_left_out():
    samples = samples_of()
    outcome = selection.nested(samples, FOLDS)
    tested = evaluate.refused(samples, others_of(samples), FOLDS, outcome.choices)
    assert set(tested.loc[tested["kind"] == "motifs", "index"]) == set(range(60))
    words = evaluate.choose_words(tested)
    rows = evaluate.refusal_rows(tested, words)
    assert set(rows["kind"]) == {"other motifs", "songket", "textures", "photographs"}
    assert (rows["refused"] > 0.5).all() and (rows["lower"] <= rows["refused"]).all()
    assert evaluate.words_rows(tested)["n"] == 60


def answers(known, other):
    """Answers of pictures: (probability, familiarity, right) each."""
    rows = [(p, f, r, "motifs") for p, f, r in known] + [(p, f, False, "batik") for p, f in other]
    table = pd.DataFrame(rows, columns=["probability", "familiarity", "right", "kind"])
    return table.assign(cloth=1.0, index=np.arange(len(table)), fold=0)


def test_sure_is_right_often_enough_and_rarely_said_of_others():
    known = [(0.95, 2.0, True)] * 60 + [(0.75, 2.0, False)] * 20 + [(0.99, 0.5, True)] * 20
    table = answers(known, [(0.99, 1.0)] * 100)
    words = evaluate.choose_words(table)
    answered = evaluate.with_words(table, words)
    sure = answered[answered["words"] == "sure"]
    assert set(sure["kind"]) == {"motifs"} and sure["right"].all() and len(sure) == 60
    assert 0.75 < words["sure_from"] <= 0.95 and 1 < words["sure_familiarity"] <= 2
    assert words["probably_from"] <= words["sure_from"]
    table = answers([(0.99, 2.0, i % 2 == 0) for i in range(40)], [(0.9, 1.0)] * 10)
    answered = evaluate.with_words(table, evaluate.choose_words(table))
    assert "sure" not in set(answered["words"])


def test_levels_follow_the_thresholds():
    table = pd.DataFrame(
        {
            "familiarity": [3, 1.5, 1.5, 1, 0, np.nan],
            "probability": [0.9, 0.95, 0.6, 0.5, 1, 1],
            "cloth": [0, -1, 0, 0, 0, -1],
        }
    )
    answered = evaluate.with_words(table, WORDS)
    assert [*answered["level"]] == ["motif"] * 4 + ["other_cloth", "no_cloth"]
    assert [*answered["words"]] == ["sure", "probably", "probably", "either", "", ""]
