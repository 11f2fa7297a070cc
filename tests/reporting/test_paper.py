import numpy as np
import pandas as pd
import pytest

from monai_passion.errors import InputError
from monai_passion.evaluation.statistics import compare_methods
from monai_passion.evaluation.summary import AVERAGE, pool_regions, summarize
from monai_passion.modalities import combinations
from monai_passion.reporting.paper import (
    dots_differences,
    dots_table,
    paper_numbers,
    score_differences,
    score_html,
    score_latex,
    score_table,
)
from monai_passion.reporting.report import write_report
from monai_passion.reporting.runs import load_runs
from monai_passion.reporting.tables import DASH, combination_html, combination_latex

KEYS = ["table", "data", "setting", "backbone", "method", "metric"]


def summaries(results):
    parts = [summarize(own).assign(method=method) for method, own in results.rows.groupby("method", sort=False)]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def facts():
    """What an experiment's run.json says of a run of Table 1."""

    def make(method="+PASSION", **others):
        row = {"setting": "(s, m, l)", "backbone": "mmFormer", "method": method}
        return {"label": method, "table": "1", "data": "BraTS2020", "row": row, **others}

    return make


def test_printed_averages_over_regions_are_those_of_the_printed_numbers():
    numbers = paper_numbers()
    rows = numbers[numbers["table"] != "3"].pivot(index=[*KEYS, "combination"], columns="region", values="value")
    for regions in (["WT", "TC", "ET"], ["LVB", "RVB", "MYO"]):
        own = rows.dropna(subset=regions)
        assert len(own) == (25 + 6) * 2
        np.testing.assert_allclose(own[regions].mean(axis=1), own[AVERAGE], atol=0.00501)


def test_printed_averages_over_combinations_are_those_of_the_printed_numbers():
    numbers = paper_numbers()
    rows = numbers[numbers["table"] == "3"].pivot(index=[*KEYS, "region"], columns="combination", values="value")
    names = ["+".join(c) for c in combinations(("t1", "t1c", "flair", "t2"))]
    assert len(rows) == 3 * 3 * 3
    np.testing.assert_allclose(rows[names].mean(axis=1), rows[AVERAGE], atol=0.00501)


def test_tables_agree_where_they_print_the_same_run():
    """mmFormer under PDT stands in Tables 1 and 3, (s, m, l) of MyoPS2020 and mmFormer at 2468 in two tables each."""
    numbers = paper_numbers().set_index(["table", "data", "setting", "method"]).sort_index()

    def printed(table, data, setting, method, metric="dice"):
        own = numbers.loc[(table, data, setting, method)]
        own = own[(own["backbone"] == "mmFormer") & (own["metric"] == metric) & (own["combination"] == AVERAGE)]
        return own[own["region"] != AVERAGE].set_index("region")["value"].sort_index()

    def close(a, b):
        np.testing.assert_allclose(a, b, atol=0.011)

    close(printed("1", "BraTS2020", "PDT", "Baseline"), printed("3", "BraTS2020", "PDT", ""))
    rates = "MR = (0.2, 0.4, 0.6, 0.8)"
    close(printed("2", "BraTS2020", rates, "Baseline"), printed("3", "BraTS2020", "IDT", ""))
    close(
        printed("2", "BraTS2020", rates, "pixel + proto + delta + beta"),
        printed("3", "BraTS2020", "IDT (+PASSION)", ""),
    )
    for metric in ("dice", "hd"):
        for method, components in (("Baseline", "Baseline"), ("+PASSION", "pixel + proto + delta + beta")):
            a = printed("1", "MyoPS2020", "(s, m, l)", method, metric)
            close(a, printed("2", "MyoPS2020", "MR = (0.3, 0.5, 0.7)", components, metric))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("1", "BraTS2020", "(m, l, s)", "mmFormer", "+PMR", "hd", "ET", AVERAGE), 12.90),
        (("1", "MyoPS2020", "(l, s, m)", "mmFormer", "+ModDrop", "dice", "RVB", AVERAGE), 53.16),
        (("2", "BraTS2020", "MR = (0.2, 0.4, 0.6, 0.8)", "mmFormer", "proto", "hd", "WT", AVERAGE), 19.11),
        (("3", "BraTS2020", "IDT", "M2FTrans", "", "dice", "WT", "t1"), 52.02),
        (("3", "BraTS2020", "IDT (+PASSION)", "RFNet", "", "dice", "ET", "t1c+t2"), 69.52),
    ],
)
def test_numbers_stand_where_the_paper_prints_them(key, value):
    numbers = paper_numbers().set_index([*KEYS, "region", "combination"])["value"]
    assert numbers.index.is_unique
    assert numbers.loc[key] == value


def test_on_the_papers_data_its_numbers_stand_beneath_ours(make_run, facts):
    results = load_runs([make_run("a", facts=facts("Baseline")), make_run("b", facts=facts(), gain=0.1)])
    table = score_table(summaries(results), results, "1", "released")
    assert len(table) == 2 * 25
    assert (table["source"].tolist()[::2], table["source"].tolist()[1::2]) == (["ours"] * 25, ["paper"] * 25)
    pair = table[(table["setting"] == "(s, m, l)") & (table["method"] == "+PASSION")]
    assert pair["dice WT"].tolist() == [
        pytest.approx(
            100
            * results.rows.query("method == '+PASSION' and region == 'WT' and convention == 'released'")["dice"].mean()
        ),
        83.42,
    ]
    assert pair["hd95 average"].iloc[1] == 10.52
    assert pair["n"].tolist() == [6, 100]


def test_a_row_that_the_paper_lacks_comes_last_and_one_that_we_lack_is_dashes(make_run, facts):
    results = load_runs([make_run("a", facts=facts("+OGM-GE"))])
    table = score_table(summaries(results), results, "1", "released")
    assert (table["method"].iloc[-1], table["source"].iloc[-1]) == ("+OGM-GE", "ours")
    assert table[table["source"] == "ours"]["dice WT"].notna().sum() == 1
    assert f"<td>{DASH}</td><td>{DASH}</td>" in score_html(table, "1", "caption")


@pytest.mark.parametrize("data", ["phantom", "BraTS2020 cubes", "other", ""])
def test_on_other_data_tables_hold_our_rows_alone(make_run, facts, data):
    results = load_runs([make_run("a", facts=facts(data=data))])
    summary = summaries(results)
    for number in ("1", "2"):
        assert score_table(summary, results, number, "challenge")["source"].tolist() == ["ours"]
    assert dots_table(summary, results, "challenge")["region"].tolist() == ["WT", "TC", "ET"]


@pytest.mark.parametrize(("data", "shown", "words"), [("phantom", 1, "not comparable"), ("BraTS2020", 50, "beneath")])
def test_a_report_says_whether_the_papers_numbers_are_shown_and_why(make_run, facts, tmp_path, data, shown, words):
    report = write_report([make_run("a", facts=facts(data=data), curves=False, n=1)], tmp_path / "out")
    headed = report.read_text(encoding="utf-8").split("<h2")
    section = next(part for part in headed if part.partition(">")[2].startswith("Table 1"))
    assert words in section
    assert data in section
    assert section.partition("<tbody>")[2].count("<tr") == shown
    assert {path.suffix for path in (report.parent / "tables").glob("table1.*")} == {".csv", ".tex"}


def test_table_3_has_dots_and_both_sources(make_run, facts, tmp_path):
    row = {"setting": "IDT (+PASSION)", "backbone": "RFNet"}
    results = load_runs([make_run("a", facts=facts(table="3", row=row))])
    table = dots_table(summaries(results), results, "released").set_index(["region", "method"])
    assert len(table) == 3 * 9 * 2
    assert table.loc[("WT", "IDT (+PASSION) RFNet, paper"), "t1"] == 72.20
    assert table.loc[("ET", "IDT (+PASSION) RFNet, paper"), AVERAGE] == 52.87
    assert 30 < table.loc[("WT", "IDT (+PASSION) RFNet, ours"), "t1"] < 70
    assert np.isnan(table.loc[("WT", "PDT RFNet, ours"), "t1"])


def test_components_of_table_2_are_dots(make_run, facts):
    row = {"setting": "MR = (0.2, 0.4, 0.6, 0.8)", "backbone": "mmFormer", "method": "pixel + proto"}
    results = load_runs([make_run("a", facts=facts(data="phantom", table="2", row=row))])
    text = score_latex(score_table(summaries(results), results, "2", "challenge"), "2", "caption")
    line = next(line for line in text.splitlines() if line.startswith("MR ="))
    assert line.startswith(r"MR = (0.2, 0.4, 0.6, 0.8) & $\bullet$ & $\bullet$ & $\circ$ & $\circ$ & ours & 6 & ")
    assert text.isascii()
    assert {row.count(" & ") for row in text.splitlines() if row.endswith("\\\\")} == {4 + 2 + 8}


@pytest.mark.parametrize(("number", "data"), [("1", "phantom"), ("3", "BraTS2020")])
def test_each_row_of_ours_has_its_difference_to_the_first_of_its_backbone_and_setting(make_run, number, data):
    """RFNet twice, the second better by 5 points than the first; mmFormer once, better by 10 than RFNet's first."""
    rows = {
        "a": (0.0, {"setting": "x", "backbone": "RFNet", "method": "Baseline"}),
        "b": (0.1, {"setting": "x", "backbone": "mmFormer", "method": "Baseline"}),
        "c": (0.05, {"setting": "x", "backbone": "RFNet", "method": "+PASSION"}),
    }
    given = {"n": 2, "curves": False, "modalities": ("t1c", "t1")}
    runs = [
        make_run(name, gain=gain, **given, facts={"label": name, "table": number, "data": data, "row": row})
        for name, (gain, row) in rows.items()
    ]
    results = load_runs(runs)
    summary, comparison = summaries(results), compare_methods(pool_regions(results.rows), ("dice", "hd95"))
    if number == "3":
        given = dots_table(summary, results, "challenge"), "dice", results.modalities, "caption"
        apart = dots_differences(comparison, results, "challenge")
        texts = combination_html(*given, apart), combination_latex(*given, apart)
    else:
        given = score_table(summary, results, number, "challenge"), number, "caption"
        apart = score_differences(comparison, results, "challenge")
        texts = score_html(*given, apart), score_latex(*given, apart)
    for shown in texts:
        assert shown.count("+5.00 (5.00 to 5.00)") == (3 if number == "3" else 1)
        assert "+10.00" not in shown
    lines = [line for line in texts[1].splitlines() if line.endswith("\\\\")]
    assert len({line.count(" & ") for line in lines}) == 1
    assert texts[0].count("ifference, 95% CI") == (1 if number == "3" else 2)


def test_runs_on_different_data_are_refused(make_run, facts):
    with pytest.raises(InputError, match=r"phantom.*BraTS2020; report them separately"):
        load_runs([make_run("a", facts=facts(data="phantom")), make_run("b", facts=facts("Baseline"))])
