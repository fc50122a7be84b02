"""The page of all explanations: what is in it, and how it behaves in a browser."""

import json
import math
import re
import shutil
import struct
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.explanations.page import ALONE, write_page
from lightning_modules.explanations.results import Result
from lightning_modules.modalities.images.part import ImagePart
from lightning_modules.models.few_shot_support import Comparison
from tests.helpers.results import as_written, of_picture, of_query, of_text

NAMES = ["cat", "dog", "<script>alert(1)</script>"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def picture(name, probability, label, size=(32, 32), region=None, seed=0) -> Result:
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    maps = random.random((2, 4, 4)).astype(np.float32)
    signed = random.normal(size=(2, 64, 64)).astype(np.float32)
    return of_picture(
        image,
        {"transformer_attribution": maps, "lrp": signed},
        region,
        name=name,
        class_names=NAMES,
        logits=np.log(probability),
        activation="softmax",
        classes=[int(np.argmax(probability)), 1],
        label=label,
    )


RESULTS = [
    picture("b.png", [0.9, 0.05, 0.05], 0, seed=1),
    picture("c/<img src=x onerror=alert(2)>.png", [0.2, 0.3, 0.5], 0, seed=2),
    picture("a.png", [0.1, 0.8, 0.1], None, (400, 300), (50, 0, 350, 300), seed=3),
    picture("\u202eevil\n" + "x" * 10_000, [0.6, 0.3, 0.1], 1, seed=4),
]
ABOUT = ("name", "class_names", "logits", "activation", "classes", "label")
SENTENCE = "Never <b>dull</b> again"
TEXTS = [
    of_text(
        SENTENCE,
        [(0, 5), (6, 17), (18, 23)],
        {"transformer_attribution": np.array([[0.25, 0.5, np.nan]], dtype=np.float32)},
        name="text 1",
        class_names=NAMES,
        logits=np.log([0.7, 0.2, 0.1]),
        activation="softmax",
        classes=[0],
        label=None,
    )
]


def data_of(page: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    )


def test_the_numbers_are_in_the_page(tmp_path):
    write_page(*as_written(RESULTS), tmp_path / "page.html", "Why?")
    content = data_of((tmp_path / "page.html").read_text())
    stored = content["inputs"][0]["parts"][0]["maps"]["transformer_attribution"]
    values = struct.unpack("<16f", b64decode(stored["values"][1]))
    expected = RESULTS[0].parts["image"].relevance["transformer_attribution"][1]
    np.testing.assert_array_equal(np.reshape(values, (4, 4)), expected)
    pooled = content["inputs"][0]["parts"][0]["maps"]["lrp"]
    assert pooled["shape"] == [32, 32] and pooled["pixels"] == 2
    values = np.frombuffer(b64decode(pooled["values"][0]), "<f4").reshape(32, 32)
    mean = RESULTS[0].parts["image"].relevance["lrp"][0].reshape(32, 2, 32, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(values, mean, rtol=1e-5, atol=1e-6)


def test_maps_of_pixels_are_pooled_whatever_the_method():
    """As AttnLRP's of a ResNet, or with level=input."""
    maps = {"attnlrp": np.ones((1, 64, 64), np.float32), "rollout": np.ones((1, 8, 8), np.float32)}
    about = dict.fromkeys(ABOUT) | {"classes": [0]}
    part = of_picture(Image.new("RGB", (40, 40)), maps, **about).parts["image"]
    stored = part.page()["maps"]
    assert (stored["attnlrp"]["shape"], stored["attnlrp"]["pixels"]) == ((32, 32), 2)
    assert (stored["rollout"]["shape"], stored["rollout"]["pixels"]) == ((8, 8), None)


def test_nothing_of_the_users_is_markup_and_nothing_is_fetched(tmp_path):
    path = tmp_path / "page.html"
    for results in (RESULTS, TEXTS):
        write_page(*as_written(results), path, "<script>alert(3)</script>")
        page = path.read_text()
        for hostile in (
            "alert(1)</script>",
            "<img src=x",
            "<b>dull",
            "alert(3)</script>",
            "\u202e",
        ):
            assert hostile not in page
        assert not re.search(r"https?://", page)
        assert "default-src 'none'" in page
    assert not list(tmp_path.glob("*.partial"))


# --------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens the page of some results from disk; no error, no dialog, no request may happen."""
    troubles, pages = [], []

    def open_(results, width=1300, height=900, written=None):
        path = tmp_path / "page.html"
        write_page(*written or as_written(results), path, "Why?")
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("console", lambda m: m.type == "error" and troubles.append(m.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda r: r.url.startswith(("file:", "data:")) or troubles.append(r.url),
        )
        page.goto(path.as_uri())
        page.wait_for_selector("article")
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert not troubles


def shown(page) -> list[str]:
    return [name.strip()[:5] for name in page.locator("article:visible h2").all_inner_texts()]


def test_sorting(open_page):
    page = open_page(RESULTS)
    assert shown(page)[:3] == ["b.png", "c/<im", "a.png"]
    page.select_option("#sort", "name")
    assert [name for name in shown(page) if ".png" in name] == ["a.png", "b.png"]
    page.select_option("#sort", "probability, highest first")
    assert [name[0] for name in shown(page)][:2] == ["b", "a"]
    page.select_option("#sort", "correctness, wrong first")
    assert shown(page)[-1] == "a.png"  # nobody knows


def test_filtering(open_page):
    page = open_page(RESULTS)
    page.select_option("#predicted", "1")
    assert shown(page) == ["a.png"]
    assert page.inner_text("#count") == "1 of 4 inputs shown"
    page.select_option("#correct", "true")
    assert shown(page) == [] and page.is_visible("#empty")
    page.click("#reset")
    assert len(shown(page)) == 4
    page.select_option("#correct", "false")
    assert len(shown(page)) == 2


def facts_of(page) -> list[str]:
    return [facts.inner_text() for facts in page.locator(".facts").all()]


def captions_of(page) -> list[str]:
    return page.locator("figcaption").all_inner_texts()


def test_labels_that_go_together_are_not_called_predictions(open_page):
    page = open_page([replace(RESULTS[0], activation="sigmoid", label=None)])
    assert page.is_hidden("#correct")
    assert page.inner_text("#predicted-label").lower() == "most probable class"
    assert "predicted" not in page.inner_text("body").lower()
    share = 1 / (1 + math.exp(-RESULTS[0].logits[0]))
    assert facts_of(page) == [f"most probable cat {100 * share:.1f}%"]
    sorts = page.locator("#sort option").all_inner_texts()
    assert "most probable class" in sorts and "correctness, wrong first" not in sorts


def test_numbers_have_neither_probabilities_nor_predictions(open_page):
    numbers = [replace(r, activation=None, label=None) for r in (RESULTS[0], RESULTS[2])]
    numbers[0] = replace(numbers[0], logits=np.array([-1234.5678, 0.25, 0.1]))
    page = open_page(numbers)
    assert page.is_hidden("#predicted") and page.is_hidden("#correct")
    assert facts_of(page) == ["", ""]
    assert captions_of(page)[:3] == ["input", "cat = -1235", "dog = 0.25"]
    text = page.inner_text("body").lower()
    assert "%" not in text and "predicted" not in text
    page.select_option("#sort", "value, highest first")
    assert shown(page) == ["a.png", "b.png"]
    page.select_option("#method", label="lrp")
    assert page.inner_text("#ends").split("\n")[-1] == "for a higher value"


def test_each_kind_of_map_has_its_colour_scale(open_page):
    """Of signed methods pictures and words have the same."""
    signed = {"transformer_attribution": np.ones((1, 3)), "lrp": np.ones((1, 3))}
    text = of_text(SENTENCE, [(0, 5), (6, 17), (18, 23)], signed, **dict.fromkeys(ABOUT))
    both = replace(RESULTS[0], parts=RESULTS[0].parts | text.parts)
    page = open_page([replace(both, classes=[0])])
    assert page.locator("#colors > *").count() == 2
    assert page.locator("h3").all_inner_texts() == ["image", "text"]
    legend, cards = page.locator(".legend").bounding_box(), page.locator("#cards").bounding_box()
    assert legend["y"] + legend["height"] <= cards["y"]
    page.select_option("#method", label="lrp")
    assert page.locator("#colors > *").count() == 1


def canvas_of(page) -> list[int]:
    return page.locator("canvas").first.evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )


def test_switching_the_method(open_page):
    page = open_page(RESULTS)
    before, legend = canvas_of(page), page.inner_text("#ends")
    page.select_option("#method", label="lrp")
    assert canvas_of(page) != before
    assert "against" in page.inner_text("#ends") and "against" not in legend
    page.select_option("#method", label="transformer_attribution")
    assert canvas_of(page) == before


@pytest.mark.parametrize(("place", "row", "column"), [(0, 0, 0), (2, 3, 1)])
def test_the_pointer_tells_a_patchs_value(open_page, place, row, column):
    """Also of a picture of which the model saw a part: the third."""
    page = open_page(RESULTS)
    canvas = page.locator("article").nth(place).locator("canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(
        box["x"] + box["width"] * (column + 0.5) / 4, box["y"] + box["height"] * (row + 0.5) / 4
    )
    tip = page.inner_text("#tip")
    value = RESULTS[place].parts["image"].relevance["transformer_attribution"][0, row, column]
    assert float(tip.split()[0]) == pytest.approx(float(value), rel=1e-5)
    assert f"row {row + 1} of 4, column {column + 1} of 4" in tip


def test_a_canvas_lies_on_what_the_model_saw(open_page):
    page = open_page(RESULTS)
    frame = page.locator("article").nth(2).locator(".frame.grey").first.bounding_box()
    canvas = page.locator("article").nth(2).locator("canvas").first.bounding_box()
    assert canvas["x"] - frame["x"] == pytest.approx(frame["width"] * 50 / 400, abs=1.5)
    assert canvas["width"] == pytest.approx(frame["width"] * 300 / 400, abs=1.5)


def test_boxes_lie_on_what_the_model_has_selected(open_page):
    """Of what the model saw, 300 x 300 of 400 x 300 pixels, its right upper quarter."""
    (part,) = RESULTS[2].parts.values()
    selected = replace(part, boxes=torch.tensor([[16, 0, 32, 16]]), given=(32, 32))
    page = open_page([replace(RESULTS[2], parts={"image": selected}), RESULTS[0]])
    assert page.locator(".box").count() == 1  # on the input alone
    box = page.locator(".box").bounding_box()
    frame = page.locator(".frame").filter(has=page.locator(".box")).bounding_box()
    assert box["x"] - frame["x"] == pytest.approx(frame["width"] * 200 / 400, abs=1.5)
    assert box["width"] == pytest.approx(frame["width"] * 150 / 400, abs=1.5)
    assert box["height"] == pytest.approx(frame["height"] / 2, abs=1.5)


def test_lines_lead_from_a_patch_to_what_it_attends_to_in_the_support(open_page):
    """From the second patch of the query to the fourth of picture 2 and the third of picture 1."""
    attention = torch.full((2, 4, 2, 4), 0.01)
    attention[1, 1, 1, 3], attention[1, 1, 0, 2], attention[1, 1, 0, 0] = 0.5, 0.3, 0.1
    pictures = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = Comparison(pictures, torch.tensor([2, 2]), attention, torch.rand(2, 2, 4))
    page = open_page([of_query(found)])
    of_class = page.locator("figure > .compared").nth(1)
    query, *support = (x.bounding_box() for x in of_class.locator(".frame").all())
    assert len(support) == 2

    def place(box: dict, row: int, column: int) -> list[float]:
        """The middle of one of 2 x 2 patches."""
        corner, sides = (box["x"], box["y"]), (box["width"], box["height"])
        shares = ((column + 0.5) / 2, (row + 0.5) / 2)
        return [a + side * share for a, side, share in zip(corner, sides, shares, strict=True)]

    page.mouse.move(*place(query, 0, 1))
    ends = [place(support[1], 1, 1), place(support[0], 1, 0), place(support[0], 0, 0)]
    lines = of_class.locator("line")
    assert lines.count() == 3
    corner = of_class.bounding_box()
    for line, end in zip(lines.all(), ends, strict=True):
        drawn = [float(line.get_attribute(name)) for name in ("x1", "y1", "x2", "y2")]
        expected = [*place(query, 0, 1), *end]
        shifted = [x - corner["xy"[i % 2]] for i, x in enumerate(expected)]
        assert drawn == pytest.approx(shifted, abs=1)
    assert "attends to picture 2 50.0%, picture 1 30.0%, picture 1 10.0%" in page.inner_text("#tip")
    page.mouse.move(1, 1)
    assert page.locator("line").count() == 0
    shown = page.locator(".compared img").evaluate_all("all => all.map((x) => x.naturalWidth)")
    assert shown and all(shown)


def test_words(open_page):
    page = open_page(TEXTS)
    words = page.locator(".word")
    assert words.all_inner_texts() == ["Never", "<b>dull</b>", "again"]
    words.nth(1).hover()
    assert page.inner_text("#tip").split()[0] == "0.5"
    words.nth(2).hover()
    assert "cut off" in page.inner_text("#tip")
    colors = [w.evaluate("w => getComputedStyle(w).backgroundColor") for w in words.all()]
    assert len(set(colors)) == 3


@pytest.mark.parametrize("results", [RESULTS, TEXTS], ids=["pictures", "texts"])
def test_a_phone_need_not_scroll_sideways(open_page, results):
    page = open_page(results, width=375, height=800)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_arrow_keys_reach_what_the_pointer_does(open_page):
    page = open_page(RESULTS)
    page.locator("canvas").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert "row 2 of 4, column 2 of 4" in page.inner_text("#tip")
    page.keyboard.press("Escape")
    assert page.is_hidden("#tip")


# ------------------------------------------------------------------------------- of many inputs

LEAF = 200  # cards that the page has at once


def many(count=450, like=RESULTS):
    """So many inputs: each is one of a few, with a name and a probability of its own."""
    few, shared = as_written(like)
    entries = []
    for number in range(count):
        entry = few[number % len(few)]
        summary = json.loads(entry.page.summary)
        summary |= {"name": f"{number:03d}.png", "value": (7 * number % count) / count}
        entries.append(replace(entry, page=replace(entry.page, summary=json.dumps(summary))))
    return entries, shared


def test_a_page_of_many_inputs_loads_what_is_looked_at(open_page):
    page = open_page(None, written=many())
    assert page.inner_text("#count") == "450 of 450 inputs shown"
    assert page.locator("article").count() == LEAF
    page.wait_for_selector("article:first-child canvas")
    assert 0 < page.locator("article.filled").count() < LEAF
    last = page.locator("article").last
    last.scroll_into_view_if_needed()
    last.locator("canvas").first.wait_for()
    assert page.locator("#leaf option:checked").inner_text() == "1 to 200 of 450"
    page.click("#next")
    page.click("#next")
    page.locator("article.filled").first.wait_for()
    assert page.locator("article").count() == 50 and shown(page)[0] == "400.p"
    assert page.is_disabled("#next") and page.is_enabled("#previous")


def test_many_inputs_are_sorted_and_filtered_all_together(open_page):
    page = open_page(None, written=many())
    page.select_option("#sort", "probability, highest first")
    highest = [f"{number:03d}" for number in range(450) if 7 * number % 450 >= 447]
    assert sorted(name[:3] for name in shown(page)[:3]) == highest
    page.locator("article:nth-child(3) canvas").first.wait_for()  # each is of another part
    page.select_option("#predicted", "1")  # the third of each four
    assert page.inner_text("#count") == "112 of 450 inputs shown"
    assert {int(name[:3]) % 4 for name in shown(page)} == {2}
    assert page.is_hidden("#leaves")
    page.select_option("#sort", "order of input")
    assert shown(page)[:2] == ["002.p", "006.p"]
    page.locator("article:first-child canvas").first.wait_for()
    before = canvas_of(page)
    page.select_option("#method", label="lrp")
    assert canvas_of(page) != before
    page.locator("canvas").first.hover()
    assert "row" in page.inner_text("#tip")


def test_thumbnails_lead_to_cards(open_page):
    page = open_page(None, written=many())
    page.select_option("#view", "thumbnails")
    page.locator(".glimpse").nth(150).click()
    page.locator("article").nth(150).locator("canvas").first.wait_for()
    assert page.input_value("#view") == "cards"


def test_texts_begin_where_pictures_have_thumbnails(open_page):
    page = open_page(None, written=many(like=TEXTS))
    page.select_option("#view", "thumbnails")
    assert page.locator(".glimpse").last.inner_text() == SENTENCE
    page.select_option("#view", "cards")
    page.locator("article").first.locator(".word").first.wait_for()


def test_a_part_that_is_not_there_is_told_in_its_cards(browser, tmp_path):
    write_page(*many(), tmp_path / "page.html", "Why?")
    (tmp_path / "page.parts" / "0.js").unlink()
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.get_by_text("page.parts/0.js is not there").first.wait_for()
    page.close()


def test_parts_are_those_of_the_last_page(tmp_path):
    path = tmp_path / "page.html"
    write_page(*many(ALONE + 1), path, "Why?")
    assert {file.name for file in (tmp_path / "page.parts").iterdir()} == {
        f"{number}.{ending}" for number in range(7) for ending in ("js", "jpg")
    }
    write_page(*many(ALONE), path, "Why?")
    assert list(tmp_path.iterdir()) == [path]
    content = data_of(path.read_text())
    assert len(content["inputs"]) == ALONE and all(x["parts"] for x in content["inputs"])


def test_the_script_of_a_part_is_in_the_page(tmp_path):
    """Once, behind those that it builds on and before those that make the cards."""

    @dataclass(frozen=True, kw_only=True)
    class Own(ImagePart):
        shown: ClassVar[str] = "own"
        script: ClassVar[str] = "MAKERS.own = (part, t) => [make('p', 'own', part.own), () => {}];"

        def page(self):
            return super().page() | {"shown": "own", "own": "map"}

    results = [
        replace(x, parts={name: Own(**vars(part)) for name, part in x.parts.items()})
        for x in RESULTS[:2]
    ]
    write_page(*as_written(results), tmp_path / "page.html", "Why?")
    page = (tmp_path / "page.html").read_text()
    assert page.count(Own.script) == 1
    assert page.index("const MAKERS") < page.index(Own.script) < page.index("function arrange")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert b64encode(sha256(script.encode()).digest()).decode() in page
