"""Inference on new images, without torch: a model folder opens, pictures go in, answers come out.

>>> answer = Predictor.load("results/kaggle/model").predict(["holiday.jpg"])[0]
>>> answer.motif, answer.verdict
('tambal', 'sure')
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from batik_utils.app import model_folder
from batik_utils.app.model_folder import Rules, default_folder
from batik_utils.app.onnx_session import open_session
from batik_utils.app.sources import Upload, printable
from batik_utils.images import files
from batik_utils.images.files import ImageError
from batik_utils.images.resize import to_pixels

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
        """Return plain values; what an answer does not have is None."""
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

    ``size`` and ``interpolation`` say how a picture is squashed, ``rules`` the thresholds,
    ``folder`` where the model came from, ``threads`` those of one run of it (0: all cores).
    """

    def __init__(self, folder: Path, threads: int = 0):
        model_folder.verify(folder)
        self.rules = Rules.from_labels(folder / "labels.json")
        self.classes, self.threshold = self.rules.classes, self.rules.familiarity
        self.size, self.interpolation = model_folder.read_shape(folder / "preprocessing.json")
        self.folder, self.threads = folder, threads
        self.session = open_session(folder / "model.onnx", threads)
        model_folder.check(self.session, self.size, len(self.classes), folder / "model.onnx")
        known = {output.name for output in self.session.get_outputs()}
        #: Whether it says what each place adds to the answer, and tells other cloth from no cloth.
        self.explains = "evidence" in known
        self.tells_cloth = "cloth" in known and not math.isnan(self.rules.cloth)

    @classmethod
    def load(cls, folder: Path | str | None = None, *, threads: int = 0) -> "Predictor":
        """Open a model folder whose files are those that were published (else BatikError)."""
        return cls(Path(folder).expanduser() if folder else default_folder(), threads)

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

        Several workers take one picture each from file to answer, fastest with ``threads=1``; one
        worker gathers pictures into batches.
        """

        def alone(number: int, source: Source) -> Prediction:
            return next(self.answer([self._open(number, source)], details=details))

        numbered = enumerate(images, 1)
        if workers > 1:
            with ThreadPoolExecutor(workers, "picture") as pool:
                yield from _ahead(pool, alone, numbered, 2 * workers)
        opened = (self._open(number, image) for number, image in numbered)
        while group := list(itertools.islice(opened, batch)):
            yield from self.answer(group, details=details)

    def run(self, pixels: np.ndarray, *, details: bool = False) -> Outputs:
        """Run the model alone on uint8 (N, size, size, 3)."""
        asked = ["probabilities", "familiarity"] + ["cloth"] * self.tells_cloth
        asked += ["evidence"] * (details and self.explains)
        found = self.session.run(asked, {"pixels": np.ascontiguousarray(pixels)})
        return Outputs(**dict(zip(asked, found, strict=True)))

    def square(self, source: Source) -> np.ndarray:
        """Open a picture and squash it to uint8 (size, size, 3); ImageError: it shows no motif."""
        if isinstance(source, Image.Image):
            picture = source.convert("RGB")
        else:
            picture = files.open_image(source.content if isinstance(source, Upload) else source)
        if min(picture.size) < MIN_SIDE:
            size = f"{picture.width} × {picture.height} px"
            needed = f"{MIN_SIDE} px a side are needed"
            raise ImageError(f"{size} is too small to show a motif, {needed}", "small")
        pixels = to_pixels(picture, self.size, self.interpolation).transpose(1, 2, 0)
        # a network names a motif for anything, even an empty page
        if pixels.std(axis=(0, 1)).max() < MIN_SPREAD:
            raise ImageError("it shows hardly anything but one colour", "plain")
        return pixels

    def _open(self, number: int, source: Source) -> "tuple[str, np.ndarray | ImageError]":
        given = source.name if isinstance(source, Upload) else source
        name = printable(given) if isinstance(given, (str, Path)) else f"picture {number}"
        try:
            return name, self.square(source)
        except ImageError as error:
            return name, error

    def answer(
        self, group: "Sequence[tuple[str, np.ndarray | ImageError]]", *, details: bool = False
    ) -> Iterator[Prediction]:
        """Answer about names with what `square` returned or raised, at once through the model."""
        good = [pixels for _, pixels in group if isinstance(pixels, np.ndarray)]
        found = self.run(np.stack(good), details=details)._asdict() if good else {}
        found = {name: values for name, values in found.items() if values is not None}
        rows = zip(*found.values(), strict=True)
        for name, opened in group:
            if isinstance(opened, ImageError):
                sentence = f"This file was refused: {opened}."
                yield Prediction(name, None, "refused", {}, math.nan, sentence, opened.kind)
            else:
                yield self.judge(name, **dict(zip(found, next(rows), strict=True)))

    def judge(
        self,
        name: str,
        probabilities: np.ndarray,
        familiarity: float,
        cloth: float = math.nan,
        evidence: np.ndarray | None = None,
    ) -> Prediction:
        """Turn the model's numbers (K,), familiarity, cloth and evidence (K, H, W) to an answer."""
        rules, familiarity = self.rules, float(familiarity)
        shares = {c: float(p) for c, p in zip(self.classes, probabilities, strict=True)}
        best = max(shares, key=shares.__getitem__)
        # "not at least": a model that answers NaN is not familiar with anything
        if not familiarity >= rules.familiarity:
            count = "three " * (len(self.classes) == 3)
            level = "no_cloth" if self.tells_cloth and not cloth >= rules.cloth else "other_cloth"
            sentence = f"the picture does not look like the {count}motifs this model knows"
            reason = f"None of these: {sentence}."
            return Prediction(name, None, "none", shares, familiarity, reason, level=level)
        words = "probably" if shares[best] >= rules.probably_from else "either"
        if shares[best] >= rules.sure_from and familiarity >= rules.sure_familiarity:
            words = "sure"
        sure = words == "sure"
        return Prediction(
            name,
            best,
            "sure" if sure else "unsure",
            shares,
            familiarity,
            "" if sure else f"Not sure: {best} is likeliest, with {shares[best]:.0%}.",
            level="motif",
            words=words,
            evidence=None if evidence is None else evidence[self.classes.index(best)],
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
