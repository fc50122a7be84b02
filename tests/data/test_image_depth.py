"""Pictures of more than 8 bits a value: they keep their contents or are refused, none is black."""

import itertools

import numpy as np
import pytest
from PIL import Image

from lightning_modules.data.images.files import read_image, read_mask
from tests.helpers.image_bytes import GREY, RGB, SIGNED, WHITE_IS_ZERO, png16, pnm, tiff
from tests.helpers.samples import message_of, save

RAMP = np.linspace(0, 1, 48 * 32).reshape(32, 48)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)


def stored(brightness: np.ndarray, most: int) -> np.ndarray:
    """Integers of 0 to `most`."""
    return np.round(brightness * most).astype(np.int64)


def write_pillow(mode: str):
    """Writes greys in one of Pillow's own modes."""
    types = {"I;16": "<u2", "I;16B": ">u2", "I": "i4"}

    def write(path, values):
        image = Image.fromarray(values.astype(types[mode]))
        assert image.mode == mode
        image.save(path)

    return write


GREYS_OF_16 = {  # of files with room for 16 bits or more
    "png": write_pillow("I;16"),
    "tif": write_pillow("I;16"),
    "big-endian.tif": write_pillow("I;16B"),
    "32-bit.tif": write_pillow("I"),
    "signed.tif": lambda path, values: tiff(path, values, GREY, 16, SIGNED),
    "jp2": write_pillow("I;16"),
    "j2k": write_pillow("I;16"),
    "pgm": lambda path, values: pnm(path, values, 65535),
}
COLOURS_OF_16 = {
    "png": png16,
    "tif": lambda path, values: tiff(path, values, RGB),
    "ppm": lambda path, values: pnm(path, values, 65535),
}
STATED = {  # by name, the greatest value that the file states, and how it is written
    "pgm of 10 bits": ("pgm", 1023, RAMP, lambda p, values: pnm(p, values, 1023)),
    "pgm of 12 bits": ("pgm", 4095, RAMP, lambda p, values: pnm(p, values, 4095)),
    "ppm of 10 bits": ("ppm", 1023, COLOURS, lambda p, values: pnm(p, values, 1023)),
    "tiff of 12 bits": ("tif", 4095, RAMP, lambda p, values: tiff(p, values, GREY, 12)),
}


def check_brightness(path, brightness: np.ndarray) -> None:
    """A value of 8 bits is the same share of 255, to a level, in every channel."""
    found = np.asarray(read_image(path)).astype(float)
    expected = brightness if brightness.ndim == 3 else np.stack([brightness] * 3, axis=-1)
    assert found.shape == expected.shape
    assert np.abs(found - 255 * expected).max() <= 1


@pytest.mark.parametrize("kind", [kind for kind in GREYS_OF_16 if kind != "signed.tif"])
def test_16_bit_greys_keep_their_brightness(tmp_path, kind):
    GREYS_OF_16[kind](tmp_path / f"a.{kind}", stored(RAMP, 65535))
    check_brightness(tmp_path / f"a.{kind}", RAMP)


@pytest.mark.parametrize("kind", COLOURS_OF_16)
def test_16_bit_colours_keep_their_brightness(tmp_path, kind):
    COLOURS_OF_16[kind](tmp_path / f"a.{kind}", stored(COLOURS, 65535))
    check_brightness(tmp_path / f"a.{kind}", COLOURS)


@pytest.mark.parametrize("kind", STATED)
@pytest.mark.parametrize("share", [1, 1 / 20], ids=["bright", "dark"])
def test_brightness_is_that_of_the_depth_that_a_file_states(tmp_path, kind, share):
    ending, most, brightness, write = STATED[kind]
    write(tmp_path / f"a.{ending}", stored(brightness * share, most))
    check_brightness(tmp_path / f"a.{ending}", brightness * share)


@pytest.mark.parametrize("kind", GREYS_OF_16)
def test_8_bit_values_in_a_file_with_room_for_more_stay_as_they_are(tmp_path, kind):
    values = stored(RAMP, 255)
    GREYS_OF_16[kind](tmp_path / f"a.{kind}", values)
    assert np.array_equal(np.asarray(read_image(tmp_path / f"a.{kind}"))[..., 1], values)


@pytest.mark.parametrize("most", [256, 1023, 4095])
@pytest.mark.parametrize("kind", GREYS_OF_16)
def test_greys_of_an_unknown_depth_are_refused(tmp_path, kind, most):
    GREYS_OF_16[kind](tmp_path / f"a.{kind}", stored(RAMP, most))
    with pytest.raises(ValueError) as raises:
        read_image(tmp_path / f"a.{kind}")
    message_of(raises, tmp_path / f"a.{kind}", f"values of 0 to {most} in 16 bits")


@pytest.mark.parametrize("most", [0, 255, 4095])
@pytest.mark.parametrize("kind", COLOURS_OF_16)
def test_16_bit_colours_that_would_be_black_are_refused(tmp_path, kind, most):
    COLOURS_OF_16[kind](tmp_path / f"a.{kind}", stored(COLOURS, most))
    with pytest.raises(ValueError) as raises:
        read_image(tmp_path / f"a.{kind}")
    message_of(raises, tmp_path / f"a.{kind}", "below 4096")


@pytest.mark.parametrize("kind", ["32-bit.tif", "signed.tif"])
def test_integers_below_zero_are_refused(tmp_path, kind):
    GREYS_OF_16[kind](tmp_path / f"a.{kind}", stored(RAMP, 30_000) - 1024)
    with pytest.raises(ValueError) as raises:
        read_image(tmp_path / f"a.{kind}")
    message_of(raises, tmp_path / f"a.{kind}", "values of -1024 to 28976")


def test_integers_of_more_than_16_bits_are_refused(tmp_path):
    GREYS_OF_16["32-bit.tif"](tmp_path / "a.tif", stored(RAMP, 10**6))
    with pytest.raises(ValueError) as raises:
        read_image(tmp_path / "a.tif")
    message_of(raises, tmp_path / "a.tif", "values of 0 to 1000000")


@pytest.mark.parametrize("ending", ["tif", "pfm"])
def test_an_image_of_floats(tmp_path, ending):
    save(tmp_path / f"a.{ending}", Image.new("F", (3, 2), 0.5))
    with pytest.raises(ValueError) as raises:
        read_image(tmp_path / f"a.{ending}")
    message_of(raises, tmp_path / f"a.{ending}", "floating-point")


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_what_pillow_reads_wrongly_is_refused(tmp_path, read):
    tiff(tmp_path / "a.tif", stored(RAMP, 65535), WHITE_IS_ZERO)
    with pytest.raises(ValueError) as raises:
        read(tmp_path / "a.tif")
    message_of(raises, tmp_path / "a.tif", "white is 0")
    tiff(tmp_path / "b.tif", stored(COLOURS, 65535), RGB, planes=True)
    with pytest.raises(ValueError) as raises:
        read(tmp_path / "b.tif")
    message_of(raises, tmp_path / "b.tif", "16-bit colours in planes")
    save(tmp_path / "c.j2k", stored(COLOURS, 255).astype(np.uint8))
    content = (tmp_path / "c.j2k").read_bytes()  # the depth of each colour, of 8 bits: 7
    assert content[42:51:3] == b"\7\7\7"
    (tmp_path / "c.j2k").write_bytes(content[:42] + b"\x0f\1\1" * 3 + content[51:])
    with pytest.raises(ValueError) as raises:
        read(tmp_path / "c.j2k")
    message_of(raises, tmp_path / "c.j2k", "16-bit colours in JPEG 2000")


def test_dark_pictures_of_8_bits_are_read(tmp_path):
    for ending, mode in itertools.product(("png", "tif", "jp2", "ppm"), ("L", "RGB")):
        path = tmp_path / f"{mode}.{ending}"
        save(path, Image.new(mode, (3, 2), 3 if mode == "L" else (3, 3, 3)))
        assert read_image(path).getpixel((0, 0)) == (3, 3, 3)
