"""What the tracker finds in the batches of a project that is not ours."""

import logging

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

import relprop
from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.modalities.texts.pieces import common_ends
from tests.helpers import strangers
from tests.helpers.strangers import CLS, PAD, SEP, Pictures, Reviews, bert, made, watched_batch

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

IDS = torch.tensor([[CLS, 20, 21, SEP, PAD, PAD], [CLS, 22, 23, 24, 25, SEP]])
MASK = (IDS != PAD).long()
Y = torch.tensor([0, 1])
IMAGES = torch.linspace(-1, 1, 2 * 3 * strangers.SIDE**2).view(2, 3, strangers.SIDE, -1)


def watch(batch, module=None, **told) -> RelevanceTracker:
    """The tracker of a batch, when an epoch is over; training has batches of its own."""
    module = module or made("texts")
    tracker = RelevanceTracker(batch, **told)
    project = "texts" if isinstance(module, Reviews) else "pictures"
    data = strangers.loader(project)
    strangers.trainer(None, tracker, max_epochs=1, limit_train_batches=1).fit(module, data)
    return tracker


@pytest.mark.parametrize(
    ("batch", "module", "message"),
    [
        ((IDS, MASK), Reviews, r"number 2 of a tuple of 2 is a tensor \[2, 6\]"),
        ((IMAGES, IMAGES), Pictures, r"number 2 .* is a tensor .* not the labels \[2\] of integ"),
        ((IMAGES, IMAGES, Y), Pictures, "number 2 .* it may be an input; accepted: inputs= a fun"),
        ((IMAGES, Y, IMAGES), Pictures, "number 3 .* it may be an input; accepted: inputs= a fun"),
        ((IMAGES, torch.eye(3)[Y]), Pictures, "number 2 .* and labels= one that gives the labels"),
        ((IDS, Y), Reviews, "the texts are padded .pad_token_id is 0., .* no attention_mask; acc"),
        ({"input_ids": IDS, "labels": Y}, Reviews, "the texts are padded"),
    ],
)
def test_a_tensor_that_would_be_left_out_is_refused(batch, module, message):
    with pytest.raises(MisconfigurationException, match=f"RelevanceTracker: {message}"):
        watch(batch, module())


def test_padded_texts_without_a_mask_are_explained_where_this_is_told():
    assert watch((IDS, Y), inputs=lambda batch: batch[0]).last_maps.any()


class WithoutMask(Reviews):
    def forward(self, input_ids):
        return self.bert(input_ids).logits


def test_padded_texts_without_a_mask_are_explained_where_the_forward_has_none_either():
    assert watch((IDS, Y), WithoutMask()).last_maps.any()


NESTED = {"input_ids": IDS, "attention_mask": MASK}


@pytest.mark.parametrize(
    ("batch", "labelled"),
    [
        ({"inputs": NESTED, "labels": Y}, True),
        ({"inputs": NESTED, "sentiment": Y}, False),
        ({"all": NESTED | {"y": Y}}, True),
        ((NESTED, Y), True),
        ((NESTED, Y, torch.arange(2), ["a.txt", "b.txt"]), True),
    ],
)
def test_inputs_and_labels_are_found_in_a_batch(batch, labelled):
    watched = watch(batch).foreign.watched
    assert torch.equal(watched["inputs"]["attention_mask"], MASK)
    assert torch.equal(watched["label"], Y) if labelled else "label" not in watched


def test_soft_labels_are_explained_where_the_classes_are_told():
    batch = (IMAGES, torch.eye(3)[Y])
    tracker = watch(batch, Pictures(), labels=lambda batch: batch[1].argmax(dim=1))
    assert torch.equal(tracker.foreign.watched["label"], Y)
    assert "label" not in watch(batch, Pictures(), labels=lambda batch: None).foreign.watched


# ------------------------------------------------------------------------- unknown labels


def test_samples_whose_label_is_ignored_are_left_out():
    x, _ = watched_batch()
    y, known = torch.tensor([-100, 1, -1, 2]), torch.tensor([1, 3])
    module = made()
    tracker = watch((x, y), module, samples=3)
    expected = relprop.explain(module.eval().model, x[known], y[known]).relevance
    torch.testing.assert_close(tracker.last_maps, expected)


def test_where_all_labels_are_ignored_the_predicted_classes_are_explained():
    tracker = watch((IMAGES, torch.tensor([-1, -100])), Pictures())
    assert len(tracker.last_maps) == 2 and "label" not in tracker.foreign.watched


def test_a_label_of_any_sample_that_is_no_class_is_refused_at_the_start():
    message = "a label is 255; accepted: 0 to 2, or less than 0 where a sample has none"
    with pytest.raises(MisconfigurationException, match=message):
        watch((IMAGES, torch.tensor([1, 255])), Pictures())


# ------------------------------------------------------------------- texts without a tokenizer


def test_short_texts_say_nothing_about_the_ends_that_all_share():
    ids = torch.tensor([[CLS, 20, 21, SEP], [CLS, SEP, PAD, PAD], [CLS, 22, SEP, PAD]])
    found = common_ends(ids, ids != PAD)
    assert found.tolist() == torch.isin(ids, torch.tensor([CLS, SEP])).tolist()
    ids[1, :2] = torch.tensor([CLS, 23])  # cut off
    assert common_ends(ids, ids != PAD)[1].tolist() == [True, False, False, False]


def test_an_empty_text_leaves_the_maps_of_the_others_as_they_are():
    short = torch.tensor([[CLS, SEP, PAD, PAD, PAD, PAD]])
    found = []
    for ids, labels in ((IDS, Y), (torch.cat([IDS, short]), torch.tensor([0, 1, 0]))):
        batch = {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}
        found.append(watch(batch).last_maps)
    torch.testing.assert_close(found[1][:2], found[0])
    assert not found[1][2].any()


@pytest.mark.parametrize("named", [{}, {"cls_token_id": CLS, "sep_token_id": SEP}])
def test_the_class_token_of_a_single_text_is_no_word(named):
    """As its configuration says, or for the head reads nothing else."""
    row = {"input_ids": IDS[1:], "attention_mask": MASK[1:], "labels": Y[1:]}
    tracker = watch(row, made("texts", model=bert(**named)))
    special = tracker.foreign.watched["special"]
    assert special.tolist() == [[True, False, False, False, False, bool(named)]]
    assert tracker.last_maps.count_nonzero() > 1


def test_the_class_token_is_no_word_of_a_single_text_beside_an_empty_one():
    ids = torch.stack([IDS[1], torch.tensor([CLS, SEP, PAD, PAD, PAD, PAD])])
    tracker = watch({"input_ids": ids, "attention_mask": (ids != PAD).long()})
    assert tracker.foreign.watched["special"][:, 0].all()
    assert tracker.last_maps[0].count_nonzero() > 1


def test_a_list_of_samples_is_a_data_set():
    samples = [(x, int(y)) for x, y in zip(IMAGES, Y, strict=True)]
    assert len(watch(samples, Pictures()).last_maps) == 2
    assert len(watch(DataLoader(samples, batch_size=1), Pictures()).last_maps) == 2
