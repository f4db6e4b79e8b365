"""Every image that people have opens the same way, and all else is refused with the reason."""

import io
import os
import re
import struct

import numpy as np
import picture_zoo
import pytest
from picture_zoo import encode
from PIL import Image, ImageOps

from batik_utils.images import files
from batik_utils.images.files import ImageError, inspect, open_image

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8))
#: Four quarters in four colours: every turn and mirror of it looks different, even as a JPEG.
QUARTERS = Image.fromarray(
    np.kron(
        np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8),
        np.ones((16, 24, 1), np.uint8),
    )
)
PNG = encode(NOISE, "PNG")
GOOD = picture_zoo.good()
FLIPPED = ImageOps.mirror(picture_zoo.CLOTH)
# what is too small or of one colour is an image; only a model refuses it
BAD = {n: given for n, given in picture_zoo.bad().items() if given[1] not in ("small", "plain")}


def difference(one: Image.Image, other: Image.Image) -> int:
    assert one.size == other.size
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}}


# --- what opens -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
def test_a_whole_image_opens(name):
    image = open_image(GOOD[name])
    assert image.mode == "RGB"
    assert set(inspect(GOOD[name])[1:]) == set(image.size)


@pytest.mark.parametrize("kind", [*LOSSLESS, "GIF", "JPEG"])
def test_the_content_counts_and_not_the_name(kind, tmp_path):
    path = tmp_path / "1.jpg"
    path.write_bytes(encode(QUARTERS, kind, **LOSSLESS.get(kind, {})))
    image = open_image(path)
    assert open_image(str(path)) == open_image(path.read_bytes()) == image
    assert inspect(path) == (kind, 48, 32)
    assert difference(image, QUARTERS) <= {"GIF": 3, "JPEG": 255}.get(kind, 0)
    for at in ((12, 8), (36, 8), (12, 24), (36, 24)):
        assert np.abs(np.subtract(image.getpixel(at), QUARTERS.getpixel(at))).max() <= 3


ASIDE = "(with (a broken|long|text|a thumb)|without its last|followed|cut off|of a wrong)"
ASIDE = {name: found[1] for name in GOOD if (found := re.match(rf"(.*?\w+) {ASIDE}", name))}


@pytest.mark.parametrize("name", ASIDE)
def test_what_a_file_has_besides_or_lacks_at_its_end_changes_no_pixel(name):
    assert difference(open_image(GOOD[name]), open_image(GOOD[ASIDE[name]])) == 0


@pytest.mark.parametrize(
    ("mode", "kind", "settings"),
    [
        ("RGBA", "PNG", {}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("RGBA", "TIFF", {}),
        ("LA", "PNG", {}),
        ("P", "GIF", {"transparency": 1}),
        ("P", "PNG", {"transparency": 1, "exif": picture_zoo.with_orientation(3)}),
    ],
)
def test_transparency_is_laid_on_white(mode, kind, settings):
    image = Image.new("P", (4, 2), 1)  # one opaque pixel, others clear
    image.putpalette([90, 90, 90, 255, 0, 0])
    image.putpixel((0, 0), 0)
    image.info["transparency"] = 1
    image = open_image(encode(image.convert(mode), kind, **settings))
    assert image.getpixel((3, 1) if "exif" in settings else (0, 0)) == (90, 90, 90)
    assert image.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("top", "type_", "kind"),
    [
        (65535, np.uint16, "PNG"),
        (65535, np.uint16, "TIFF"),
        (1, np.float32, "TIFF"),
        (255, np.float32, "TIFF"),
        (65535, np.float32, "TIFF"),
    ],
)
def test_other_ranges_are_scaled_and_not_clipped(top, type_, kind):
    ramp = np.arange(256).reshape(16, 16)
    opened = open_image(encode(Image.fromarray((ramp * (top / 255)).astype(type_)), kind))
    assert np.array_equal(opened, np.stack([ramp] * 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_image_is_turned_upright(kind, orientation):
    content = encode(QUARTERS, kind, exif=picture_zoo.with_orientation(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert difference(open_image(content), upright) == 0


def test_damaged_exif_does_not_spoil_a_whole_image():
    """An EXIF block whose width is a text: rewriting it fails, reading the image does not."""
    entries = [(0x0112, 3, 1, b"\0\6\0\0"), (0x0100, 2, 4, b"abc\0")]
    block = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + block + b"\0\0\0\0"
    assert open_image(encode(QUARTERS, "JPEG", exif=exif)).size == (32, 48)


@pytest.mark.parametrize("name", [n for n in GOOD if re.match("animated|MPO|.*pages", n)])
def test_of_several_images_in_a_file_the_first_counts(name):
    opened, first = open_image(GOOD[name]), picture_zoo.CLOTH
    far = [np.abs(np.subtract(opened, one, dtype=int)).mean() for one in (first, FLIPPED)]
    assert far[0] < far[1] / 3
    assert name != "MPO of a phone" or inspect(GOOD[name])[0] == "JPEG"


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_whole_image_is_refused_with_the_reason(name):
    content, kind = BAD[name]
    for read in (open_image, inspect):
        with pytest.raises(ImageError) as refused:
            read(content)
        assert refused.value.kind == kind


@pytest.mark.parametrize("name", picture_zoo.OTHERS)
def test_a_known_kind_is_named(name):
    with pytest.raises(ImageError, match=name):
        open_image(picture_zoo.bad()[name][0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_broken_image_is_named_as_what_it_is(kind):
    for length in (14, 400):
        with pytest.raises(ImageError, match=kind) as refused:
            open_image(encode(NOISE, kind)[:length])
        assert refused.value.kind == "damaged"


def test_the_limits_are_exact(tmp_path, monkeypatch):
    path = tmp_path / "1.png"
    path.write_bytes(PNG)
    monkeypatch.setattr(files, "MAX_BYTES", len(PNG))
    monkeypatch.setattr(files, "MAX_PIXELS", 20 * 24)
    assert open_image(path).size == (20, 24)
    monkeypatch.setattr(files, "MAX_PIXELS", 20 * 24 - 1)
    for read in (open_image, inspect):
        with pytest.raises(ImageError, match="20 × 24 px"):
            read(PNG)
    monkeypatch.setattr(files, "MAX_BYTES", len(PNG) - 1)
    for source in (path, PNG):
        with pytest.raises(ImageError, match=f"{len(PNG):,} bytes"):
            open_image(source)


@pytest.mark.parametrize("name", ["none.jpg", "", "link.jpg", "a\0b.jpg", "a" * 300])
def test_what_the_system_cannot_read_is_refused(name, tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "none.jpg")
    with pytest.raises(ImageError) as refused:
        open_image(f"{tmp_path}/{name}")
    assert refused.value.kind == "unreadable"


# --- which files of a folder count ------------------------------------------------------------

#: Files below a folder that count, those that do not, and links ("->").
SEEN = ["1.jpg", "10.jpg", "no suffix", "蜡染.png", "below/deeper/2.jpg", "#1 @toko $5.jpg"]
UNSEEN = """.hidden.jpg|._1.jpg|.ipynb_checkpoints/1.jpg|below/.ipynb_checkpoints/1.jpg|Thumbs.db
below/__MACOSX/1.jpg|$RECYCLE.BIN/1.jpg|System Volume Information/1.jpg|@eaDir/1.jpg|@tmp/1.jpg
lost+found/1.jpg|LOST.DIR/1.jpg|FOUND.000/1.jpg|below/desktop.ini|Icon\r|~$letter.docx"""
UNSEEN = re.split(r"[|\n]", UNSEEN)
LINKS = {"broken.jpg": "nothing", "linked": "../outside", "again": "../outside"}
LINKS |= {"loop": ".", "below/up": "..", "to below": "below"}


def test_visible_files_are_found_once(tmp_path):
    root = tmp_path / ".a hidden root"
    for path in (tmp_path / "outside" / "3.jpg", *(root / name for name in SEEN + UNSEEN)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.jpg")  # opening it would wait for ever
    found = [path.relative_to(root).as_posix() for path in files.walk(root)]
    # either of two links to one folder may be the one that is followed
    found = sorted(name.replace("again/", "linked/") for name in found)
    assert found == sorted([*SEEN, "broken.jpg", "linked/3.jpg"])
    assert [files.is_visible(root / name, root) for name in SEEN] == [True] * len(SEEN)
    assert not any(files.is_visible(root / name, root) for name in UNSEEN)
