"""The sentences of the report follow from the tables, also in the cases that hurt."""

import pandas as pd
import pytest

from batik_utils.checkpoints import Store
from batik_utils.errors import BatikError
from batik_utils.evaluation import comparison


def summary(*rows):
    frame = pd.DataFrame(rows, columns=["recipe", "accuracy", "lower", "upper"])
    return frame.assign(n_test=15)


def test_titles_tell_synthetic_from_real():
    assert comparison.data_title("kaggle") == "Indonesian Batik Motifs (Kaggle)"
    assert comparison.data_title("synthetic-limit10").startswith("SYNTHETIC cloth, not batik")
    assert "folder-1a2b3c4d" in comparison.data_title("folder-1a2b3c4d")


def test_synthetic_data_is_called_no_result():
    manifest = pd.DataFrame({"path": ["a"], "motif": ["tambal"], "width": [224]})
    text = comparison.describe_data(manifest, comparison.data_title("synthetic"))
    assert "Nothing below is a result about batik" in text
    assert "Nothing below" not in comparison.describe_data(manifest, "Kaggle")


def test_overlapping_intervals_are_called_undecided():
    text = comparison.describe_differences(summary(("a", 0.8, 0.55, 0.93), ("b", 0.6, 0.36, 0.8)))
    assert "no recipe is shown to be better" in text


def test_intervals_apart_are_named():
    text = comparison.describe_differences(
        summary(("a", 1.0, 0.8, 1.0), ("b", 0.6, 0.36, 0.8), ("c", 0.33, 0.15, 0.58))
    )
    assert "do not even overlap with it: `c`." in text
    assert "other 1 recipes" in text


def test_what_no_network_needs_is_said_beside_the_scratch_networks():
    rows = [("texture", 0.6, 0, 1), ("majority", 0.3, 0, 1), ("scratch_ours", 0.9, 0, 1)]
    assert comparison.describe_baselines(summary(*rows)) == ""  # nothing published to compare with
    rows += [("scratch1", 0.5, 0, 1), ("scratch2", 0.6, 0, 1)]
    text = comparison.describe_baselines(summary(*rows))
    assert "`texture` 60.0%, `majority` 30.0%." in text
    assert "**None of the 2 published scratch recipes** has more on average than `texture`" in text
    rows += [("scratch3", 0.7, 0, 1)]
    text = comparison.describe_baselines(summary(*rows))
    assert "**1 of the 3 published scratch recipes** has more" in text
    assert text.endswith("(the best of them: 70.0%).")


def test_published_values_outside_our_range_are_named():
    rows = [
        {"recipe": "in", "published": 0.6667, "runs": 3, "min": 0.6, "max": 0.6666667},
        {"recipe": "over", "published": 0.9, "runs": 3, "min": 0.4, "max": 0.6},
        {"recipe": "under", "published": 0.2, "runs": 3, "min": 0.4, "max": 0.6},
        {"recipe": "once", "published": 0.2, "runs": 1, "min": 0.9, "max": 0.9},
    ]
    text = comparison.describe_reproduction(pd.DataFrame(rows))
    assert text.startswith("**1 of 3**")
    assert "`over`: published 90.0%, above all 3" in text
    assert "`under`: published 20.0%, below all 3" in text
    assert "by up to 20 points" in text
    assert "once" not in text
    assert "(1 recipes with fewer than 3 runs are left out)" in text


def test_hardest_counts_only_the_given_runs():
    predictions = pd.DataFrame(
        {
            "run": ["r1", "r1", "r2", "r2", "old"],
            "path": ["x", "y", "x", "y", "y"],
            "label": ["a"] * 5,
            "predicted": ["b", "a", "c", "a", "b"],
        }
    )
    table = comparison.hardest(predictions, pd.DataFrame({"run": ["r1", "r2"]}))
    assert table.index.tolist() == ["x"]
    assert table.loc["x", "wrong"] == "100%"


def test_recipes_without_runs_are_open_never_zero():
    not_run = pd.DataFrame(
        [("mobilenet_v2", "not run: weights not reachable", "get them")],
        columns=["recipe", "reason", "remedy"],
    )
    table = comparison.open_rows(pd.DataFrame({"recipe": ["scratch1"]}), not_run)
    assert "scratch1" not in table.index
    assert table.loc["mobilenet_v2"].tolist() == [
        "66.67%",
        "not run: weights not reachable",
        "get them",
    ]
    assert table.loc["scratch1_20ep", "state"] == "open: not run yet"


def test_missing_results_say_what_to_run(tmp_path):
    with pytest.raises(BatikError, match="run notebooks 02 and 03"):
        comparison.read_data(tmp_path, "course")
    with pytest.raises(BatikError, match="No runs in"):
        comparison.read_runs(Store(tmp_path))


def test_twins_are_counted_and_their_absence_is_said(tmp_path):
    assert comparison.read_twins(tmp_path, "course") is None
    assert "were not looked for" in comparison.describe_twins(None)
    (tmp_path / "course_twins.csv").write_text(
        "path,motif,direct,by_group,twins\nx,a,1,2,t\ny,a,0,0,\n"
    )
    twins = comparison.read_twins(tmp_path, "course")
    assert comparison.describe_twins(twins).startswith("**1 of 2 test pictures have")


def test_leakage_splits_each_recipe_s_accuracy():
    predictions = pd.DataFrame(
        {
            "run": ["r", "r", "r", "s", "s", "s"],
            "path": ["x", "y", "z"] * 2,
            "label": ["a"] * 6,
            "predicted": ["a", "a", "b", "a", "b", "b"],
        }
    )
    runs = pd.DataFrame({"run": ["r", "s"], "recipe": ["good", "bad"]})
    twins = pd.DataFrame({"path": ["x", "y", "z"], "by_group": [1, 0, 0]})
    table = comparison.leakage(predictions, runs, twins)
    assert table.loc["good"].tolist() == [1.0, 0.5, 0.5]
    assert table.loc["bad"].tolist() == [1.0, 0.0, 1.0]
    assert table.index.tolist() == ["good", "bad"]
