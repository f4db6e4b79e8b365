"""Find image files, and open them by what they are, not by what they are called.

    >>> from batik_utils.images import files
    >>> image = files.open_image("batik-betawi/4.jpg")  # a GIF that is named .jpg
    >>> image.mode
    'RGB'

Introduced in notebook 01, section "Opening messy files".
"""

import io
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from batik_utils.errors import BatikError

try:
    from PIL import AvifImagePlugin

    _AVIF = ("AVIF",) if AvifImagePlugin.SUPPORTED else ()
except ImportError:  # Pillow before 11.3
    _AVIF = ()

#: What may be opened; anything else that Pillow could read is refused.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *_AVIF)
#: Larger images are refused before they are decoded (width × height, px).
MAX_PIXELS = 50_000_000
#: Larger files are refused before they are opened (bytes).
MAX_BYTES = 50_000_000
#: Pixels times scans over which a JPEG is refused: it is decoded once for each of its scans, about
#: ten of an ordinary one; a made one can hold thousands and take hours.
MAX_SCANNED_PIXELS = 1_500_000_000

# folders and files of operating systems, network drives and office programs, in lower case
_SYSTEM = {"$recycle.bin", "recycler", "system volume information", "lost+found", "__macosx"}
_SYSTEM |= {"@eadir", "@recycle", "#recycle", "#snapshot", "network trash folder"}
_SYSTEM |= {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__", "temporary items"}

_SAVE = "save it as JPEG or PNG"
# how other files begin (regular expression, first 512 bytes), what they are, and what to do
_OTHERS = (
    (rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", "HEIC photo of a phone", "save it as JPEG"),
    (rb"....ftypavi[fs]", "AVIF image, which this version of Pillow does not read", _SAVE),
    (rb"....ftypcrx|FUJIFILMCCD|IIU\x00|IIR[OS]", "raw photo of a camera", _SAVE),
    (rb"....(ftyp|moov|mdat)|RIFF....AVI |\x1aE\xdf\xa3", "video", "take a still image of it"),
    (rb"....jP  |\xff\x4f\xff\x51", "JPEG 2000 image", _SAVE),
    (rb"....JXL |\xff\x0a", "JPEG XL image", _SAVE),
    (rb"8BPS", "Photoshop document", _SAVE),
    (rb"gimp xcf", "GIMP document", _SAVE),
    (rb"\x00\x00[\x01\x02]\x00", "Windows icon", _SAVE),
    (rb"P[1-7]\s", "PNM image", _SAVE),
    (rb"%PDF", "PDF document", "save its image as JPEG or PNG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript document", _SAVE),
    (rb"(?i)\s*(<!--.*?)?(<!doctype html|<html)", "HTML page", "download the image itself"),
    (rb"(?i)\s*(<\?xml|<svg)", "SVG or XML text", _SAVE),
    (rb"PK[\x03\x05][\x04\x06]|Rar!|7z\xbc\xaf|\x1f\x8b", "archive", "unpack it"),
    (rb"version https://git-lfs", "Git LFS pointer", "run 'git lfs pull'"),
    (rb"bplist00", "placeholder of a cloud drive", "download the image itself"),
)
_OTHERS = [(re.compile(start, re.DOTALL), name, remedy) for start, name, remedy in _OTHERS]
_OWN = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "GIF": rb"GIF8",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"II\*\x00|MM\x00\*",
    "BMP": rb"BM....\x00\x00\x00\x00",
    **dict.fromkeys(_AVIF, rb"....ftypavi[fs]"),
}
_OWN = {name: re.compile(start, re.DOTALL) for name, start in _OWN.items()}

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


#: Reasons to refuse a file, in one word: no content; too many bytes; too many pixels; the system
#: does not let it be read; no image, or of a format that is not read; photo of a phone in HEIC;
#: broken. What a model is asked about may also be too small, or of one colour.
KINDS = ("empty", "bytes", "pixels", "unreadable", "format", "heic", "damaged", "small", "plain")


class ImageError(BatikError):
    """A file that cannot be used as an image; the message is the reason, without its subject.

    ``kind`` is one of `KINDS`, for programs and translations.
    """

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind

    def __reduce__(self):
        return type(self), (str(self), self.kind)


def is_hidden(name: str) -> bool:
    """Return whether one part of a path is hidden or belongs to a system, as ``$RECYCLE.BIN``."""
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM


def is_visible(path: PurePath, folder: PurePath) -> bool:
    """Return whether no part of a path below a folder is hidden; the folder itself may be."""
    return not any(map(is_hidden, path.relative_to(folder).parts))


def walk(folder: Path) -> Iterator[Path]:
    """Yield the visible files below a folder, sorted, and broken links, so that they are named.

    Links to folders are followed, each folder once.
    """
    yield from _walk(Path(folder), set())


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        facts = folder.stat()
        if (place := (facts.st_dev, facts.st_ino)) in seen:
            return
        seen.add(place)
        visible = (entry for entry in os.scandir(folder) if not is_hidden(entry.name))
        # links last: of a folder and a link to it the folder counts
        entries = sorted(visible, key=lambda entry: (entry.is_symlink(), entry.name))
    except OSError as error:
        raise BatikError(
            f"{folder} cannot be listed ({error.strerror}): allow reading it, or move it away."
        ) from error
    for entry in entries:
        path = folder / entry.name
        if path.is_dir():
            yield from _walk(path, seen)
        elif path.is_file() or entry.is_symlink():
            yield path


def open_image(
    source: Path | str | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    at_least: int | None = None,
) -> Image.Image:
    """Return an image from a path or from a file's bytes: upright, on white, in RGB.

    The format is found from the content; of several frames the first counts. With ``at_least``, a
    JPEG may be decoded at a reduced size whose sides are still at least this many px: faster.

    Raises:
        ImageError: empty, too large, no image, damaged, or of a format not in ``FORMATS``.
    """
    data = source if isinstance(source, bytes) else read_file(source, max_bytes)
    return _decode(data, max_pixels, max_bytes, at_least)[0]


def inspect(source: Path | str | bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[str, int, int]:
    """Decode an image to prove that it is whole; return format, width and height as stored."""
    data = source if isinstance(source, bytes) else read_file(source)
    # the reduced decode still reads every byte of a JPEG, so a truncated one is found
    return _decode(data, max_pixels, MAX_BYTES, at_least=64)[1]


def read_file(path: Path | str, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file; ImageError where it is too large or cannot be read."""
    path = Path(path)
    try:
        if (size := path.stat().st_size) > max_bytes:
            raise ImageError(_too_large(size, max_bytes), "bytes")
        with path.open("rb") as stream:  # a device or pipe has no size, and may have no end
            return stream.read(max_bytes + 1)
    except FileNotFoundError as error:
        broken = "a link to nothing" if path.is_symlink() else error.strerror
        raise ImageError(f"cannot be read: {broken}", "unreadable") from error
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}", "unreadable") from error
    except ValueError as error:  # a zero byte in the name
        raise ImageError(f"cannot be read: {error}", "unreadable") from error


def _decode(
    data: bytes, max_pixels: int, max_bytes: int, at_least: int | None
) -> tuple[Image.Image, tuple[str, int, int]]:
    if not data:
        raise ImageError("empty file", "empty")
    if len(data) > max_bytes:
        raise ImageError(_too_large(len(data), max_bytes), "bytes")
    try:
        image = _identify(_lean_png(data))
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        facts = (kind, *image.size)
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise ImageError(
                f"{image.width} × {image.height} px, over the limit of {max_pixels:,} pixels",
                "pixels",
            )
        if kind == "JPEG":
            scans, ends = _scans(data)
            if pixels * scans > MAX_SCANNED_PIXELS:
                raise ImageError(
                    f"{image.width} × {image.height} px in {scans} scans, too slow to decode",
                    "pixels",
                )
            image = _load_jpeg(data, image, at_least, ends)
        image.load()
        return _to_rgb(_upright(image)), facts
    except UnidentifiedImageError:
        raise _refusal(data) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"too many pixels: {error}", "pixels") from error
    except ImageError:
        raise
    # Pillow's decoders meet damaged files with exceptions of any type; each means the same here
    except Exception as error:
        raise ImageError(f"damaged or truncated {_own(data)}: {error}", "damaged") from error


def _identify(data: bytes) -> Image.Image:
    with _FILTERS, warnings.catch_warnings():
        # our own pixel limit speaks instead
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _lean_png(data: bytes) -> bytes:
    """Leave out what a PNG's pixels do not need: texts, profiles, frames after the first.

    Pillow refuses a whole image for a wrong checksum or size in such a chunk.
    """
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    kept, place = [data[:8]], 8
    while place + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + size
        needed = name[:1].isupper()
        if name in (b"tRNS", b"eXIf") and end <= len(data):
            checksum = int.from_bytes(data[end - 4 : end], "big")
            needed = zlib.crc32(data[place + 4 : end - 4]) == checksum
        if needed:
            kept.append(data[place:end])
        if name == b"IEND":
            break
        place = end
    return b"".join(kept)


def _scans(data: bytes) -> tuple[int, bool]:
    """Return the number of scans of a JPEG up to its end, and whether there is an end.

    Thumbnails in its notes and a video or second image behind it have markers of their own.
    """
    # inside coded data a byte FF is followed by 00 or a restart marker
    marker = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
    scans, place = 0, 2
    while found := marker.search(data, place):
        kind, place = found[1][0], found.end()
        if kind == 0xD9:
            return scans, True
        scans += kind == 0xDA
        if kind not in (0x01, 0xD8):  # these two have no content
            place += int.from_bytes(data[place : place + 2], "big")
    return scans, False


def _load_jpeg(data: bytes, image: Image.Image, at_least: int | None, ends: bool) -> Image.Image:
    def load(image: Image.Image) -> Image.Image:
        if at_least:
            image.draft("RGB", (at_least, at_least))
        image.load()
        return image

    try:
        return load(image)
    except OSError:
        if ends:
            raise
        # Only the end marker may be missing: then whatever stands in its place changes no pixel.
        cut = data.rstrip(b"\xff")
        one, other = (load(_identify(cut + more + b"\xff\xd9")) for more in (b"", b"\xa5\x3c" * 8))
        if one.tobytes() != other.tobytes():
            raise
        return one


def _too_large(size: int, limit: int) -> str:
    return f"file of {size:,} bytes, over the limit of {limit:,}"


def _own(data: bytes) -> str:
    """Return the name of the format that a file begins as; "" if it is none of ``FORMATS``."""
    return next((name for name, start in _OWN.items() if start.match(data)), "")


def _refusal(data: bytes) -> ImageError:
    if name := _own(data):
        return ImageError(f"damaged or truncated {name}", "damaged")
    text = data[:512].removeprefix(b"\xef\xbb\xbf")
    for start, name, remedy in _OTHERS:
        if start.match(text):
            return ImageError(f"{name}; {remedy}", "heic" if "HEIC" in name else "format")
    return ImageError(f"not an image (none of {', '.join(FORMATS)})", "format")


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also rewrites the EXIF, and fails where that is damaged
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001  damaged EXIF of any kind: then there is no orientation to know
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    # 16-bit and float greyscale: Pillow would clip, we scale the stored range to 8 bit
    values = np.asarray(image)
    highest = values.max()
    top = 65535.0 if image.mode.startswith("I;16") or highest > 255 else 255.0
    if image.mode == "F" and highest <= 1:
        top = 1.0
    small = np.empty(values.shape, np.uint8)
    # band by band: a large image in 64-bit numbers would take 400 MB
    for start in range(0, len(values), 256):
        band = np.nan_to_num(values[start : start + 256].astype(np.float64))
        small[start : start + 256] = np.rint(np.clip(band / top, 0, 1) * 255)
    return Image.fromarray(small)
