"""Tables in files, read row by row so that what is wrong with one is told with its line."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning_modules.data.texts.files import read_jsonl, read_text
from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.extras import extra
from lightning_modules.utils.options import check_option

DIALECTS = {
    ".csv": {"dialect": csv.excel},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},  # GLUE's: quotation marks are text
}
BATCH = 1000  # rows of a .parquet file that are read together


def rows_of(
    option: str, name: str | Path, columns: Sequence[str], accepted: str
) -> Iterator[tuple[str, dict]]:
    """(file and line, row) of every row of a table, which has the columns.

    Args:
        option: that names the file, for errors.
        name: of the file; its ending says what it is.
        columns: that each row must have.
        accepted: for errors, what should be in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file's name has another ending.
        InputError: the file is malformed, has no rows, or lacks a column.
    """
    path, empty = Path(name).expanduser(), True
    known = path.suffix.lower() in READERS
    check_option(option, str(name), known, f"a file whose name ends in {' or '.join(READERS)}")
    read = READERS[path.suffix.lower()]
    for number, row in read(path, accepted):
        where = f"{path}, {'row' if read is read_parquet else 'line'} {number}"
        if read is read_csv:  # which has names without the space around them
            row |= {name: row[name.strip()] for name in columns if name.strip() in row}
        for column in columns:
            if column not in row:
                there = "one of " + ", ".join(filter(None, row))
                raise InputError(f"{where}: no column {column!r}; accepted: {there}")
        yield where, row
        empty = False
    if empty:
        raise InputError(f"{path}: no rows; accepted: {accepted}")


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
