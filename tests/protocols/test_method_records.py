"""What is said of each method is true of it, and each has what people look for."""

from pathlib import Path

import pytest

import relprop
from lightning_modules.protocols import scored_methods
from lightning_modules.protocols.picture import color_of

DOCUMENTS = Path(__file__).parents[2] / "docs"


def test_every_method_has_a_colour_of_its_own():
    colors = {name: color_of(name) for name in scored_methods()}
    assert len(set(colors.values())) == len(colors)


def test_every_method_is_described_by_a_line_and_in_the_documents():
    text = (DOCUMENTS / "engine.md").read_text() + (DOCUMENTS / "evaluate.md").read_text()
    for name, method in scored_methods().items():
        assert method.about.endswith((".", ")")) or ":" in method.about, name
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("name", relprop.METHODS)
def test_signs_and_pixels_are_as_they_are_said_to_be(name, tiny_vit, images):
    method = relprop.METHODS[name]
    explanation = relprop.explain(tiny_vit(), images, 1, name)
    assert bool((explanation.relevance < 0).any()) == method.signed
    assert (explanation.grid == (32, 32)) == method.pixels


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'lrp' is registered already, by relprop.methods.lrp"):

        @relprop.method("lrp")
        def of_mine(trace, target, options): ...

    assert relprop.METHODS["lrp"].signed


def test_a_method_with_the_name_of_a_baseline_is_refused():
    @relprop.method("saliency")
    def of_mine(trace, target, options): ...

    try:
        with pytest.raises(ValueError, match="'saliency' has the name of a baseline; accepted"):
            scored_methods()
    finally:
        del relprop.METHODS["saliency"]
    assert "saliency" in scored_methods()


def test_a_rule_set_that_is_not_there_is_told_at_once():
    with pytest.raises(ValueError, match="rules is 'nope'"):
        relprop.method("of_mine", rules="nope")
