"""Notebooks: Colab set-up, parameter checks, headless runs and the report.

The first cell of every notebook imports this module, before anything is installed in Colab. So it
imports nothing but the standard library; papermill and nbconvert are imported where they are used.
"""

import ast
import difflib
import html
import importlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from string import Template
from timeit import repeat

from batik_utils.errors import PROJECT, BatikError, replacing

log = logging.getLogger(__name__)

#: ``SMOKE=1``: every step runs once, on little data.
SMOKE = {"LIMIT": "10", "SEEDS": "1", "EPOCHS": "1", "FOLDS": "5"}
#: ``FULL=1``: every recipe with as many seeds as the committed results have.
FULL = {
    "02": {"RECIPES": "scratch,scratch_ours", "SEEDS": "10"},
    "03": {"RECIPES": "transfer,mobilenet_v2*,efficientnet_lite*", "SEEDS": "5"},
}
#: Seconds of notebooks 01 to 04 without training, and of a calibration, on two idle cores.
SECONDS = {"01": 20, "02": 25, "03": 25, "04": 20, "calibration": 0.21}
#: Packages that Colab brings in versions that fit its GPU.
HELD = ("torch", "torchvision", "numpy")


class NotebookFailed(BatikError):
    """A cell raised an error or lost its kernel; the message shows the cell."""


def in_colab() -> bool:
    """Whether this process is a kernel of Google Colab."""
    return "google.colab" in sys.modules


def set_up() -> None:
    """Install in Colab what is absent or below its floor; elsewhere nothing."""
    requirements = PROJECT / "requirements.txt"
    if not in_colab() or not requirements.is_file():
        return
    held = [f"{name}=={metadata.version(name)}" for name in HELD]
    command = [sys.executable, "-m", "pip", "install", "-q", "-r", requirements, *held]
    subprocess.run(command, check=True)  # pip itself says what is wrong
    importlib.invalidate_caches()


def check_parameters() -> None:
    """Refuse unknown or mistyped parameters that a later cell sets, in the notebook that calls."""
    from IPython import get_ipython

    known: dict[str, object] = {}
    for source in get_ipython().user_ns["In"]:
        given = _assignments(source)
        if not known and given and all(name.isupper() for name in given):
            known = given
        elif source.startswith("# Parameters\n") or set(given) & set(known):
            for name, value in given.items():
                _check(name, value, known, "this notebook")


def _assignments(source: str) -> dict[str, object]:
    """Values of a cell that holds nothing but ``name = literal`` lines; otherwise empty."""
    found = {}
    with suppress(SyntaxError, AttributeError, ValueError):
        for line in ast.parse(source).body:
            (target,) = line.targets
            found[target.id] = ast.literal_eval(line.value)
        return found
    return {}


def _check(name: str, value: object, known: Mapping[str, object], where: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name.upper(), known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        names = ", ".join(sorted(known))
        raise BatikError(f"Unknown parameter {name} for {where}.{hint} Known: {names}.")
    kind = type(known[name])
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise BatikError(f"Parameter {name} must be a value like {known[name]!r}, not {value!r}.")


def find(names: Sequence[str] = ()) -> list[Path]:
    """Notebooks by path, name (``02_scratch_models``) or number (``02``); all if none is named."""
    ours = sorted((PROJECT / "notebooks").glob("*.ipynb"))
    known = {name: p for p in ours for name in (p.stem, p.stem[:2], p.stem[1])}
    found = [known.get(name, Path(name)) for name in names] or ours
    for path in found:
        if not path.is_file() or path.suffix != ".ipynb":
            raise BatikError(f"No notebook '{path}': give a path, or one of {', '.join(known)}.")
    return found


def declared(notebook: Path) -> dict[str, object]:
    """Parameters of a notebook with their defaults, from its cell tagged ``parameters``."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    return _assignments("\n".join(c.source for c in cells if "parameters" in _tags(c)))


def _tags(cell: Mapping) -> list[str]:
    return cell["metadata"].get("tags", [])


def bind(given: Mapping[str, str], notebooks: Sequence[Path]) -> dict[Path, dict]:
    """Values of the parameters that each notebook declares, with the right type."""
    known = {path: declared(path) for path in notebooks}
    every = {name: default for own in known.values() for name, default in own.items()}
    values: dict[str, object] = dict(given)
    for name, text in given.items():
        if type(every.get(name, "")) is not str:
            with suppress(ValueError, SyntaxError):  # then it stays text, which does not fit
                values[name] = ast.literal_eval(text.strip().capitalize())
        _check(name, values[name], every, ", ".join(path.name for path in notebooks))
    return {p: {n: v for n, v in values.items() if n in own} for p, own in known.items()}


def where_declared(given: Mapping[str, str], notebooks: Sequence[Path]) -> dict[str, str]:
    """Those of the given parameters that a notebook declares, e.g. of `SMOKE`."""
    return {name: given[name] for path in notebooks for name in declared(path) if name in given}


def execute(notebooks: Sequence[Path], given: Mapping[str, str], output: Path) -> list[Path]:
    """Run notebooks in a row, with copies in `output`; parameters are checked before all."""
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    bound = bind(given, notebooks)
    output.mkdir(parents=True, exist_ok=True)
    copies = [output / path.name for path in notebooks]
    settings: dict = {"kernel_name": "python3", "language": "python"}
    # the path of a socket may have some 100 characters
    short = None if len(tempfile.gettempdir()) <= 60 else "/tmp"
    for path, copy in zip(notebooks, copies, strict=True):
        # a helper's output may depend on where the notebook lies, as in Jupyter
        settings |= {"cwd": str(path.parent), "progress_bar": {"desc": path.stem}}
        try:
            with tempfile.TemporaryDirectory(prefix="batik-", dir=short) as sockets:
                # a kernel that speaks through files of this user, not through network ports
                how = {"transport": "ipc", "ip": f"{sockets}/kernel"} if os.name == "posix" else {}
                settings["config"] = Config({"KernelManager": how})
                papermill.execute_notebook(path, copy, bound[path], **settings)
            continue
        except papermill.PapermillExecutionError as error:
            number, source, why = error.exec_count, error.source, f"{error.ename}: {error.evalue}"
        except DeadKernelError:
            cells = [c for c in nbformat.read(copy, as_version=4).cells if c.cell_type == "code"]
            begun = [c for c in cells if c.metadata.get("papermill", {}).get("start_time")]
            number, source = len(begun), begun[-1].source
            why = "The kernel died, often for want of memory: give it less (LIMIT, RECIPES)."
        raise NotebookFailed(
            f"{path.name} failed in cell {number}:\n\n{source}\n\n{why}\n\nCopy up to there: {copy}"
        )
    return copies


def refresh(notebook: Path) -> None:
    """Run a notebook with its defaults and keep its outputs, without bars and error streams."""
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        ran = nbformat.read(execute([notebook], {}, Path(folder))[0], as_version=4)
    kept, bar = nbformat.read(notebook, as_version=4), "application/vnd.jupyter.widget-view+json"
    for old, new in zip(kept.cells, ran.cells, strict=True):
        if old.cell_type == "code":
            old.execution_count = new.execution_count
            shown = [o for o in new.outputs if o.get("name") != "stderr"]
            old.outputs = [output for output in shown if bar not in output.get("data", {})]
    with replacing(notebook) as partial:
        nbformat.write(kept, partial)


def render(notebook: Path, page: Path) -> Path:
    """Write an executed notebook as one self-contained HTML page without code.

    Cells tagged ``not-in-report`` are left out; from ``appendix`` to ``own-runs`` all is folded.
    """
    import nbformat
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    content = nbformat.read(notebook, as_version=4)
    parts: dict[str, list] = {"": []}
    for cell in content.cells:
        for part in {"appendix", "own-runs"}.intersection(_tags(cell)):
            parts[part] = []
        if "not-in-report" not in _tags(cell):
            parts[list(parts)[-1]].append(cell)
    body = ""
    for part, content.cells in parts.items():
        heading = ""
        if part == "appendix":
            heading, _, content.cells[0].source = content.cells[0].source.partition("\n")
        inner, _ = exporter.from_notebook_node(content)
        folded = f"<details><summary>{html.escape(heading.lstrip('# '))}</summary>{inner}</details>"
        body += folded if heading else inner
    title = html.escape(parts[""][0].source.partition("\n")[0].lstrip("# "))
    empty = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    with replacing(page) as partial:
        partial.write_text(empty.substitute(title=title, body=body), encoding="utf-8")
    return page


def report(
    source: str, root: str, results: str, given: Mapping[str, str], *, smoke: bool, full: bool
) -> Path:
    """Run notebooks 01 to 03 on a data set and 04 on the committed results; render 04."""
    from batik_utils import data
    from batik_utils.images.motifs import MOTIFS

    paths = find()[:4]
    bind(given, paths)  # a misspelt one must not wait for the pictures to be read
    given = (SMOKE if smoke else {}) | dict(given)
    classes, limit = given.get("CLASSES", ",".join(MOTIFS)), int(given.get("LIMIT", 0))
    dataset = data.load(source, root, classes, limit=limit)
    folder = (data.results_root(results) / dataset.name).resolve()
    given |= {"DATA": dataset.source, "RESULTS": str(folder.parent)}
    if dataset.source == "folder":
        given["ROOT"] = str(Path(dataset.root).resolve())
    plans = [(FULL.get(path.name[:2], {}) if full else {}) | given for path in paths]
    # runs on the Kaggle pictures are among the committed results
    own = "" if dataset.name == "kaggle" else str(folder)
    plans[3] = {"RESULTS": str(PROJECT / "results"), "OWN": own}
    jobs = [(path, where_declared(plan, [path])) for path, plan in zip(paths, plans, strict=True)]
    left = _seconds(jobs, len(dataset.manifest))
    log.info("This takes about %.1f minutes here, as a short calibration says.", sum(left) / 60)
    for path, plan in jobs:
        (copy,) = execute([path], plan, folder / "notebooks")
        log.info("%s done; about %.1f minutes left", path.stem, sum(left := left[1:]) / 60)
    return render(copy, folder / "report.html")


def _seconds(jobs: Sequence[tuple[Path, dict]], pictures: int) -> list[float]:
    """Seconds of notebooks here: the quickest committed runs', by how long a step takes."""
    import torch

    from batik_utils import data, models, recipes, training

    runs = data.read_table(PROJECT / "results" / "kaggle" / "course" / "runs.csv")
    quickest = runs.groupby("recipe")["train_seconds"].min()
    device = training.choose_device()
    model = models.build_untrained(recipes.get("scratch1"), 3).to(device)
    batch = torch.rand(32, 3, 224, 224, device=device)
    step = min(repeat(lambda: model(batch).sum().backward(), number=1, repeat=3))
    slower = step / SECONDS["calibration"]
    found = []
    for path, plan in jobs:
        settings = {"RECIPES": "majority", "SEEDS": 1} | declared(path) | bind(plan, [path])[path]
        trained = 0.0
        for recipe in recipes.select(settings["RECIPES"]):
            share = (settings.get("EPOCHS") or recipe.epochs) / max(recipe.epochs, 1)
            trained += share * quickest.get(recipe.name, 0)
        trained *= settings["SEEDS"] * pictures / 150
        found.append(float(slower * (SECONDS[path.name[:2]] + trained)))
    return found
