"""Inference on new images, without torch: a model folder opens, pictures go in, answers come out.

>>> answer = Predictor.load("results/kaggle/model").predict(["holiday.jpg"])[0]
>>> answer.motif, answer.verdict
('tambal', 'sure')
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageStat

from batik_utils.app import model_folder
from batik_utils.app.model_folder import Rules, default_folder
from batik_utils.app.sources import Upload, printable
from batik_utils.errors import expanded
from batik_utils.images import files
from batik_utils.images.files import ImageError
from batik_utils.images.resize import squash

#: A smaller picture shows no motif (px, the shorter side).
MIN_SIDE = 32
#: A picture whose pixels spread less than this shows one colour (standard deviation, 0 to 255).
MIN_SPREAD = 2.0

Source = Path | str | bytes | Image.Image | Upload


@dataclass(frozen=True)
class Prediction:
    """The answer about one picture."""

    name: str
    motif: str | None  # None: unlike the motifs, or refused
    verdict: str  # sure, unsure (the motif is only the likeliest), none or refused (not judged)
    probabilities: dict[str, float]  # calibrated, given that it is a motif; empty if refused
    familiarity: float  # higher for what is more like the motifs
    reason: str = ""  # a sentence where the verdict is not sure
    kind: str = ""  # a refusal in one word (`ImageError`)
    level: str = ""  # motif, other_cloth or no_cloth
    words: str = ""  # of level motif: sure, probably or either of two
    evidence: np.ndarray | None = None  # (H, W): what each place adds to the motif's logit

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
            plain |= {name: getattr(self, name) or None for name in ("level", "words", "kind")}
            plain["evidence"] = grid
        return plain


class Predictor:
    """A loaded model, safe to use from several threads; ``threads`` for one run (0: all cores)."""

    def __init__(self, folder: Path, threads: int = 0):
        model_folder.verify(folder)
        self.folder, self.rules = folder, Rules.read(folder / "labels.json")
        self.classes = self.rules.classes
        self.size, self.interpolation = model_folder.read_shape(folder / "preprocessing.json")
        self.session = model_folder.open_session(folder / "model.onnx", threads)
        model_folder.check(self.session, self.size, len(self.classes), folder / "model.onnx")
        known = {output.name for output in self.session.get_outputs()}
        #: Whether it says what each place adds to the answer, and tells other cloth from no cloth.
        self.explains = "evidence" in known
        self.tells_cloth = "cloth" in known and not math.isnan(self.rules.cloth_threshold)

    @classmethod
    def load(cls, folder: Path | str | None = None, *, threads: int = 0) -> "Predictor":
        """Open a model folder whose files are those that were published (else BatikError)."""
        return cls(expanded(folder) if folder else default_folder(), threads)

    def predict(self, images: Iterable[Source], *, details: bool = False) -> list[Prediction]:
        """Answer about paths, contents of files (bytes) or PIL images, in their order."""
        return list(self.stream(images, workers=1, details=details))

    def stream(
        self, images: Iterable[Source], *, workers: int = 2, details: bool = False
    ) -> Iterator[Prediction]:
        """Yield the answers about pictures in their order, holding only a few in memory."""

        def one(number: int, source: Source) -> Prediction:
            given = source.name if isinstance(source, Upload) else source
            name = printable(given) if isinstance(given, (str, Path)) else f"picture {number}"
            return self.answer(name, source, details=details)

        with ThreadPoolExecutor(workers, "picture") as pool:
            rest = enumerate(images, 1)
            waiting = deque(pool.submit(one, *item) for item in itertools.islice(rest, 2 * workers))
            try:
                while waiting:
                    yield waiting.popleft().result()
                    waiting.extend(pool.submit(one, *item) for item in itertools.islice(rest, 1))
            finally:  # after Ctrl-C, or where nobody reads on
                for future in waiting:
                    future.cancel()

    def run(self, pixels: np.ndarray, *, details: bool = False) -> dict[str, np.ndarray]:
        """Run the model alone on uint8 (N, size, size, 3); ``evidence`` only with ``details``."""
        asked = ["probabilities", "familiarity"] + ["cloth"] * self.tells_cloth
        asked += ["evidence"] * (details and self.explains)
        found = self.session.run(asked, {"pixels": np.ascontiguousarray(pixels)})
        return dict(zip(asked, found, strict=True))

    def square(self, source: Source) -> np.ndarray:
        """Open a picture and squash it to uint8 (size, size, 3); ImageError: it shows no motif."""
        if isinstance(source, Image.Image):
            picture = source.convert("RGB")
        else:
            picture = files.open_image(source.content if isinstance(source, Upload) else source)
        if min(picture.size) < MIN_SIDE:
            size = f"{picture.width} × {picture.height} px is too small to show a motif"
            raise ImageError(f"{size}, {MIN_SIDE} px a side are needed", "small")
        pixels = squash(picture, self.size, self.interpolation)
        # a network names a motif for anything, even an empty page
        if max(ImageStat.Stat(Image.fromarray(pixels)).stddev) < MIN_SPREAD:
            raise ImageError("it shows hardly anything but one colour", "plain")
        return pixels

    def answer(self, name: str, source: Source, *, details: bool = False) -> Prediction:
        """Answer about one picture under a name; what `square` refuses is an answer, too."""
        try:
            pixels = self.square(source)
        except ImageError as error:
            sentence = f"This file was refused: {error}."
            return Prediction(name, None, "refused", {}, math.nan, sentence, error.kind)
        found = self.run(pixels[None], details=details)
        return self.judge(name, **{output: values[0] for output, values in found.items()})

    def judge(
        self,
        name: str,
        probabilities: np.ndarray,
        familiarity: float,
        cloth: float | None = None,
        evidence: np.ndarray | None = None,
    ) -> Prediction:
        """Turn the model's numbers (K,), familiarity, cloth and evidence (K, H, W) to an answer."""
        rules, familiarity = self.rules, float(familiarity)
        shares = {c: float(p) for c, p in zip(self.classes, probabilities, strict=True)}
        best = max(shares, key=shares.__getitem__)
        # "not at least": a model that answers NaN is not familiar with anything
        if not familiarity >= rules.familiarity_threshold:
            no_cloth = self.tells_cloth and not cloth >= rules.cloth_threshold
            motifs = "three motifs" if len(self.classes) == 3 else "motifs"
            reason = f"None of these: the picture does not look like the {motifs} this model knows."
            level = "no_cloth" if no_cloth else "other_cloth"
            return Prediction(name, None, "none", shares, familiarity, reason, level=level)
        words = "probably" if shares[best] >= rules.probably_from else "either"
        if shares[best] >= rules.sure_from and familiarity >= rules.sure_familiarity:
            words = "sure"
        verdict = "sure" if words == "sure" else "unsure"
        reason = f"Not sure: {best} is likeliest, with {shares[best]:.0%}." * (words != "sure")
        grid = None if evidence is None else evidence[self.classes.index(best)]
        more = {"level": "motif", "words": words, "evidence": grid}
        return Prediction(name, best, verdict, shares, familiarity, reason, **more)
