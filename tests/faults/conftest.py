import pytest

ROWS: list[tuple[str, ...]] = []


@pytest.fixture
def outcome():
    """Call it with fault, how it was caused, times, and what was lost: a row of the table that ends the run."""
    return lambda *cells: ROWS.append(tuple(map(str, cells)))


def pytest_terminal_summary(terminalreporter):
    if not ROWS:
        return
    rows = [("Fault", "How it was caused", "Times", "What was lost"), *ROWS]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    terminalreporter.section("faults")
    for number, row in enumerate(rows):
        cells = " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line(f"| {cells} |")
        if number == 0:
            terminalreporter.write_line("|" + "|".join("-" * (width + 2) for width in widths) + "|")
