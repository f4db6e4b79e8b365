"""The command line: ``python -m batik_utils --help``."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from batik_utils import __version__
from batik_utils.errors import BatikError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after the program's name; None takes those of this process.

    Returns:
        Exit status: 0 done, 1 a notebook failed or was interrupted, or a picture was refused, 2 a
        setting was wrong.
    """
    options = _parser().parse_args(arguments)
    # names of files can hold what the terminal's encoding cannot write
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("papermill", "traitlets", "matplotlib", "fontTools"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        return options.command(options)
    except BatikError as error:
        sys.stderr.write(f"\nbatik_utils: {error}\n")
        return 1 if type(error).__name__ == "NotebookFailed" else 2
    except KeyboardInterrupt as interrupted:
        remedy = str(interrupted) or "finished runs are kept, call again to go on"
        sys.stderr.write(f"\nbatik_utils: interrupted; {remedy}\n")
        return 1
    except BrokenPipeError:  # "| head -1": nobody reads on
        # what Python would still write when it ends goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# Each command imports what it needs when it runs: --help must not wait for torch.


def _run(options: argparse.Namespace) -> int:
    from batik_utils import data, parameters, run

    notebooks = run.find(options.notebook)
    given = dict(options.parameter)
    if options.refresh:
        if given or options.smoke or options.output or options.sweep or options.parallel != 1:
            raise BatikError("--refresh runs notebooks as they are: no parameters, no output.")
        for path in notebooks:
            run.refresh(path)
        return 0
    if options.smoke:
        # only where they apply; a name that was typed must be known
        known = {name for path in notebooks for name in parameters.declared(path)}
        given = {name: v for name, v in run.SMOKE.items() if name in known} | given
    output = data.results_root(options.output or "results/notebooks")
    jobs = run.jobs(notebooks, given, {name: values for name, *values in options.sweep}, output)
    for copy in run.execute_all(jobs, options.parallel):
        _say(copy)
    return 0


def _report(options: argparse.Namespace) -> int:
    from batik_utils import run

    html = run.report(
        options.data,
        options.root,
        results=options.results,
        smoke=options.smoke,
        given=dict(options.parameter),
    )
    _say(html)
    return 0


def _train(options: argparse.Namespace) -> int:
    from batik_utils import experiments, recipes

    # a wrong word must not wait for the pictures to be read
    recipes.select(options.recipes)
    setup = _setup(
        options, folds=options.folds, repeats=max(options.seeds, 5), devices=options.devices
    )
    outcome = experiments.run_grid(
        setup,
        options.recipes,
        options.seeds,
        epochs=options.epochs,
        n_train=options.n_train,
        ray=options.ray,
    )
    _say(outcome)
    _say(setup.store.folder)
    return 0


def _tune(options: argparse.Namespace) -> int:
    from batik_utils import recipes
    from batik_utils.evaluation import search as tuning

    recipes.get(options.recipe)
    setup = _setup(options)
    table = tuning.search(
        setup,
        options.recipe,
        options.trials,
        folds=options.folds,
        seed=options.seed,
    )
    _say(tuning.summary(table))
    _say(setup.store.folder / "tuning" / f"{options.recipe}.csv")
    return 0


def _cost(options: argparse.Namespace) -> int:
    from batik_utils import recipes
    from batik_utils.evaluation import cost

    recipes.select(options.recipes)
    setup = _setup(options)
    _say(cost.measure(setup, options.recipes).to_string(index=False))
    _say(setup.store.folder / "cost.csv")
    return 0


def _setup(options: argparse.Namespace, **settings: int):
    from batik_utils import data, experiments
    from batik_utils import training as engine

    engine.choose_device(options.device)
    dataset = data.load(options.data, options.root, options.classes, limit=options.limit)
    return experiments.prepare(
        dataset,
        options.grid,
        results=options.results,
        device=options.device,
        precision=options.precision,
        weights_directory=options.weights,
        **settings,
    )


def _audit(options: argparse.Namespace) -> int:
    from batik_utils import data
    from batik_utils.duplicates import audit

    if options.planted < 0:
        raise BatikError(f"--planted must be 0 or a positive number, not {options.planted}.")
    dataset = data.load(options.data, options.root, options.classes, limit=options.limit)
    found = audit.run(
        dataset,
        data.results_root(options.results),
        per_kind=options.planted,
        weights_directory=options.weights or None,
    )
    _say(found)
    return 0


def _explain(options: argparse.Namespace) -> int:
    from batik_utils import data, splits
    from batik_utils import training as engine
    from batik_utils.evaluation import shortcuts

    engine.choose_device(options.device)
    names = [name.strip() for name in options.recipes.split(",") if name.strip()]
    shortcuts.check_recipes(names)
    dataset = data.load(options.data, options.root)
    results = data.results_root(options.results) / dataset.name
    folder = results / "cv"
    found = shortcuts.run(
        dataset,
        splits.open_or_make_folds(dataset, folder / "folds.csv", results / "duplicate_groups.csv"),
        folder,
        names,
        watermarked=shortcuts.read_watermarks(results / "watermarks_by_eye.csv", dataset),
        weights_directory=options.weights or None,
        device=options.device,
    )
    _say(found)
    return 0


def _predict(options: argparse.Namespace) -> int:
    from batik_utils.app import command

    return command.predict(
        options.file,
        csv=options.csv,
        as_json=options.json,
        resume=options.resume,
        details=options.details,
        model=options.model,
        ray=options.ray,
    )


def _app(options: argparse.Namespace) -> int:
    if options.export_space:
        from batik_utils.app import space

        _say(space.export(Path(options.export_space), options.model or None))
        return 0
    from batik_utils.app import predict
    from batik_utils.app import server as app

    for chatty in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    predictor = predict.Predictor.load(options.model or None, threads=options.threads)
    app.serve(predictor, host=options.host, port=options.port, share=options.share)
    return 0


def _web(options: argparse.Namespace) -> int:
    from batik_utils.app import web

    _say(web.build(Path(options.output), options.model or None))
    return 0


def _build(options: argparse.Namespace) -> int:
    from batik_utils import data
    from batik_utils.classifier import build

    dataset = data.load(options.data, options.root, options.classes)
    found = build.run(
        dataset,
        data.results_root(options.results),
        options.weights or None,
        output=Path(options.output) if options.output else None,
        evaluate_only=options.evaluate,
    )
    _say(found)
    return 0


def _export(options: argparse.Namespace) -> int:
    from batik_utils.classifier import formats

    known = formats.FORMATS
    names = [name.strip() for name in options.format.split(",") if name.strip()]
    if not names or set(names) - set(known):
        raise BatikError(f"Unknown format '{options.format}': name some of {', '.join(known)}.")
    output = Path(options.output)
    made = formats.write(output, names, options.model or None)
    for path in made:
        _say(path)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from batik_utils import data
    from batik_utils.scale import benchmark as bench
    from batik_utils.scale import timing

    results = data.results_root(options.results)
    output = Path(options.output) if options.output else results / "bench"
    model = Path(options.model) if options.model else None
    dataset = data.load(options.data, options.root)
    groups = results / dataset.name / "duplicate_groups.csv"
    table = bench.run(
        dataset,
        output,
        groups=groups if groups.is_file() else None,
        model=model,
        weights_directory=options.weights or None,
        size=bench.QUICK if options.quick else bench.FULL,
    )
    _say(timing.summary(table))
    _say(output)
    return 0


def _say(line: object) -> None:
    sys.stdout.write(f"{line}\n")


class _Parameter(argparse.Action):
    """Collect ``-p NAME VALUE`` as pairs."""

    def __call__(self, parser, namespace, values, option_string=None):
        pairs = [*getattr(namespace, self.dest), tuple(values)]
        setattr(namespace, self.dest, pairs)


_PREDICT_HELP = """\
The committed model knows betawi, sidoluhur and tambal; `build` makes one of other motifs, and
--model takes it.

columns of --csv: file; verdict (sure, unsure, none: no motif of the model, refused: no usable
  picture); motif; p_<motif>, probability if it is one of the motifs; familiarity, higher is more
  like the motifs; reason
keys of --json: path, motif, verdict, probability, probabilities, familiarity, rejected, reason;
  with --details also level (motif, other_cloth, no_cloth), words (sure, probably, either), kind of
  a refusal, and evidence (rows of a grid over the picture: what each place adds to the motif)
exit status: 0 all answered, 1 a picture was refused or the call interrupted, 2 a setting is wrong
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m batik_utils", description="Batik image classification."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    def add_parameters(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "-p",
            "--parameter",
            nargs=2,
            action=_Parameter,
            default=[],
            metavar=("NAME", "VALUE"),
            help="notebook parameter, e.g. -p EPOCHS 3 (may be repeated)",
        )
        command.add_argument("--smoke", action="store_true", help="minutes: few pictures, 1 epoch")

    def add_data(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--data", default="auto", help="auto, folder, kaggle or synthetic (default: auto)"
        )
        command.add_argument("--root", default="", help="folder of the pictures, for 'folder'")
        command.add_argument("--results", default="", help="results folder (default: results)")

    def add_ray(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--ray",
            default="",
            metavar="ADDRESS",
            help="compute on a Ray cluster: auto, local or HOST:PORT (needs the extra 'scale')",
        )

    command = add("run", _run, "Execute notebooks headless (all five if none is named).")
    command.add_argument("notebook", nargs="*", help="path, name or number, e.g. 02")
    command.add_argument("--output", default="", help="folder for the executed copies")
    command.add_argument(
        "--refresh", action="store_true", help="run with defaults and keep the outputs in place"
    )
    command.add_argument(
        "--sweep",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="run once with each value, e.g. --sweep EPOCHS 5 10 20; several make all combinations",
    )
    command.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="so many at a time, each in a process of its own; they must not need each other",
    )
    add_parameters(command)

    command = add("report", _report, "Run notebooks 01 to 04 and write report.html.")
    add_data(command)
    add_parameters(command)

    def add_training(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--grid",
            default="course",
            help="split: course, stratified-<seed>, cv (folds, twins together) or cv-ungrouped "
            "(default: course)",
        )
        command.add_argument(
            "--classes", default="betawi,sidoluhur,tambal", help="motifs, or 'all'"
        )
        command.add_argument("--limit", type=int, default=0, help="pictures a motif, 0 for all")
        command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
        command.add_argument("--precision", default="float32", help="float32 or bfloat16")
        command.add_argument("--weights", default="", help="folder of pretrained weights")
        add_data(command)

    command = add("train", _train, "Train the missing runs of a grid of recipes and seeds.")
    command.add_argument(
        "--recipes", default="all", help="recipes or families, comma separated (default: all)"
    )
    command.add_argument(
        "--seeds", type=int, default=3, help="seeds a recipe; of cv, its repeats (default: 3)"
    )
    command.add_argument("--epochs", type=int, default=0, help="0: as each recipe says (default)")
    command.add_argument(
        "--n-train",
        type=int,
        default=0,
        help="at most so many training pictures a motif, 0 for all",
    )
    command.add_argument(
        "--folds", type=int, default=0, help="folds of cv; 0: as there are, or 10 (default)"
    )
    command.add_argument(
        "--devices",
        type=int,
        default=1,
        help="GPUs (or processes) that share each batch of one run (default: 1)",
    )
    add_ray(command)
    add_training(command)

    command = add("tune", _tune, "Search a recipe's settings on the training pictures alone.")
    command.add_argument("--recipe", required=True, help="recipe to start from")
    command.add_argument(
        "--trials", type=int, default=30, help="finished trials there should be (default: 30)"
    )
    command.add_argument("--folds", type=int, default=4, help="inner folds (default: 4)")
    command.add_argument("--seed", type=int, default=0, help="of the whole search (default: 0)")
    add_training(command)

    command = add("cost", _cost, "Measure what recipes cost in use: milliseconds and megabytes.")
    command.add_argument(
        "--recipes", default="all", help="recipes or families, comma separated (default: all)"
    )
    add_training(command)

    command = add("audit", _audit, "List near-duplicates and doubtful labels of a data set.")
    command.add_argument("--classes", default="all", help="motifs, or 'all' (default)")
    command.add_argument("--limit", type=int, default=0, help="pictures a motif, 0 for all")
    command.add_argument(
        "--planted", type=int, default=24, help="planted copies a kind, 0 for none (default: 24)"
    )
    command.add_argument("--weights", default="", help="folder of pretrained weights")
    add_data(command)

    command = add("explain", _explain, "Show what fixed networks look at, on masked pictures.")
    command.add_argument(
        "--recipes",
        default="mobilenet_v2_probe,efficientnet_lite0",
        help="recipes with a fixed backbone, comma separated (default: %(default)s)",
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    command.add_argument("--weights", default="", help="folder of pretrained weights")
    add_data(command)

    def add_model(command: argparse.ArgumentParser, *, threads: bool = True) -> None:
        command.add_argument(
            "--model",
            default="",
            help="model folder (default: BATIK_MODEL_DIR, or results/kaggle/model)",
        )
        if threads:
            command.add_argument(
                "--threads",
                type=int,
                default=0,
                help="of one run of the model, 0: all cores; one for folders and 'app'",
            )

    command = add("predict", _predict, "Name the motif of pictures, or of folders of pictures.")
    command.epilog = _PREDICT_HELP
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument(
        "file", nargs="+", help="picture, folder, pattern such as '*.jpg', or - for standard input"
    )
    command.add_argument("--csv", default="", help="write the answers to this table instead")
    command.add_argument(
        "--json", action="store_true", help="print one JSON object a picture, refused ones too"
    )
    command.add_argument(
        "--resume", action="store_true", help="go on with the table of an interrupted call"
    )
    command.add_argument(
        "--details", action="store_true", help="also print level, words and the evidence map"
    )
    add_ray(command)
    add_model(command, threads=False)

    command = add("app", _app, "Start the application: a page, and an API for programs.")
    command.add_argument(
        "--host", default="127.0.0.1", help="address, 0.0.0.0 for all (default: 127.0.0.1)"
    )
    command.add_argument("--port", type=int, default=7860, help="0: a free one (default: 7860)")
    command.add_argument(
        "--share", action="store_true", help="also a public link through gradio.live, for 72 hours"
    )
    command.add_argument(
        "--export-space",
        default="",
        metavar="DIR",
        help="write a Hugging Face Space of package and model to this folder, and do nothing else",
    )
    add_model(command)
    # several answers at once, one core each: more answers a second than all cores for each
    command.set_defaults(threads=1)

    command = add("web", _web, "Build the page that classifies in the browser alone (needs npm).")
    command.add_argument(
        "--output", default="build/web", help="folder for the page (default: build/web)"
    )
    add_model(command, threads=False)

    command = add("export", _export, "Write the deployed model in other formats, and check them.")
    command.add_argument(
        "--format",
        default="safetensors,pt",
        help="some of onnx, safetensors, pt (default: %(default)s)",
    )
    command.add_argument(
        "--output", default="build/formats", help="folder for them (default: build/formats)"
    )
    add_model(command, threads=False)
    add_data(command)

    command = add("build", _build, "Test the final model's making, and make it from all pictures.")
    command.add_argument(
        "--output", default="", help="folder of the model (default: <results>/<data set>/model)"
    )
    command.add_argument(
        "--evaluate", action="store_true", help="only the tests, which go to cv/final"
    )
    command.add_argument(
        "--classes",
        default="betawi,sidoluhur,tambal",
        help="motifs, or 'all': a model of its own, in model-all and cv-all",
    )
    command.add_argument("--weights", default="", help="folder of pretrained weights")
    add_data(command)

    command = add("bench", _bench, "Measure how many times faster this is than the published way.")
    command.add_argument(
        "--output", default="", help="folder of the tables (default: <results>/bench)"
    )
    command.add_argument(
        "--quick", action="store_true", help="only show that it runs; the times mean nothing"
    )
    command.add_argument("--weights", default="", help="folder of pretrained weights")
    add_model(command, threads=False)
    add_data(command)

    return parser


if __name__ == "__main__":
    sys.exit(main())
