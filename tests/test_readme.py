"""The numbers, paths and commands in the README are those of the project."""

import re

import pytest

from batik_utils import data, notebook, recipes
from batik_utils.__main__ import COMMANDS
from batik_utils.errors import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
KAGGLE = PROJECT / "results" / "kaggle"


@pytest.mark.parametrize("recipe", ["scratch1_drop02_20ep", "file_facts", "final"])
def test_accuracies_of_the_table(recipe):
    row = data.read_table(KAGGLE / "cv" / "summary.csv").set_index("recipe").loc[recipe]
    value, low, high = (f"{100 * row[name]:.1f}" for name in ("accuracy", "lower", "upper"))
    assert re.search(rf"\| (\**){value} %\1 \| {low} to {high} % \|", README)


def test_published_models():
    repeated = len(data.read_table(KAGGLE / "course" / "reproduction.csv"))
    not_run = set(data.read_table(KAGGLE / "course" / "not_run.csv")["recipe"])
    missing = sum(recipes.get(name).published is not None for name in not_run)
    assert f"{repeated} of the {repeated + missing} published" in README


def test_paths_commands_notebooks_and_modules():
    places = re.findall(r"\]\((?!http)([^)#]+)\)|`(tests/\w+\.py|batik_utils/[\w/]+\.py)`", README)
    assert not [a or b for a, b in places if not (PROJECT / (a or b)).exists()]
    assert not [f for f in COMMANDS if f"`{f.__name__[1:]}`" not in README]
    assert not [p for p in notebook.find() if f"/blob/main/notebooks/{p.name})" not in README]
    named = re.findall(r"\w+", re.search(r"```\nbatik_utils/\n(.*?)```", README, re.DOTALL)[1])
    parts = {p.stem for p in (PROJECT / "batik_utils").glob("[!_]*") if p.suffix != ".html"}
    assert parts <= {*named}
