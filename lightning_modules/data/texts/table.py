"""Your own texts: a table with a column of texts, one of labels, and perhaps one of rationales."""

import json
from collections.abc import Sequence

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.classes import check_some_left, chosen_classes, new_labels
from lightning_modules.data.labels import LabelReader, label_reader
from lightning_modules.data.tables import rows_of
from lightning_modules.data.texts.base import TextDataModule, TextItems
from lightning_modules.data.texts.batches import Span
from lightning_modules.data.texts.pairs import Pair
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import PathThere, check_option
from lightning_modules.utils.terminal import tell

ACCEPTED = (
    "a .csv file (with commas) or .tsv file (with tabs, unquoted) with a header, a .jsonl file "
    "with an object a line, or a .parquet file, of a text and a label each"
)


def read_table(
    split: str,
    name: str,
    text_column: str,
    labels: LabelReader,
    rationale_column: str | None,
    pair_column: str | None = None,
) -> list[tuple[str, dict]]:
    """(file and line, item with the label that ``labels`` reads) of every row.

    See TextTableDataModule.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file's name, the option `split`, has another ending.
        InputError: the file is not as described.
    """
    texts = [column for column in (text_column, pair_column) if column]
    columns = [*texts, *labels.columns, *filter(None, [rationale_column])]
    rows = []
    for where, row in rows_of(split, name, columns, ACCEPTED):
        for column in texts:
            text = row[column]
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{where}: {column} is {text!r}; accepted: a text")
        label = labels.read(row, where)
        rationale = row[rationale_column] if rationale_column else None
        of_rationale = f"{where}: {rationale_column}"
        if pair_column:
            pair = Pair(row[text_column], row[pair_column])
            item = {"text": str(pair), "second": pair.start}
            rationale = read_rationale_of_pair(rationale, pair, of_rationale)
        else:
            item = {"text": row[text_column]}
            rationale = read_rationale(rationale, row[text_column], of_rationale)
        rows.append((where, item | {"label": label, "rationale": rationale}))
    return rows


def read_rationale(value: object, text: str, where: str) -> list[Span] | None:
    """The spans that a rationale column has for a text; None where it has nothing.

    Args:
        value: list of [start, end], or the JSON of one, as a .csv file has it.
        text: that the spans are of.
        where: file, line and column, for errors.

    Raises:
        InputError: it is none of these, or a span has no characters in the text.
    """
    if value is None or value == "":
        return None
    try:
        spans = json.loads(value) if isinstance(value, str) else value
        spans = [(start, end) for start, end in spans]
        valid = all(
            type(start) is type(end) is int and 0 <= start < end <= len(text)
            for start, end in spans
        )
    except (TypeError, ValueError, RecursionError):  # no JSON, no list, no pairs
        valid = False
    if not valid:
        accepted = f"a list of [start, end], 0 <= start < end <= {len(text)} characters of the text"
        raise InputError(f"{where} is {str(value)[:80]!r}; accepted: {accepted}")
    return spans


def read_rationale_of_pair(value: object, pair: Pair, where: str) -> list[Span] | None:
    """As :func:`read_rationale`, of a list with the spans in each of two texts; in both as one."""
    if value is None or value == "":
        return None
    try:
        first, second = json.loads(value) if isinstance(value, str) else value
    except (TypeError, ValueError, RecursionError):
        accepted = "[spans in the first text, spans in the second], each a list of [start, end]"
        raise InputError(f"{where} is {str(value)[:80]!r}; accepted: {accepted}") from None
    spans = read_rationale(first, pair.first, where) or []
    of_second = read_rationale(second, pair.second, where) or []
    return spans + [(start + pair.start, end + pair.start) for start, end in of_second]


@DATAMODULES.register("text_table")
class TextTableDataModule(TextDataModule):
    """Texts and labels from .csv, .tsv, .jsonl or .parquet files, which need not be of one kind.

    The first line of a .csv or .tsv file names its columns; a line of a .jsonl file is an object.
    These are UTF-8. In a .csv file a field may be quoted; in a .tsv file quotation marks are text.

    A label is a name or a whole number, without the space around it; 1 and 1.0 are one class. The
    classes are those of train, sorted. Several labels are a list, its JSON, a text in which
    ``label_separator`` parts them, or a column of 0 and 1 each. Numbers are a column each.

    Args:
        train, val: the files of these splits.
        test: that of test. None: val serves as test.
        text_column: name of the column that has the text.
        label_column: name of the column that has the label or the list of labels; or names of the
            columns, one a label (of 0 and 1) or a number.
        label_separator: what parts several labels in a text.
        rationale_column: name of the column that has the characters that decide the label: a list
            of [start, end] (exclusive), in JSON, or nothing; of pairs a list of two such lists.
            None: the data has none. Of several labels at once there is no such column.
        pair_column: name of the column that has the second text of a pair. None: the data has
            single texts.
        classes: names of the classes that are trained on and tested, in the order of their labels.
            None: all.
        options: those of TextDataModule.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an argument is out of its range.
        InputError: a file is not as described, or has a label that train lacks; names file and
            line or row.
    """

    tasks = ("multiclass", "multilabel", "regression")

    def __init__(
        self,
        train: PathThere,
        val: PathThere,
        test: PathThere | None = None,
        text_column: str = "text",
        label_column: str | list[str] = "label",
        label_separator: str = "|",
        rationale_column: str | None = None,
        pair_column: str | None = None,
        classes: list[str | int] | None = None,
        **options,
    ) -> None:
        super().__init__(**options)
        labels = label_reader(self.task, label_column, label_separator, by_number=False)
        taken = pair_column and pair_column in (text_column, rationale_column, *labels.columns)
        check_option("pair_column", pair_column, not taken, "another column than the others")
        apart = text_column not in labels.columns
        check_option("label_column", label_column, apart, "another column than text_column")
        of_one = rationale_column is None or self.task != "multilabel"
        check_option("rationale_column", rationale_column, of_one, "null with several labels")
        files = {"train": train, "val": val} | ({} if test is None else {"test": test})
        made = {}
        for split, file in files.items():
            rows = read_table(split, file, text_column, labels, rationale_column, pair_column)
            if split == "train":
                self.class_names = labels.class_names(rows)
            made[split] = TextItems(labels.labelled(rows, self.class_names))
        self.train_dataset, self.val_dataset = made["train"], made["val"]
        if test is None:
            tell("test is null, so val serves as test")
        self.test_dataset = made.get("test", self.val_dataset)
        self.found = self.class_names, {split: dataset.items for split, dataset in made.items()}
        self.class_names = chosen_classes(classes, self.class_names, self.task)
        if classes is not None:
            self.take_classes(self.class_names)
        self.make_inputs()

    def take_classes(self, trained: Sequence[str]) -> None:
        names, found = self.found
        datasets = {
            "train": self.train_dataset,
            "val": self.val_dataset,
            "test": self.test_dataset,
        }
        for split, items in found.items():
            kept = trained if split == "train" else self.class_names
            labels = new_labels(names, kept, self.class_names)
            datasets[split].items = [
                item | {"label": labels[item["label"]]} for item in items if item["label"] in labels
            ]
        check_some_left({x: datasets[x].items for x in found}, self.class_names)
