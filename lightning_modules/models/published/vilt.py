"""ViLT: one stream of the words of a text and the patches of a picture."""

from __future__ import annotations

from transformers import (
    AutoModelForVisualQuestionAnswering,
    PreTrainedModel,
    ViltForImageAndTextRetrieval,
)

from lightning_modules.models.published.kinds import KINDS
from lightning_modules.models.published.labels import class_names_in
from lightning_modules.models.published.pairs import PublishedPairs


class PublishedViLT(PublishedPairs):
    """A model whose pictures keep their proportions, so that each has a shape of its own."""

    asked = {"output": lambda output: output.logits}
    reader = "vilt"


@KINDS.register("a model that answers questions about pictures (ViLT)")
class PublishedAnswers(PublishedViLT):
    """One whose classes are answers, each with a probability of its own, as it was trained."""

    auto = AutoModelForVisualQuestionAnswering
    families = {"vilt": "ViltForQuestionAnswering"}
    accepted = (
        "the hub id or folder of a ViLT that answers questions, with its tokenizer and image "
        "processor"
    )

    @classmethod
    def classes(cls, given: str, model: PreTrainedModel) -> tuple[list[str], str]:
        return class_names_in(given, model.config), "multilabel"


@KINDS.register("an image-text retrieval model (ViLT)")
class PublishedRetrieval(PublishedViLT):
    """One that scores how well a picture and a text go together."""

    auto = ViltForImageAndTextRetrieval
    families = {"vilt": "ViltForImageAndTextRetrieval"}
    accepted = (
        "the hub id or folder of a ViLT that retrieves pictures or texts, with its tokenizer and "
        "image processor"
    )

    @classmethod
    def classes(cls, given: str, model: PreTrainedModel) -> tuple[list[str], str]:
        return ["match"], "regression"
