"""Which samples and steps a loss on maps counts, and how much."""

from functools import partial

import pytest
import torch

from lightning_modules.guidance import Guidance
from tests.helpers.guided import SIZE, losses, of_digits, of_pictures, of_reviews, same, there


@pytest.fixture(scope="module")
def digits():
    return of_digits()


@pytest.fixture(scope="module")
def reviews():
    return of_reviews()


def test_samples_without_a_mask_do_not_count(digits):
    module, batch = digits
    known = torch.tensor([True, False, True, True, False, True])
    every = losses(module, batch)
    same(losses(module, batch | {"has_mask": known}), every[known])
    assert len(every) == SIZE


def test_masks_that_a_crop_has_left_empty_do_not_count(digits):
    module, batch = digits
    masks = batch["mask"].clone()
    masks[2] = False
    every = losses(module, batch)
    same(losses(module, batch | {"mask": masks}), every[[0, 1, 3, 4, 5]])
    same(losses(module, batch | {"mask": masks}, samples=3), every[[0, 1, 3]])


def test_texts_without_a_rationale_do_not_count(reviews):
    module, batch = reviews
    rationale, known = batch["rationale"].clone(), torch.ones(SIZE, dtype=torch.bool)
    rationale[1], known[4] = False, False
    given, every = batch | {"rationale": rationale, "has_rationale": known}, losses(module, batch)
    same(losses(module, given), every[[0, 2, 3, 5]])
    same(losses(module, given, samples=2), every[[0, 2]])


def test_labels_without_a_mask_do_not_count():
    module, batch = of_digits("multilabel")
    sample, label = there(batch)[-1]
    masks = batch["mask"].clone()
    masks[sample, label] = False
    found = losses(module, batch | {"mask": masks}).sort().values
    kept = [x for x in there(batch) if x != (sample, label)]
    same(found, of_pictures(module, batch, kept).detach().sort().values)


def test_labels_that_are_not_there_do_not_count():
    """Also where a mask is of all labels."""
    module, batch = of_digits("multilabel")
    found = losses(module, batch | {"mask": batch["mask"].any(dim=1)})
    assert len(found) == len(there(batch)) < 3 * SIZE


@pytest.mark.parametrize("lacking", ["has_mask", "mask", "labels"])
def test_a_batch_without_any_has_no_such_loss(lacking):
    module, batch = of_digits("multilabel" if lacking == "labels" else "multiclass")
    if lacking == "labels":
        batch |= {"label": torch.zeros(SIZE, 10), "mask": torch.zeros_like(batch["mask"])}
    elif lacking == "mask":
        del batch["mask"]
    else:
        batch["has_mask"] = torch.zeros(SIZE, dtype=torch.bool)
    torch.manual_seed(1)
    plain = module.training_step(batch, 0)
    module.guidance = Guidance()
    torch.manual_seed(1)
    assert torch.equal(module.training_step(batch, 0), plain)
    assert module.logged == {}


def test_samples_are_the_first_that_are_known(digits):
    module, batch = digits
    known = torch.tensor([False, True, False, True, True, True])
    found = losses(module, batch | {"has_mask": known}, samples=2)
    same(found, losses(module, batch)[[1, 3]])


def test_a_shuffled_mask_is_that_of_another_known_sample(digits):
    module, batch = digits
    known = torch.tensor([False, True, False, True, True, False])
    masks = batch["mask"].clone()
    masks[1], masks[3], masks[4] = batch["mask"][4], batch["mask"][1], batch["mask"][3]
    given = batch | {"has_mask": known}
    found = losses(module, given, masks="shuffled")
    same(found, losses(module, given | {"mask": masks}))
    assert not torch.allclose(found, losses(module, given))
    same(losses(module, given, masks="shuffled", samples=1), found[:1])


def test_a_shuffled_mask_is_of_a_label_that_is_there():
    """Where each label has a mask, that of another sample's first label, and so on."""
    module, batch = of_digits("multilabel")
    found = losses(module, batch, masks="shuffled")
    assert 0 < len(found) <= len(there(batch)) and (found < 10).all()


def test_one_known_sample_has_no_mask_of_another(digits):
    module, batch = digits
    known = torch.arange(SIZE) == 2
    assert len(losses(module, batch | {"has_mask": known}, masks="shuffled")) == 0


def test_the_rationale_of_another_counts_where_the_text_has_such_words(reviews):
    """The next text ends before the last word of the longest."""
    module, batch = reviews
    count = batch["attention_mask"].sum(dim=1)
    longest, rationale = int(count.argmax()), batch["rationale"].clone()
    last = batch["word_ids"][longest].max()
    rationale[longest] = torch.arange(rationale.shape[1]) == last
    shorter = (longest + 1) % SIZE
    assert count[shorter] < count[longest]
    found = losses(module, batch | {"rationale": rationale}, masks="shuffled")
    every = losses(module, batch, masks="shuffled")
    assert len(every) == SIZE
    same(found, every[[row for row in range(SIZE) if row != shorter]])


# ---------------------------------------------------------------------------- when, and how much


def test_a_step_counts_if_its_number_is_a_multiple(digits):
    module, batch = digits
    logits, taken = torch.zeros(SIZE, 10, dtype=torch.float64), []
    for step in range(7):
        module.trainer.global_step = step
        if Guidance(every_n_steps=3)(module, batch, logits) is not None:
            taken.append(step)
    assert taken == [0, 3, 6]


def test_the_weight_rises_in_the_warmup(digits, monkeypatch):
    module, batch = digits
    module.trainer.global_step = 0
    logits, guidance = torch.zeros(SIZE, 10, dtype=torch.float64), Guidance(weight=3, warmup=0.4)
    for progress, weight in ((0.1, 0.75), (0.2, 1.5), (0.4, 3), (0.9, 3)):
        monkeypatch.setattr(module, "progress", partial(float, progress))
        added = guidance(module, batch, logits)
        assert float(added) == pytest.approx(weight * module.logged["train/guidance_loss"])
    monkeypatch.setattr(module, "progress", lambda: 0.0)
    assert guidance(module, batch, logits) is None
