"""The table of recipes against the published one, and how recipes are chosen."""

import hashlib
import json
from dataclasses import asdict, replace

import pytest
from conftest import ROOT

from batik_utils import baselines, models, recipes, training, weights
from batik_utils.errors import BatikError
from batik_utils.evaluation import search
from batik_utils.recipes import RECIPES, Recipe

PUBLISHED = {r.name: r for r in RECIPES.values() if r.family in ("scratch", "transfer")}
OURS = {r.name for r in RECIPES.values() if r.family == "ours"}


def differences(one, other):
    a, b = asdict(recipes.get(one)), asdict(recipes.get(other))
    return {key for key in a if a[key] != b[key]} - {"name", "family", "published"}


def test_the_published_recipes_are_as_they_were_checked_against_the_publication():
    """A change of these values must be meant: results were published with them."""
    text = json.dumps([asdict(replace(r, extra=())) for r in PUBLISHED.values()])
    assert len(PUBLISHED) == 26
    assert {models.preprocessing_of(recipe) for recipe in PUBLISHED.values()} == {weights.IMAGENET}
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "488d688c6a5ac41f"


@pytest.mark.parametrize(
    ("tuned", "base"),
    [("scratch_tuned", "scratch_small"), ("mobilenet_v2_tuned", "mobilenet_v2_probe")],
)
def test_tuned_recipes_hold_what_the_committed_search_found(tuned, base):
    assert differences(tuned, base) <= set(search.PARAMETERS)
    table = search.read(ROOT / "results" / "kaggle" / "course", base)
    row, recipe = search.best(table), recipes.get(tuned)
    for name in search.PARAMETERS:
        assert getattr(recipe, name) == pytest.approx(row[name], rel=0.005), name


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.name)
def test_a_recipe_is_plain_and_names_things_that_exist(recipe):
    assert Recipe(**asdict(recipe)) == recipe
    assert all(isinstance(v, str | int | float | tuple | None) for v in asdict(recipe).values())
    assert recipe.frozen in models.FROZEN and recipe.schedule in training.SCHEDULES
    if recipe.family == "baseline":
        assert recipe.architecture in baselines.BASELINES
        return
    assert recipe.architecture in models.ARCHITECTURES
    assert bool(recipe.weights) == bool(recipe.head) == (not recipe.name.startswith("scratch"))
    assert not recipe.head or recipe.head in models.HEADS
    assert not recipe.weights or recipe.weights in weights.WEIGHTS


@pytest.mark.parametrize(
    ("asked", "suggested"),
    [
        ("resnet", "scratch1, scratch1_20ep"),
        ("Scratch1", "scratch1"),
        ("mobilnet_v2", "mobilenet_v2"),
        ("efficientnet-lite0", "efficientnet_lite0"),
        ("All", "all"),
        (" , ", "recipe names"),
    ],
)
def test_an_unknown_name_is_answered_with_known_ones(asked, suggested):
    with pytest.raises(BatikError, match=suggested):
        recipes.select(asked)


def test_select_by_name_pattern_family_and_all_in_table_order():
    def selected(asked):
        return [r.name for r in recipes.select(asked)]

    assert selected("mobilenet_v2, scratch1") == ["scratch1", "mobilenet_v2"]
    assert selected("scratch1,scratch1") == ["scratch1"]
    assert selected("scratch2*") == [r for r in RECIPES if r.startswith("scratch2")]
    assert set(selected("ours,scratch2")) == OURS | {"scratch2"}
    assert selected("all") == list(RECIPES)


def test_with_epochs():
    recipe = recipes.get("scratch1")
    assert recipes.with_epochs(recipe, 0) == recipe
    assert recipes.with_epochs(recipe, 2) == replace(recipe, epochs=2)
    assert recipes.with_epochs(recipes.get("majority"), 3).epochs == 0
    with pytest.raises(BatikError, match="-1"):
        recipes.with_epochs(recipe, -1)
