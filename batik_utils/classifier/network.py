"""The deployed network: pixels to probabilities, familiarity, cloth score and evidence.

All that is learned are linear functions of frozen features, and distances to the motifs' means.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from batik_utils.classifier import features
from batik_utils.classifier.features import Branch
from batik_utils.classifier.refusal import NUMBERS, Refusal
from batik_utils.errors import BatikError

OUTPUTS = ("probabilities", "familiarity", "cloth", "evidence")


class FinalNetwork(Refusal):
    """uint8 pixels (N, S, S, 3) to the four `OUTPUTS`."""

    def __init__(
        self,
        backbones: features.Features,
        branches: Sequence[Branch],
        size: int,
        numbers: dict[str, Tensor],
    ):
        super().__init__(numbers)
        self.network, self.branches, self.size = backbones, tuple(branches), size
        self.float().eval()

    def facts(self) -> dict:
        """Return what `restored` needs beside the numbers, as plain values."""
        return {"branches": [[b.recipe, list(b.taps)] for b in self.branches], "size": self.size}

    @classmethod
    def restored(cls, facts: dict, state: dict[str, Tensor]) -> "FinalNetwork":
        """Return the network of saved facts and numbers; float16 becomes float32."""
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
        return model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the four `OUTPUTS`."""
        maps, k = self.network.maps(pixels), len(self.means)
        weight, bias = self.weight[:, :k] / self.temperature, self.bias[:k] / self.temperature
        places = features.evidence(maps, weight, bias)
        probabilities, parts = self.answer(features.pool(maps))
        against = places - places.mean(1, keepdim=True)
        return probabilities, self.familiarity(parts), parts[:, 3], against
