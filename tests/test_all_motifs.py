"""The model of all motifs: its tables on invented answers, its network on a tiny backbone."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from batik_utils import all_motifs, linear, selection
from batik_utils.errors import BatikError


@pytest.fixture
def answers():
    folds = pd.DataFrame(
        {
            "path": list("abcdef"),
            "group": ["a", "b", "c", "d", "e", "f"],
            "repeat_0": [0, 0, 0, 1, 1, 1],
            "repeat_1": [1, 1, 0, 0, 1, 0],
        }
    )
    labels = np.array([0, 0, 1, 1, 2, 2])
    said = np.array([[0, 0, 1, 0, 2, 0], [0, 1, 1, 0, 2, 1]])
    return folds, labels, selection.Nested(4.0 * np.eye(3)[said], pd.DataFrame())


def test_tables_count_what_was_said(answers):
    summary, motifs, predictions = all_motifs.tables(("x", "y", "z"), *answers)
    row = summary.iloc[0]
    assert row["accuracy"] == pytest.approx(7 / 12) and row["groups"] == 6
    assert row["sd_between_repeats"] == pytest.approx(np.std([4 / 6, 3 / 6], ddof=1))
    assert row["top_3"] == 1 and row["lower"] <= row["accuracy"] <= row["upper"]
    table = motifs.set_index("motif")
    assert table.index[0] == "x" and table["recall"].to_dict() == {"x": 0.75, "y": 0.5, "z": 0.5}
    assert table["precision"].to_dict() == pytest.approx({"x": 0.5, "y": 0.5, "z": 1.0})
    assert table.loc["y", "mostly_taken_for"] == "x" and table.loc["y", "share_of_errors"] == 1
    assert len(predictions) == 12 and (predictions["probability"] > 0.9).all()
    right = predictions["label"] == predictions["predicted"]
    assert right.mean() == pytest.approx(7 / 12)
    assert ((predictions["p_label"] == predictions["probability"]) == right).all()
    with pytest.raises(BatikError, match="belong"):
        all_motifs.tables(("x", "y", "z"), answers[0][:5], *answers[1:])


def test_the_network_gives_calibrated_probabilities_and_energy():
    rng = np.random.default_rng(0)
    head = linear.Linear(rng.normal(size=(12, 4)), rng.normal(size=4))
    pixels = torch.from_numpy(rng.normal(size=(5, 2, 2, 3))).float()
    model = all_motifs.AllNetwork(nn.Flatten(), head, 3.0)
    probabilities, energy = model(pixels)
    logits = torch.from_numpy(head.logits(pixels.flatten(1).numpy()) / 3).float()
    assert torch.allclose(probabilities, logits.softmax(1), atol=1e-6)
    assert torch.allclose(energy, logits.logsumexp(1), atol=1e-5)
