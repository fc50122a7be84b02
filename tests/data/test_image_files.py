"""Files of images, of every ending and in every mode; see test_image_depth and test_mask_files."""

import importlib.util
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from lightning_modules.data.images.files import IMAGE_ENDINGS, read_image, read_mask
from tests.helpers.samples import message_of, save

ENDINGS = (
    "jpg jpeg jfif jpe png apng gif bmp tif tiff webp avif jp2 j2k ppm pgm pbm pnm qoi tga ico"
).split()


def test_the_endings_of_images():
    heif = [".heic", ".heif"] if importlib.util.find_spec("pillow_heif") else []
    assert list(IMAGE_ENDINGS) == [*(f".{ending}" for ending in ENDINGS), *heif]


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_a_file_of_each_ending_is_read(tmp_path, ending):
    """Bright above, dark below; as a mask as well."""
    mode = {".pbm": "1", ".pgm": "L"}.get(ending, "RGB")
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    save(tmp_path / f"a{ending}", Image.fromarray(pixels).convert(mode))
    image = read_image(tmp_path / f"a{ending}")
    assert (image.mode, image.size) == ("RGB", (32, 32))
    assert np.abs(np.asarray(image).astype(int) - pixels).max() < 20
    mask = np.asarray(read_mask(tmp_path / f"a{ending}"))
    assert (mask[:15] == 255).all() and (mask[17:] == 0).all()


@pytest.mark.parametrize(
    ("mode", "suffix", "value", "rgb"),
    [
        ("RGB", "png", (10, 20, 30), (10, 20, 30)),
        ("L", "png", 100, (100, 100, 100)),
        ("1", "png", 1, (255, 255, 255)),
        ("LA", "png", (100, 0), (100, 100, 100)),
        ("RGBA", "png", (10, 20, 30, 0), (10, 20, 30)),
        ("CMYK", "tif", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", "tif", (100, 128, 128), (100, 100, 100)),
        ("I;16", "png", 100 * 257, (100, 100, 100)),
    ],
)
def test_any_mode_becomes_rgb(tmp_path, mode, suffix, value, rgb):
    save(tmp_path / f"a.{suffix}", Image.new(mode, (3, 2), value))
    image = read_image(tmp_path / f"a.{suffix}")
    assert (image.mode, image.size, image.getpixel((2, 1))) == ("RGB", (3, 2), rgb)


def test_greys_that_their_transparency_has_darkened_become_rgb(tmp_path):
    save(tmp_path / "a.tif", Image.new("LA", (3, 2), (100, 128)))
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(
        content.replace(
            struct.pack("<HHIHH", 338, 3, 1, 2, 0), struct.pack("<HHIHH", 338, 3, 1, 1, 0)
        )
    )
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "La"
    assert read_image(tmp_path / "a.tif").getpixel((2, 1)) == (199,) * 3  # 100 / (128 / 255)


def test_lab_colours_become_rgb(tmp_path):
    of_srgb, of_lab = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
    image = Image.new("RGB", (3, 2), (200, 60, 90))
    lab = ImageCms.profileToProfile(image, of_srgb, of_lab, outputMode="LAB")
    save(tmp_path / "a.tif", lab)
    found = read_image(tmp_path / "a.tif").getpixel((0, 0))
    assert np.abs(np.subtract(found, (200, 60, 90))).max() <= 3


def palette_image(first=(255, 0, 0), second=(0, 0, 0)) -> Image.Image:
    """2x1: index 0 and index 1, of these colours."""
    image = Image.new("P", (2, 1))
    image.putpalette([*first, *second])
    image.putpixel((1, 0), 1)
    return image


def test_a_palette_is_looked_up(tmp_path):
    save(tmp_path / "a.png", palette_image())
    image = read_image(tmp_path / "a.png")
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (0, 0, 0)]


def test_a_palette_may_have_transparent_colours(tmp_path):
    save(tmp_path / "a.png", palette_image(), transparency=0)
    image = read_image(tmp_path / "a.png")
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize("ending", ["gif", "apng", "webp", "tif"])
def test_of_several_frames_the_first_is_read(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    save(tmp_path / f"a.{ending}", frames[0], save_all=True, append_images=frames[1:])
    red, _, blue = read_image(tmp_path / f"a.{ending}").getpixel((4, 4))
    assert red > 200 and blue < 50


def test_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.png", pixels, exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.size == (2, 3)
    assert np.argwhere(np.asarray(image)[..., 0]).tolist() == [[0, 1]]  # top right


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    for read in (read_image, read_mask):
        with pytest.raises(ValueError) as raises:
            read(tmp_path / "a.png")
        message_of(raises, tmp_path / "a.png", "cannot be read")
