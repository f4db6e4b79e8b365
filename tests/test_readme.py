"""The numbers in the README are those of the files in `results/`."""

import json

import pandas as pd
import pytest

from batik_utils.errors import PROJECT

ROOT = PROJECT
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
KAGGLE = ROOT / "results" / "kaggle"


def percent(*values):
    return [f"{100 * value:.1f}" for value in values]


@pytest.mark.parametrize(
    ("says", "recipe"),
    [
        ("all 150 pictures tested |", "scratch1_drop02_20ep"),
        ("size of the file |", "file_facts"),
        ("with a linear head |", "efficientnet_lite0"),
        ("runs without torch) |", "final"),
    ],
)
def test_cross_validation(says, recipe):
    row = pd.read_csv(KAGGLE / "cv" / "summary.csv").set_index("recipe").loc[recipe]
    value, lower, upper = percent(row["accuracy"], row["lower"], row["upper"])
    bold = "**" if recipe == "final" else ""
    assert f"{says} {bold}{value} %{bold} | {lower} to {upper} % |" in README


def test_the_published_network_and_its_repetitions():
    table = pd.read_csv(KAGGLE / "course" / "reproduction.csv").set_index("recipe")
    scratch = table[table.index.str.fullmatch(r"scratch[123](_drop0[25])?(_20ep)?")]
    assert len(scratch) == 18
    best = scratch.loc[scratch["published"].idxmax()]
    assert best.name == "scratch1_drop02_20ep"
    published, mean, low, high = percent(*best[["published", "mean", "min", "max"]])
    assert f"that chose it | {published} % |" in README
    assert best["runs"] == 10 and best["share_at_or_above"] == 0
    assert f"ten times | {mean} % | {low} to {high} %; none reached {published[:2]} % |" in README


def test_none_of_these():
    metrics = json.loads((KAGGLE / "model" / "metrics.json").read_text(encoding="utf-8"))
    away = {
        row["other"]: f"{100 * (1 - row['fpr_at_95']):.0f} %"
        for row in metrics["none_of_these"]["rows"]
        if row["score"] == "combined"
    }
    assert f"turns away {away['known other motifs']} of the other motifs it knows" in README
    assert f"{away['other motifs']} of motifs that it never saw" in README
    assert f"{away['photographs']} of ordinary photographs" in README


def test_the_model_is_as_large_as_said():
    size = sum(path.stat().st_size for path in (KAGGLE / "model").glob("*.onnx"))
    assert f"({size / 1e6:.1f} MB" in README
