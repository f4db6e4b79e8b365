"""The deployed network: pixels to probabilities, familiarity, cloth score and evidence.

    >>> network = FinalNetwork.of(features.build(branches), facts, bank, choice, fitted)
    >>> probabilities, familiarity, cloth, evidence = network(pixels)

All that is learned are linear functions of frozen features, and distances to the motifs' means.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from batik_utils.baselines import Linear, rescaled
from batik_utils.classifier import features, refusal
from batik_utils.classifier.features import Branch
from batik_utils.classifier.refusal import Refusal
from batik_utils.classifier.selection import Bank, Choice
from batik_utils.errors import BatikError

OUTPUTS = ("probabilities", "familiarity", "cloth", "evidence")
#: Numbers of the network beside the backbones': what is learned.
NUMBERS = (
    "weight",
    "bias",
    "temperature",
    "is_cloth",
    "centre",
    "scale",
    "means",
    "axes",
    "shrink",
    "spread",
    "start",
)


class FinalNetwork(nn.Module):
    """uint8 pixels (N, S, S, 3) to the four `OUTPUTS`.

    Args:
        backbones: pixels to maps.
        branches: which they are, and where they are read.
        size: S (px).
        numbers: what is learned, by `NUMBERS`. ``weight`` (F, K + K + R) and ``bias`` are
            the linear functions of raw features: motifs, kinds.
    """

    def __init__(
        self,
        backbones: features.Features,
        branches: Sequence[Branch],
        size: int,
        numbers: dict[str, Tensor],
    ):
        super().__init__()
        self.network = backbones
        self.branches = tuple(branches)
        self.size = size
        for name in NUMBERS:
            self.register_buffer(name, numbers[name].clone())
        self.classes = len(self.means)
        self.eval()

    @classmethod
    def of(
        cls,
        backbones: features.Features,
        branches: Sequence[Branch],
        size: int,
        bank: Bank,
        choice: Choice,
        fitted: Refusal,
    ) -> "FinalNetwork":
        """Return the network of a bank, a chosen head and a fitted refusal."""
        linear = [fitted.motifs, fitted.kinds]
        joint = rescaled(
            Linear(
                np.concatenate([part.weight for part in linear], axis=1),
                np.concatenate([part.bias for part in linear]),
            ),
            bank.scaler,
        )
        near = fitted.nearness
        values = (
            joint.weight,
            joint.bias,
            choice.temperature,
            fitted.is_cloth,
            bank.scaler.mean,
            bank.scaler.scale,
            near.means,
            near.axes,
            near.shrink,
            fitted.spread,
            fitted.start,
        )
        numbers = {n: torch.tensor(v) for n, v in zip(NUMBERS, values, strict=True)}
        numbers = {n: t.float() if t.is_floating_point() else t for n, t in numbers.items()}
        return cls(backbones, branches, size, numbers)

    def facts(self) -> dict:
        """Return what `restored` needs beside the numbers, as plain values."""
        return {"branches": [[b.recipe, list(b.taps)] for b in self.branches], "size": self.size}

    @classmethod
    def restored(cls, facts: dict, state: dict[str, Tensor]) -> "FinalNetwork":
        """Return the network of saved facts and numbers; float16 becomes float32.

        Raises:
            BatikError: the numbers do not fit the network.
        """
        try:
            branches = [Branch(str(recipe), tuple(taps)) for recipe, taps in facts["branches"]]
            backbones = features.build(branches, filled=False)
            model = cls(backbones, branches, int(facts["size"]), {n: state[n] for n in NUMBERS})
            own = model.state_dict()
            # counted while training, used by nothing here
            counted = {n: t for n, t in own.items() if n.endswith("num_batches_tracked")}
            model.load_state_dict({n: t for n, t in state.items() if n in own} | counted)
            # sizes of its numbers are only known to be right when they have been used
            with torch.inference_mode():
                model(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        except (RuntimeError, AttributeError, TypeError, LookupError, ValueError) as error:
            first = " ".join(str(error).split())[:200]
            raise BatikError(f"These numbers are not of this network: {first}") from error
        return model.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the four `OUTPUTS`."""
        maps = self.network.maps(pixels)
        k = self.classes
        weight = self.weight[:, :k] / self.temperature
        places = features.evidence(maps, weight, self.bias[:k] / self.temperature)
        answers = self.answer(features.pool(maps))
        return *answers, places - places.mean(1, keepdim=True)

    def answer(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities, familiarity and cloth score of features (N, F)."""
        k = self.classes
        values = x @ self.weight + self.bias
        motifs, kinds = values[:, :k], values[:, k:]
        gaps = ((x - self.centre) / self.scale)[:, None] - self.means  # (N, K, F)
        lengths = gaps.square().sum(2) - (gaps @ self.axes).square() @ self.shrink
        cloth = _log_odds(kinds, self.is_cloth)
        is_motif = torch.arange(len(self.is_cloth)) < k
        energy = torch.logsumexp(motifs, 1)
        contrast = _log_odds(kinds / refusal.SOFTER, is_motif)
        nearness = -lengths.amin(1) / refusal.RIDGE
        parts = torch.stack([energy, contrast, nearness, cloth], 1)
        too_little = torch.relu((self.start - parts[:, 2:]) / self.spread[2:]).sum(1)
        familiarity = (parts / self.spread)[:, :3] @ torch.tensor(refusal.WEIGHTS)
        probabilities = torch.softmax(motifs / self.temperature, 1)
        return probabilities, familiarity - refusal.LOSS * too_little, cloth


def _log_odds(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the log-odds of chosen columns against the others, 0 if there are none."""
    low = torch.full_like(logits, -1e9)
    own, others = (torch.logsumexp(torch.where(c, logits, low), 1) for c in (chosen, ~chosen))
    return torch.where(chosen.all(), torch.zeros(()), own - others)
