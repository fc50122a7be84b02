"""Training texts and their rationales: who has one, who has none, and what is said of it."""

from types import SimpleNamespace

import pytest
import torch

from lightning_modules.data import DATAMODULES
from lightning_modules.modalities.texts.modality import Texts
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import message_of


def table(tmp_path, known: int, unknown: int):
    """A text table whose first training texts have a rationale."""
    rows = ['good film,pos,"[[0, 4]]"'] * known + ["bad film,neg,"] * unknown
    (tmp_path / "train.csv").write_text("\n".join(["text,label,why", *rows]))
    path = str(tmp_path / "train.csv")
    return DATAMODULES["text_table"](path, path, rationale_column="why", vocab_size=50)


def test_texts_with_rationales_have_them_already(tmp_path, capsys):
    data = table(tmp_path, known=1, unknown=9)
    data.mask_train()
    assert "guidance" not in capsys.readouterr().err


def test_few_rationales_are_told_with_their_share(tmp_path, capsys):
    table(tmp_path, known=1, unknown=11).mask_train()
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "guidance: 8.33% of the training samples have a rationale (1 of 12); the others do not "
        "count"
    )


def test_texts_without_rationales_say_which_data_have_masks(tmp_path):
    with pytest.raises(InputError) as raises:
        table(tmp_path, known=0, unknown=2).mask_train()
    message_of(raises, "guidance: the training samples have no masks; accepted: ", "rationales")


def test_texts_without_a_rationale_do_not_count_in_token_f1(tmp_path):
    """The score is that of the texts that have one, as they alone would have it."""
    data = table(tmp_path, known=1, unknown=1)
    good, bad = data.train_dataset.items
    other = good | {"text": "a good old film", "rationale": [(2, 6), (11, 15)]}

    def scores(*items) -> dict:
        """Of relevance that is highest on the second word and falls from there."""
        batch = data.collate(list(items))
        words = torch.tensor([len(spans) for spans in batch["words"]])
        ranked = torch.tensor([0.3, 0.5, 0.2, 0.1])[: words.max()].expand(len(items), -1)
        seen = torch.arange(ranked.shape[1]) < words[:, None]
        return Texts("text", {}).scores(batch, SimpleNamespace(word_scores=ranked, seen=seen))

    assert scores(good, other)["token_f1"] == pytest.approx(0.25)  # 0 of 1 word and 1 of 2
    assert scores(good, bad, other) == scores(good, other)
    assert scores(bad) == scores(bad, good | {"rationale": []}) == {}
