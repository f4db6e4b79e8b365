"""The command line: ``python -m batik_utils --help``."""

import argparse
import contextlib
import errno
import functools
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from batik_utils import __version__
from batik_utils.errors import BatikError, expanded

#: Commands of earlier versions, and what is asked in their place.
RENAMED = {
    "tune": "search",
    "explain": "audit",
    "cost": "bench",
    "web": "export --format web",
    "formats": "export",
    "ablate": "'git show 4ed4f99:batik_utils/ablation.py'",
}
PREDICT = """\
The committed model knows betawi, sidoluhur and tambal; `build` makes one of other motifs.
columns of --csv: file; verdict (sure, unsure, none: no motif of the model, refused: no usable
  picture); motif; p_<motif>, its probability; familiarity, higher is more like the motifs; reason
keys of --json: path, motif, verdict, probability, probabilities, familiarity, rejected, reason;
  with --details also level, words, kind of a refusal, and evidence (a grid over the picture)
exit status: 0 all answered, 1 a picture was refused or the call interrupted, 2 a wrong setting"""
OWN_MOTIFS = """\
A model of your own motifs, from a folder with one folder of pictures for each motif:
  python -m batik_utils audit --data folder --root PICTURES --results RESULTS
  python -m batik_utils build --data folder --root PICTURES --results RESULTS --classes all \\
      --output MODEL
  python -m batik_utils predict --model MODEL picture.jpg
  python -m batik_utils app --model MODEL
Texts for its page go into MODEL/texts.json, by language and motif, for example
  {"en": {"parang": {"name": "Parang", "signs": "Diagonal rows of waves."}}}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. 1: something failed or was refused, or Ctrl-C; 2: a wrong setting or file."""
    # None where the shell closed it: ">&-"
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in RENAMED:
        return _fail(f"there is no '{words[0]}' any more: use {RENAMED[words[0]]}.")
    options = _parser().parse_args(_pairs(words))
    # names of files can hold what the terminal's encoding cannot write
    sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("papermill", "traitlets", "matplotlib", "fontTools", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        return options.function(options) or 0
    except BatikError as error:
        return _fail(error, 1 if type(error).__name__ == "NotebookFailed" else 2)
    except KeyboardInterrupt as interrupted:
        return _fail(f"interrupted; {str(interrupted) or options.interrupted}.", 1)
    except BrokenPipeError:  # "| head -1": what Python would still write at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # a full disk below the standard output has no name
        if not error.filename and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        remedy = "allow reading and writing there, free some space, or name another folder"
        return _fail(f"{error.filename or 'output'}: {error.strerror}: {remedy}.")


def _fail(message: object, status: int = 2) -> int:
    sys.stderr.write(f"\nbatik_utils: {message}\n")
    return status


def _say(*lines: object) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _pairs(words: Sequence[str]) -> list[str]:
    """Words with ``-p NAME=VALUE`` as ``-p NAME VALUE``."""
    found: list[str] = []
    for word in words:
        given = found[-1:] == ["-p"] and re.match(r"(\w+)=(.*)", word, re.DOTALL)
        found += given.groups() if given else [word]
    return found


def _path(text: str) -> str:
    """Path from where one stands: the library counts a relative one from the project."""
    return text and str(expanded(text).resolve())


def _of(options: argparse.Namespace, names: str) -> dict:
    return {name: getattr(options, name) for name in names.split()}


# Each command imports what it needs when it runs: --help must not wait for torch.


def _run(options: argparse.Namespace) -> None:
    """Execute notebooks headless (all five if none is named)."""
    from batik_utils import notebook

    paths, given = notebook.find(options.notebook), dict(options.parameter)
    if options.smoke:
        given = notebook.where_declared(notebook.SMOKE, paths) | given
    output = options.output or notebook.PROJECT / "results" / "notebooks"
    _say(*notebook.execute(paths, given, Path(output)))


def _report(options: argparse.Namespace) -> None:
    """Run notebooks 01 to 04 and write report.html."""
    from batik_utils import notebook

    given, size = dict(options.parameter), _of(options, "smoke full")
    _say(notebook.report(options.data, options.root, options.results, given, **size))


def _setup(options: argparse.Namespace, **settings: int):
    from batik_utils import data, experiments, recipes

    # a wrong word must not wait for the pictures to be read
    recipes.select(options.recipes)
    dataset = data.load(options.data, options.root, options.classes, limit=options.limit)
    settings |= _of(options, "results device precision")
    return experiments.prepare(dataset, options.grid, **settings)


def _train(options: argparse.Namespace) -> int:
    """Train the missing runs of a grid of recipes and seeds, for tables and figures."""
    from batik_utils import experiments
    from batik_utils.scale import fabric, mlflow_runs, ray_cluster

    setup = _setup(options, folds=options.folds, repeats=max(options.seeds, 5))
    settings = _of(options, "epochs")
    with contextlib.ExitStack() as stack:
        if os.environ.get("MLFLOW_TRACKING_URI"):
            settings["on_run"] = mlflow_runs.logger()
        if options.devices != 1:
            settings["fit"] = fabric.Fit(options.devices, setup.device)
        if options.ray:
            gpus = options.devices if setup.device.type == "cuda" else 0
            stack.enter_context(ray_cluster.connected(options.ray))
            settings["map"] = functools.partial(ray_cluster.ray_map, gpus=gpus)
        outcome = experiments.run_grid(setup, options.recipes, options.seeds, **settings)
    _say(outcome, setup.store.folder)
    return 1 if outcome.failed else 0


def _search(options: argparse.Namespace) -> None:
    """Search a recipe's settings, scored on the training pictures alone."""
    from batik_utils import recipes
    from batik_utils.evaluation import search

    name, setup = recipes.get(options.recipes).name, _setup(options)
    table = search.search(setup, name, options.trials)
    _say(search.best(table).to_string(), setup.store.folder / "tuning" / f"{name}.csv")


def _audit(options: argparse.Namespace) -> None:
    """List near-duplicates, doubtful labels and shortcuts of a data set."""
    from batik_utils import data, splits
    from batik_utils.duplicates import audit
    from batik_utils.evaluation import shortcuts
    from batik_utils.images.motifs import MOTIFS

    dataset = data.load(options.data, options.root, options.classes, limit=options.limit)
    results = data.results_root(options.results)
    found = audit.run(dataset, results)
    _say(*(f"{name}: {count}" for name, count in found.items()))
    _say(audit.folder_of(dataset, results))
    if not {*MOTIFS} <= {*dataset.classes}:
        return
    three = data.load(options.data, options.root, limit=options.limit)
    folder, groups = results / three.name, audit.groups_of(three, results)
    listed = folder / "watermarks_by_eye.csv"
    marked = list(data.read_table(listed)["path"]) if listed.is_file() else []
    try:
        folds = splits.open_or_make_folds(three, folder / "cv" / "folds.csv", groups)
        tables = shortcuts.run(three, folds, folder / "cv", watermarked=marked)
        _say(*(table.to_string() for table in tables))
    except BatikError as error:
        _say(f"Shortcuts left out: {error}")


def _build(options: argparse.Namespace) -> None:
    """Test the making of the deployed model by cross-validation, and make it from all pictures."""
    from batik_utils import data
    from batik_utils.classifier import build

    dataset = data.load(options.data, options.root, options.classes)
    given = _of(options, "output others independent").items()
    paths = {name: Path(text) for name, text in given if text}
    results = data.results_root(options.results)
    _say(build.run(dataset, results, **paths, evaluate_only=options.evaluate))


def _predict(options: argparse.Namespace) -> int:
    """Name the motif of pictures, or of folders of pictures."""
    from batik_utils.app import command

    asked = _of(options, "csv resume details model ray")
    if options.ray:
        asked["ray_jobs"] = importlib.import_module("batik_utils.scale.ray_jobs")
    return command.predict(options.file, as_json=options.json, **asked)


def _app(options: argparse.Namespace) -> None:
    """Start the application: a page, and an API for programs."""
    from batik_utils.app import predict, server

    # several answers at once, one core each: more answers a second than all cores for each
    predictor = predict.Predictor.load(options.model or None, threads=1)
    server.serve(predictor, **_of(options, "host port share gallery root_path"))


def _export(options: argparse.Namespace) -> None:
    """Write the deployed model in other formats, as a static page (web) or a Space (space)."""
    from batik_utils.app import space, web
    from batik_utils.classifier import export

    output, model = Path(options.output), options.model or None
    for name in filter(None, map(str.strip, options.format.split(","))):
        if name == "web":
            _say(web.build(output, model, options.gallery))
        elif name == "space":
            _say(space.export(output, model))
        else:
            _say(export.write(output, name, model))


def _bench(options: argparse.Namespace) -> None:
    """Measure how close the code comes to the limit of this machine, and what recipes cost."""
    from batik_utils import data
    from batik_utils.scale import benchmark

    dataset = data.load(options.data, options.root)
    output = Path(options.output or data.results_root() / "bench")
    table = benchmark.run(dataset, output, model=options.model, ray=options.ray)
    _say(table.iloc[:, :7].round(3).to_string(index=False), output)


#: Every option once: how it is read, its default and its help.
OPTIONS: dict[str, tuple[Callable, object, str]] = {
    "--smoke": (bool, False, "minutes: ten pictures a motif, one epoch, one seed"),
    "--full": (bool, False, "hours: every recipe, as many seeds as the committed results have"),
    "--output": (_path, "", "file or folder to write"),
    "--data": (str.lower, "auto", "auto, folder, kaggle or synthetic"),
    "--root": (str, "", "folder of the pictures, one folder for each motif, for --data folder"),
    "--results": (_path, "", "results folder (default: BATIK_RESULTS_DIR, or the project's)"),
    "--classes": (str, "betawi,sidoluhur,tambal", "motifs, or 'all': every folder of --root"),
    "--limit": (int, 0, "pictures a motif, 0 for all"),
    "--grid": (str.lower, "course", "course, stratified-<seed>, cv (grouped folds), cv-ungrouped"),
    "--recipes": (str.lower, "all", "recipes or families, comma separated"),
    "--seeds": (int, 3, "seeds a recipe; of cv, its repeats"),
    "--epochs": (int, 0, "0: as each recipe says"),
    "--folds": (int, 0, "folds, 0: as there are, or the usual number"),
    "--device": (str.lower, "auto", "auto, cpu, cuda, cuda:1 or mps"),
    "--precision": (str.lower, "float32", "float32 or bfloat16"),
    "--devices": (int, 1, "GPUs or processes that share each batch (Fabric)"),
    "--ray": (str, "", "compute on a Ray cluster: auto, local or HOST:PORT"),
    "--trials": (int, 30, "finished trials there should be"),
    "--evaluate": (bool, False, "no model: cross-validation and comparisons"),
    "--others": (_path, "", "counter-examples in folders songket, textures, photographs"),
    "--independent": (_path, "", "photographs of other collections, to test on, with manifest.csv"),
    "--model": (str, "", "model folder (default: BATIK_MODEL_DIR, or results/kaggle/model)"),
    "--csv": (str, "", "write the answers to this table instead"),
    "--json": (bool, False, "print one JSON object a picture, refused ones too"),
    "--resume": (bool, False, "go on with the table of an interrupted call"),
    "--details": (bool, False, "also print level, words and the evidence map"),
    "--host": (str, "127.0.0.1", "address to listen on, 0.0.0.0 for all"),
    "--port": (int, 7860, "0: a free one"),
    "--share": (bool, False, "also a public link through gradio.live, for 72 hours"),
    "--gallery": (str, "", "folder of own photographs for the page; captions are the file names"),
    "--root-path": (str, "", "path of the page behind a proxy, e.g. /batik"),
    "--format": (str.lower, "onnx", "some of web, space, onnx, safetensors, pt"),
}
_DATA = "--data --root --results"
_TRAINING = f"{_DATA} --classes --limit --grid --device --precision --recipes"
_BUILD = f"{_DATA} --classes --output --evaluate --others --independent"
_WRITTEN_LAST = "what it writes is written at the end, and what was there before is unchanged"
_GOES_ON = "finished runs are kept: the same command goes on"
_KEPT = "finished files and trainings are kept"
#: Options of each command, defaults of its own, and what holds after Ctrl-C.
COMMANDS: dict[Callable, tuple[str, dict, str]] = {
    _run: ("--smoke --output", {}, _KEPT),
    _report: (f"{_DATA} --smoke --full", {}, _GOES_ON),
    _train: (f"{_TRAINING} --folds --seeds --epochs --ray --devices", {}, _GOES_ON),
    _search: (f"{_TRAINING} --trials", {"--recipes": "scratch_small"}, _GOES_ON),
    _audit: (f"{_DATA} --classes --limit", {"--classes": "all"}, _WRITTEN_LAST),
    _build: (_BUILD, {}, _WRITTEN_LAST),
    _predict: ("--csv --json --resume --details --model --ray", {}, "see the answers above"),
    _app: ("--model --host --port --share --gallery --root-path", {}, "the server has stopped"),
    _export: ("--format --output --model --gallery", {"--output": "build/export"}, _KEPT),
    _bench: ("--data --root --model --output --ray", {}, _WRITTEN_LAST),
}


def _parser() -> argparse.ArgumentParser:
    shape: dict = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    epilog = f"{OWN_MOTIFS}\nPaths are relative to the folder that you stand in."
    title = "Batik image classification."
    parser = argparse.ArgumentParser("python -m batik_utils", None, title, epilog, **shape)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    epilogs = {_predict: PREDICT, _train: OWN_MOTIFS, _build: OWN_MOTIFS}
    for function, (names, defaults, interrupted) in COMMANDS.items():
        texts = {"help": function.__doc__, "description": function.__doc__}
        texts["epilog"] = epilogs.get(function)
        command = commands.add_parser(function.__name__[1:], **texts, **shape)
        if function is _run:
            command.add_argument("notebook", nargs="*", help="path, name or number, e.g. 02")
        if function is _predict:
            what = "picture, folder, pattern such as '*.jpg', or - for standard input"
            command.add_argument("file", nargs="+", help=what)
        if function in (_run, _report):
            text = "notebook parameter, e.g. -p EPOCHS 3 or -p EPOCHS=3 (may be repeated)"
            how = {"metavar": ("NAME", "VALUE"), "dest": "parameter", "default": []}
            command.add_argument("-p", nargs=2, action="append", help=text, **how)
        for name in names.split():
            kind, default, text = OPTIONS[name]
            how = {"action": "store_true"} if kind is bool else {"type": kind}
            if shown := defaults.get(name, default):
                text += " (default: %(default)s)"
            command.add_argument(name, default=shown, help=text, **how)
        command.set_defaults(function=function, interrupted=interrupted)
    return parser


if __name__ == "__main__":
    sys.exit(main())
