"""The motifs by name, and how a folder's name becomes one of them."""

import difflib
import re

#: The three motifs of the published course project, in the class order used everywhere.
MOTIFS = ("betawi", "sidoluhur", "tambal")

#: All motifs of the Kaggle set ``dionisiusdh/indonesian-batik-motifs``, sorted.
ALL_MOTIFS = (
    "bali",
    "betawi",
    "celup",
    "cendrawasih",
    "ceplok",
    "ciamis",
    "garutan",
    "gentongan",
    "kawung",
    "keraton",
    "lasem",
    "megamendung",
    "parang",
    "pekalongan",
    "priangan",
    "sekar",
    "sidoluhur",
    "sidomukti",
    "sogan",
    "tambal",
)

_NOISE = {"batik", "motif", "kain", "jpg", "jpeg", "png", "train", "test", "val"}


def from_folder(name: str) -> str:
    """Return the motif that a folder's name means, whatever its spelling.

    Case, digits, separators, a ``batik`` prefix and an image suffix are ignored, and a small
    misspelling of a known motif is mended. A folder of an unknown motif keeps its plain name.

    Args:
        name: folder name, e.g. ``"batik_sindoluhur40jpg"`` or ``"Sido Luhur"``.

    Returns:
        The motif, e.g. ``"sidoluhur"``; an empty string if nothing of the name is left.
    """
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    words = [w for w in re.split(r"[^a-z]+", spaced.lower()) if w and w not in _NOISE]
    # "batikTambal" and "batiktambal" alike: the craft's name is glued to the motif's
    plain = re.sub(r"^batik|(jpe?g|png)$", "", "".join(words))
    known = [motif for motif in ALL_MOTIFS if motif in (plain, *words)]
    if len(known) == 1:
        return known[0]
    close = difflib.get_close_matches(plain, ALL_MOTIFS, n=1, cutoff=0.85)
    return close[0] if close else plain
