"""One safe door for new pictures: a model folder opens, pictures go in, answers come out.

    >>> from batik_utils.app.predict import Predictor
    >>> predictor = Predictor.load("results/kaggle/model")
    >>> answer = predictor.predict(["holiday.jpg"])[0]
    >>> answer.motif, answer.verdict
    ('tambal', 'sure')

Only onnxruntime, NumPy and Pillow are needed, no torch. A model folder holds ``model.onnx``
(pixels in, calibrated probabilities and familiarity out), ``preprocessing.json``, ``labels.json``
and ``SHA256SUMS``. A bad file is an answer too, with ``verdict`` "refused" and a sentence; it never
ends a batch. Introduced in notebook 05.
"""

import contextlib
import csv
import hashlib
import itertools
import json
import math
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from batik_utils.app import onnx_session
from batik_utils.errors import PROJECT, BatikError
from batik_utils.images import pictures
from batik_utils.images.pictures import PictureError
from batik_utils.images.preprocessing import Framing, frame

if TYPE_CHECKING:
    import onnxruntime

#: A smaller picture shows no motif (px, the shorter side).
MIN_SIDE = 32
#: A picture whose pixels spread less than this shows one colour (standard deviation, 0 to 255).
MIN_SPREAD = 2.0
#: Calibrated probability from which an answer is called sure: at least 7 of 10 such are right.
SURE_FROM = 0.7
#: Pictures that go through the model at once.
BATCH = 16
#: What a folder of pictures may hold beside them without each being named as refused.
_NOT_PICTURES = {".txt", ".csv", ".json", ".md", ".ini", ".db", ".ds_store", ".py", ".xml", ".zip"}

Source = Path | str | bytes | Image.Image


@dataclass(frozen=True)
class Prediction:
    """The answer about one picture.

    Attributes:
        name: file name, or a number where there was no file.
        motif: ``"betawi"``, ``"sidoluhur"`` or ``"tambal"``; None for "none of these" and for what
            was refused.
        verdict: ``sure``, ``unsure`` (the motif is only the likeliest), ``none`` (a picture, but
            unlike the three motifs) or ``refused`` (no picture that can be judged).
        probabilities: motif to calibrated probability, adding to 1, *given that* it is one of the
            three; empty if refused.
        familiarity: higher is more like the three motifs; NaN if refused.
        reason: one sentence where the verdict is not ``sure``, otherwise empty.
        kind: of a refusal, in one word (`pictures.PictureError`), otherwise empty.
    """

    name: str
    motif: str | None
    verdict: str
    probabilities: dict[str, float]
    familiarity: float
    reason: str = ""
    kind: str = ""

    @property
    def probability(self) -> float:
        """Largest probability; NaN if refused."""
        return max(self.probabilities.values(), default=math.nan)


def as_json(answer: Prediction) -> dict:
    """Return an answer as plain values, for programs.

    Returns:
        ``path``, ``motif``, ``verdict``, ``probability``, ``probabilities``, ``familiarity``,
        ``rejected`` (whether no motif is named) and ``reason``; see `Prediction`. What a refused
        file does not have is None.
    """
    refused = answer.verdict == "refused"
    return {
        "path": answer.name,
        "motif": answer.motif,
        "verdict": answer.verdict,
        "probability": None if refused else round(answer.probability, 6),
        "probabilities": {name: round(p, 6) for name, p in answer.probabilities.items()},
        "familiarity": None if refused else round(answer.familiarity, 6),
        "rejected": answer.motif is None,
        "reason": answer.reason,
    }


def default_folder() -> Path:
    """Return ``BATIK_MODEL_DIR``, or the model that is committed with the project."""
    named = os.environ.get("BATIK_MODEL_DIR", "")
    return Path(named) if named else PROJECT / "results" / "kaggle" / "model"


class Predictor:
    """A loaded model; safe to use from several threads.

    Args:
        session: onnxruntime session with input ``pixels`` and outputs ``probabilities`` and
            ``familiarity``.
        framing: how pictures are brought to the model's square.
        classes: motifs in the order of the probabilities.
        threshold: familiarity under which the answer is "none of these".
        folder: where the model came from.
        threads: of one run of the model; 0 is onnxruntime's choice, all cores.
    """

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        framing: Framing,
        classes: Sequence[str],
        threshold: float,
        folder: Path,
        threads: int = 0,
    ):
        self.framing = framing
        self.classes = tuple(classes)
        self.threshold = threshold
        self.folder = folder
        self.threads = threads
        self._session = session

    @classmethod
    def load(cls, folder: Path | str | None = None, *, threads: int = 0) -> "Predictor":
        """Open a model folder, after checking that every file in it is the one that was published.

        Args:
            folder: the model folder; None takes `default_folder`.
            threads: of one run of the model; 0 leaves it to onnxruntime.

        Raises:
            BatikError: a file is missing, changed or damaged, or is not such a model.
        """
        folder = default_folder() if folder is None else Path(folder)
        verify(folder)
        labels = _json(folder / "labels.json")
        try:
            classes = [str(name) for name in labels["classes"]]
            threshold = float(labels["familiarity_threshold"])
        except (KeyError, TypeError, ValueError) as error:
            raise BatikError(
                f"{folder / 'labels.json'} does not say what it must ({error!r})."
            ) from error
        framing = Framing.from_dict(_json(folder / "preprocessing.json"))
        opened = session(folder / "model.onnx", threads)
        _check(opened, framing, len(classes), folder)
        return cls(opened, framing, classes, threshold, folder, threads)

    def predict(self, images: Iterable[Source], *, batch: int = BATCH) -> list[Prediction]:
        """Answer about pictures, in their order.

        Args:
            images: paths, contents of files (bytes), or PIL images.
            batch: pictures that go through the model at once.
        """
        return list(self.stream(images, batch=batch, workers=1))

    def stream(
        self, images: Iterable[Source], *, batch: int = BATCH, workers: int = 2
    ) -> Iterator[Prediction]:
        """Answer about pictures one after another, holding only a few in memory.

        A model loaded with ``threads=1`` is fastest: each worker then takes its picture from file
        to answer by itself, so that no core waits for another, and pictures are not gathered into
        batches, which would only fall out of the processor's cache. With more threads the workers
        open and resize pictures, which go through the model in batches.

        Args:
            images: as in `predict`; may be endless.
            batch: pictures that go through the model at once, where they are gathered.
            workers: threads (Pillow decodes and onnxruntime computes outside Python's lock).

        Yields:
            One `Prediction` a picture, in the order of ``images``.

        Raises:
            BatikError: ``batch`` or ``workers`` is under 1.
        """
        if batch < 1 or workers < 1:
            raise BatikError("batch and workers must be at least 1.")
        numbered = enumerate(images, 1)
        with contextlib.ExitStack() as stack:
            if workers > 1 and self.threads == 1:
                pool = stack.enter_context(ThreadPoolExecutor(workers, "picture"))
                yield from _ahead(pool, self._alone, numbered, 2 * workers)
                return
            if workers == 1:
                opened = (self._open(number, image) for number, image in numbered)
            else:
                pool = stack.enter_context(ThreadPoolExecutor(workers, "decode"))
                opened = _ahead(pool, self._open, numbered, 2 * workers)
            while group := list(itertools.islice(opened, batch)):
                yield from self.answer(group)

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the model alone.

        Args:
            pixels: uint8 of shape (N, size, size, 3), from `preprocessing.frame`.

        Returns:
            Probabilities (N, classes) and familiarity (N,), both float32.
        """
        probabilities, familiarity = self._session.run(
            ["probabilities", "familiarity"], {"pixels": np.ascontiguousarray(pixels)}
        )
        return probabilities, familiarity

    def open(self, source: Source) -> Image.Image:
        """Open a picture and refuse one that cannot show a motif.

        Raises:
            PictureError: the reason, as a sentence without its subject.
        """
        if isinstance(source, Image.Image):
            picture = source.convert("RGB")
        else:
            picture = pictures.open_picture(source)
        if min(picture.size) < MIN_SIDE:
            raise PictureError(
                f"{picture.width} × {picture.height} px is too small to show a motif, "
                f"{MIN_SIDE} px a side are needed",
                "small",
            )
        return picture

    def square(self, source: Source) -> np.ndarray:
        """Open a picture and bring it to the model's square, uint8 (size, size, 3).

        Raises:
            PictureError: it cannot be judged; the reason, as a sentence without its subject.
        """
        pixels = frame(self.open(source), self.framing)
        # a network names a motif for anything, even an empty page
        if pixels.std(axis=(0, 1)).max() < MIN_SPREAD:
            raise PictureError("it shows hardly anything but one colour", "plain")
        return pixels

    def _open(self, number: int, source: Source) -> "tuple[str, np.ndarray | PictureError]":
        name = str(source) if isinstance(source, (str, Path)) else f"picture {number}"
        try:
            return name, self.square(source)
        except PictureError as error:
            return name, error

    def _alone(self, number: int, source: Source) -> Prediction:
        return next(self.answer([self._open(number, source)]))

    def answer(
        self, group: "Sequence[tuple[str, np.ndarray | PictureError]]"
    ) -> Iterator[Prediction]:
        """Answer about opened pictures that go through the model at once.

        Args:
            group: name, and what `square` returned or raised.
        """
        good = [pixels for _, pixels in group if isinstance(pixels, np.ndarray)]
        results = iter(zip(*self.run(np.stack(good)), strict=True)) if good else iter(())
        for name, opened in group:
            if isinstance(opened, PictureError):
                sentence = f"This file was refused: {opened}."
                yield Prediction(name, None, "refused", {}, math.nan, sentence, opened.kind)
            else:
                yield self.judge(name, *next(results))

    def judge(self, name: str, probabilities: np.ndarray, familiarity: float) -> Prediction:
        """Turn the model's numbers (classes,) and familiarity into an answer."""
        shares = {c: float(p) for c, p in zip(self.classes, probabilities, strict=True)}
        best = max(shares, key=shares.__getitem__)
        familiarity = float(familiarity)
        # "not at least": a model that answers NaN is not familiar with anything
        if not familiarity >= self.threshold:
            sentence = (
                "None of these: the picture does not look like the three motifs this model knows."
            )
            return Prediction(name, None, "none", shares, familiarity, sentence)
        if shares[best] < SURE_FROM:
            sentence = f"Not sure: {best} is likeliest, with {shares[best]:.0%}."
            return Prediction(name, best, "unsure", shares, familiarity, sentence)
        return Prediction(name, best, "sure", shares, familiarity)


def verify(folder: Path) -> None:
    """Check every file of a model folder against its ``SHA256SUMS``.

    Raises:
        BatikError: the folder or a file is missing, or a file is not the one that was published.
    """
    if not folder.is_dir():
        raise BatikError(
            f"There is no model folder {folder}: name one with --model, or set BATIK_MODEL_DIR."
        )
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        wanted = dict(reversed(line.split(maxsplit=1)) for line in lines if line.strip())
    except (OSError, ValueError) as error:
        raise BatikError(f"{folder / 'SHA256SUMS'} cannot be read ({error}).") from error
    sums = {name.strip().removeprefix("*").removeprefix("./"): s for name, s in wanted.items()}
    for name in ("model.onnx", "preprocessing.json", "labels.json"):
        if name not in sums:
            raise BatikError(f"{folder / 'SHA256SUMS'} does not name {name}.")
    for name, digest in sums.items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BatikError(
                f"{folder / name} cannot be read ({error.strerror}): fetch the model again."
            ) from error
        if found != digest.lower():
            raise BatikError(
                f"{folder / name} is not the published file (its SHA-256 differs from SHA256SUMS): "
                "fetch the model again."
            )


def files(named: Iterable[Path | str]) -> Iterator[Path]:
    """Yield the files that names of files and folders mean; folders are read with all below them.

    Hidden files and plainly other kinds (texts, tables, archives) in a folder are passed over. A
    file that is named itself is always yielded, so that its refusal is seen.
    """
    for name in map(Path, named):
        if not name.is_dir():
            yield name
            continue
        for path in sorted(name.rglob("*")):
            if path.is_file() and is_named_like_a_picture(path, name):
                yield path


def is_named_like_a_picture(path: PurePath, folder: PurePath) -> bool:
    """Return whether a file below a folder is neither hidden nor plainly of another kind."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and path.suffix.lower() not in _NOT_PICTURES


def columns(classes: Sequence[str]) -> list[str]:
    """Return the header of the CSV table."""
    return ["file", "verdict", "motif", *(f"p_{name}" for name in classes), "familiarity", "reason"]


def row(answer: Prediction, classes: Sequence[str]) -> list[str]:
    """Return one answer as a line of the CSV table."""
    shares = [f"{answer.probabilities[c]:.4f}" if answer.probabilities else "" for c in classes]
    familiarity = "" if math.isnan(answer.familiarity) else f"{answer.familiarity:.4f}"
    return [
        _cell(answer.name),
        answer.verdict,
        answer.motif or "",
        *shares,
        familiarity,
        answer.reason,
    ]


def _cell(name: str) -> str:
    # a spreadsheet would run a file name that begins like a formula
    return f"'{name}" if name[:1] in tuple("=+-@\t\r") else name


def write_csv(
    answers: Iterable[Prediction], classes: Sequence[str], path: Path, *, append: bool = False
) -> Iterator[Prediction]:
    """Write answers to a CSV file while they pass by; each is in the file before the next comes.

    Args:
        answers: of `Predictor.stream`.
        classes: motifs.
        path: the file.
        append: add to what is there; see `still_to_do`.

    Raises:
        BatikError: the file cannot be written.
    """
    try:
        append = append and path.is_file()
        with path.open("a" if append else "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            if not append:
                writer.writerow(columns(classes))
            for answer in answers:
                writer.writerow(row(answer, classes))
                stream.flush()
                yield answer
    except OSError as error:
        raise BatikError(f"{path} cannot be written ({error.strerror or error}).") from error


def still_to_do(
    paths: Iterable[Path | str], classes: Sequence[str], table: Path
) -> Iterator[Path | str]:
    """Yield the files that an interrupted `write_csv` left; a line it left half written is removed.

    Args:
        paths: all files.
        classes: motifs.
        table: what `write_csv` wrote; everything is to do if there is no such file.

    Raises:
        BatikError: the file is no such table of these motifs.
    """
    if not table.is_file():
        yield from paths
        return
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            if next(csv.reader(stream), None) != columns(classes):
                raise BatikError(
                    f"{table} is no table of answers about {', '.join(classes)}: name another "
                    f"file, or leave out --resume to write it anew."
                )
        with table.open("rb+") as stream:
            _cut_half_a_line(stream)
        with table.open(newline="", encoding="utf-8") as stream:
            lines = itertools.islice(csv.reader(stream), 1, None)
            done = Counter(line[0] for line in lines if line)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise BatikError(f"{table} cannot be read ({error}).") from error
    for path in paths:
        name = _cell(str(path))
        if done[name]:
            done[name] -= 1
        else:
            yield path


def _cut_half_a_line(stream: BinaryIO) -> None:
    """Cut what stands after the last line end, or was written after an odd quote."""
    end = position = 0
    quoted = False
    for line in stream:
        position += len(line)
        quoted ^= line.count(b'"') % 2 == 1
        if line.endswith(b"\n") and not quoted:
            end = position
    stream.truncate(end)


def _ahead(pool: ThreadPoolExecutor, function, items: Iterable[tuple], most: int) -> Iterator:
    """Like ``pool.map``, in order, but with at most ``most`` items under way."""
    waiting = deque(pool.submit(function, *item) for item in itertools.islice(items, most))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(function, *item) for item in itertools.islice(items, 1))


def _json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BatikError(f"{path} cannot be read ({error}).") from error
    if not isinstance(values, dict):
        raise BatikError(f"{path} holds no table of names and values.")
    return values


def session(path: Path, threads: int) -> "onnxruntime.InferenceSession":
    """Open an ONNX file on the CPU.

    Args:
        path: of the file.
        threads: of one run; 0 leaves it to onnxruntime.

    Raises:
        BatikError: it cannot be opened.
    """
    try:
        return onnx_session.open_session(path, threads)
    # onnxruntime has a dozen exception types of its own, without a common one
    except Exception as error:
        raise BatikError(f"{path} is no model that onnxruntime can open ({error}).") from error


def _check(
    session: "onnxruntime.InferenceSession", framing: Framing, classes: int, folder: Path
) -> None:
    found = {put.name: (put.type, put.shape) for put in session.get_inputs()}
    outputs = {put.name for put in session.get_outputs()}
    size = framing.size
    shape = found.get("pixels", ("", []))[1]
    if (
        list(found) != ["pixels"]
        or found["pixels"][0] != "tensor(uint8)"
        or list(shape[1:]) != [size, size, 3]
        or not {"probabilities", "familiarity"} <= outputs
    ):
        raise BatikError(
            f"{folder / 'model.onnx'} takes {found} and gives {sorted(outputs)}; expected "
            f"pixels (N, {size}, {size}, 3) of uint8, and probabilities and familiarity."
        )
    answers = session.run(
        ["probabilities", "familiarity"], {"pixels": np.zeros((2, size, size, 3), np.uint8)}
    )
    if [answer.shape for answer in answers] != [(2, classes), (2,)]:
        raise BatikError(
            f"{folder / 'model.onnx'} answers in shapes {[a.shape for a in answers]}; expected "
            f"(2, {classes}) and (2,), as in labels.json."
        )
