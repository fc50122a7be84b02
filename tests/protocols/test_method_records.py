"""What is said of each method is true of it, and each has what people look for."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import relprop
from lightning_modules.protocols import Protocol, scored_methods
from lightning_modules.protocols.picture import color_of
from tests.helpers.methods import OF_ALL_INPUTS

DOCUMENTS = Path(__file__).parents[2] / "docs"


def test_every_method_has_a_colour_of_its_own():
    colors = {name: color_of(name) for name in scored_methods()}
    assert len(set(colors.values())) == len(colors)


def test_a_method_of_ones_own_takes_no_colour_away():
    before = {name: color_of(name) for name in scored_methods()}
    assert before["transformer_attribution"] == "black"
    relprop.method("of_ones_own")(lambda trace, target, options: None)
    try:
        assert {name: color_of(name) for name in before} == before
    finally:
        del relprop.METHODS["of_ones_own"]


def test_every_method_is_described_by_a_line_and_in_the_documents():
    text = (DOCUMENTS / "engine.md").read_text() + (DOCUMENTS / "evaluate.md").read_text()
    for name, method in scored_methods().items():
        assert method.about.endswith((".", ")")) or ":" in method.about, name
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("name", OF_ALL_INPUTS)
def test_signs_and_pixels_are_as_they_are_said_to_be(name, tiny_vit, images):
    method = relprop.METHODS[name]
    several = relprop.explain_classes(relprop.record(tiny_vit(), images), [1, 2], name)
    assert any(bool((x.relevance < 0).any()) for x in several) == method.signed
    assert all((x.grid == (32, 32)) == method.pixels for x in several)


def test_a_diagnosis_is_scored_where_it_is_named_alone():
    protocol, every = SimpleNamespace(of_model=False), list(scored_methods())
    found = Protocol.scored(protocol, every, every)
    assert found == [name for name in every if name != "class_projection"]
    named = ["class_projection", "random"]
    assert Protocol.scored(protocol, named, every) == named


def test_methods_of_texts_refuse_pictures(tiny_vit, images):
    of_texts = {name for name, method in relprop.METHODS.items() if method.texts}
    assert of_texts == {"decoded_saliency"}
    for name in of_texts:
        with pytest.raises(relprop.UnsupportedModel, match="the input is no text; accepted: ids"):
            relprop.explain(tiny_vit(), images, 1, name)


def test_a_name_is_registered_once():
    by = "'lrp' is registered already, by relprop.methods.relevance.lrp"
    with pytest.raises(ValueError, match=by):

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


def test_a_flag_that_no_method_has_is_told_with_those_there_are():
    with pytest.raises(TypeError, match="'sined'; accepted: signed, pixels, product, .*conserves$"):
        relprop.method("of_mine", sined=True)
    for flag in ("name", "function"):
        with pytest.raises(TypeError):
            relprop.method("of_mine", **{flag: True})
