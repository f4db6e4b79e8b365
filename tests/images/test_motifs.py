"""Folder names and the motifs they mean."""

import pytest

from batik_utils.images import motifs

#: A motif, and names of folders that mean it where they stand alone.
NAMES = {
    "betawi": "batik-betawi, 02 Betawi (50), BETAWI, betawi_train, batik betawi new",
    "sidoluhur": "batik_sindoluhur40jpg, Sido Luhur, BatikSidoLuhur, Batik Sidoluhur (1).jpg",
    "tambal": "BATIK_TAMBAL, batikTambal, BATIKTAMBAL, tambals, Tambal50",
    "megamendung": "batik-mega-mendung, batik-megamendun",
    "sidomukti": "Sido Mukti",
    "parang": "kain parang",
    # no word is dropped
    "parangrusak": "Parang Rusak",
    "soloparang": "Solo_Parang",
    "deparang": "de parang",
    "baliparang": "bali-parang",
    "sogansidoluhur": "sogan sidoluhur",
    # unknown ones keep their own name, in every script
    "truntum": "batik-truntum",
    "sidomulyo": "Sido Mulyo",
    "1": "motif 1",
    "батик": "Батик",
    "caf\u00e9": "cafe\u0301",
}
THEMSELVES = "sidoasih cats 0 007 ꦥꦫꦁ 蜡染 バティク true batik png 🦋"
NAMES |= {name: name for name in THEMSELVES.split()}
NAMES = {name: motif for motif, names in NAMES.items() for name in names.split(", ")}


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


PARTS = ["train", "Testing", "val_set", "02-valid", "TrainingData", "data_latih", "uji", "fold3"]


@pytest.mark.parametrize("name", [*PARTS, "tests", "3", "data", "trainer"])
def test_parts_of_a_divided_data_set(name):
    assert motifs.is_split(name) == (name in PARTS)
