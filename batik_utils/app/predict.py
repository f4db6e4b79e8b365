"""Inference on new images: a model folder opens, pictures go in, answers come out.

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
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from batik_utils.app import model_folder
from batik_utils.app.model_folder import Rules, default_folder
from batik_utils.app.onnx_session import open_session
from batik_utils.app.sources import Upload, printable
from batik_utils.errors import BatikError
from batik_utils.images import files
from batik_utils.images.files import ImageError
from batik_utils.images.resize import Framing, frame

if TYPE_CHECKING:
    import onnxruntime

#: A smaller picture shows no motif (px, the shorter side).
MIN_SIDE = 32
#: A picture whose pixels spread less than this shows one colour (standard deviation, 0 to 255).
MIN_SPREAD = 2.0
#: Pictures that go through the model at once.
BATCH = 16


Source = Path | str | bytes | Image.Image | Upload


class Outputs(NamedTuple):
    """What the model computes of N pictures; ``cloth`` and ``evidence`` if it has them."""

    probabilities: np.ndarray  # (N, K)
    familiarity: np.ndarray  # (N,)
    cloth: np.ndarray | None = None  # (N,)
    evidence: np.ndarray | None = None  # (N, K, H, W)


@dataclass(frozen=True)
class Prediction:
    """The answer about one picture.

    ``name`` is the file's, or a number; ``motif`` is None for "none of these" and for what was
    refused. ``verdict``: ``sure``, ``unsure`` (the motif is only the likeliest), ``none`` (unlike
    the motifs) or ``refused`` (no picture that can be judged). ``probabilities`` are calibrated,
    add to 1 and hold *given that* it is one of the motifs; empty if refused. ``familiarity`` is
    higher for what is more like the motifs, NaN if refused. ``reason`` is a sentence where the
    verdict is not ``sure``, ``kind`` a refusal in one word (`files.KINDS`).

    ``level``: ``motif``, ``other_cloth`` or ``no_cloth``; ``words`` of level ``motif``: ``sure``,
    ``probably`` or ``either`` of the likeliest two. ``evidence`` (H, W) is what each place adds to
    the named motif's logit, None if not asked for, or if the model does not say.
    """

    name: str
    motif: str | None
    verdict: str
    probabilities: dict[str, float]
    familiarity: float
    reason: str = ""
    kind: str = ""
    level: str = ""
    words: str = ""
    evidence: np.ndarray | None = None

    @property
    def probability(self) -> float:
        """Largest probability; NaN if refused."""
        return max(self.probabilities.values(), default=math.nan)

    def as_json(self, *, details: bool = False) -> dict:
        """Return plain values; what a refused file does not have is None.

        ``details`` adds ``level``, ``words``, ``kind`` and ``evidence``, as lists of rows.
        """
        refused = self.verdict == "refused"
        plain = {
            "path": self.name,
            "motif": self.motif,
            "verdict": self.verdict,
            "probability": None if refused else round(self.probability, 6),
            "probabilities": {name: round(p, 6) for name, p in self.probabilities.items()},
            "familiarity": None if refused else round(self.familiarity, 6),
            "rejected": self.motif is None,
            "reason": self.reason,
        }
        if details:
            grid = None if self.evidence is None else self.evidence.astype(float).round(4).tolist()
            plain |= {
                "level": self.level or None,
                "words": self.words or None,
                "kind": self.kind or None,
                "evidence": grid,
            }
        return plain


class Predictor:
    """A loaded model; safe to use from several threads.

    ``rules`` gives classes and thresholds, ``framing`` the model's square, ``folder`` where it came
    from, ``threads`` those of one run of the model; 0 is onnxruntime's choice, all cores.
    """

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        framing: Framing,
        rules: Rules,
        folder: Path,
        threads: int = 0,
    ):
        self.framing = framing
        self.rules = rules
        self.classes = rules.classes
        self.threshold = rules.familiarity
        self.folder = folder
        self.threads = threads
        self.session = session
        known = {output.name for output in session.get_outputs()}
        #: Whether the model says what each place of a picture adds to the answer.
        self.explains = "evidence" in known
        #: Whether it tells other cloth from no cloth.
        self.tells_cloth = "cloth" in known and not math.isnan(rules.cloth)
        self._asked = ["probabilities", "familiarity", *(["cloth"] if "cloth" in known else [])]

    @classmethod
    def load(cls, folder: Path | str | None = None, *, threads: int = 0) -> "Predictor":
        """Open a model folder, after checking that every file in it is the one that was published.

        Raises:
            BatikError: a file is missing, changed or damaged, or is not such a model.
        """
        folder = Path(folder).expanduser() if folder else default_folder()
        model_folder.verify(folder)
        rules = Rules.from_labels(folder / "labels.json")
        framing = Framing.from_dict(model_folder.read_json(folder / "preprocessing.json"))
        session = open_session(folder / "model.onnx", threads)
        model_folder.check_session(session, framing, len(rules.classes), folder)
        return cls(session, framing, rules, folder, threads)

    def predict(
        self, images: Iterable[Source], *, batch: int = BATCH, details: bool = False
    ) -> list[Prediction]:
        """Answer about paths, contents of files (bytes) or PIL images, in their order."""
        return list(self.stream(images, batch=batch, workers=1, details=details))

    def stream(
        self,
        images: Iterable[Source],
        *,
        batch: int = BATCH,
        workers: int = 2,
        details: bool = False,
    ) -> Iterator[Prediction]:
        """Yield the answers about pictures in their order, holding only a few in memory.

        A model loaded with ``threads=1`` is fastest: each worker then takes its picture from file
        to answer by itself, so that no core waits for another, and pictures are not gathered into
        batches, which would only fall out of the processor's cache. With more threads the workers
        open and resize pictures, which go through the model in batches.

        Raises:
            BatikError: ``batch`` or ``workers`` is under 1.
        """
        if batch < 1 or workers < 1:
            raise BatikError("batch and workers must be at least 1.")

        def alone(number: int, source: Source) -> Prediction:
            return next(self.answer([self._open(number, source)], details=details))

        numbered = enumerate(images, 1)
        with contextlib.ExitStack() as stack:
            if workers == 1:
                opened = (self._open(number, image) for number, image in numbered)
            else:
                pool = stack.enter_context(ThreadPoolExecutor(workers, "picture"))
                if self.threads == 1:
                    yield from _ahead(pool, alone, numbered, 2 * workers)
                    return
                opened = _ahead(pool, self._open, numbered, 2 * workers)
            while group := list(itertools.islice(opened, batch)):
                yield from self.answer(group, details=details)

    def run(self, pixels: np.ndarray, *, details: bool = False) -> Outputs:
        """Run the model alone on uint8 (N, size, size, 3), from `preprocessing.frame`."""
        asked = [*self._asked, *(["evidence"] if details and self.explains else [])]
        found = self.session.run(asked, {"pixels": np.ascontiguousarray(pixels)})
        return Outputs(**dict(zip(asked, found, strict=True)))

    def open(self, source: Source) -> Image.Image:
        """Open a picture and refuse one that cannot show a motif.

        Raises:
            ImageError: the reason, as a sentence without its subject.
        """
        if isinstance(source, Image.Image):
            picture = source.convert("RGB")
        else:
            picture = files.open_image(source.content if isinstance(source, Upload) else source)
        if min(picture.size) < MIN_SIDE:
            raise ImageError(
                f"{picture.width} × {picture.height} px is too small to show a motif, "
                f"{MIN_SIDE} px a side are needed",
                "small",
            )
        return picture

    def square(self, source: Source) -> np.ndarray:
        """Open a picture and bring it to the model's square, uint8 (size, size, 3).

        Raises:
            ImageError: it cannot be judged; the reason, as a sentence without its subject.
        """
        pixels = frame(self.open(source), self.framing)
        # a network names a motif for anything, even an empty page
        if pixels.std(axis=(0, 1)).max() < MIN_SPREAD:
            raise ImageError("it shows hardly anything but one colour", "plain")
        return pixels

    def _open(self, number: int, source: Source) -> "tuple[str, np.ndarray | ImageError]":
        if isinstance(source, (str, Path)):
            name = printable(source)
        else:
            name = printable(source.name) if isinstance(source, Upload) else f"picture {number}"
        try:
            return name, self.square(source)
        except ImageError as error:
            return name, error

    def answer(
        self, group: "Sequence[tuple[str, np.ndarray | ImageError]]", *, details: bool = False
    ) -> Iterator[Prediction]:
        """Answer about names with what `square` returned or raised, at once through the model."""
        good = [pixels for _, pixels in group if isinstance(pixels, np.ndarray)]
        found = self.run(np.stack(good), details=details) if good else None
        row = itertools.count()
        for name, opened in group:
            if isinstance(opened, ImageError):
                sentence = f"This file was refused: {opened}."
                yield Prediction(name, None, "refused", {}, math.nan, sentence, opened.kind)
            else:
                k = next(row)
                evidence = None if found.evidence is None else found.evidence[k]
                cloth = math.nan if found.cloth is None else found.cloth[k]
                yield self.judge(
                    name, found.probabilities[k], found.familiarity[k], cloth, evidence
                )

    def judge(
        self,
        name: str,
        probabilities: np.ndarray,
        familiarity: float,
        cloth: float = math.nan,
        evidence: np.ndarray | None = None,
    ) -> Prediction:
        """Turn the model's numbers (K,), familiarity, cloth and evidence (K, H, W) to an answer."""
        rules = self.rules
        shares = {c: float(p) for c, p in zip(self.classes, probabilities, strict=True)}
        best = max(shares, key=shares.__getitem__)
        heat = None if evidence is None else evidence[self.classes.index(best)]
        familiarity = float(familiarity)
        # "not at least": a model that answers NaN is not familiar with anything
        if not familiarity >= rules.familiarity:
            # the number of motifs of a user's own model may be another
            count = {3: "three "}.get(len(self.classes), "")
            sentence = (
                f"None of these: the picture does not look like the {count}motifs this model knows."
            )
            bare = self.tells_cloth and not float(cloth) >= rules.cloth
            level = "no_cloth" if bare else "other_cloth"
            return Prediction(name, None, "none", shares, familiarity, sentence, level=level)
        if shares[best] >= rules.sure_from:
            return Prediction(
                name, best, "sure", shares, familiarity, level="motif", words="sure", evidence=heat
            )
        words = "probably" if shares[best] >= rules.probably_from else "either"
        sentence = f"Not sure: {best} is likeliest, with {shares[best]:.0%}."
        return Prediction(
            name, best, "unsure", shares, familiarity, sentence, "", "motif", words, heat
        )


def _ahead(pool: ThreadPoolExecutor, function, items: Iterable[tuple], most: int) -> Iterator:
    """Like ``pool.map``, in order, but with at most ``most`` items under way."""
    waiting = deque(pool.submit(function, *item) for item in itertools.islice(items, most))
    try:
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, *item) for item in itertools.islice(items, 1))
    finally:  # after Ctrl-C, or where nobody reads on
        for one in waiting:
            one.cancel()
