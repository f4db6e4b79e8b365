"""Folder names and the motifs they mean."""

import pytest

from batik_utils.images import motifs

#: A folder's name, alone, and its motif.
NAMES = {
    "batik-betawi": "betawi",
    "02 Betawi (50)": "betawi",
    "BETAWI": "betawi",
    "betawi_train": "betawi",
    "batik betawi new": "betawi",
    "batik_sindoluhur40jpg": "sidoluhur",
    "Sido Luhur": "sidoluhur",
    "BatikSidoLuhur": "sidoluhur",
    "Batik Sidoluhur (1).jpg": "sidoluhur",
    "BATIK_TAMBAL": "tambal",
    "batikTambal": "tambal",
    "BATIKTAMBAL": "tambal",
    "tambals": "tambal",
    "Tambal50": "tambal",
    "batik-mega-mendung": "megamendung",
    "batik-megamendun": "megamendung",
    "Sido Mukti": "sidomukti",
    "kain parang": "parang",
    # no word is dropped
    "Parang Rusak": "parangrusak",
    "Solo_Parang": "soloparang",
    "de parang": "deparang",
    "bali-parang": "baliparang",
    "sogan sidoluhur": "sogansidoluhur",
    # unknown ones keep their own name, in every script
    "batik-truntum": "truntum",
    "Sido Mulyo": "sidomulyo",
    "sidoasih": "sidoasih",
    "cats": "cats",
    "0": "0",
    "007": "007",
    "motif 1": "1",
    "ꦥꦫꦁ": "ꦥꦫꦁ",
    "蜡染": "蜡染",
    "Батик": "батик",
    "バティク": "バティク",
    "cafe\u0301": "caf\u00e9",
    "true": "true",
    "batik": "batik",
    "png": "png",
    "🦋": "🦋",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_means_a_motif(name):
    assert motifs.from_folder(name) == NAMES[name]
    assert motifs.of_folders([name]) == {name: NAMES[name]}


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["Solo_Parang", "Yogyakarta_Parang"], ["soloparang", "yogyakartaparang"]),
        (["Bali_Barong", "Bali_Merak", "bali"], ["balibarong", "balimerak", "bali"]),
        (["Parang 1", "Parang 2"], ["parang1", "parang2"]),
        (["parang", "parang-2"], ["parang", "parang2"]),
        (["tambal", "tamball"], ["tambal", "tamball"]),
        (["0", "1", "2"], ["0", "1", "2"]),
        (["ꦥꦫꦁ", "ꦥꦫꦶ"], ["ꦥꦫꦁ", "ꦥꦫꦶ"]),
        (["a1", "a2", "b"], ["a1", "a2", "b"]),
        (["A+", "A-", "1-1", "11"], ["a+", "a", "1-1", "11"]),
        # only these are the same name
        (["Tambal", "batik-tambal", "Copy of tambal"], ["tambal", "tambal", "tambal"]),
    ],
)
def test_a_spelling_is_mended_only_where_that_is_unique(names, wanted):
    assert list(motifs.of_folders(names).values()) == wanted


def test_the_published_folder_names_mean_themselves():
    folders = [f"batik-{motif}" for motif in motifs.ALL_MOTIFS]
    assert tuple(motifs.of_folders(folders).values()) == motifs.ALL_MOTIFS
    assert tuple(map(motifs.from_folder, motifs.ALL_MOTIFS)) == motifs.ALL_MOTIFS


PARTS = [
    "train",
    "Testing",
    "val_set",
    "02-valid",
    "TrainingData",
    "data_latih",
    "uji",
    "fold3",
    "holdout",
]


@pytest.mark.parametrize("name", [*PARTS, "tests", "3", "data", "trainer"])
def test_parts_of_a_divided_data_set(name):
    assert motifs.is_split(name) == (name in PARTS)
