"""Folder names and the motifs they mean."""

import pytest

from batik_utils.images import motifs

SPELLINGS = {
    "betawi": ["batik-betawi", "02 Betawi (50)", "BETAWI", "betawi_train", "batik betawi new"],
    "sidoluhur": [
        "batik-sidoluhur",
        "batik_sindoluhur40jpg",
        "Sido Luhur",
        "sido-luhur",
        "BatikSidoLuhur",
        "Batik Sidoluhur (1).jpg",
    ],
    "tambal": ["BATIK_TAMBAL", "batikTambal", "batiktambal", "BATIKTAMBAL", "tambals", "Tambal50"],
    "megamendung": ["batik-mega-mendung", "MegaMendung", "mega mendung", "batik-megamendun"],
    "sidomukti": ["batik-sidomukti", "Sido Mukti", "sidomukti2"],
    "parang": ["Parang Rusak", "kain parang"],
}


@pytest.mark.parametrize(
    ("name", "motif"), [(name, motif) for motif, names in SPELLINGS.items() for name in names]
)
def test_every_spelling_of_a_motif_is_understood(name, motif):
    assert motifs.from_folder(name) == motif


@pytest.mark.parametrize("motif", motifs.ALL_MOTIFS)
def test_the_published_folder_names_mean_themselves(motif):
    assert motifs.from_folder(f"batik-{motif}") == motif
    assert motifs.from_folder(motif) == motif


@pytest.mark.parametrize(
    ("name", "motif"),
    [
        ("batik-truntum", "truntum"),
        ("Sido Mulyo", "sidomulyo"),
        ("sidoasih", "sidoasih"),
        ("cats", "cats"),
        # two motifs in one name are neither
        ("sogan sidoluhur", "sogansidoluhur"),
        ("bali-parang", "baliparang"),
    ],
)
def test_an_unknown_motif_keeps_its_own_name(name, motif):
    assert motifs.from_folder(name) == motif


def test_similar_motifs_are_not_taken_for_one_another():
    assert motifs.from_folder("sidoluhur") != motifs.from_folder("sidomukti")
    assert len({motifs.from_folder(motif) for motif in motifs.ALL_MOTIFS}) == 20


@pytest.mark.parametrize("name", ["batik", "123", "", "_", "train", "バティク"])
def test_a_name_that_says_no_motif_is_empty(name):
    assert motifs.from_folder(name) == ""


def test_the_class_order_is_sorted():
    assert list(motifs.MOTIFS) == sorted(motifs.MOTIFS)
    assert list(motifs.ALL_MOTIFS) == sorted(motifs.ALL_MOTIFS)
    assert set(motifs.MOTIFS) < set(motifs.ALL_MOTIFS)
