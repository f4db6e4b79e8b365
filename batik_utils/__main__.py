"""The command line: ``python -m batik_utils --help``."""

import argparse
import contextlib
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from batik_utils import __version__
from batik_utils.errors import BatikError

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
exit status: 0 all answered, 1 a picture was refused or the call interrupted, 2 a wrong setting
"""
OWN_MOTIFS = """\
A model of your own motifs, from a folder with one folder of pictures for each motif:
  python -m batik_utils audit --data folder --root PICTURES --results RESULTS
  python -m batik_utils build --data folder --root PICTURES --results RESULTS --classes all \\
      --output MODEL
  python -m batik_utils predict --model MODEL picture.jpg
  python -m batik_utils app --model MODEL
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done. 1: a notebook or run failed, a picture was refused, or Ctrl-C. 2: a wrong setting, or a
    file that cannot be read or written.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in RENAMED:
        return _fail(f"there is no '{words[0]}' any more: use {RENAMED[words[0]]}.")
    options = _parser().parse_args(_pairs(words))
    # names of files can hold what the terminal's encoding cannot write
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("papermill", "traitlets", "matplotlib", "fontTools", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    if getattr(options, "results", ""):  # like every path of the command line, from where one is
        options.results = str(_path(options.results).resolve())
    try:
        return options.function(options)
    except BatikError as error:
        return _fail(error, 1 if type(error).__name__ == "NotebookFailed" else 2)
    except KeyboardInterrupt as interrupted:
        return _fail(f"interrupted; {str(interrupted) or options.interrupted}.", 1)
    except BrokenPipeError:  # "| head -1": nobody reads on
        # what Python would still write when it ends goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if not error.filename:
            raise
        remedy = "allow reading and writing there, free some space, or name another folder"
        return _fail(f"{error.filename}: {error.strerror}: {remedy}.")


def _fail(message: object, status: int = 2) -> int:
    sys.stderr.write(f"\nbatik_utils: {message}\n")
    return status


def _say(line: object) -> None:
    sys.stdout.write(f"{line}\n")


def _pairs(words: Sequence[str]) -> list[str]:
    """Words with ``-p NAME=VALUE`` as ``-p NAME VALUE``."""
    found: list[str] = []
    for word in words:
        given = found[-1:] in (["-p"], ["--parameter"]) and re.match(r"(\w+)=(.*)", word, re.S)
        found += given.groups() if given else [word]
    return found


# Each command imports what it needs when it runs: --help must not wait for torch.


def _run(options: argparse.Namespace) -> int:
    """Execute notebooks headless (all five if none is named)."""
    from batik_utils import notebook

    paths, given = notebook.find(options.notebook), dict(options.parameter)
    output = _path(options.output or notebook.PROJECT / "results" / "notebooks")
    if options.refresh:
        if given or options.smoke or options.output:
            raise BatikError("--refresh runs notebooks as they are: no parameters, no output.")
        for path in paths:
            notebook.refresh(path)
        return 0
    if options.smoke:
        given = notebook.where_declared(notebook.SMOKE, paths) | given
    for copy in notebook.execute(paths, given, output):
        _say(copy)
    return 0


def _report(options: argparse.Namespace) -> int:
    """Run notebooks 01 to 04 and write report.html."""
    from batik_utils import notebook

    if options.smoke and options.full:
        raise BatikError("--smoke and --full exclude each other.")
    given = notebook.where_declared(notebook.SMOKE, notebook.find()) if options.smoke else {}
    where = (options.data, options.root, options.results)
    given |= dict(options.parameter)
    _say(notebook.report(*where, given=given, full=options.full))
    return 0


def _setup(options: argparse.Namespace, **settings: int):
    from batik_utils import data, experiments, recipes, training

    # a wrong word must not wait for the pictures to be read
    recipes.select(options.recipes)
    training.choose_device(options.device)
    dataset = data.load(options.data, options.root, options.classes, limit=options.limit)
    settings |= {name: getattr(options, name) for name in ("results", "device", "precision")}
    settings["weights_directory"] = options.weights
    return experiments.prepare(dataset, options.grid, **settings)


def _train(options: argparse.Namespace) -> int:
    """Train the missing runs of a grid of recipes and seeds, for tables and figures."""
    from batik_utils import experiments
    from batik_utils.scale import fabric, mlflow_runs, ray_cluster

    setup = _setup(options, folds=options.folds, repeats=max(options.seeds, 5))
    settings: dict = {"epochs": options.epochs, "n_train": options.n_train}
    with contextlib.ExitStack() as stack:
        if os.environ.get("MLFLOW_TRACKING_URI"):
            settings["on_run"] = mlflow_runs.logger()
        if options.devices != 1:
            settings["fit"] = fabric.Fit(options.devices, setup.device)
        if options.ray:
            gpus = options.devices if setup.device.type == "cuda" else 0
            stack.enter_context(ray_cluster.connected(options.ray))
            settings["map"] = ray_cluster.map_on(gpus=gpus)
        outcome = experiments.run_grid(setup, options.recipes, options.seeds, **settings)
    _say(outcome)
    _say(setup.store.folder)
    return 1 if outcome.failed else 0


def _search(options: argparse.Namespace) -> int:
    """Search a recipe's settings, scored on the training pictures alone."""
    from batik_utils import recipes
    from batik_utils.evaluation import search

    name = recipes.get(options.recipes).name
    setup = _setup(options)
    settings = {"folds": options.folds or 4, "seed": options.seed}
    table = search.search(setup, name, options.trials, **settings)
    _say(search.best(table).to_string())
    _say(setup.store.folder / "tuning" / f"{name}.csv")
    return 0


def _audit(options: argparse.Namespace) -> int:
    """List near-duplicates, doubtful labels and shortcuts of a data set."""
    from batik_utils import data, splits
    from batik_utils.duplicates import audit
    from batik_utils.evaluation import shortcuts
    from batik_utils.images.motifs import MOTIFS
    from batik_utils.weights import WeightsNotFound

    dataset = data.load(options.data, options.root, options.classes, limit=options.limit)
    results = data.results_root(options.results)
    settings = {"weights_directory": options.weights or None}
    _say(audit.run(dataset, results, **settings))
    if {*MOTIFS} <= {*dataset.classes}:
        three = data.load(options.data, options.root, limit=options.limit)
        folder, groups = results / three.name, audit.groups_of(three, results)
        folds = splits.open_or_make_folds(three, folder / "cv" / "folds.csv", groups)
        listed = folder / "watermarks_by_eye.csv"
        marked = list(data.read_table(listed)["path"]) if listed.is_file() else []
        try:
            for table in shortcuts.run(three, folds, folder / "cv", watermarked=marked, **settings):
                _say(table.to_string())
        except WeightsNotFound as error:
            _say(f"Shortcuts left out: {error}")
    return 0


def _build(options: argparse.Namespace) -> int:
    """Test the making of the deployed model by cross-validation, and make it from all pictures."""
    from batik_utils import data
    from batik_utils.classifier import build

    dataset = data.load(options.data, options.root, options.classes)
    given = {name: getattr(options, name) for name in ("output", "others", "independent")}
    where = {name: _path(text) for name, text in given.items() if text}
    where["evaluate_only"] = options.evaluate
    _say(build.run(dataset, data.results_root(options.results), options.weights or None, **where))
    return 0


def _predict(options: argparse.Namespace) -> int:
    """Name the motif of pictures, or of folders of pictures."""
    from batik_utils.app import command

    asked = {name: getattr(options, name) for name in ("csv", "resume", "details", "model", "ray")}
    if options.ray:
        asked["ray_jobs"] = importlib.import_module("batik_utils.scale.ray_jobs")
    return command.predict(options.file, as_json=options.json, **asked)


def _app(options: argparse.Namespace) -> int:
    """Start the application: a page, and an API for programs."""
    from batik_utils.app import predict, server

    # several answers at once, one core each: more answers a second than all cores for each
    predictor = predict.Predictor.load(options.model or None, threads=1)
    asked = ("host", "port", "share", "gallery", "root_path")
    server.serve(predictor, **{name: getattr(options, name) for name in asked})
    return 0


def _export(options: argparse.Namespace) -> int:
    """Write the deployed model in other formats, as a static page (web) or a Space (space)."""
    from batik_utils.app import space, web
    from batik_utils.classifier import export

    output, model = _path(options.output), options.model or None
    for name in filter(None, map(str.strip, options.format.split(","))):
        if name == "web":
            _say(web.build(output, model))
        elif name == "space":
            _say(space.export(output, model))
        else:
            _say(*export.write(output, name, model))
    return 0


def _bench(options: argparse.Namespace) -> int:
    """Measure how close the code comes to the limit of this machine, and what recipes cost."""
    from batik_utils import data
    from batik_utils.scale import benchmark

    dataset = data.load(options.data, options.root)
    output = _path(options.output) if options.output else data.results_root() / "bench"
    table = benchmark.run(dataset, output, model=options.model or None, ray=options.ray)
    _say(table.iloc[:, :7].round(3).to_string(index=False))
    _say(output)
    return 0


def _path(text: str | Path) -> Path:
    return Path(text).expanduser()


#: Every option once: its default, whose type is the option's, and its help.
OPTIONS: dict[str, tuple[object, str]] = {
    "-p": ([], "notebook parameter, e.g. -p EPOCHS 3 or -p EPOCHS=3 (may be repeated)"),
    "--smoke": (False, "minutes: ten pictures a motif, one epoch, one seed"),
    "--full": (False, "hours: every recipe, with as many seeds as the committed results have"),
    "--refresh": (False, "run with defaults and keep the outputs in place"),
    "--output": ("", "file or folder to write"),
    "--data": ("auto", "auto, folder, kaggle or synthetic"),
    "--root": ("", "folder of the pictures, one folder for each motif, for --data folder"),
    "--results": ("", "results folder (default: BATIK_RESULTS_DIR, or the project's)"),
    "--classes": ("betawi,sidoluhur,tambal", "motifs, or 'all': every folder of --root"),
    "--limit": (0, "pictures a motif, 0 for all"),
    "--weights": ("", "folder of pretrained weights (default: BATIK_WEIGHTS_DIR)"),
    "--grid": ("course", "split: course, stratified-<seed>, cv (10 grouped folds), cv-ungrouped"),
    "--recipes": ("all", "recipes or families, comma separated"),
    "--seeds": (3, "seeds a recipe; of cv, its repeats"),
    "--epochs": (0, "0: as each recipe says"),
    "--n-train": (0, "at most N training pictures a motif, 0 for all"),
    "--folds": (0, "folds, 0: as there are, or the usual number"),
    "--device": ("auto", "auto, cpu, cuda, cuda:1 or mps"),
    "--precision": ("float32", "float32 or bfloat16"),
    "--devices": (1, "GPUs or processes that share each batch (Fabric)"),
    "--ray": ("", "compute on a Ray cluster: auto, local or HOST:PORT"),
    "--trials": (30, "finished trials there should be"),
    "--seed": (0, "of the search"),
    "--evaluate": (False, "no model: cross-validation and comparisons"),
    "--others": ("", "counter-examples in folders songket, textures, photographs"),
    "--independent": ("", "photographs of other collections, to test on, with manifest.csv"),
    "--model": ("", "model folder (default: BATIK_MODEL_DIR, or results/kaggle/model)"),
    "--csv": ("", "write the answers to this table instead"),
    "--json": (False, "print one JSON object a picture, refused ones too"),
    "--resume": (False, "go on with the table of an interrupted call"),
    "--details": (False, "also print level, words and the evidence map"),
    "--host": ("127.0.0.1", "address to listen on, 0.0.0.0 for all"),
    "--port": (7860, "0: a free one"),
    "--share": (False, "also a public link through gradio.live, for 72 hours"),
    "--gallery": ("", "folder of own photographs for the page; captions are the file names"),
    "--root-path": ("", "path of the page behind a proxy, e.g. /batik"),
    "--format": ("onnx", "some of web, space, onnx, safetensors, pt"),
}
#: Options whose words are understood in any case, e.g. "--data Folder".
ANY_CASE = {"--data", "--grid", "--recipes", "--device", "--precision", "--format"}
_DATA = "--data --root --results"
_TRAINING = f"{_DATA} --classes --limit --grid --device --precision --weights --recipes --folds"
_BUILD = "--output --evaluate --others --independent"
_WRITTEN_LAST = "what it writes is written at the end, and what was there before is unchanged"
_GOES_ON = "finished runs are kept: the same command goes on"
#: Options of each command, defaults of its own, and what holds after Ctrl-C.
COMMANDS: dict[Callable, tuple[str, dict, str]] = {
    _run: ("-p --smoke --refresh --output", {}, "finished copies and trainings are kept"),
    _report: (f"{_DATA} -p --smoke --full", {}, _GOES_ON),
    _train: (f"{_TRAINING} --seeds --epochs --n-train --ray --devices", {}, _GOES_ON),
    _search: (f"{_TRAINING} --trials --seed", {"--recipes": "scratch_small"}, _GOES_ON),
    _audit: (f"{_DATA} --classes --limit --weights", {"--classes": "all"}, _WRITTEN_LAST),
    _build: (
        f"{_DATA} --classes --weights --output --evaluate --others --independent",
        {},
        _WRITTEN_LAST,
    ),
    _predict: ("--csv --json --resume --details --model --ray", {}, "see the answers above"),
    _app: ("--model --host --port --share --gallery --root-path", {}, "the server has stopped"),
    _export: ("--format --output --model", {"--output": "build/export"}, "finished files are kept"),
    _bench: ("--data --root --model --output --ray", {}, _WRITTEN_LAST),
}


def _parser() -> argparse.ArgumentParser:
    shape: dict = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(
        prog="python -m batik_utils",
        description="Batik image classification.",
        epilog=f"{OWN_MOTIFS}\nPaths are relative to the folder that you stand in.",
        **shape,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    epilogues = {_predict: PREDICT, _train: OWN_MOTIFS, _build: OWN_MOTIFS}
    for function, (options, defaults, interrupted) in COMMANDS.items():
        name, text = function.__name__[1:], function.__doc__
        texts = {"help": text, "description": text, "epilog": epilogues.get(function)}
        command = commands.add_parser(name, **texts, **shape)
        if function is _run:
            command.add_argument("notebook", nargs="*", help="path, name or number, e.g. 02")
        if function is _predict:
            what = "picture, folder, pattern such as '*.jpg', or - for standard input"
            command.add_argument("file", nargs="+", help=what)
        for option in options.split():
            default, text = OPTIONS[option]
            default = defaults.get(option, default)
            how: dict = {"type": str.lower if option in ANY_CASE else type(default)}
            if isinstance(default, bool):
                how = {"action": "store_true"}
            elif isinstance(default, list):
                how = {"nargs": 2, "action": "append", "dest": "parameter"}
                how["metavar"] = ("NAME", "VALUE")
            elif default:
                text += " (default: %(default)s)"
            command.add_argument(option, default=default, help=text, **how)
        command.set_defaults(function=function, interrupted=interrupted)
    return parser


if __name__ == "__main__":
    sys.exit(main())
