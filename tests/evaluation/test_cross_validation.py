"""Tables and sentences of the report, on invented runs whose answers are known."""

import json

import numpy as np
import pandas as pd
import pytest

from batik_utils import splits
from batik_utils.checkpoints import RUN_COLUMNS, Store
from batik_utils.errors import BatikError
from batik_utils.evaluation import cross_validation, out_of_fold

CLASSES = ("betawi", "sidoluhur", "tambal")
PATHS = [f"batik-{motif}/{k}.jpg" for motif in CLASSES for k in range(1, 7)]


def label_of(path):
    return path.split("/")[0].removeprefix("batik-")


def a_folds_table(repeats=2):
    folds = {f"repeat_{r}": [(k + r) % 3 for k in range(len(PATHS))] for r in range(repeats)}
    return pd.DataFrame(
        {"path": PATHS, "motif": map(label_of, PATHS), "group": PATHS, "dataset": "d", **folds}
    )


def write(store, recipe, wrong, *, family="ours", repeats=2, suffix="", leave_out=()):
    """Store runs of a recipe that is wrong about some pictures and right about all others."""
    folds = a_folds_table(repeats)
    for repeat in range(repeats):
        for fold in range(3):
            run = f"{recipe}-e1-f{fold}-s{repeat}{suffix}"
            if (repeat, fold) in leave_out:
                continue
            paths = [p for p, f in zip(PATHS, folds[f"repeat_{repeat}"], strict=True) if f == fold]
            labels = [label_of(p) for p in paths]
            answers = [
                CLASSES[(CLASSES.index(m) + 1) % 3] if p in wrong else m
                for p, m in zip(paths, labels, strict=True)
            ]
            row = dict.fromkeys(RUN_COLUMNS, 1) | {
                "run": run,
                "recipe": recipe,
                "family": family,
                "fold": fold,
                "seed": repeat,
                "n_test": len(paths),
                "n_train": 4 if suffix else 12,
                "accuracy": np.mean([a == m for a, m in zip(answers, labels, strict=True)]),
            }
            predictions = pd.DataFrame({"path": paths, "label": labels, "predicted": answers})
            for motif in CLASSES:
                predictions[f"p_{motif}"] = [0.8 if a == motif else 0.1 for a in answers]
            store.add(row, predictions, pd.DataFrame({"epoch": [1]}))


@pytest.fixture
def results(tmp_path):
    store = Store(tmp_path / "cv")
    splits.save(a_folds_table(), tmp_path / "cv" / "folds.csv")
    write(store, "mobilenet_v2_probe", PATHS[:2])
    write(store, "texture", PATHS[:9], family="baseline")
    write(store, "scratch_ours", PATHS[:12])
    return tmp_path


def test_what_is_read_is_finished_and_in_table_order(results):
    write(Store(results / "cv"), "efficientnet_lite0", [], leave_out={(1, 2)})
    runs, predictions, folds = cross_validation.read(results)
    assert list(dict.fromkeys(runs["recipe"])) == [
        "scratch_ours",
        "mobilenet_v2_probe",
        "efficientnet_lite0",
        "texture",
    ]
    assert set(runs.loc[runs["recipe"] == "efficientnet_lite0", "seed"]) == {0}
    assert set(predictions["run"]) == set(runs["run"])
    assert len(folds) == len(PATHS)


def test_no_cross_validation_is_said(tmp_path):
    with pytest.raises(BatikError, match=r"train --grid cv"):
        cross_validation.read(tmp_path)


def test_main_table_and_its_words(results):
    runs, predictions, folds = cross_validation.read(results)
    summary = cross_validation.summary(runs, predictions, folds, results)
    assert summary["latency_ms"].isna().all()  # nothing was measured
    table = cross_validation.main_table(summary)
    assert table["accuracy"].to_dict() == {
        "mobilenet_v2_probe": "88.9%",
        "texture": "50.0%",
        "scratch_ours": "33.3%",
    }
    words = cross_validation.describe_main(summary)
    assert "`mobilenet_v2_probe` with **88.9%**" in words
    assert "`texture` with 50.0%" in words
    assert words.endswith("no better than that: `scratch_ours`.")
    assert cross_validation.reference_of(summary) == "mobilenet_v2_probe"
    assert "18 pictures in 18 groups" in cross_validation.describe_protocol(runs, folds)


def test_costs_join_the_summary(results):
    pd.DataFrame({"recipe": ["texture"], "latency_ms": [7.5], "megabytes": [0.25]}).to_csv(
        results / "cv" / "cost.csv", index=False
    )
    summary = cross_validation.summary(*cross_validation.read(results), results)
    known = summary.set_index("recipe")[["latency_ms", "megabytes"]]
    assert known.loc["texture"].tolist() == [7.5, 0.25]
    assert known.drop("texture").isna().all(axis=None)


def test_words_on_differences_follow_the_p_values():
    pairs = pd.DataFrame(
        {
            "recipe_a": "best",
            "recipe_b": ["far", "near", "between"],
            "repeats": [5, 5, 1],
            "difference": [0.4, 0.01, 0.1],
            "lower": [0.3, -0.05, 0.02],
            "upper": [0.5, 0.07, 0.2],
            "pictures": [60, 9, 30],
            "p_groups_holm": [0.0003, 0.8, 0.03],
            "p_mcnemar_holm": [0.0001, 0.7, 0.01],
            "p_corrected_t_holm": [0.002, 1.0, 0.2],
        }
    )
    words = cross_validation.describe_differences(pairs)
    assert "each on the 1 to 5 repeats that both have" in words
    assert "(sign flips of whole groups): `far`, `between`;" in words
    assert "(corrected t-test): `far`;" in words
    assert "**not told apart**: `near`." in words
    table = cross_validation.differences_table(pairs)
    assert table.loc["far", "p (groups)"] == "< 0.001"
    assert table.loc["near", "95 % interval"] == "-5.0% to +7.0%"


def test_one_recipe_is_set_beside_a_family(results):
    def found():
        return cross_validation.lead(*cross_validation.read(results), "scratch_ours")

    assert found() is None and cross_validation.describe_lead(None) == "Not run here."
    store = Store(results / "cv")
    write(store, "scratch1", PATHS, family="scratch")  # nothing right
    write(store, "scratch2", PATHS[:13], family="scratch", repeats=1)
    write(store, "scratch3", PATHS[:11], family="scratch")  # better than ours
    pairs = found()
    assert list(pairs["recipe_b"]) == ["scratch1", "scratch2", "scratch3"]
    assert (18 * pairs["difference"]).round(6).tolist() == [6, 1, -1]
    assert pairs["repeats"].tolist() == [2, 1, 2]
    words = cross_validation.describe_lead(pairs.assign(p_groups_holm=[0.01, 0.2, 0.001]))
    assert "**2 of 3** published scratch recipes" in words
    assert "by -5.6 to 33.3 points; the nearest is `scratch3`" in words
    assert "The lead over 1 of them is shown" in words


def test_parted_twins_are_set_beside_kept_ones(results):
    assert cross_validation.twins_flatter(results) is None
    write(Store(results / "cv-ungrouped"), "texture", PATHS[:3], family="baseline")
    table = cross_validation.twins_flatter(results)
    assert table.loc["texture"].round(3).tolist() == [0.833, 0.5, 0.333]


def test_the_cleaned_score_leaves_out_what_people_doubt(results):
    pooled = out_of_fold.pooled(*cross_validation.read(results)[:2])
    assert cross_validation.cleaned(pooled, results) is None
    assert "audit" in cross_validation.describe_cleaned(None)
    pd.DataFrame(
        {
            "path": [PATHS[0], PATHS[0], PATHS[9], PATHS[17]],
            "source": ["no cloth", "twin in other motif", "confident learning", "caption"],
        }
    ).to_csv(results / "doubtful_labels.csv", index=False)
    scores = cross_validation.cleaned(pooled, results)
    # two pictures go: the first, which the probe got wrong, and the last
    assert scores.loc["mobilenet_v2_probe", "cleaned"] == pytest.approx(15 / 16)
    assert scores.loc["mobilenet_v2_probe", "difference"] == pytest.approx(15 / 16 - 16 / 18)
    assert "**2 doubtful pictures**" in cross_validation.describe_cleaned(scores)


def test_learning_joins_thin_and_full_runs(results):
    assert cross_validation.learning(results) is None
    write(Store(results / "cv" / "learning"), "texture", PATHS[:12], suffix="-n2", repeats=1)
    table = cross_validation.learning(results)
    assert set(table["recipe"]) == {"texture"}
    assert table[["n_train", "accuracy"]].to_numpy().tolist() == pytest.approx(
        np.array([[4, 1 / 3], [12, 0.5]])
    )


def test_hardest_pictures_first(results):
    pooled = out_of_fold.pooled(*cross_validation.read(results)[:2])
    table = cross_validation.hardest(out_of_fold.difficulty(pooled), most=3)
    assert table.index.tolist() == PATHS[:3]
    assert table["wrong"].tolist() == ["100%", "100%", "67%"]
    assert table["recipes that fail"].tolist() == ["3 of 3", "3 of 3", "2 of 3"]
    assert set(table["mostly called"]) == {"sidoluhur"}


def test_explanations_are_read_all_or_none(results):
    names = ("shortcuts", "watermark", "heat", "randomisation")
    for name in names:
        assert cross_validation.explanations(results) is None
        pd.DataFrame({"kind": [name]}).to_csv(results / "cv" / f"{name}.csv", index=False)
    read = cross_validation.explanations(results)
    assert [table["kind"].item() for table in read.values()] == list(names)


MODEL = {
    "protocol": "3 folds x 2 repeats",
    "accuracy": {"value": 0.9, "lower": 0.8, "upper": 0.95},
    "accuracy_without_largest_group": {"size": 4, "value": 0.92, "lower": 0.85, "upper": 0.97},
    "accuracy_without_doubted_labels": {"pictures": 9, "value": 1, "lower": 1, "upper": 1},
    "recall": {"betawi": {"value": 0.5, "lower": 0.25, "upper": 0.75}},
    "model": {"megabytes": 10.25},
    "none_of_these": {"rows": [{"score": "energy", "other": "photographs", "auroc": 0.75}]},
}


def test_the_final_model_joins_the_table(results):
    assert cross_validation.final_model(results) is None
    assert "build" in cross_validation.describe_final(None)
    assert cross_validation.none_of_these(None) is None
    write(Store(results / "cv" / "final"), "final", PATHS[:1])
    (results / "model").mkdir()
    (results / "model" / "metrics.json").write_text(json.dumps(MODEL), encoding="utf-8")
    summary = cross_validation.summary(*cross_validation.read(results), results)
    assert summary["recipe"].iloc[0] == "final"
    model = cross_validation.final_model(results)
    words = cross_validation.describe_final(model)
    assert words.startswith("**90.0% (80% to 95%)** of the pictures named rightly in 3 folds")
    assert "betawi 50.0% (25% to 75%)" in words and words.endswith("10.2 MB.")
    assert cross_validation.none_of_these(model).loc[0, "auroc"] == 0.75


def test_the_ablation_is_read_where_it_is(results):
    assert cross_validation.ablation(results) is None
    pd.DataFrame({"step": ["a"]}).to_csv(results / "cv" / "ablation.csv", index=False)
    assert cross_validation.ablation(results)["step"].item() == "a"


def test_a_step_is_told_by_its_best_variant():
    table = pd.DataFrame(
        {
            "step": ["2 b", "2 b", "2 b", "10 a"],
            "description": ["x", "y", "z", "w"],
            "accuracy": [0.6, 0.8, 0.7, 0.5],
            "lower": [0.5, 0.7, np.nan, np.nan],
            "upper": [0.7, 0.9, np.nan, np.nan],
            "megabytes": [1.0, 2.0, 3.0, 4.0],
        }
    )
    told = cross_validation.steps(table)
    assert list(told.index) == ["2 b", "10 a"]
    assert told.loc["2 b"].tolist() == [3, 0.6, 0.8, 0.7, 0.9, 2.0, "y"]
    assert told.loc["10 a", ["variants", "lowest", "best", "description"]].tolist() == [
        1,
        0.5,
        0.5,
        "w",
    ]


def test_errors_are_counted_by_who_doubts_the_label(tmp_path):
    pd.DataFrame(
        {
            "path": ["b", "c", "c", "d"],
            "motif": "m",
            "source": ["confident learning", "confident learning", "no cloth", "caption"],
            "reason": "",
        }
    ).to_csv(tmp_path / "doubtful_labels.csv", index=False)
    right = {"a": [1, 1, 0], "b": [0, 0, 1], "c": [0, 0, 0], "d": [1, 1, 1]}
    table = pd.DataFrame(
        [
            {"recipe": recipe, "path": path, "label": "m", "right": bool(value)}
            for recipe in ("final", "other")
            for path, values in right.items()
            for value in (values if recipe == "final" else [1, 1, 1])
        ]
    )
    kinds = cross_validation.label_kinds(table, tmp_path)
    assert kinds["wrong"].tolist() == [1, 2, 3, 0] and set(kinds["repeats"]) == {3}
    found = cross_validation.ceiling(kinds)
    assert found.index.tolist() == [*cross_validation.LABEL_KINDS, "all"]
    assert found["pictures"].tolist() == [1, 1, 2, 4]
    assert found["wrong in most repeats"].tolist() == [0, 1, 1, 2]
    assert found["wrong in all repeats"].tolist() == [0, 0, 1, 1]
    assert found["accuracy"].tolist() == pytest.approx([2 / 3, 1 / 3, 0.5, 0.5])
    assert "**2** of 4" in cross_validation.describe_ceiling(found)
    with pytest.raises(BatikError, match="no recipe"):
        cross_validation.label_kinds(table, tmp_path, "third")
    assert cross_validation.label_kinds(table, tmp_path / "nowhere") is None


def test_all_motifs_are_read_and_described(tmp_path):
    assert cross_validation.all_motifs(tmp_path) is None
    assert "--classes all" in cross_validation.describe_all_motifs(None)
    (tmp_path / "cv-all").mkdir()
    pd.DataFrame(
        [
            {
                "motifs": 20,
                "n_pictures": 980,
                "accuracy": 0.5,
                "lower": 0.4,
                "upper": 0.6,
                "chance": 0.05,
                "top_3": 0.75,
            }
        ]
    ).to_csv(tmp_path / "cv-all" / "summary.csv", index=False)
    pd.DataFrame(
        {"motif": ["x", "y"], "recall": [0.9, 0.2], "mostly_taken_for": ["y", "x"]}
    ).to_csv(tmp_path / "cv-all" / "motifs.csv", index=False)
    said = cross_validation.describe_all_motifs(cross_validation.all_motifs(tmp_path))
    assert "**50.0%** (40% to 60%) of 980" in said and "y (20%, mostly taken for x)" in said
