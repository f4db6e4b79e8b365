"""Whatever a visitor sends is classified or refused with a sentence; nothing else ever happens."""

import resource
import warnings

import picture_zoo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batik_utils.app.predict import MIN_SIDE

GOOD = picture_zoo.good()
BAD = picture_zoo.bad()
SMALL = [content for content in GOOD.values() if len(content) < 40_000]


def test_the_zoo_is_large():
    assert len(GOOD) + len(BAD) >= 70
    assert {kind for _, kind in BAD.values()} == {
        *("empty", "format", "heic", "damaged", "small", "plain", "pixels", "bytes"),
    }


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_picture_is_classified(predictor, name):
    answer = predictor.predict([GOOD[name]])[0]
    assert answer.verdict in ("sure", "unsure", "none"), answer.reason
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-4)


def test_a_lossless_file_gives_the_pictures_own_answer(predictor):
    names = ("PNG", "BMP", "TIFF", "TIFF, LZW", "animated PNG", "TIFF of several pages")
    *answers, wanted = predictor.predict([*(GOOD[name] for name in names), picture_zoo.CLOTH])
    assert [answer.probabilities for answer in answers] == [wanted.probabilities] * len(names)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_a_sentence(predictor, name):
    content, kind = BAD[name]
    answer = predictor.predict([content])[0]
    assert (answer.verdict, answer.kind) == ("refused", kind), answer.reason
    assert answer.motif is None
    assert answer.probabilities == {}
    assert answer.reason.startswith("This file was refused: ")
    assert answer.reason.endswith(".")
    assert "Traceback" not in answer.reason
    assert len(answer.reason) < 300


def test_the_name_of_a_file_says_nothing(predictor, tmp_path):
    for suffix in (".jpg", ".svg", ".exe", ""):
        path = tmp_path / f"cloth{suffix}"
        path.write_bytes(GOOD["PNG"])
        assert predictor.predict([path])[0].verdict != "refused"
        path.write_bytes(BAD["SVG"][0])
        assert predictor.predict([path])[0].kind == "format"


def test_a_name_with_a_zero_byte(predictor):
    assert predictor.predict(["a\0b.jpg"])[0].kind == "unreadable"


def test_bombs_cost_no_memory(predictor):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("a bomb of 12,000 x 12,000", "a bomb of 60,000 x 60,000"):
        predictor.predict([BAD[name][0]] * 5)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000  # kB; the smaller one decoded would be 432 MB


def test_a_picture_in_memory_is_held_to_the_smallest_side(predictor):
    sizes = [(MIN_SIDE, n) for n in (MIN_SIDE - 1, MIN_SIDE)]
    answers = predictor.predict([picture_zoo.CLOTH.resize(size) for size in sizes])
    assert [answer.verdict == "refused" for answer in answers] == [True, False]


change = st.tuples(st.integers(0, 2**16), st.integers(0, 255))


@settings(max_examples=300, deadline=None)
@given(
    content=st.sampled_from(SMALL),
    changes=st.lists(change, max_size=12),
    cut=st.floats(0, 1) | st.just(1.0),
    head=st.booleans(),
)
def test_mutated_files_are_answered(predictor, content, changes, cut, head):
    mutated = bytearray(content)
    for place, value in changes:
        mutated[place % (min(200, len(mutated)) if head else len(mutated))] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow grumbles about odd EXIF and TIFF entries
        answer = predictor.predict([bytes(mutated[: int(cut * len(mutated))])])[0]
    assert answer.verdict in ("sure", "unsure", "none", "refused")
    assert (answer.verdict == "refused") == (not answer.probabilities) == bool(answer.kind)


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=400),
    magic=st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF"]
    ),
)
def test_random_bytes_are_answered(predictor, content, magic):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert predictor.predict([magic + content])[0].verdict in ("refused", "none")
