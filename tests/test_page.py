"""The page of explanations: what is in it, and what a browser makes of it."""

import base64
import hashlib
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from lightning_modules.page import NAME, write_page
from lightning_modules.results import Result

CLASSES = ["cat", "dog", "</script><script>alert('class')</script>"]
HOSTILE = (
    "</script><img src=x onerror=alert('name')>\u202e\u2028\n<!--<script>\udc80" + "x" * 10_000
)
CHROMIUM = shutil.which("chromium")


def picture_result(name, size, region, probability, label, seed) -> Result:
    """Of three classes by three methods; one of them has pixels and a sign."""
    generator = np.random.default_rng(seed)
    relevance = {
        "transformer_attribution": generator.random((3, 4, 4), dtype=np.float32),
        "rollout": generator.random((3, 4, 4), dtype=np.float32) * 1e-3,
        "lrp": generator.standard_normal((3, 224, 224), dtype=np.float32),
    }
    pixels = generator.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    return Result(
        name=name,
        class_names=CLASSES,
        probability=np.array(probability, np.float32),
        classes=[0, 1, 2],
        label=label,
        relevance=relevance,
        picture=Image.fromarray(pixels),
        region=region,
    )


def pictures() -> list[Result]:
    return [
        picture_result("b10.png", (32, 32), (0, 0, 32, 32), [0.7, 0.2, 0.1], 0, 0),
        picture_result("b9.png", (400, 300), (50, 0, 350, 300), [0.25, 0.75, 0], 0, 1),
        picture_result("a.png", (30, 900), (0, 435, 30, 465), [0.9, 0.1, 0], 1, 2),
        picture_result(HOSTILE, (640, 480), (80, 0, 560, 480), [0, 0.4, 0.6], None, 3),
    ]


TEXT = "<b>Not</b> a \U0001f600 word\u202e of it"


def texts() -> list[Result]:
    """The second of its words cut off; a character that takes two units in JavaScript."""
    words = [match.span() for match in re.finditer(r"\S+", TEXT)]
    relevance = np.array([[1, 2, 0.5, np.nan, -1, 3]], np.float32)[:, : len(words)]
    return [
        Result(
            name="text 0",
            class_names=CLASSES,
            probability=np.array([0.9, 0.1, 0], np.float32),
            classes=[0],
            label=0,
            relevance={"rollout": relevance, "lrp": relevance},
            text=TEXT,
            words=words,
        )
    ]


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page)[1])


def numbers(content: dict, t: int) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(content["values"][t]), "<f4")
    return values.reshape(content["shape"])


@pytest.fixture
def write(tmp_path):
    """Writes a page and returns its path."""

    def write(results):
        path = tmp_path / "page.html"
        write_page(results, path, "Explanations & <more>")
        assert list(tmp_path.iterdir()) == [path]  # nothing is left of the writing
        return path

    return write


# ------------------------------------------------------------------------------- what is in it


def test_numbers_are_in_the_page_bit_for_bit(write):
    results = pictures()
    inputs = data_of(write(results).read_text("utf-8"))["inputs"]
    for result, content in zip(results, inputs, strict=True):
        for method in ("transformer_attribution", "rollout"):
            for t in range(3):
                map_ = numbers(content["maps"][method], t)
                np.testing.assert_array_equal(map_, result.relevance[method][t])
        means = result.relevance["lrp"].reshape(3, 32, 7, 32, 7).mean(axis=(2, 4))
        np.testing.assert_allclose(numbers(content["maps"]["lrp"], 1), means[1], atol=1e-6)
        assert [c["probability"] for c in content["classes"]] == result.probability.tolist()
        assert (content["predicted"], content["correct"]) == (result.predicted, result.correct)
    assert inputs[1]["region"] == [0.125, 0, 0.875, 1]


@pytest.mark.parametrize("shape", [(32, 32), (33, 20), (100, 64), (518, 518)])
def test_maps_of_pixels_become_small_and_keep_their_mean(write, shape):
    result = pictures()[0]
    result.relevance["lrp"] = np.full((3, *shape), 2.5, np.float32)
    content = data_of(write([result]).read_text("utf-8"))["inputs"][0]["maps"]["lrp"]
    map_ = numbers(content, 2)
    assert max(map_.shape) <= 32
    assert map_.shape == shape or max(shape) > 32
    np.testing.assert_allclose(map_, 2.5, rtol=1e-6)


def test_pieces_of_a_text_are_its_words_and_what_is_between(write):
    content = data_of(write(texts()).read_text("utf-8"))["inputs"][0]
    assert "".join(content["pieces"]) == TEXT
    assert content["pieces"][1::2] == TEXT.split()
    np.testing.assert_array_equal(
        numbers(content["maps"]["lrp"], 0)[0], texts()[0].relevance["lrp"][0]
    )


def test_pictures_are_small_and_tiny_ones_exact(write):
    results = pictures()
    inputs = data_of(write(results).read_text("utf-8"))["inputs"]
    parts = [content["picture"].partition(",") for content in inputs]
    assert [head for head, _, _ in parts][:2] == [
        "data:image/png;base64",
        "data:image/jpeg;base64",
    ]
    tiny, big = (Image.open(io.BytesIO(base64.b64decode(code))) for _, _, code in parts[:2])
    np.testing.assert_array_equal(np.asarray(tiny), np.asarray(results[0].picture))
    assert big.size == (320, 240)


@pytest.mark.parametrize("results", [pictures, texts, list])
def test_nothing_is_fetched_and_nothing_of_the_user_is_markup(write, results):
    page = write(results()).read_text("utf-8")
    assert page.count("<script") == page.count("</script>") == 2
    assert "<!--" not in page and "\u2028" not in page and "\u202e" not in page
    data = re.search(r'<script type="application/json"[^>]*>(.*)</script>\n<script>', page, re.S)
    assert not set("<>&") & set(data[1])
    frame = page.replace(data[1], "")
    assert not re.search(r"https?://|\bsrc=|\bhref=|@import|url\(", frame)
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in page


def test_names_are_short_printable_lines_with_both_ends(write):
    result = picture_result(
        "folder/\n\u202e" + "x" * 10_000 + ".png", (32, 32), (0, 0, 32, 32), [1, 0, 0], None, 0
    )
    name = data_of(write([result]).read_text("utf-8"))["inputs"][0]["name"]
    assert len(name) == NAME and name.isprintable()
    assert name.startswith("folder/") and name.endswith(".png")


# --------------------------------------------------------------------- what a browser makes of it


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser, write):
    """Opens a page of results; afterwards it must not have complained, asked or fetched."""
    pages, complaints = [], []

    def show(results, **options):
        page = browser.new_page(**{"viewport": {"width": 1300, "height": 900}, **options})
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:")) or complaints.append(request.url)
            ),
        )
        page.goto(write(results).as_uri())
        return page

    yield show
    for page in pages:
        page.close()
    assert complaints == []


def names(page) -> list[str]:
    """Of the cards that are shown, from the first on."""
    return [heading[:6] for heading in page.locator(".card:visible h2").all_inner_texts()]


def tip(page) -> list[str]:
    return page.locator("#tip:visible div").all_inner_texts()


def point_at(page, canvas, row: float, column: float) -> None:
    """Move the pointer to a place in a canvas, as shares of its height and width."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + column * box["width"], box["y"] + row * box["height"])


def test_sorting(show):
    page = show(pictures())
    hostile = names(page)[3]
    for key, order in {
        "order of input": ["b10.pn", "b9.png", "a.png", hostile],
        "name": [hostile, "a.png", "b9.png", "b10.pn"],
        "predicted class": [hostile, "b10.pn", "a.png", "b9.png"],
        "probability, highest first": ["a.png", "b9.png", "b10.pn", hostile],
        "probability, lowest first": [hostile, "b10.pn", "b9.png", "a.png"],
        "correctness, wrong first": ["b9.png", "a.png", "b10.pn", hostile],
    }.items():
        page.select_option("#sort", label=key)
        assert names(page) == order, key


def test_filtering(show):
    page = show(pictures())
    assert page.inner_text("#count") == "4 of 4 inputs shown"
    page.select_option("#predicted", label="cat (2)")
    assert names(page) == ["b10.pn", "a.png"]
    page.select_option("#correct", label="✗ wrong (2)")
    assert names(page) == ["a.png"]
    assert page.inner_text("#count") == "1 of 4 inputs shown"
    assert page.locator(".card:visible .verdict").inner_text() == "✗ wrong"
    page.select_option("#correct", label="unknown (1)")
    assert names(page) == []
    assert page.is_visible("#empty")
    page.click("#reset")
    assert len(names(page)) == 4 and page.is_hidden("#empty")


def test_no_input_at_all(show):
    page = show([])
    assert page.inner_text("#count") == "0 of 0 inputs shown" and page.is_visible("#empty")


def drawn(page) -> str:
    page.wait_for_timeout(100)  # for the observer of what is in view
    return page.evaluate("document.querySelector('canvas').toDataURL()")


def test_switching_methods_redraws_the_maps_and_their_legend(show):
    page = show(pictures())
    seen = set()
    for method, ends in (
        ("transformer_attribution", "least of its map"),
        ("rollout", "least of its map"),
        ("lrp", "against the class"),
    ):
        page.select_option("#method", label=method)
        seen.add(drawn(page))
        assert page.locator("#ends span").first.inner_text() == ends
        assert page.inner_text("#about").startswith(method)
    assert len(seen) == 3


def test_the_map_is_over_the_part_of_the_picture_that_the_model_saw(show):
    page = show(pictures())
    frame = page.locator(".card:nth-child(2) .frame.grey").first
    outer, inner = frame.bounding_box(), frame.locator("canvas").bounding_box()
    assert inner["x"] - outer["x"] == pytest.approx(outer["width"] / 8, abs=0.1)
    assert inner["width"] == pytest.approx(outer["width"] * 3 / 4, abs=0.1)
    assert inner["height"] == pytest.approx(outer["height"], abs=0.1)
    point_at(page, frame.locator("canvas"), 0.5, 0.5)
    assert tip(page)
    point_at(page, frame.locator("canvas"), 0.5, -0.05)
    assert not tip(page)


def test_the_strongest_patch_has_the_colour_of_the_end_of_the_table(show):
    """Red, green, blue and opacity at the very corner, where nothing is interpolated."""
    result = pictures()[0]
    peak = np.zeros((3, 4, 4), np.float32)
    peak[:, 0, 0] = 3
    result.relevance.update(rollout=peak, lrp=-peak)
    page = show([result])
    for method, color in (("rollout", (252, 255, 164)), ("lrp", (5, 48, 97))):
        page.select_option("#method", label=method)
        drawn(page)
        corner = page.evaluate(
            "[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 1, 1).data]"
        )
        assert corner[3] == pytest.approx(0.8 * 255, abs=1)
        assert corner[:3] == pytest.approx(color, abs=1)


def test_the_pointer_tells_the_value_of_the_patch(show):
    results = pictures()
    page = show(results)
    canvas = page.locator(".card:nth-child(2) canvas").nth(2)
    for row, column in ((0, 0), (2, 1), (3, 3)):
        point_at(page, canvas, (row + 0.5) / 4, (column + 0.5) / 4)
        map_ = results[1].relevance["transformer_attribution"][2]
        value, share, where = tip(page)
        assert float(value) == pytest.approx(map_[row, column], rel=1e-5)
        assert share == f"{100 * map_[row, column] / map_.max():.1f}% of the highest"
        assert where == f"row {row + 1} of 4, column {column + 1} of 4"
    page.keyboard.press("Escape")
    assert not tip(page)
    page.select_option("#method", label="lrp")
    point_at(page, canvas, 31.5 / 32, 0.5 / 32)
    means = results[1].relevance["lrp"][2].reshape(32, 7, 32, 7).mean(axis=(1, 3))
    value, share, where, cell = tip(page)
    assert float(value) == pytest.approx(means[31, 0], rel=1e-4)
    assert float(share.split("%")[0]) == pytest.approx(
        100 * means[31, 0] / np.abs(means).max(), abs=0.06
    )
    assert (where, cell) == ("row 32 of 32, column 1 of 32", "mean of 7 × 7 pixels")


def test_arrow_keys_move_over_the_patches_of_a_map_out_of_view(show):
    results = pictures() * 10
    page = show(results)
    page.locator(".card canvas").last.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # already at the top
    value, _, where = tip(page)
    assert where == "row 1 of 4, column 2 of 4"
    map_ = results[-1].relevance["transformer_attribution"][2]
    assert float(value) == pytest.approx(map_[0, 1], rel=1e-5)


def test_only_what_comes_near_is_drawn(show):
    page = show(pictures() * 40)
    page.wait_for_timeout(200)
    count = (
        "[...document.querySelectorAll('.card')].filter(c => c.querySelector('img[src]')).length"
    )
    assert 0 < page.evaluate(count) < 40
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(count) == 160


def test_a_tap_tells_the_value(show):
    results = pictures()
    page = show(results, has_touch=True)
    canvas = page.locator("canvas").first
    canvas.tap(position={"x": 2, "y": 2})
    map_ = results[0].relevance["transformer_attribution"][0]
    assert float(tip(page)[0]) == pytest.approx(map_[0, 0], rel=1e-5)


def test_words(show):
    page = show(texts())
    words = page.locator(".word")
    assert [word.replace("\u202e", "") for word in words.all_inner_texts()] == [
        word.replace("\u202e", "") for word in TEXT.split()
    ]
    color = "e => getComputedStyle(e).backgroundColor"
    sequential = [word.evaluate(color) for word in words.all()]
    assert sequential[3] == "rgba(0, 0, 0, 0)"  # cut off
    assert words.nth(3).get_attribute("class") == "word cut"
    words.nth(1).hover()
    assert tip(page) == ["2", "66.7% of the highest", "a"]
    words.nth(3).hover()
    assert "cut off" in tip(page)[1]
    page.select_option("#method", label="lrp")
    signed = [word.evaluate(color) for word in page.locator(".word").all()]
    assert all(a != b for a, b in zip(sequential, signed, strict=True) if b != sequential[3])
    page.locator(".word").nth(4).hover()
    assert tip(page)[:2] == ["-1", "-33.3% of the strongest"]


@pytest.mark.parametrize("results", [pictures, texts])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_horizontal_scrolling(show, results, scheme):
    page = show(results(), viewport={"width": 375, "height": 800}, color_scheme=scheme)
    for element in page.locator("canvas, .words").all():
        point_at(page, element, 0.5, 0.5)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_hostile_names_are_shown_as_text(show):
    page = show(pictures())
    page.wait_for_timeout(200)
    card = page.locator(".card").nth(3)
    assert card.locator("h2").inner_text().startswith("</script><img src=x onerror=")
    assert page.locator("h1").inner_text() == page.title() == "Explanations & <more>"
    assert page.evaluate("document.scripts.length") == 2
    assert CLASSES[2] in card.locator(".facts").inner_text()
