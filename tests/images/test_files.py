"""Every image that people have opens the same way, and all else is refused with the reason."""

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
# what is too small or of one colour is an image; only a model refuses it
BAD = {n: given for n, given in picture_zoo.bad().items() if given[1] not in ("small", "plain")}


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def difference(one: Image.Image, other: Image.Image) -> int:
    assert one.size == other.size
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


LOSSLESS = {
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
}


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


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_its_end_alone_is_whole(progressive):
    whole = encode(NOISE, "JPEG", progressive=progressive)
    for cut in (whole[:-1], whole[:-2]):
        assert difference(open_image(cut), open_image(whole)) == 0


BROKEN_NOTES = [name for name in GOOD if re.match(r"\w+ (with a broken|cut|of a wrong)", name)]


@pytest.mark.parametrize("name", BROKEN_NOTES)
def test_what_a_file_tells_besides_changes_no_pixel(name):
    assert difference(open_image(GOOD[name]), open_image(GOOD[name.split()[0]])) == 0


def clear(mode: str) -> Image.Image:
    """One opaque pixel, others clear."""
    if mode in ("RGBA", "LA"):
        image = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
        image.putpixel((0, 0), (90, 90, 90, 255))
        return image.convert(mode)
    image = Image.new("P", (4, 2), 1)
    image.putpalette([90, 90, 90, 0, 0, 255])
    image.putpixel((0, 0), 0)
    return image


@pytest.mark.parametrize(
    ("mode", "kind", "settings"),
    [
        ("RGBA", "PNG", {}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("RGBA", "TIFF", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": 1}),
        ("P", "GIF", {"transparency": 1}),
        ("P", "PNG", {"transparency": 1, "exif": with_orientation(3)}),
    ],
)
def test_transparency_is_laid_on_white(mode, kind, settings):
    image = open_image(encode(clear(mode), kind, **settings))
    opaque = (3, 1) if "exif" in settings else (0, 0)
    assert image.getpixel(opaque) == (90, 90, 90)
    assert image.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind):
    eight = np.arange(256, dtype=np.uint16).reshape(16, 16)
    opened = np.asarray(open_image(encode(Image.fromarray(eight * 257), kind)))
    assert np.array_equal(opened, np.stack([eight] * 3, axis=2))


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_images_are_scaled_from_their_usual_ranges(top):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    opened = np.asarray(open_image(encode(Image.fromarray(ramp * np.float32(top)), "TIFF")))
    assert np.array_equal(opened[..., 0], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_image_is_turned_upright(kind, orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        # the camera was turned, so the stored image is turned the other way
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = QUARTERS.transpose(undo[orientation]) if orientation > 1 else QUARTERS
    settings = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    opened = open_image(
        encode(stored, kind, exif=with_orientation(orientation), **settings.get(kind, {}))
    )
    assert difference(opened, QUARTERS) <= (8 if kind == "JPEG" else 0)


def test_damaged_exif_does_not_spoil_a_whole_image():
    """An EXIF block whose width is a text: rewriting it fails, reading the image does not."""
    entries = [(0x0112, 3, 1, b"\0\6\0\0"), (0x0100, 2, 4, b"abc\0")]
    block = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + block + b"\0\0\0\0"
    assert open_image(encode(QUARTERS, "JPEG", exif=exif)).size == (32, 48)


def test_of_several_images_in_a_file_the_first_counts():
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue", "lime")]
    for kind, settings in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **settings)
        assert open_image(content).getpixel((3, 3)) == (255, 0, 0)
    phone = encode(QUARTERS, "MPO", save_all=True, append_images=[ImageOps.mirror(QUARTERS)])
    assert inspect(phone) == ("JPEG", 48, 32)
    assert np.abs(np.subtract(open_image(phone).getpixel((12, 8)), (255, 0, 0))).max() <= 3


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


def missing(folder):
    return folder / "none.jpg"


def a_folder(folder):
    return folder


def broken_link(folder):
    (folder / "link.jpg").symlink_to(folder / "none.jpg")
    return folder / "link.jpg"


def zero_byte(folder):
    return f"{folder}/a\0b.jpg"


def too_long(folder):
    return folder / ("a" * 300)


@pytest.mark.parametrize("where", [missing, a_folder, broken_link, zero_byte, too_long])
def test_what_the_system_cannot_read_is_refused(where, tmp_path):
    with pytest.raises(ImageError) as refused:
        open_image(where(tmp_path))
    assert refused.value.kind == "unreadable"


# --- which files of a folder count ------------------------------------------------------------

#: Files below a folder, and whether they count. ``->`` makes a link.
FOLDER = {
    "1.jpg": True,
    "10.jpg": True,
    "no suffix": True,
    "蜡染.png": True,
    "below/deeper/2.jpg": True,
    ".hidden.jpg": False,
    "._1.jpg": False,
    ".ipynb_checkpoints/1-checkpoint.jpg": False,
    "below/.ipynb_checkpoints/1-checkpoint.jpg": False,
    "below/__MACOSX/1.jpg": False,
    "$RECYCLE.BIN/1.jpg": False,
    "System Volume Information/1.jpg": False,
    "@eaDir/1.jpg": False,
    "lost+found/1.jpg": False,
    "LOST.DIR/1.jpg": False,
    "FOUND.000/1.jpg": False,
    "@tmp/1.jpg": False,
    "#1 @toko $5.jpg": True,
    "Thumbs.db": False,
    "below/desktop.ini": False,
    "Icon\r": False,
    "~$letter.docx": False,
    "broken.jpg -> nothing": True,
    "linked -> outside": False,
    "linked/3.jpg": True,
    "again -> outside": False,
    "loop -> .": False,
    "below/up -> ..": False,
    "to below -> below": False,
}


def test_visible_files_are_found_once(tmp_path):
    root = tmp_path / ".a hidden root"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "3.jpg").touch()
    for name in FOLDER:
        path = root / name.split(" -> ")[0]
        if name.startswith("linked/"):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if " -> " in name:
            target = name.split(" -> ")[1]
            path.symlink_to(tmp_path / "outside" if target == "outside" else target)
        else:
            path.touch()
    os.mkfifo(root / "pipe.jpg")  # opening it would wait for ever
    found = [path.relative_to(root).as_posix() for path in files.walk(root)]
    wanted = {name.split(" -> ")[0] for name, counts in FOLDER.items() if counts}
    # either of two links to one folder may be the one that is followed
    assert {name.replace("again/", "linked/") for name in found} == wanted
    assert len(found) == len(wanted)
    for name in ("1.jpg", "below/.ipynb_checkpoints/1-checkpoint.jpg", "below/__MACOSX/1.jpg"):
        assert files.is_visible(root / name, root) == FOLDER[name]
