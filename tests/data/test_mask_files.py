"""Files of masks: where the object is, in every mode and format."""

import numpy as np
import pytest
from PIL import Image

from lightning_modules.data.images.files import read_mask
from tests.data.test_image_depth import COLOURS, COLOURS_OF_16, stored
from tests.data.test_image_files import palette_image
from tests.helpers.samples import message_of, save


@pytest.mark.parametrize(
    ("mode", "suffix", "value", "is_object"),
    [
        ("L", "png", 1, True),
        ("L", "png", 0, False),
        ("1", "png", 1, True),
        ("I;16", "png", 1, True),
        ("I;16", "png", 256, True),
        ("I", "tif", 1, True),
        ("I", "tif", -1, True),
        ("F", "tif", 0.001, True),
        ("F", "tif", 0.0, False),
        ("RGB", "png", (0, 0, 1), True),
        ("RGBA", "png", (0, 0, 0, 255), False),
        ("RGBA", "png", (0, 0, 1, 0), True),
        ("LA", "png", (1, 255), True),
        ("L", "bmp", 1, True),
        ("L", "gif", 1, True),
        ("L", "qoi", 1, True),
        ("CMYK", "tif", (0, 0, 0, 255), False),
    ],
)
def test_a_mask_is_what_is_not_zero(tmp_path, mode, suffix, value, is_object):
    image = Image.new(mode, (3, 2), value)
    save(tmp_path / f"a.{suffix}", image.convert("RGB") if suffix == "qoi" else image)
    mask = read_mask(tmp_path / f"a.{suffix}")
    assert mask.mode == "L" and mask.size == (3, 2)
    assert (np.asarray(mask) == 255 * is_object).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif", "jp2", "tif"])
def test_a_mask_in_a_lossy_format_is_its_upper_half(tmp_path, suffix, mode):
    """What compression makes of the dark beside an edge is no object."""
    options = {"jpg": {"quality": 30}, "tif": {"compression": "jpeg"}}.get(suffix, {})
    pixels = np.zeros((64, 64), np.uint8)
    pixels[20:44, 20:44] = 255
    save(tmp_path / f"a.{suffix}", Image.fromarray(pixels).convert(mode), **options)
    assert np.array_equal(np.asarray(read_mask(tmp_path / f"a.{suffix}")), pixels)
    for name, value in (("black", 0), ("white", 255)):
        save(tmp_path / f"{name}.{suffix}", Image.new(mode, (16, 16), name), **options)
        assert (np.asarray(read_mask(tmp_path / f"{name}.{suffix}")) == value).all()


@pytest.mark.parametrize(("value", "is_object"), [(127, False), (129, True)])
def test_half_of_the_range_is_where_a_lossy_mask_begins(tmp_path, value, is_object):
    pixels = np.full((16, 32), 255, np.uint8)
    pixels[:, :16] = value
    save(tmp_path / "a.jpg", pixels, quality=100)
    assert (np.asarray(read_mask(tmp_path / "a.jpg"))[:, :12] == 255 * is_object).all()


def test_a_lossy_mask_with_nothing_in_its_upper_half_is_refused(tmp_path):
    for ending in ("jpg", "webp"):
        save(tmp_path / f"a.{ending}", np.full((16, 16), 60, np.uint8))
        with pytest.raises(ValueError) as raises:
            read_mask(tmp_path / f"a.{ending}")
        message_of(raises, tmp_path / f"a.{ending}", "upper half", ".png")


def test_a_mask_with_a_palette_holds_indices(tmp_path):
    save(tmp_path / "a.png", palette_image(first=(0, 0, 0), second=(0, 0, 0)))
    assert np.asarray(read_mask(tmp_path / "a.png")).tolist() == [[0, 255]]


def test_a_mask_with_a_palette_that_could_mean_colours_is_refused(tmp_path):
    """White may be the background's index, or the object's colour."""
    save(tmp_path / "a.png", palette_image(first=(255, 255, 255), second=(0, 0, 0)))
    with pytest.raises(ValueError) as raises:
        read_mask(tmp_path / "a.png")
    message_of(raises, tmp_path / "a.png", "colour 0 is not black")


@pytest.mark.parametrize("value", [0, 1, 255])
def test_the_palette_of_a_gif_is_looked_up_in_a_mask(tmp_path, value):
    """Pillow's palette of a mask that is all object has white alone, as colour 0."""
    save(tmp_path / "a.gif", np.full((8, 8), value, np.uint8))
    assert (np.asarray(read_mask(tmp_path / "a.gif")) == 255 * (value > 0)).all()


def test_a_mask_of_16_bit_colours_is_refused(tmp_path):
    """Pillow reads their upper byte, so that 1 would be 0."""
    for kind, write in COLOURS_OF_16.items():
        write(tmp_path / f"a.{kind}", stored(COLOURS, 1))
        with pytest.raises(ValueError) as raises:
            read_mask(tmp_path / f"a.{kind}")
        message_of(raises, tmp_path / f"a.{kind}", "16-bit colours")


def test_a_mask_whose_transparency_tells_of_another_object_is_refused(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = 255  # the object is bright and opaque, both
    save(tmp_path / "a.png", pixels)
    assert np.asarray(read_mask(tmp_path / "a.png")).tolist() == [[255, 255], [0, 0]]
    pixels[..., :3] = 255
    save(tmp_path / "b.png", pixels)
    with pytest.raises(ValueError) as raises:
        read_mask(tmp_path / "b.png")
    message_of(raises, tmp_path / "b.png", "alpha channel")


def test_a_mask_with_nan_is_refused(tmp_path):
    save(tmp_path / "a.tif", np.array([[0, np.nan]], np.float32))
    with pytest.raises(ValueError) as raises:
        read_mask(tmp_path / "a.tif")
    message_of(raises, tmp_path / "a.tif", "NaN")
