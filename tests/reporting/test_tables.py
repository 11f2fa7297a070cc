import io
import re

import numpy as np
import pandas as pd
import pytest

from monai_passion import NOTICE
from monai_passion.evaluation.statistics import compare_methods
from monai_passion.evaluation.summary import AVERAGE, summarize
from monai_passion.reporting.runs import load_runs
from monai_passion.reporting.tables import (
    DASH,
    MINUS,
    combination_html,
    combination_latex,
    combination_table,
    comparison_html,
    comparison_latex,
    csv_text,
)
from tests.reporting.made_up import write_run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    baseline = write_run(folder / "a", label="base_line <1>")
    return load_runs([baseline, write_run(folder / "b", label="+PASSION", gain=0.1)])


@pytest.fixture(scope="module")
def table(results):
    summaries = [
        summarize(own, ["dice"]).assign(method=method) for method, own in results.rows.groupby("method", sort=False)
    ]
    return combination_table(
        pd.concat(summaries), "dice", "challenge", results.combinations, [*results.regions, AVERAGE]
    )


def test_cells_are_means_in_percent_in_the_order_of_regions_and_methods(results, table):
    assert list(zip(table["region"], table["method"], strict=True))[:3] == [
        ("WT", "base_line <1>"),
        ("WT", "+PASSION"),
        ("TC", "base_line <1>"),
    ]
    rows = results.rows.query("method == '+PASSION' and region == 'TC' and convention == 'challenge'")
    found = table.iloc[3]
    assert found["t1c+t2"] == pytest.approx(100 * rows[rows["combination"] == "t1c+t2"]["dice"].mean())
    assert found[AVERAGE] == pytest.approx(np.mean([found[name] for name in results.combinations]))
    assert found["low"] < found[AVERAGE] < found["high"]
    assert (table["n"] == 6).all()


def test_csv_says_notice_and_n_and_pandas_reads_it(table):
    text = csv_text(table, "n = 6 patients")
    assert text.splitlines()[0] == f"# {NOTICE} n = 6 patients"
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text), comment="#"), table, rtol=1e-5)


def test_html_names_every_dot_and_escapes_labels(results, table):
    page = combination_html(table, "dice", results.modalities, "caption")
    assert page.count('aria-label="with T1c"') == page.count('aria-label="with FLAIR"') == 8
    assert page.count('aria-label="without T1c"') == 7
    assert "base_line &lt;1&gt;" in page
    assert "<1>" not in page


def test_best_is_bold_and_lower_is_better_for_distances(results, table):
    dice = combination_html(table, "dice", results.modalities, "caption")
    bold = re.findall(r"<b>([\d.]+)</b>", dice)
    assert len(bold) == 4 * 16
    assert f"{table[AVERAGE][1]:.2f}" in bold  # +PASSION is 10 points better everywhere
    assert f"{table[AVERAGE][0]:.2f}" not in bold
    assert f"<b>{table[AVERAGE][0]:.2f}</b>" in combination_html(table, "hd95", results.modalities, "caption")


def test_one_method_has_nothing_bold(results, table):
    alone = table[table["method"] == "+PASSION"]
    assert "<b>" not in combination_html(alone, "dice", results.modalities, "caption")
    assert "textbf" not in combination_latex(alone, "dice", results.modalities, "caption")


def test_combination_that_was_not_scored_is_a_dash(results, table):
    assert f"<td>{DASH}</td>" in combination_html(table.assign(t1=np.nan), "dice", results.modalities, "caption")


def test_latex_rows_have_one_cell_a_column_and_special_characters_are_escaped(results, table):
    text = combination_latex(table, "dice", results.modalities, "50% & more")
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 4 + 4 * 2
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)} == {20}
    assert r"50\% \& more" in text
    assert r"base\_line" in text
    assert text.isascii()


def test_latex_numbers_stand_in_the_columns_of_their_combinations_and_the_average_in_its_own(results, table):
    text = combination_latex(table, "dice", results.modalities, "caption", bold=False)
    lines = [line.removesuffix(" \\\\").split(" & ") for line in text.splitlines() if line.endswith("\\\\")]
    head, first = lines[: len(results.modalities)], lines[len(results.modalities)]
    for column, number in enumerate(first[2:-3], 2):
        given = [name for name, row in zip(results.modalities, head, strict=True) if row[column] == r"$\bullet$"]
        assert number == f"{table['+'.join(given)][0]:.2f}"
    assert first[head[0].index("Avg.")] == f"{table[AVERAGE][0]:.2f}"


def test_comparison_says_difference_interval_n_and_corrected_p(results):
    family = compare_methods(results.rows, ["dice"]).query("convention == 'challenge'")
    page = comparison_html(family, "dice", "caption")
    cells = re.findall(r"<td>(.*?)</td>", page)[:8]
    assert cells[:4] == ["WT", f"+PASSION {MINUS} base_line &lt;1&gt;", "6", "10.00"]
    assert cells[-2:] == ["0.094", "1.00"]  # 3 regions, each at the smallest p for 6 patients, 2 / 2^6
    text = comparison_latex(family, "dice", "caption")
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    assert {len(re.findall("&", line)) + 1 for line in text.splitlines() if line.endswith(r"\\")} == {len(columns)}
    assert text.isascii()
