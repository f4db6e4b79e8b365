"""The table of recipes against the published one, and how recipes are chosen."""

from dataclasses import asdict, replace

import pytest
from conftest import ROOT

from batik_utils import baselines, models, recipes, weights
from batik_utils.errors import BatikError
from batik_utils.evaluation import search as tuning
from batik_utils.recipes import RECIPES, Recipe

# typed from the table in DESIGN.md: percent of 15 test pictures
VARIANTS = ("", "_20ep", "_drop02", "_drop05", "_drop02_20ep", "_drop05_20ep")
PUBLISHED_SCRATCH = {
    "scratch1": (66.67, 60.00, 46.67, 40.00, 80.00, 53.33),
    "scratch2": (20.00, 66.67, 33.33, 40.00, 46.67, 33.33),
    "scratch3": (53.33, 60.00, 53.33, 46.67, 73.33, 53.33),
}
# published accuracy, architecture, weights, head, frozen, dropout, learning rate
PUBLISHED_TRANSFER = {
    "efficientnet_b0": (66.67, "efficientnet_b0", "linear", "parameters", 0.2, 1e-3),
    "efficientnet_b0_modified": (73.33, "efficientnet_b0", "modified", "no", 0.5, 1e-3),
    "mobilenet_v2": (66.67, "mobilenet_v2", "linear", "parameters", 0.2, 1e-3),
    "mobilenet_v2_modified": (33.33, "mobilenet_v2", "modified_hidden", "no", 0.5, 0.0),
    "noisy_student_b2": (40.00, "efficientnet_b2", "linear", "parameters", 0.3, 1e-3),
    "noisy_student_b2_modified": (73.33, "efficientnet_b2", "modified", "no", 0.5, 1e-3),
    "fix_efficientnet_b2": (86.67, "efficientnet_b2_torchvision", "linear", "no", 0.3, 1e-3),
    "fix_efficientnet_b2_modified": (73.33, "efficientnet_b2", "modified", "no", 0.5, 1e-3),
}
OURS = {
    "scratch_ours",
    "scratch_texture",
    "scratch_small",
    "scratch_tuned",
    "mobilenet_v2_modified_trained",
    "mobilenet_v2_probe",
    "mobilenet_v2_tuned",
    "noisy_student_b2_true",
    "fix_efficientnet_b2_fixres",
    "efficientnet_lite0",
    "efficientnet_lite0_modified",
    "efficientnet_lite2",
    "efficientnet_lite2_modified",
}
DESCRIPTIVE = {"name", "family", "published", "note"}


def names(family):
    return {r.name for r in RECIPES.values() if r.family == family}


def differences(one, other):
    a, b = asdict(recipes.get(one)), asdict(recipes.get(other))
    return {key for key in a if a[key] != b[key]} - DESCRIPTIVE


def test_families_hold_exactly_the_published_recipes_and_ours():
    assert names("scratch") == {n + v for n in PUBLISHED_SCRATCH for v in VARIANTS}
    assert names("transfer") == set(PUBLISHED_TRANSFER)
    assert names("ours") >= OURS
    assert {r.family for r in RECIPES.values()} == set(recipes.FAMILIES)


@pytest.mark.parametrize("network", PUBLISHED_SCRATCH)
def test_scratch_variants_as_published(network):
    settings = ((0.0, 10), (0.0, 20), (0.2, 10), (0.5, 10), (0.2, 20), (0.5, 20))
    rows = zip(VARIANTS, settings, PUBLISHED_SCRATCH[network], strict=True)
    for variant, (dropout, epochs), percent in rows:
        recipe = recipes.get(network + variant)
        expected = Recipe(
            network + variant,
            "scratch",
            network,
            dropout=dropout,
            epochs=epochs,
            published=round(percent / 100, 4),
        )
        assert recipe == expected


@pytest.mark.parametrize("name", PUBLISHED_TRANSFER)
def test_transfer_recipes_as_published(name):
    recipe = recipes.get(name)
    percent, weights_name, head, frozen, dropout, learning_rate = PUBLISHED_TRANSFER[name]
    expected = Recipe(
        name,
        "transfer",
        architecture=weights_name,
        weights=weights_name,
        head=head,
        frozen=frozen,
        dropout=dropout,
        learning_rate=learning_rate,
        published=round(percent / 100, 4),
    )
    assert replace(recipe, note="") == expected


def test_defaults_are_the_published_common_settings():
    recipe = Recipe("any", "ours", "scratch1")
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (32, 1e-3, 0.0)
    assert (recipe.flip, recipe.epochs) == (0.5, 10)
    for published in [*names("scratch"), *names("transfer")]:
        seen = models.preprocessing_of(recipes.get(published))
        assert seen == weights.IMAGENET and seen.size == 224


def test_published_accuracies_are_shares_of_15_pictures():
    published = [r.published for r in RECIPES.values() if r.published is not None]
    assert len(published) == 26
    assert all(abs(p * 15 - round(p * 15)) < 0.001 for p in published)
    assert all(RECIPES[name].published is None for name in names("ours"))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("mobilenet_v2_modified_trained", "mobilenet_v2_modified", {"learning_rate"}),
        ("mobilenet_v2_probe", "mobilenet_v2", {"frozen"}),
        ("noisy_student_b2_true", "noisy_student_b2", {"architecture", "weights"}),
        (
            "fix_efficientnet_b2_fixres",
            "fix_efficientnet_b2",
            {"fine_tune_size", "fine_tune_epochs"},
        ),
        (
            "scratch_ours",
            "scratch_small",
            {"dropout", "epochs", "learning_rate", "label_smoothing"},
        ),
        # two published rows are one and the same training
        ("noisy_student_b2_modified", "fix_efficientnet_b2_modified", set()),
    ],
)
def test_twins_differ_in_what_they_correct_alone(ours, theirs, expected):
    assert differences(ours, theirs) == expected


@pytest.mark.parametrize(
    ("tuned", "base"),
    [("scratch_tuned", "scratch_small"), ("mobilenet_v2_tuned", "mobilenet_v2_probe")],
)
def test_tuned_recipes_hold_what_the_committed_search_found(tuned, base):
    assert differences(tuned, base) <= set(tuning.PARAMETERS)
    table = tuning.read(ROOT / "results" / "kaggle" / "course", base)
    row, recipe = tuning.best(table), recipes.get(tuned)
    for name in tuning.PARAMETERS:
        assert getattr(recipe, name) == pytest.approx(row[name], rel=0.005), name
    finished = table["state"].isin(["COMPLETE", "PRUNED"]).sum()
    assert f"trial {row['number']} of {finished} of its search" in recipe.note


def test_recipes_that_do_not_do_what_they_are_called_say_so():
    assert "Never trained" in RECIPES["mobilenet_v2_modified"].note
    assert "plain ImageNet" in RECIPES["noisy_student_b2"].note
    for name in OURS - {"efficientnet_lite0_modified", "efficientnet_lite2_modified"}:
        assert RECIPES[name].note, name


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.name)
def test_a_recipe_is_plain_and_names_things_that_exist(recipe):
    assert Recipe(**asdict(recipe)) == recipe
    assert all(isinstance(v, str | int | float | None) for v in asdict(recipe).values())
    assert recipe.frozen in models.FROZEN
    if recipe.family == "baseline":
        assert recipe.architecture in baselines.BASELINES and recipe.note
        return
    assert recipe.architecture in models.ARCHITECTURES
    assert bool(recipe.weights) == bool(recipe.head) == (not recipe.name.startswith("scratch"))
    assert not recipe.head or recipe.head in models.HEADS
    assert not recipe.weights or recipe.weights in weights.WEIGHTS


def test_get_and_its_error():
    assert recipes.get("scratch1").name == "scratch1"
    with pytest.raises(BatikError, match=r"'resnet'.*scratch1, scratch1_20ep.*mobilenet_v2"):
        recipes.get("resnet")


def test_select_by_name_family_and_all_in_table_order():
    def selected(asked):
        return [r.name for r in recipes.select(asked)]

    assert selected("mobilenet_v2, scratch1") == ["scratch1", "mobilenet_v2"]
    assert selected("scratch1,scratch1") == ["scratch1"]
    assert set(selected("transfer")) == set(PUBLISHED_TRANSFER)
    assert set(selected("ours,scratch2")) == names("ours") | {"scratch2"}
    assert selected("all") == list(RECIPES)


@pytest.mark.parametrize("asked", ["", " , ", "scratch1,nothing", "Scratch"])
def test_select_refuses_what_it_does_not_know(asked):
    with pytest.raises(BatikError):
        recipes.select(asked)


def test_with_epochs():
    recipe = recipes.get("fix_efficientnet_b2_fixres")
    assert recipes.with_epochs(recipe, 0) == recipe
    short = recipes.with_epochs(recipe, 2)
    assert short == replace(recipe, epochs=2, fine_tune_epochs=2)
    assert recipes.with_epochs(recipe, 50).fine_tune_epochs == recipe.fine_tune_epochs
    assert recipes.with_epochs(recipes.get("scratch1"), 3).fine_tune_epochs == 0
    assert recipes.with_epochs(recipes.get("majority"), 3).epochs == 0
    assert recipes.with_epochs(recipes.get("scratch_texture"), 3).epochs == 1
    with pytest.raises(BatikError, match="-1"):
        recipes.with_epochs(recipe, -1)


def test_as_rows_has_one_plain_row_a_recipe():
    rows = recipes.as_rows(recipes.select("scratch1,mobilenet_v2"))
    assert [row["name"] for row in rows] == ["scratch1", "mobilenet_v2"]
    assert Recipe(**rows[1]) == recipes.get("mobilenet_v2")
