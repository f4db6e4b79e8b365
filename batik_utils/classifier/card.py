"""The model card: ``card.md`` filled with the numbers of ``metrics.json``.

Form: Mitchell et al., 2019, Model Cards for Model Reporting (https://arxiv.org/abs/1810.03993).
"""

import json
from collections.abc import Sequence
from pathlib import Path


class _Shown(dict):
    """A table of numbers for `str.format`; one of an interval is shown as such."""

    def __missing__(self, name: str) -> "_Shown":
        return _Shown()

    def __format__(self, form: str) -> str:
        if not {"value", "lower", "upper"} <= set(self):
            return "not measured"
        return "{value:.1%} [{lower:.1%}, {upper:.1%}]".format(**self)


def text(found: dict, classes: Sequence[str]) -> str:
    """Return the model card."""
    known = json.loads(
        json.dumps(found, default=float),
        object_pairs_hook=lambda pairs: _Shown((k, v) for k, v in pairs if v is not None),
    )
    known["recalls"] = "\n".join(f"| recall of {m} | {known['recall'][m]} |" for m in classes)
    row = "| {kind} | {n} | {0} | {no_cloth:.0%} | {auroc:.3f} | {sure_and_wrong:.2%} |"
    known["refusals"] = "\n".join(
        row.format(_Shown(r, value=r["refused"]), **r) for r in known["refusal"]
    )
    known["weights"] = "\n".join(f"- {name}" for name in known["model"]["weights"])
    counted = known["counter_examples"].items()
    known["learned_from"] = ", ".join(f"{n} {kind}" for kind, n in counted) or "none"
    known |= {"classes": ", ".join(classes), "n_classes": len(classes)}
    template = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    return template.format_map(known)
