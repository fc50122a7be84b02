"""Your own texts: a table with a column of texts, one of labels, and perhaps one of rationales."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.texts.base import TextDataModule, TextItems
from lightning_modules.data.texts.batches import Span
from lightning_modules.data.texts.files import read_jsonl, read_text
from lightning_modules.data.texts.labels import name_classes, number_labels, read_label
from lightning_modules.data.texts.pairs import Pair
from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.extras import extra
from lightning_modules.utils.options import check_option
from lightning_modules.utils.terminal import tell

DIALECTS = {
    ".csv": {"dialect": csv.excel},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},  # GLUE's: quotation marks are text
}
BATCH = 1000  # rows of a .parquet file that are read together
ACCEPTED = (
    "a .csv file (with commas) or .tsv file (with tabs, unquoted) with a header, a .jsonl file "
    "with an object a line, or a .parquet file, of a text and a label each"
)


def read_table(
    split: str,
    name: str,
    text_column: str,
    label_column: str,
    rationale_column: str | None,
    pair_column: str | None = None,
) -> list[tuple[str, dict]]:
    """(file and line, item whose label is a name) of every row; see TextTableDataModule.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file's name, the option `split`, has another ending.
        InputError: the file is not as described.
    """
    path = Path(name).expanduser()
    known = path.suffix.lower() in READERS
    check_option(split, name, known, f"a file whose name ends in {' or '.join(READERS)}")
    read = READERS[path.suffix.lower()]
    if read is read_csv:
        text_column, label_column = text_column.strip(), label_column.strip()
        rationale_column = rationale_column and rationale_column.strip()
        pair_column = pair_column and pair_column.strip()
    texts = [column for column in (text_column, pair_column) if column]
    rows = []
    for number, row in read(path, ACCEPTED):
        where = f"{path}, {'row' if read is read_parquet else 'line'} {number}"
        for column in filter(None, (*texts, label_column, rationale_column)):
            if column not in row:
                accepted = "one of " + ", ".join(filter(None, row))
                raise InputError(f"{where}: no column {column!r}; accepted: {accepted}")
        for column in texts:
            text = row[column]
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{where}: {column} is {text!r}; accepted: a text")
        label = read_label(row[label_column], f"{where}: {label_column}")
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
    if not rows:
        raise InputError(f"{path}: no rows; accepted: {ACCEPTED}")
    return rows


def read_csv(path: Path, accepted: str) -> Iterator[tuple[int, dict]]:
    """(line number, row) of a .csv or .tsv file; a row that spans lines has its last's number.

    The names of the columns are without the space around them. Blank lines are skipped.

    Raises:
        FileNotFoundError, InputError: see `read_text`; or a row is malformed, or two columns have
            one name.
    """
    text = read_text(path, accepted)
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, **DIALECTS[path.suffix.lower()], strict=True)

    def wrong(number: int, problem: object) -> InputError:
        return InputError(f"{path}, line {number}: {problem}; accepted: {accepted}")

    try:
        with fields_of_any_length(text):
            rows = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise wrong(reader.line_num, error) from None
    (number, header), *rows = rows
    header = [name.strip() for name in header]
    for name in filter(None, header):  # a column without a name is nobody's
        if header.count(name) > 1:
            raise wrong(number, f"{header.count(name)} columns are named {name!r}")
    for number, fields in rows:
        if len(fields) != len(header):
            raise wrong(number, f"{len(fields)} fields where the header has {len(header)}")
        yield number, dict(zip(header, fields, strict=True))


def read_parquet(path: Path, accepted: str) -> Iterator[tuple[int, dict]]:
    """(number, row) of a .parquet file, numbered from 1; a truth value is its name.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is broken, two of its columns have one name, or pyarrow is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; accepted: {accepted}")
    parquet = extra("pyarrow.parquet", "hf", f"{path}")
    with as_input_error(f"{path}", accepted), parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        for name in names:
            if names.count(name) > 1:
                problem = f"{names.count(name)} columns are named {name!r}"
                raise InputError(f"{problem}; accepted: {accepted}")
        rows = (row for batch in file.iter_batches(BATCH) for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield number, {k: str(v) if isinstance(v, bool) else v for k, v in row.items()}


READERS = dict.fromkeys(DIALECTS, read_csv) | {".jsonl": read_jsonl, ".parquet": read_parquet}


@contextmanager
def fields_of_any_length(text: str) -> Iterator[None]:
    """Lets csv read all fields of a text; its limit is everybody's, so it comes back."""
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, len(text)))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


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
    classes are those of train, sorted.

    Args:
        train, val: the files of these splits.
        test: that of test. None: val serves as test.
        text_column: name of the column that has the text.
        label_column: name of the column that has the label.
        rationale_column: name of the column that has the characters that decide the label: a list
            of [start, end] (exclusive), in JSON, or nothing; of pairs a list of two such lists.
            None: the data has none.
        pair_column: name of the column that has the second text of a pair. None: the data has
            single texts.
        options: those of TextDataModule.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an argument is out of its range.
        InputError: a file is not as described, or has a label that train lacks; names file and
            line or row.
    """

    def __init__(
        self,
        train: str,
        val: str,
        test: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
        rationale_column: str | None = None,
        pair_column: str | None = None,
        **options,
    ) -> None:
        super().__init__(**options)
        columns = (text_column, label_column, rationale_column, pair_column)
        others = pair_column not in (text_column, label_column)
        check_option("pair_column", pair_column, others, "another column than the others")
        apart = label_column != text_column
        check_option("label_column", label_column, apart, "another column than text_column")
        train_rows = read_table("train", train, *columns)
        self.class_names = name_classes(train_rows)
        self.train_dataset = TextItems(number_labels(train_rows, self.class_names))
        val_rows = read_table("val", val, *columns)
        self.val_dataset = TextItems(number_labels(val_rows, self.class_names))
        if test is None:
            self.test_dataset = self.val_dataset
            tell("test is null, so val serves as test")
        else:
            test_rows = read_table("test", test, *columns)
            self.test_dataset = TextItems(number_labels(test_rows, self.class_names))
        self.make_inputs()
