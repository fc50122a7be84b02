"""Files of images and masks, in every mode."""

import numpy as np
import pytest
from PIL import Image

from lightning_modules.data.image_files import read_image, read_mask
from tests.samples import message_of, save


@pytest.mark.parametrize(
    ("mode", "suffix", "value", "rgb"),
    [
        ("RGB", "png", (10, 20, 30), (10, 20, 30)),
        ("L", "png", 100, (100, 100, 100)),
        ("1", "png", 1, (255, 255, 255)),
        ("LA", "png", (100, 0), (100, 100, 100)),
        ("RGBA", "png", (10, 20, 30, 0), (10, 20, 30)),
        ("CMYK", "tif", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", "png", 100 * 257, (100, 100, 100)),
    ],
)
def test_any_mode_becomes_rgb(tmp_path, mode, suffix, value, rgb):
    save(tmp_path / f"a.{suffix}", Image.new(mode, (3, 2), value))
    image = read_image(tmp_path / f"a.{suffix}")
    assert (image.mode, image.size, image.getpixel((2, 1))) == ("RGB", (3, 2), rgb)


def palette_image() -> Image.Image:
    """2x1: index 0, which is red, and index 1, which is black."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.putpixel((1, 0), 1)
    return image


def test_a_palette_is_looked_up(tmp_path):
    save(tmp_path / "a.png", palette_image())
    image = read_image(tmp_path / "a.png")
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (0, 0, 0)]


def test_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.png", pixels, exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.size == (2, 3)
    assert np.argwhere(np.asarray(image)[..., 0]).tolist() == [[0, 1]]  # top right


@pytest.mark.parametrize(
    ("mode", "value", "is_object"),
    [
        ("L", 1, True),
        ("L", 0, False),
        ("1", 1, True),
        ("I;16", 256, True),
        ("RGB", (0, 0, 1), True),
        ("RGBA", (0, 0, 0, 255), False),
    ],
)
def test_a_mask_is_what_is_not_zero(tmp_path, mode, value, is_object):
    save(tmp_path / "a.png", Image.new(mode, (3, 2), value))
    mask = read_mask(tmp_path / "a.png")
    assert mask.mode == "L" and mask.size == (3, 2)
    assert (np.asarray(mask) == 255 * is_object).all()


def test_a_mask_with_a_palette_holds_indices(tmp_path):
    save(tmp_path / "a.png", palette_image())
    assert np.asarray(read_mask(tmp_path / "a.png")).tolist() == [[0, 255]]


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    for read in (read_image, read_mask):
        with pytest.raises(ValueError) as raises:
            read(tmp_path / "a.png")
        message_of(raises, tmp_path / "a.png", "cannot be read")


def test_an_image_of_floats(tmp_path):
    save(tmp_path / "a.tif", Image.new("F", (3, 2), 0.5))
    with pytest.raises(ValueError) as raises:
        read_image(tmp_path / "a.tif")
    message_of(raises, tmp_path / "a.tif", "floating-point")
