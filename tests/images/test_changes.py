"""Changed copies: repeatable, different, never larger than asked, and the input stays as it is."""

import numpy as np
import pytest
from PIL import Image

from batik_utils.images import changes


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (130, 90), (2500, 1500)])
def test_a_seed_means_one_copy(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    original = Image.fromarray(noise)
    copies, again = (
        [changes.changed(original, np.random.default_rng([1, i])) for i in range(12)]
        for _ in range(2)
    )
    assert copies == again
    assert len({copy.tobytes() for copy in copies}) == 12 or size == (1, 1)
    assert all(min(copy.size) >= 1 and max(copy.size) <= 1600 for copy in copies)
    assert np.array_equal(np.asarray(original), noise)


def test_a_watermark_covers_its_band_and_an_overlay_stays_clear_beside_it():
    image, overlay = Image.new("RGB", (100, 40), "red"), Image.new("RGBA", (100, 40))
    for ground in (image, overlay):
        band = (10, 19, (0, 0, 0, 128))
        changes.watermark(ground, "toko", (50, 15), 8, (255, 255, 255, 255), band, "mm")
    assert image.getpixel((0, 15))[0] in (127, 128)
    assert image.getpixel((0, 30)) == (255, 0, 0)
    assert overlay.getpixel((0, 15)) == (0, 0, 0, 128)
    assert overlay.getpixel((0, 30)) == (0, 0, 0, 0)
    assert np.asarray(overlay)[10:20].max() > 200  # the words
