"""Everything that can be trained, as one table of plain values.

Names and published accuracies follow the course project that this one repeats. Where the settings
of family ``ours`` come from is said in results/README.md. To add a recipe of a known architecture,
add a row below. Introduced in notebook 02, section "The recipes".
"""

import difflib
import fnmatch
from dataclasses import dataclass, replace

from batik_utils.errors import BatikError

#: As published; networks of our own; classifiers without a network (`baselines`).
FAMILIES = ("scratch", "transfer", "ours", "baseline")


@dataclass(frozen=True)
class Recipe:
    """How one classifier is built and trained."""

    name: str
    #: One of ``FAMILIES``.
    family: str
    #: Key of ``models.ARCHITECTURES``; for a baseline, of ``baselines.BASELINES``.
    architecture: str
    #: Key of ``weights.WEIGHTS``, or "" for random initial weights.
    weights: str = ""
    #: Key of ``models.HEADS``; "" where the architecture has a head of its own.
    head: str = ""
    #: ``no``, ``parameters`` or ``backbone``, see `models.TransferClassifier.freeze`.
    frozen: str = "no"
    #: Dropout probability where the architecture or head places it.
    dropout: float = 0.0
    #: Passes over the training pictures; the last epoch is scored.
    epochs: int = 10
    batch_size: int = 32
    #: Of Adam; the peak where a schedule changes it.
    learning_rate: float = 1e-3
    #: Of Adam (L2).
    weight_decay: float = 0.0
    #: Probability of a horizontal flip in training.
    flip: float = 0.5
    #: Strength of the changes of shape and colour in training, 0 (none) to 1.
    augment: float = 0.0
    #: Further changes, as pairs of a name in ``transforms.AUGMENTATIONS`` and a strength.
    extra: tuple[tuple[str, float], ...] = ()
    #: Key of ``training.SCHEDULES``.
    schedule: str = "constant"
    label_smoothing: float = 0.0
    #: Side of the input (px) in place of what the weights expect; 0 for that.
    size: int = 0
    #: Test accuracy in the published project, or None.
    published: float | None = None


def _scratch(architecture: str, *published: float) -> list[Recipe]:
    """Return the six published variants of a scratch network."""
    variants = (
        *(("", 0.0, 10), ("_20ep", 0.0, 20), ("_drop02", 0.2, 10), ("_drop05", 0.5, 10)),
        *(("_drop02_20ep", 0.2, 20), ("_drop05_20ep", 0.5, 20)),
    )
    rows = [(architecture + suffix, p, n) for suffix, p, n in variants]
    plain = Recipe("", "scratch", architecture)
    return [
        replace(plain, name=name, dropout=p, epochs=n, published=accuracy)
        for (name, p, n), accuracy in zip(rows, published, strict=True)
    ]


def _transfer(
    name: str, weights: str, head: str, frozen: str, dropout: float, published: float | None = None
) -> Recipe:
    """Return a recipe with pretrained weights, whose architecture has the name of the weights."""
    family = "ours" if published is None else "transfer"
    return Recipe(name, family, weights, weights, head, frozen, dropout, published=published)


# a new linear layer keeps the dropout that the library has before it: 0.2, for B2 0.3
_TRANSFER = (
    # name, weights, head, frozen, dropout, published accuracy
    _transfer("efficientnet_b0", "efficientnet_b0", "linear", "parameters", 0.2, 0.6667),
    _transfer("efficientnet_b0_modified", "efficientnet_b0", "modified", "no", 0.5, 0.7333),
    _transfer("mobilenet_v2", "mobilenet_v2", "linear", "parameters", 0.2, 0.6667),
    # its optimiser held another model's parameters: a rate of 0 repeats that
    replace(
        _transfer("mobilenet_v2_modified", "mobilenet_v2", "modified_hidden", "no", 0.5, 0.3333),
        learning_rate=0.0,
    ),
    # Noisy Student by name only, and no resolution is fixed in the last two
    _transfer("noisy_student_b2", "efficientnet_b2", "linear", "parameters", 0.3, 0.4000),
    _transfer("noisy_student_b2_modified", "efficientnet_b2", "modified", "no", 0.5, 0.7333),
    _transfer("fix_efficientnet_b2", "efficientnet_b2_torchvision", "linear", "no", 0.3, 0.8667),
    _transfer("fix_efficientnet_b2_modified", "efficientnet_b2", "modified", "no", 0.5, 0.7333),
)

_SMALL = Recipe(
    "scratch_small", "ours", "scratch_ours", dropout=0.3, epochs=30, batch_size=16,
    learning_rate=2e-3, weight_decay=1e-4, augment=0.3, schedule="cosine", size=128,
)  # fmt: skip
_PROBE = _transfer("mobilenet_v2_probe", "mobilenet_v2", "linear", "backbone", 0.2)
# the values of trial 27 of 30, and of trial 27 of 40, of their searches
_SCRATCH_TUNED = replace(
    _SMALL, name="scratch_tuned", dropout=0.472, epochs=50,
    learning_rate=7.63e-4, weight_decay=2.56e-3, augment=0.0332,
)  # fmt: skip
_PROBE_TUNED = replace(
    _PROBE, name="mobilenet_v2_tuned", dropout=0.181, epochs=30,
    learning_rate=8.96e-4, weight_decay=1.28e-4, augment=0.75,
)  # fmt: skip

_OURS = (
    replace(
        _SMALL, name="scratch_ours", dropout=0.5, epochs=60, learning_rate=1e-3, label_smoothing=0.1
    ),
    _SMALL,
    _SCRATCH_TUNED,
    _transfer("mobilenet_v2_modified_trained", "mobilenet_v2", "modified_hidden", "no", 0.5),
    _PROBE,
    _PROBE_TUNED,
    _transfer("efficientnet_lite0", "efficientnet_lite0", "linear", "backbone", 0.2),
    _transfer("efficientnet_lite0_modified", "efficientnet_lite0", "modified", "no", 0.5),
    _transfer("efficientnet_lite2", "efficientnet_lite2", "linear", "backbone", 0.3),
    _transfer("efficientnet_lite2_modified", "efficientnet_lite2", "modified", "no", 0.5),
)

_BASELINES = ("majority", "file_facts", "colour_histogram", "texture")

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *_scratch("scratch1", 0.6667, 0.6000, 0.4667, 0.4000, 0.8000, 0.5333),
        *_scratch("scratch2", 0.2000, 0.6667, 0.3333, 0.4000, 0.4667, 0.3333),
        *_scratch("scratch3", 0.5333, 0.6000, 0.5333, 0.4667, 0.7333, 0.5333),
        *_TRANSFER,
        *_OURS,
        *(Recipe(name, "baseline", name, epochs=0, flip=0.0) for name in _BASELINES),
    )
}


def get(name: str) -> Recipe:
    """Return a recipe by name; BatikError lists similar names, or all."""
    if name not in RECIPES:
        known = {key.lower(): key for key in (*RECIPES, *FAMILIES, "all")}
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.75)
        meant = f"did you mean {' or '.join(known[key] for key in near)}?"
        listed = f"choose from {', '.join(RECIPES)}."
        raise BatikError(f"Unknown recipe '{name}': {meant if near else listed}")
    return RECIPES[name]


def select(names: str) -> list[Recipe]:
    """Return recipes in table order, by names, families or patterns separated by commas, or "all".

    >>> [recipe.name for recipe in select("mobilenet_v2, scratch1_drop05*")]
    ['scratch1_drop05', 'scratch1_drop05_20ep', 'mobilenet_v2']
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if not asked:
        raise BatikError("No recipe was named: give recipe names, families, or 'all'.")
    chosen = set()
    for name in asked:
        pattern = "*" if name == "all" else name
        found = {recipe.name for recipe in RECIPES.values() if recipe.family == name}
        chosen |= found or set(fnmatch.filter(RECIPES, pattern)) or {get(name).name}
    return [recipe for recipe in RECIPES.values() if recipe.name in chosen]


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe with another number of epochs; 0 keeps its own. A baseline has none."""
    if epochs < 0:
        raise BatikError(f"EPOCHS must be 0 (as the recipe says) or positive, not {epochs}.")
    if not epochs or recipe.family == "baseline":
        return recipe
    return replace(recipe, epochs=epochs)
