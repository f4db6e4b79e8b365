"""Changed copies: repeatable, different, never larger than asked, and the input stays as it is."""

import numpy as np
from PIL import Image

from batik_utils.images import changes


def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_equal_seeds_give_equal_copies_and_others_do_not():
    original = picture()
    before = original.tobytes()
    copies = [changes.changed(original, np.random.default_rng([1, i])) for i in range(30)]
    again = [changes.changed(original, np.random.default_rng([1, i])) for i in range(30)]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(copies, again, strict=True))
    assert len({a.tobytes() for a in copies}) == 30
    assert original.tobytes() == before


def test_huge_and_tiny_pictures_pass():
    for size in ((1, 1), (3, 400), (2500, 1500)):
        copies = [
            changes.changed(Image.new("RGB", size, "red"), np.random.default_rng(i))
            for i in range(20)
        ]
        assert all(min(copy.size) >= 1 and max(copy.size) <= 1600 for copy in copies)


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
