"""The numbers, paths and commands in the README are those of the project."""

import re

import pytest

from batik_utils import data, notebook, recipes
from batik_utils.__main__ import COMMANDS
from batik_utils.errors import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
KAGGLE = PROJECT / "results" / "kaggle"


def percent(*values):
    return [f"{100 * value:.1f}" for value in values]


@pytest.mark.parametrize("recipe", ["scratch1_drop02_20ep", "file_facts", "final"])
def test_accuracies_of_the_table(recipe):
    row = data.read_table(KAGGLE / "cv" / "summary.csv").set_index("recipe").loc[recipe]
    value, lower, upper = percent(row["accuracy"], row["lower"], row["upper"])
    assert re.search(rf"\| (\**){value} %\1 \| {lower} to {upper} % \|", README)


def test_published_models():
    table = data.read_table(KAGGLE / "course" / "reproduction.csv")
    not_run = set(data.read_table(KAGGLE / "course" / "not_run.csv")["recipe"])
    missing = sum(recipes.get(name).published is not None for name in not_run)
    assert percent(table["published"].max()) == ["80.0"]
    assert "| 80.0 % |" in README
    words = {20: "20", 6: "Six"}
    assert f"{words[len(table)]} of the {len(table) + missing} published" in README
    assert f"{words[missing]} were not run" in README


def test_paths_commands_and_notebooks():
    places = re.findall(r"\]\((?!http)([^)#]+)\)|`(tests/\w+\.py|batik_utils/[\w/]+\.py)`", README)
    assert not [a or b for a, b in places if not (PROJECT / (a or b)).exists()]
    for function in COMMANDS:
        assert f"`{function.__name__[1:]}`" in README
    for path in notebook.find():
        assert f"/blob/main/notebooks/{path.name})" in README


def test_every_module_is_named():
    block = re.search(r"```\nbatik_utils/\n(.*?)```", README, re.DOTALL)[1]
    named = set(re.findall(r"\w+", block))
    package = PROJECT / "batik_utils"
    parts = {
        p.stem for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()
    }
    assert parts - {"__init__"} <= named
