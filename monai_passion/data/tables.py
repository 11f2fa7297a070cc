"""Tables of text as people's programs save them."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from monai_passion.errors import InputError

__all__ = ["read_table"]


def read_table(path: Path) -> pd.DataFrame:
    """A table of text: separated by commas, semicolons or tabs, without an index column, headers and cells trimmed.

    Raises:
        InputError: it cannot be read as such.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.split("\n", 1)[0]
        separator = max(",;\t", key=first.count)
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, sep=separator, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a CSV ({' '.join(str(error).split())}); check it") from error
    table.columns = [str(name).strip() for name in table.columns]
    table = table.map(str.strip)
    if len(table) and table.columns[0] in ("", "Unnamed: 0", "index"):  # as pandas writes it
        start = table.iloc[0, 0]
        if start in ("0", "1") and list(table.iloc[:, 0]) == [str(int(start) + k) for k in range(len(table))]:
            table = table.iloc[:, 1:]
    return table
