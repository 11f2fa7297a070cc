"""Read tables of text from spreadsheets and other programs."""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path

import pandas as pd

from monai_passion.errors import InputError

__all__ = ["read_table"]


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith(b"PK"):
        raise InputError(f"{path} is a workbook or a zip, not a table of text; save it as CSV")
    try:
        text = content.decode(
            "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        )
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not in UTF-8 or UTF-16; save it as UTF-8 (in Excel: 'CSV UTF-8')") from error
    if "\0" in text:
        raise InputError(f"{path} is not text; save it as a CSV in UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _even(text: str, separator: str) -> str:
    """The rows, each with as many fields as the first: pandas takes what a longer one begins with for its name."""
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True) if row]
    width = len(rows[0]) if rows else 0
    for number, row in enumerate(rows, 1):
        if any(field.strip() for field in row[width:]):
            raise ValueError(f"row {number} has {len(row)} fields, the first row {width}")
    even = io.StringIO()
    csv.writer(even, delimiter=separator).writerows([*row[:width], *[""] * (width - len(row))] for row in rows)
    return even.getvalue()


def read_table(path: Path) -> pd.DataFrame:
    """A table of text, without an index column, headers and cells trimmed.

    Separated by commas, semicolons, tabs or bars, in UTF-8 or, with a mark at its start, UTF-16.

    Raises:
        InputError: it cannot be read as a table.
    """
    try:
        text = _decoded(path)
        first, _, rest = text.partition("\n")
        if named := re.fullmatch(r"\"?sep=(.)\"?", first):  # as Excel tells itself
            first, text = rest.split("\n", 1)[0], rest
        separator = named[1] if named else max(",;\t|", key=first.count)
        text = _even(text, separator)
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, sep=separator, index_col=False)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV ({' '.join(str(error).split())}); check it") from error
    table.columns = [str(name).strip() for name in table.columns]
    table = table.map(str.strip)
    table = table.drop(columns=[c for c in table if c.startswith("Unnamed: ") and (table[c] == "").all()])
    if len(table) and table.columns[0] in ("", "Unnamed: 0", "index"):  # as pandas writes it
        start = table.iloc[0, 0]
        if start in ("0", "1") and list(table.iloc[:, 0]) == [str(int(start) + k) for k in range(len(table))]:
            table = table.iloc[:, 1:]
    return table
