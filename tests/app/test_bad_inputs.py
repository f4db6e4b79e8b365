"""Whatever a visitor sends is classified or refused with a sentence; nothing else ever happens."""

import resource
import warnings

import picture_zoo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD = picture_zoo.good()
BAD = picture_zoo.bad()
SMALL = [content for content in GOOD.values() if len(content) < 40_000]
MAGIC = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF")


def test_odd_pictures_are_classified(predictor):
    for name, answer in zip(GOOD, predictor.predict(GOOD.values()), strict=True):
        assert answer.verdict in ("sure", "unsure", "none"), (name, answer.reason)
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-4)


def test_bad_files_are_refused_with_a_sentence(predictor):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers = predictor.predict(content for content, _ in BAD.values())
    for (name, (_, kind)), answer in zip(BAD.items(), answers, strict=True):
        assert (answer.verdict, answer.kind) == ("refused", kind), (name, answer.reason)
        assert (answer.motif, answer.probabilities, answer.level) == (None, {}, "")
        assert answer.reason.startswith("This file was refused: ") and answer.reason.endswith(".")
        assert "Traceback" not in answer.reason and len(answer.reason) < 300
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 250_000  # kB; a bomb of 12,000 x 12,000 decoded would be 432 MB


change = st.tuples(st.integers(0, 2**16), st.integers(0, 255))


@settings(max_examples=300, deadline=None)
@given(
    content=st.sampled_from(SMALL) | st.builds(bytes.__add__, st.sampled_from(MAGIC), st.binary()),
    changes=st.lists(change, max_size=12),
    cut=st.floats(0, 1) | st.just(1.0),
    head=st.booleans(),
)
def test_mutated_files_are_answered(predictor, content, changes, cut, head):
    mutated = bytearray(content)
    for place, value in changes if mutated else ():
        mutated[place % (min(200, len(mutated)) if head else len(mutated))] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd EXIF and TIFF entries
        answer = predictor.predict([bytes(mutated[: int(cut * len(mutated))])])[0]
    assert answer.verdict in ("sure", "unsure", "none", "refused")
    assert (answer.verdict == "refused") == (not answer.probabilities) == bool(answer.kind)
