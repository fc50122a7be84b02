"""Files of images and masks: their endings, and reading them whatever their mode and rotation."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lightning_modules.utils.errors import InputError

try:
    from pillow_heif import register_heif_opener
except ImportError:  # .heic and .heif are left out, then
    pass
else:
    register_heif_opener()

KNOWN_ENDINGS = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".apng", ".gif", ".bmp", ".tif", ".tiff", ".webp"),
    *(".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".tga", ".ico"),
    *(".heic", ".heif"),
)
# Those that the installed Pillow opens. What else lies in a folder is no image.
IMAGE_ENDINGS = tuple(
    ending for ending in KNOWN_ENDINGS if Image.registered_extensions().get(ending) in Image.OPEN
)

# Formats that change values a little, or may: WebP, AVIF, JPEG 2000 and HEIF can be exact as well.
LOSSY_FORMATS = {"JPEG", "MPO", "WEBP", "AVIF", "JPEG2000", "HEIF"}
LOSSY_TIFFS = {"jpeg", "tiff_jpeg", "webp"}  # compressions, as Pillow calls them
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of a TIFF file
WHITE_IS_ZERO = 0


@dataclass(frozen=True)
class Stored:
    """What a file says of its values that Pillow's mode does not tell.

    wide: a value has more than 8 bits.
    depth: how many bits those have that Pillow reads; None where they are 16 or 32, which files
        use for whatever has more than 8.
    lossy: black is not exactly 0.
    """

    wide: bool
    depth: int | None
    lossy: bool


def read_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """The picture in a file as a person sees it: upright (EXIF), RGB, the first of several frames.

    An alpha channel is dropped. Integers of more than 8 bits keep the highest 8 of the depth that
    the file states. A file of 16 or 32 bits may hold less: its values are taken for 8 bits if none
    is above 255, and for 16 bits if one is above 4095.

    Args:
        path: of the file; with ``content``, what errors call it.
        content: of the file. None: it is read.

    Raises:
        InputError: the file is no image that can be read, or which of its values are black and
            white is not known: floats; integers below 0 or above 65535; greys that end at 256 to
            4095 in 16 bits, or colours that do at 0 to 4095, which may be of 12 bits or dark.
    """
    with _opened(path, content) as (image, stored):
        if image.mode == "F":
            raise InputError(f"{path}: floating-point pixels; accepted: 8-bit and 16-bit images")
        if image.mode.startswith("I"):
            values = np.asarray(image).astype(np.int64)
            depth = stored.depth or _depth_of(values, path)
            image = Image.fromarray((values >> (depth - 8)).astype(np.uint8))
        elif stored.wide and stored.depth is None:  # Pillow has kept the highest 8 bits
            bands = zip(image.getbands(), image.getextrema(), strict=True)
            if max(high for band, (_, high) in bands if band != "A") <= 16:
                raise _unknown_range(path, "colours of 16 bits that are all below 4096")
        return image.convert("RGB")


def read_mask(path: str | Path) -> Image.Image:
    """The mask in a file as an image of mode "L": 255 on the object, 0 elsewhere.

    The object is any palette index, grey value or colour but 0; in formats that are lossy or may
    be, it is what has at least half of the greatest value. An alpha channel is no part of it.

    Raises:
        InputError: the file is no image that can be read; or it is not known where the object is:
            NaN; colours of 16 bits; an alpha channel, or a palette whose first colour is not
            black, that tells of another object; a lossy file with nothing in its upper half.
    """
    with _opened(path) as (image, stored):
        if stored.wide and image.mode[0] not in "IF":  # Pillow has dropped the lowest 8 bits
            raise InputError(f"{path}: a mask of 16-bit colours; accepted: greys, 8-bit colours")
        if image.mode == "P":
            is_object = _object_of_palette(image, path)
        else:
            is_object = _object_of_values(image, stored, path)
        return Image.fromarray(is_object.astype(np.uint8) * 255)


@contextmanager
def _opened(path: str | Path, content: bytes | None = None) -> Iterator[tuple[Image.Image, Stored]]:
    """The upright image of a file; whatever fails within is told of the file, in one line."""
    file = path if content is None else io.BytesIO(content)
    try:
        with Image.open(file) as image:
            stored = _stored(image, path)
            upright = ImageOps.exif_transpose(image)
        if image.format == "GIF":  # it always has a palette, which is no person's choice
            upright = upright.convert("RGB")
        elif image.mode == "La":  # Pillow converts it to this alone
            upright = upright.convert("LA")
        yield upright, stored
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        said = str(error).replace(f" {file!r}", "") if content is not None else error
        raise InputError(
            f"{path}: cannot be read ({said}); accepted: {' '.join(IMAGE_ENDINGS)}"
        ) from error


def _stored(image: Image.Image, path: str | Path) -> Stored:
    """Of an image that was opened, and whose pixels were not read yet.

    Raises:
        InputError: Pillow would read its values of more than 8 bits, but wrongly.
    """
    lossy = image.format in LOSSY_FORMATS or image.info.get("compression") in LOSSY_TIFFS
    decoder, *_, args = image.tile[0] if image.tile else ("", "")
    accepted = "8-bit images, and 16-bit images of another kind, as .png"
    if image.format == "TIFF":
        bits = max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
        if bits > 8 and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # it would be a negative
            raise InputError(f"{path}: {bits}-bit values whose white is 0; accepted: {accepted}")
        if bits > 8 and args[0] in {*"RGBACMYK"}:  # it would take the bytes for values
            raise InputError(f"{path}: {bits}-bit colours in planes; accepted: {accepted}")
        return Stored(bits > 8, 12 if bits == 12 else None, lossy)
    # Pillow brings what it reads to 8 or 16 bits, from the depth that these files state.
    if image.format == "JPEG2000":
        bits = _bits_of_jpeg2000(image)
        if bits > 8 and len(image.getbands()) > 1:  # white would overflow to black
            raise InputError(f"{path}: {bits}-bit colours in JPEG 2000; accepted: {accepted}")
    elif decoder.startswith("ppm") and isinstance(args, tuple):
        bits = args[1].bit_length()
    else:
        bits = 16 if ";16" in str(args) else 8
    return Stored(bits > 8, 16 if 8 < bits < 16 else None, lossy)


def _bits_of_jpeg2000(image: Image.Image) -> int:
    """Of the first component, as the codestream's first marker segment, SIZ, states them."""
    image.fp.seek(0)
    content = image.fp.read()
    start = content.index(b"\xff\x4f\xff\x51")
    return (content[start + 42] & 0x7F) + 1


def _depth_of(values: np.ndarray, path: str | Path) -> int:
    """8 or 16: the bits of integers in a file that would have room for more."""
    least, most = values.min(), values.max()
    if least < 0 or most > 65535:
        raise _unknown_range(path, f"values of {least} to {most}")
    if 255 < most < 4096:
        raise _unknown_range(path, f"values of {least} to {most} in 16 bits")
    return 8 if most <= 255 else 16


def _unknown_range(path: str | Path, found: str) -> InputError:
    accepted = "8-bit images, and 16-bit images that use their range, 0 to 65535"
    return InputError(f"{path}: {found}, so black and white are not known; accepted: {accepted}")


def _object_of_palette(image: Image.Image, path: str | Path) -> np.ndarray:
    """Where a palette's index is not 0: bool [H, W]."""
    is_object = np.asarray(image) != 0
    is_coloured = np.asarray(image.convert("RGB")).any(axis=2)
    if image.getpalette("RGB")[:3] != [0, 0, 0] and (is_object != is_coloured).any():
        raise InputError(
            f"{path}: the palette's colour 0 is not black, so where the object is is not known; "
            "accepted: a palette whose colour 0, the background, is black"
        )
    return is_object


def _object_of_values(image: Image.Image, stored: Stored, path: str | Path) -> np.ndarray:
    """Where greys or colours are not 0, or in the upper half if they are lossy: bool [H, W]."""

    def high(values: np.ndarray) -> np.ndarray:
        if not stored.lossy:
            return values != 0
        return 2 * values.astype(np.int64) >= (65535 if image.mode.startswith("I") else 255)

    grey = len(image.getbands()) == 1
    values = np.atleast_3d(np.asarray(image if grey else image.convert("RGB")))
    if np.isnan(values).any():
        raise InputError(f"{path}: a mask with NaN; accepted: 0, and other numbers on the object")
    is_object = high(values).any(axis=2)
    if values.any() and stored.lossy and not is_object.any():
        raise InputError(
            f"{path}: a mask in a lossy format with no value in the upper half, up to "
            f"{values.max()}; accepted: bright on the object, or a format that is exact, as .png"
        )
    if "A" in image.getbands():
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() < alpha.max() and (high(alpha) != is_object).any():
            raise InputError(
                f"{path}: a mask whose alpha channel and colours tell of different objects; "
                "accepted: a mask without an alpha channel"
            )
    return is_object
