"""Execute notebooks headless and render the report; a thin layer over papermill and nbconvert."""

import itertools
import logging
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from tqdm.auto import tqdm
from traitlets.config import Config

from batik_utils import data, parameters
from batik_utils.errors import PROJECT, BatikError
from batik_utils.results import Store

log = logging.getLogger(__name__)

NOTEBOOKS = (
    "01_exploration",
    "02_scratch_models",
    "03_transfer_learning",
    "04_comparison",
    "05_deployment",
)


#: What ``SMOKE=1`` means: every step runs, on little data, once.
SMOKE = {"LIMIT": "10", "SEEDS": "1", "EPOCHS": "1", "FOLDS": "5"}


class NotebookFailed(BatikError):
    """A cell raised; the message shows the cell and the error."""


def find(names: Sequence[str]) -> list[Path]:
    """Return notebooks by path, by name (``02_scratch_models``) or by number (``02``).

    Args:
        names: empty for all five.

    Raises:
        BatikError: nothing of that name.
    """
    folder = PROJECT / "notebooks"
    found = []
    for name in names or NOTEBOOKS:
        fits = [n for n in NOTEBOOKS if name in (n, n[:2], n[1])]
        path = folder / f"{fits[0]}.ipynb" if fits else Path(name)
        if not path.is_file():
            raise BatikError(
                f"No notebook '{name}': give a path, or one of {', '.join(NOTEBOOKS)}."
            )
        found.append(path)
    return found


def execute(
    notebooks: Sequence[Path],
    given: Mapping[str, str],
    output: Path,
    *,
    progress: bool | Mapping = True,
) -> list[Path]:
    """Run notebooks in a row; all parameters are checked before the first one starts.

    Args:
        notebooks: paths.
        given: parameter names and values as text; each goes to the notebooks that declare it.
        output: folder for the executed copies.
        progress: show a bar for each notebook; or settings of tqdm for it.

    Returns:
        Paths of the executed copies.

    Raises:
        NotebookFailed: with the failing cell; its copy, up to there, is kept.
        BatikError: a wrong parameter.
    """
    import papermill

    bound = parameters.bind(given, {path: parameters.declared(path) for path in notebooks})
    output.mkdir(parents=True, exist_ok=True)
    done = []
    with tempfile.TemporaryDirectory(prefix="batik-") as sockets:
        for path in notebooks:
            copy = output / path.name
            log.info("Running %s", path.name)
            try:
                papermill.execute_notebook(
                    str(path),
                    str(copy),
                    bound[path],
                    kernel_name="python3",
                    language="python",
                    progress_bar={"desc": path.stem} if progress is True else progress,
                    # a helper's output may depend on where the notebook lies, as in Jupyter
                    cwd=str(path.parent),
                    config=_kernel(sockets),
                )
            except papermill.PapermillExecutionError as error:
                raise NotebookFailed(
                    f"{path.name} failed in cell {error.exec_count}:\n\n{error.source}\n\n"
                    f"{error.ename}: {error.evalue}\n\nThe executed copy up to there: {copy}"
                ) from error
            done.append(copy)
    return done


def _kernel(sockets: str) -> Config:
    """Let a local kernel speak through files of this user, not through open network ports.

    Each process has a folder of its own for them: with Jupyter's names, kernels that start at the
    same time would take each other's.
    """
    if os.name != "posix":
        return Config()
    return Config({"KernelManager": {"transport": "ipc", "ip": str(Path(sockets) / "kernel")}})


@dataclass(frozen=True)
class Job:
    """One notebook with one set of parameters.

    Attributes:
        notebook: path.
        given: parameter names and values as text, all of which the notebook declares.
        output: folder of the executed copy, of this set of parameters alone.
        title: what its progress line is headed with.
    """

    notebook: Path
    given: Mapping[str, str]
    output: Path
    title: str


def jobs(
    notebooks: Sequence[Path],
    given: Mapping[str, str],
    swept: Mapping[str, Sequence[str]],
    output: Path,
) -> list[Job]:
    """Return every notebook with every combination of the swept parameters.

    Args:
        notebooks: paths.
        given: parameters of all, as text.
        swept: values to try, by parameter. A notebook that does not declare a parameter is run
            without it, and once.
        output: folder for the executed copies; a combination has a folder of its own below it,
            named like ``EPOCHS=5``.

    Raises:
        BatikError: a wrong parameter, one that is both given and swept, or two notebooks of one
            name.
    """
    if twice := sorted(set(given) & set(swept)):
        raise BatikError(
            f"{twice[0]} has one value by -p and several by --sweep: give one of them."
        )
    if empty := [name for name, values in swept.items() if not values]:
        raise BatikError(f"--sweep {empty[0]} needs values, e.g. --sweep {empty[0]} 1 2 3.")
    declared = {path: parameters.declared(path) for path in notebooks}
    found: dict[tuple[Path, Path], Job] = {}
    for values in itertools.product(*swept.values()):
        chosen = dict(zip(swept, values, strict=True))
        parameters.bind({**given, **chosen}, declared)  # a wrong one must not wait for its turn
        for path in notebooks:
            own = {k: v for k, v in chosen.items() if k in declared[path]}
            folder = output / ",".join(re.sub(r"[^\w.=-]", "_", f"{k}={v}") for k, v in own.items())
            asked = {k: v for k, v in {**given, **own}.items() if k in declared[path]}
            title = " ".join([path.stem, *(f"{k}={v}" for k, v in own.items())])
            job = Job(path, asked, folder, title)
            before = found.setdefault((folder, Path(path.name)), job)
            if before != job:
                raise BatikError(
                    f"{before.title} and {job.title} would both write {folder / path.name}: give "
                    f"them in two commands with another --output."
                )
    return list(found.values())


def execute_all(
    todo: Sequence[Job], parallel: int = 1, *, progress: bool | None = None
) -> list[Path]:
    """Run notebooks, several at a time in processes of their own.

    Args:
        todo: what to run; with ``parallel`` above 1, none may need what another one writes.
        parallel: how many at a time. The cores are divided among them.
        progress: show a line for each; None where there is a terminal.

    Returns:
        Paths of the executed copies, in the order of ``todo``.

    Raises:
        NotebookFailed: with the first failing cell, after the others have ended; one after another,
            the rest is not begun.
        BatikError: ``parallel`` is less than 1.
    """
    if parallel < 1:
        raise BatikError(f"--parallel must be at least 1, not {parallel}.")
    if parallel == 1:
        shown = True if progress is None else progress
        return [execute([job.notebook], job.given, job.output, progress=shown)[0] for job in todo]
    shown = sys.stderr.isatty() if progress is None else progress
    # no copy of this process: it may have threads
    context = multiprocessing.get_context("spawn")
    cores = max(1, (os.cpu_count() or 1) // parallel)
    arguments = (context.RLock(), cores)
    with ProcessPoolExecutor(parallel, context, initializer=_prepare, initargs=arguments) as pool:
        running: dict[Future, Job] = {
            pool.submit(_execute_one, job, line if shown else None): job
            for line, job in enumerate(todo)
        }
        copies, failed = {}, []
        try:
            for future in as_completed(running):
                job = running[future]
                try:
                    copies[job.notebook, job.output] = future.result()
                except NotebookFailed as error:
                    failed.append(error)
                if not shown:
                    log.info("%s %s", "failed" if future.exception() else "done  ", job.title)
        except BrokenProcessPool as error:
            raise BatikError(
                "A notebook's process was killed, often for want of memory: the copies that are "
                "finished are kept; use a smaller --parallel."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        others = f"\n\n{len(failed) - 1} more failed." if len(failed) > 1 else ""
        raise NotebookFailed(f"{failed[0]}{others}") from failed[0]
    return [copies[job.notebook, job.output] for job in todo]


def _prepare(lock, cores: int) -> None:
    """Let a worker process share the terminal and the cores."""
    tqdm.set_lock(lock)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(cores))


def _execute_one(job: Job, line: int | None) -> Path:
    """Run one notebook in a worker process, with its bar on a line of its own.

    What the kernel itself says (as its process ends, say) goes to a file beside the copy, if it
    says anything: in the terminal it would break the lines.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)
    job.output.mkdir(parents=True, exist_ok=True)
    said = job.output / f"{job.notebook.stem}.log"
    with os.fdopen(os.dup(2), "w") as terminal, said.open("w") as stream:
        os.dup2(stream.fileno(), 2)
        bar = {"desc": job.title, "position": line, "file": terminal}
        try:
            shown = False if line is None else bar
            return execute([job.notebook], job.given, job.output, progress=shown)[0]
        finally:
            os.dup2(terminal.fileno(), 2)
            if not said.stat().st_size:
                said.unlink()


def refresh(notebook: Path, *, progress: bool = True) -> None:
    """Run a notebook with its defaults and keep the outputs in it, cleaned for a reader.

    What differs from run to run and tells nothing goes: papermill's notes, progress bars, and
    messages on the error stream. Nothing is changed if a cell fails.

    Args:
        notebook: path of a notebook of this project.
        progress: show a bar.
    """
    with tempfile.TemporaryDirectory() as folder:
        (copy,) = execute([notebook], {}, Path(folder), progress=progress)
        ran = nbformat.read(copy, as_version=4)
    kept = nbformat.read(notebook, as_version=4)
    for old, new in zip(kept.cells, ran.cells, strict=True):
        if old.cell_type == "code":
            old.execution_count = new.execution_count
            old.outputs = [output for output in new.outputs if not _is_noise(output)]
    partial = notebook.with_suffix(".partial")
    nbformat.write(kept, partial)
    partial.replace(notebook)


def _is_noise(output: nbformat.NotebookNode) -> bool:
    bar = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return bar or output.get("name") == "stderr"


def render(notebook: Path, html: Path) -> Path:
    """Write an executed notebook as one self-contained HTML file without code.

    Args:
        notebook: executed ``.ipynb``.
        html: file to write.

    Returns:
        The HTML file's path.
    """
    exporter = HTMLExporter(
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
        # no script from a foreign server: the report opens without a network
        require_js_url="",
        mathjax_url="",
        jquery_url="",
    )
    content = nbformat.read(notebook, as_version=4)
    # the Colab badge is an image of a foreign server, and set-up is of no use to a reader
    dropped = [c for c in content.cells if "not-in-report" in c.metadata.get("tags", [])]
    content.cells = [c for c in content.cells if c not in dropped]
    for cell in content.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## Contents"):
            cell.source = _without_links_to(dropped, cell.source)
    title = content.cells[0].source.splitlines()[0].lstrip("# ")
    body, _ = exporter.from_notebook_node(content, {"metadata": {"name": title}})
    partial = html.with_suffix(".partial")
    partial.write_text(body, encoding="utf-8")
    partial.replace(html)
    return html


def _without_links_to(dropped: Sequence[nbformat.NotebookNode], contents: str) -> str:
    """Return a numbered list of contents without the entries whose heading was dropped."""
    gone = {line[3:] for cell in dropped for line in cell.source.splitlines() if line[:3] == "## "}
    lines = [
        line
        for line in contents.splitlines()
        if not ((entry := re.match(r"\d+\. \[(.+)\]\(#", line)) and entry[1] in gone)
    ]
    number = itertools.count(1)
    return "\n".join(re.sub(r"^\d+\. \[", lambda _: f"{next(number)}. [", line) for line in lines)


def report(
    source: str,
    root: str,
    *,
    results: str = "",
    smoke: bool = False,
    given: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Path:
    """Run notebooks 01 to 04 on a data set and render the comparison.

    Args:
        source: see `data.load`.
        root: see `data.load`.
        results: results folder, or "" for the usual one.
        smoke: minutes in place of hours; results go to their own folder.
        given: further parameters by name, as text.
        progress: show bars.

    Returns:
        Path of ``<results>/<data set>/report.html``.
    """
    given = {**(SMOKE if smoke else {}), **(given or {})}
    notebooks = find(NOTEBOOKS[:4])
    # a misspelt parameter must not wait for the pictures to be read
    parameters.bind(given, {path: parameters.declared(path) for path in notebooks})
    dataset = data.load(
        source,
        root,
        given.get("CLASSES", ",".join(data.motif_names.MOTIFS)),
        limit=int(given.get("LIMIT", 0)),
        progress=progress,
    )
    if dataset.source == "folder":
        given |= {"DATA": "folder", "ROOT": str(Path(dataset.root).resolve())}
    else:
        given |= {"DATA": dataset.source}
    given |= {"RESULTS": results, "DATASET": dataset.name}
    folder = data.results_root(results) / dataset.name
    store = Store(folder / given.get("SPLIT", "course"))
    before = set(store.read("runs")["run"])
    copies = execute(notebooks, given, folder / "notebooks", progress=progress)
    now = len(set(store.read("runs")["run"]) - before)
    log.info("%d runs trained now; %d were there already and are reused", now, len(before))
    return render(copies[-1], folder / "report.html")
