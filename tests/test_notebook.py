"""Parameters are checked, Colab's packages left alone, failures named, reports rendered."""

import re
import tempfile
from importlib import metadata
from types import SimpleNamespace

import IPython
import nbformat
import papermill
import pytest

from batik_utils import notebook
from batik_utils.errors import PROJECT, BatikError

#: The set-up cell of every notebook.
SET_UP = next(
    cell.source
    for cell in nbformat.read(notebook.find(["01"])[0], as_version=4).cells
    if "notebook.set_up()" in cell.source
)
PARAMETERS = 'COUNT = 1  # pictures\nDATA = "auto"\nRATE = 0.1\nFAST = False'
CHECK = "from batik_utils import notebook\n\nnotebook.check_parameters()"
FIGURE = """from PIL import Image
display(Image.new("L", (1, 1)), metadata={"image/png": {"alt": "One <grey> square"}})"""


def write(path, *cells):
    """Write a notebook of (tag, source); headings are Markdown."""
    made = []
    for tag, source in cells:
        kind = "markdown" if re.match("##|# 99", source) else "code"
        cell = getattr(nbformat.v4, f"new_{kind}_cell")(source)
        cell.metadata["tags"] = [tag] if tag else []
        made.append(cell)
    meta = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=meta), path)
    return path


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Path of a notebook with parameters, errors on demand and every tag of a report."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # as an installation would make it findable
    return write(
        tmp_path / "99_small.ipynb",
        ("", "# 99 · Small & *whole*"),
        ("not-in-report", "## Set-up"),
        ("not-in-report", SET_UP),
        ("parameters", PARAMETERS),
        ("not-in-report", CHECK),
        ("", "if COUNT > 2:\n    raise RuntimeError('too many')"),
        ("", "import os, sys\nif COUNT < 0:\n    os.kill(os.getpid(), 9)"),
        ("", "print('noise', file=sys.stderr)\nprint(COUNT * 11)"),
        ("", FIGURE),
        ("appendix", "## Appendix: details\n\nFolded."),
        ("", "print('all numbers')"),
        ("own-runs", "print('mine')"),
    )


def printed(copy):
    cells = nbformat.read(copy, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output.get("name") == "stdout")


def test_find_takes_numbers_names_and_paths(small):
    found = [path.stem for path in notebook.find(["02", "4", "01_exploration", str(small)])]
    assert found == ["02_scratch_models", "04_comparison", "01_exploration", "99_small"]
    assert len(notebook.find()) == 5
    with pytest.raises(BatikError, match="07"):
        notebook.find(["07"])


def test_each_notebook_gets_what_it_declares_with_the_right_type(tmp_path):
    first = write(tmp_path / "1.ipynb", ("parameters", PARAMETERS))
    second = write(tmp_path / "2.ipynb", ("parameters", "COUNT = 5"))
    given = {"COUNT": "3", "FAST": "true", "RATE": "1e-3", "DATA": "7"}
    bound = notebook.bind(given, [first, second])
    assert bound[first] == {"COUNT": 3, "FAST": True, "RATE": 0.001, "DATA": "7"}
    assert bound[second] == {"COUNT": 3}
    assert notebook.where_declared({"COUNT": "1", "EPOCHS": "1"}, [first]) == {"COUNT": "1"}


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("COUTN", "3", "Did you mean COUNT"),
        ("Fast", "True", "Did you mean FAST"),
        ("limit", "5", "Known: COUNT"),
        ("COUNT", "three", "not"),
        ("COUNT", "True", "not"),
        ("RATE", "fast", "not"),
        ("FAST", "1", "False"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_starts(small, tmp_path, name, text, named):
    with pytest.raises(BatikError, match=f"{name}.*{named}"):
        notebook.execute([small], {name: text}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_check_inside_a_notebook_lets_pass_what_fits(monkeypatch):
    later = ["# Parameters\nCOUNT = 3\nDATA = 'x'\nRATE = 1\n", PARAMETERS.replace("1  #", "7  #")]
    later += ["import os\nLIMIT = 3", "OTHER = 5", "OTHER = [1]"]
    shell = SimpleNamespace(user_ns={"In": ["", SET_UP, PARAMETERS, *later, CHECK]})
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    notebook.check_parameters()


def test_the_check_works_in_a_kernel_that_papermill_started(small, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="Did you mean COUNT"):
        papermill.execute_notebook(small, tmp_path / "o.ipynb", {"count": 5}, progress_bar=False)


def test_colab_installs_what_is_missing_and_keeps_its_torch(monkeypatch):
    asked = []
    monkeypatch.setattr(notebook.subprocess, "run", lambda command, check: asked.extend(command))
    notebook.set_up()
    assert not asked  # elsewhere than in Colab
    monkeypatch.setattr(notebook, "in_colab", lambda: True)
    notebook.set_up()
    assert {PROJECT / "requirements.txt", f"torch=={metadata.version('torch')}"} <= {*asked}


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="nothing to clone")
def test_the_set_up_cell_works_in_an_empty_colab(tmp_path, monkeypatch):
    # git fetches the published address from this checkout instead of the network
    address = SET_UP.split("--depth 1 ")[1].split()[0]
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{PROJECT}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", address)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    fake = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')"
    # the clone holds the last commit; what is installed is not its matter here
    where = "print(notebook.in_colab(), notebook.PROJECT.name)"
    cells = ("", fake), ("", SET_UP.replace("notebook.set_up()", where))
    (copy,) = notebook.execute([write(tmp_path / "n.ipynb", *cells)], {}, tmp_path / "out")
    assert printed(copy) == "True batik-image-classification\n"


@pytest.mark.parametrize(
    ("count", "named"),
    [("3", r"cell 5(?s:.*)RuntimeError: too many"), ("-1", r"cell 6(?s:.*)os\.kill(?s:.*)LIMIT")],
    ids=["error", "killed"],
)
def test_a_failing_cell_is_shown_and_its_copy_kept(small, tmp_path, count, named):
    with pytest.raises(notebook.NotebookFailed, match=named):
        notebook.execute([small], {"COUNT": count}, tmp_path / "out")
    assert (tmp_path / "out" / small.name).is_file()


def test_refresh_keeps_results_and_drops_noise(small):
    notebook.refresh(small)
    text = small.read_text()
    assert re.findall(r'"execution_count": (.+),', text) == [*"123456789"]
    assert printed(small) == "11\nall numbers\nmine\n"
    assert "noise\n" not in text and "papermill" not in text


def test_a_copy_has_the_parameters_and_its_report_is_one_page_without_code_or_other_servers(
    small, tmp_path, monkeypatch
):
    before, deep = small.read_bytes(), tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))  # too long for the path of a socket
    (copy,) = notebook.execute([small], {"COUNT": "2"}, tmp_path / "out")
    assert printed(copy) == "22\nall numbers\nmine\n"
    assert small.read_bytes() == before
    html = notebook.render(copy, tmp_path / "report.html").read_text()
    assert "<title>99 · Small &amp; *whole*</title>" in html
    assert re.search(r"<details><summary>Appendix: details</summary>(?s:.*)all numbers", html)
    assert "mine" in html.split("</details>")[1]
    assert 'alt="One &lt;grey&gt; square"' in html
    assert "Set-up" not in html and "COUNT" not in html
    assert not re.findall(r'(?:src|href)="https?://[^"]+"|@import|url\(', html)


def test_a_report_says_how_long_it_takes_before_it_trains(
    monkeypatch, picture_tree, tmp_path, caplog
):
    def execute(paths, plan, output):
        assert "minutes" in caplog.text
        plans.append(plan)
        return paths

    plans = []
    monkeypatch.setattr(notebook, "execute", execute)
    monkeypatch.setattr(notebook, "render", lambda copy, page: page)
    caplog.set_level("INFO")
    given = ("folder", str(picture_tree()), str(tmp_path), {"SEEDS": "2"})
    page = notebook.report(*given, smoke=True, full=False)
    assert page.parent.parent == tmp_path
    assert len(caplog.messages) == 1 + len(plans) == 5
    assert {"SEEDS": "2", "EPOCHS": "1", "DATA": "folder"}.items() <= plans[1].items()
    assert plans[3] == {"RESULTS": str(PROJECT / "results"), "OWN": str(page.parent)}
