"""Open a picture by what it is, not by what it is called.

    >>> from batik_utils import pictures
    >>> picture = pictures.open_picture("batik-betawi/4.jpg")  # a GIF that is named .jpg
    >>> picture.mode
    'RGB'

Introduced in notebook 01, section "Opening messy files".
"""

import io
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from batik_utils.errors import BatikError

#: What may be opened; anything else that Pillow could read is refused.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
#: Larger pictures are refused before they are decoded (width × height, px).
MAX_PIXELS = 50_000_000
#: Larger files are refused before they are opened (bytes).
MAX_BYTES = 50_000_000

# what undoes each EXIF orientation
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Python's warning filters are shared by all threads: two that change them must take turns
_FILTERS = threading.Lock()


class PictureError(BatikError):
    """A file that cannot be used as a picture; the message is the reason."""


def open_picture(
    source: Path | str | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    at_least: int | None = None,
) -> Image.Image:
    """Return a picture upright, on white, in RGB.

    The format is found from the content. Of an animation the first frame counts; transparency is
    laid on white; CMYK, greyscale, palette and 16-bit pictures are converted; the EXIF orientation
    is applied.

    Args:
        source: path of a file, or its bytes.
        max_pixels: width × height over which the picture is refused undecoded.
        max_bytes: file size over which the file is refused unopened.
        at_least: if given, a JPEG may be decoded at a reduced size (1/2, 1/4, 1/8) whose two sides
            are still at least this many px. Faster, nearly the same picture after resizing.

    Returns:
        PIL image, mode ``RGB``.

    Raises:
        PictureError: empty, too large, no picture, damaged, or of a format not in ``FORMATS``.
    """
    data = source if isinstance(source, bytes) else _read(Path(source), max_bytes)
    picture, _ = _decode(data, max_pixels, max_bytes, at_least)
    return picture


def inspect(source: Path | str | bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[str, int, int]:
    """Decode a picture once to prove that it is whole.

    Args:
        source: path of a file, or its bytes.
        max_pixels: as in `open_picture`.

    Returns:
        Format as Pillow names it (``"PNG"``), width and height as stored (px).

    Raises:
        PictureError: as in `open_picture`.
    """
    data = source if isinstance(source, bytes) else _read(Path(source), MAX_BYTES)
    # the reduced decode still reads every byte of a JPEG, so a truncated one is found
    _, facts = _decode(data, max_pixels, MAX_BYTES, at_least=64)
    return facts


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise PictureError(f"file of {size:,} bytes, over the limit of {max_bytes:,}")
        return path.read_bytes()
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror or error}") from error


def _decode(
    data: bytes, max_pixels: int, max_bytes: int, at_least: int | None
) -> tuple[Image.Image, tuple[str, int, int]]:
    if not data:
        raise PictureError("empty file")
    if len(data) > max_bytes:
        raise PictureError(f"file of {len(data):,} bytes, over the limit of {max_bytes:,}")
    try:
        with _FILTERS, warnings.catch_warnings():
            # our own pixel limit below speaks instead
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        kind = "JPEG" if picture.format == "MPO" else str(picture.format)
        facts = (kind, *picture.size)
        if picture.width * picture.height > max_pixels:
            raise PictureError(
                f"{picture.width} × {picture.height} px, over the limit of {max_pixels:,} pixels"
            )
        if at_least and kind == "JPEG":
            picture.draft("RGB", (at_least, at_least))
        picture.load()
        return _to_rgb(_upright(picture)), facts
    except UnidentifiedImageError:
        raise PictureError(f"not a picture ({_looks_like(data)})") from None
    except Image.DecompressionBombError as error:
        raise PictureError(f"too many pixels: {error}") from error
    except PictureError:
        raise
    # Pillow's decoders meet damaged files with exceptions of any type; each means the same here
    except Exception as error:
        raise PictureError(f"damaged or truncated: {error}") from error


def _looks_like(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if head.startswith((b"<?xml", b"<svg")):
        return "an SVG or XML text"
    if head.startswith(b"%pdf"):
        return "a PDF document"
    return f"none of {', '.join(FORMATS)}"


def _upright(picture: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also writes the EXIF anew, and fails where that is damaged
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001  damaged EXIF of any kind: then there is no orientation to know
        return picture
    return picture if turn is None else picture.transpose(turn)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        # 16-bit and float greyscale: Pillow would clip, we scale the stored range to 8 bit
        values = np.asarray(picture, dtype=np.float64)
        highest = values.max()
        top = 65535.0 if picture.mode.startswith("I;16") or highest > 255 else 255.0
        if picture.mode == "F" and highest <= 1:
            top = 1.0
        picture = Image.fromarray(np.uint8(np.rint(np.clip(values / top, 0, 1) * 255)))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return picture.convert("RGB")
