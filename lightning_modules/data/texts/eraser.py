"""Data sets in the layout of the ERASER benchmark: documents, and what in them is evidence."""

from pathlib import Path

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.labels.names import name_classes, number_labels, read_label
from lightning_modules.data.texts.base import TextDataModule, TextItems
from lightning_modules.data.texts.batches import Span, find_words
from lightning_modules.data.texts.files import read_jsonl, read_text
from lightning_modules.data.texts.pairs import Pair
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Count, PathThere

ACCEPTED = (
    "ERASER's layout: {train,val,test}.jsonl with annotation_id, classification and evidences "
    "(docid, start_token, end_token, text), and docs/<docid>"
)


def read_annotations(path: Path, with_query: bool = False) -> list[tuple[str, dict]]:
    """(file and line, item whose label is a name) of every annotation; see EraserDataModule.

    Raises:
        FileNotFoundError: the file or a document is missing.
        InputError: the file or a document is not as described.
    """
    rows = []
    for number, annotation in read_jsonl(path, ACCEPTED):
        where = f"{path}, line {number}"
        try:
            item = make_item(annotation, path.parent / "docs", where)
            rows.append((where, behind_query(item, annotation, where) if with_query else item))
        except (AttributeError, KeyError, TypeError) as error:
            problem = f"malformed annotation ({error!r})"
            raise InputError(f"{where}: {problem}; accepted: {ACCEPTED}") from None
    return rows


def make_item(annotation: dict, docs: Path, where: str) -> dict:
    """The item of an annotation, its label a name; `docs` is the documents' folder."""
    evidences = [evidence for group in annotation["evidences"] for evidence in group]
    listed = annotation.get("docids") or []
    docids = dict.fromkeys([*listed, *(evidence["docid"] for evidence in evidences)])
    text, words_of = "", {}
    for docid in docids or [annotation["annotation_id"]]:
        document = read_text(docs / docid, f"the document that {where} names")
        words_of[docid] = [
            (len(text) + start, len(text) + end) for start, end in find_words(document)
        ]
        text += document + "\n"
    rationale = [
        find_evidence(evidence, text, words_of[evidence["docid"]], where) for evidence in evidences
    ]
    label = read_label(annotation["classification"], f"{where}: classification")
    return {"text": text, "label": label, "rationale": rationale}


def behind_query(item: dict, annotation: dict, where: str) -> dict:
    """The item as a pair, whose first text is the annotation's query."""
    query = annotation["query"]
    if not isinstance(query, str) or not query.strip():
        raise InputError(f"{where}: query is {query!r}; accepted: a text")
    pair = Pair(query, item["text"])
    rationale = [(start + pair.start, end + pair.start) for start, end in item["rationale"]]
    return item | {"text": str(pair), "second": pair.start, "rationale": rationale}


def find_evidence(evidence: dict, text: str, words: list[Span], where: str) -> Span:
    """The characters of an evidence, given the spans of its document's words in the text."""
    start, end = evidence["start_token"], evidence["end_token"]
    found = " ".join(text[slice(*word)] for word in words[start:end])
    if not 0 <= start < end <= len(words) or found != " ".join(evidence["text"].split()):
        raise InputError(
            f"{where}: tokens {start} to {end} of {evidence['docid']} are {found[:80]!r}; "
            f"accepted: the evidence's text, {evidence['text'][:80]!r}"
        )
    return words[start][0], words[end - 1][1]


@DATAMODULES.register("eraser")
class EraserDataModule(TextDataModule):
    """Documents with evidence for their class, in ERASER's layout:

        root/{train,val,test}.jsonl   annotation_id, classification, evidences: groups of docid,
                                      start_token, end_token (exclusive), text; optionally docids
        root/docs/<docid>             a document; its tokens are what stands between white space

    A text is all documents of an annotation, or else the one that has its id for a name. Its
    rationale is all of its evidences. Classes are those of train, sorted.

    Args:
        root: folder of the data set.
        with_query: samples are pairs, of an annotation's query and its text; else of the text.
        options: those of TextDataModule.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an argument is out of its range.
        InputError: a file is not as described, a class is not in train, or an evidence's text is
            not what its document has there; names file and line.
    """

    def __init__(
        self,
        root: PathThere,
        *,
        with_query: bool = False,
        batch_size: Count = 10,
        max_length: int = 512,
        **options,
    ) -> None:
        super().__init__(batch_size=batch_size, max_length=max_length, **options)
        folder = Path(root).expanduser()
        train, val, test = (
            read_annotations(folder / f"{split}.jsonl", with_query)
            for split in ("train", "val", "test")
        )
        self.class_names = name_classes(train)
        self.train_dataset = TextItems(number_labels(train, self.class_names))
        self.val_dataset = TextItems(number_labels(val, self.class_names))
        self.test_dataset = TextItems(number_labels(test, self.class_names))
        self.make_inputs()
