import base64
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image

from monai_passion import NOTICE
from monai_passion.errors import InputError, UsageError
from monai_passion.reporting.report import write_report
from tests.reporting.made_up import write_run


class Page(HTMLParser):
    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="session")  # takes seconds, and xdist may leave this module and come back
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [write_run(folder / "a", label="base & line"), write_run(folder / "b", label="+PASSION", gain=0.1)]
    runs.append(write_run(folder / "c", label="+PASSION", gain=0.12, curves=False))
    return write_report(runs, folder / "out")


def test_page_is_well_formed_and_needs_nothing_else(report):
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|url\(|@import", text)
    assert all(attrs["src"].startswith("data:image/png;base64,") for tag, attrs in page.tags if tag == "img")


def test_every_picture_is_embedded_says_its_numbers_and_is_a_file_too(report):
    images = [attrs for tag, attrs in Page(report.read_text(encoding="utf-8")).tags if tag == "img"]
    files = {path.read_bytes() for path in (report.parent / "figures").iterdir()}
    assert {base64.b64decode(image["src"].partition(",")[2]) for image in images} == files
    assert len(files) == 7  # Dice per combination and by number, in two conventions; beta, preference, training
    assert all(re.search(r"\d", image["alt"]) for image in images)
    beta = next(image["alt"] for image in images if image["alt"].startswith("Beta"))
    assert "+PASSION, t2: 1.9" in beta  # 1 + 0.1 x epoch 3 x index 3


def test_each_table_of_scores_has_the_difference_to_the_first_method_with_its_interval(report):
    text = report.read_text(encoding="utf-8")
    tables = re.findall(r'<table class="dots">.*?</table>', text, re.DOTALL)
    assert len(tables) == 4  # Dice and HD95 in two conventions
    assert all("Avg. \N{MINUS SIGN} base &amp; line, 95% CI" in table for table in tables)
    rows = re.findall(r"\+PASSION</th>.*?</tr>", tables[0])
    assert len(rows) == 4  # three regions and their mean
    for row in rows:
        assert re.search(r"<td>\+11\.00 \(11\.00 to 11\.00\)</td>", row)  # the mean of gains of 10 and 12


def test_every_output_carries_the_notice_and_n(report):
    for path in [report, *(report.parent / "tables").iterdir(), report.parent / "summary.json"]:
        text = path.read_text(encoding="utf-8")
        assert NOTICE in text, path
        assert "n = 6 patients" in text or json.loads(text)["patients"] == 6, path
    for path in (report.parent / "figures").iterdir():
        assert Image.open(path).text["Description"] == NOTICE


def test_both_conventions_and_all_metrics_have_tables(report):
    names = {path.name for path in (report.parent / "tables").iterdir()}
    for convention in ("challenge", "released"):
        for metric in ("dice", "hd95", "assd", "nsd"):
            assert {f"{metric}_{convention}.csv", f"{metric}_{convention}.tex"} <= names
    assert {"comparison.csv", "comparison_per_combination.csv"} <= names


def test_contents_lead_to_every_section_and_runs_are_dated(report):
    text = report.read_text(encoding="utf-8")
    links = re.findall(r'<a href="#(s\d+)">([^<]+)</a>', text)
    assert [title for _, title in links][-1] == "Runs"
    assert all(f'<h2 id="{anchor}">{title}</h2>' in text for anchor, title in links)
    assert re.search(r"<td>base &amp; line</td><td>a</td><td>\d{4}-\d\d-\d\d", text)


def test_the_worst_patient_of_each_method_comes_first(report):
    worst = pd.read_csv(report.parent / "tables" / "worst_challenge.csv", comment="#")
    for _, own in worst.groupby("method"):
        assert own["mean"].is_monotonic_increasing
        assert own["mean"].to_numpy() == pytest.approx(own[["WT", "TC", "ET"]].mean(axis=1).to_numpy())
    assert "Worst cases" in report.read_text(encoding="utf-8")


def test_a_worst_patient_has_its_difference_to_the_first_method_with_an_interval(report):
    worst = pd.read_csv(report.parent / "tables" / "worst_challenge.csv", comment="#")
    first, later = worst[worst["method"] == worst["method"][0]], worst[worst["method"] == "+PASSION"]
    assert first["difference"].isna().all()
    for bound in ("difference", "low", "high"):
        assert later[bound].to_numpy() == pytest.approx(11)  # the mean of gains of 10 and 12
    text = report.read_text(encoding="utf-8")
    assert len(re.findall(r">\+11\.0 \(11\.0 to 11\.0\)</td>", text)) == 2 * len(later)  # in two conventions
    assert "bootstrap interval over its combinations" in text


def test_differences_stand_in_the_latex_of_each_table_of_scores(report):
    text = (report.parent / "tables" / "dice_challenge.tex").read_text(encoding="utf-8")
    assert r"Avg. $-$ base \& line, 95\% CI" in text
    assert text.count("+11.00 (11.00 to 11.00)") == 4
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len({row.replace(r"\&", "").count("&") for row in rows}) == 1


def test_phantoms_are_not_called_patients(make_run, tmp_path):
    placed = {"data": "phantom", "table": "1"}
    runs = [
        make_run(name, facts={**placed, "label": name, "row": {"method": name}}, curves=False, modalities=("t1c", "t1"))
        for name in ("a", "b")
    ]
    text = write_report(runs, tmp_path / "out").read_text(encoding="utf-8")
    assert "n = 6 phantoms" in text
    assert "Dice Avg., difference, 95% CI" in text
    assert "patient" not in text


def test_seeds_are_averaged_before_methods_are_compared(report):
    comparison = pd.read_csv(report.parent / "tables" / "comparison.csv", comment="#")
    dice = comparison[(comparison["metric"] == "dice") & (comparison["convention"] == "challenge")]
    assert (dice["method_a"] == "+PASSION").all()
    assert dice["mean_difference"].tolist() == pytest.approx([0.11] * 3)
    assert (dice["n"] == 6).all()


def test_one_run_without_curves_still_makes_a_report(make_run, tmp_path, drawn):
    report = write_report([make_run("a", curves=False, n=1)], tmp_path / "out")
    assert "Paired comparisons" not in report.read_text(encoding="utf-8")
    assert len(list((report.parent / "figures").iterdir())) == 4


def test_nothing_is_written_where_a_run_cannot_be_read(make_run, tmp_path):
    with pytest.raises(InputError):
        write_report([make_run("a"), tmp_path / "missing"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rare_modalities_go_by_any_of_their_names_and_others_are_refused_before_anything_is_written(tmp_path):
    runs = [write_run(tmp_path / name, label=name, curves=False) for name in ("a", "b")]
    write_report(runs, tmp_path / "out", rare=["T1ce"])
    table = pd.read_csv(tmp_path / "out" / "tables" / "seeds.csv", comment="#")
    assert table["dice_rare"].notna().all()
    with pytest.raises(UsageError, match="t3"):
        write_report(runs, tmp_path / "refused", rare=["t3"])
    assert not (tmp_path / "refused").exists()


def edited(run, change):
    """The run with its scores changed."""
    rows = pd.read_csv(run / "metrics.csv")
    change(rows).to_csv(run / "metrics.csv", index=False)
    return run


@pytest.mark.parametrize("first", [0, 1])
def test_a_method_without_the_released_convention_stands_in_the_other_section_alone(make_run, tmp_path, first):
    runs = [edited(make_run("a", curves=False), lambda rows: rows[rows["convention"] == "challenge"])]
    runs.append(make_run("b", curves=False, gain=0.1))
    folder = write_report([runs[first], runs[1 - first]], tmp_path / "out").parent
    worst = {
        name: pd.read_csv(folder / "tables" / f"worst_{name}.csv", comment="#") for name in ("challenge", "released")
    }
    assert (set(worst["challenge"]["method"]), set(worst["released"]["method"])) == ({"a", "b"}, {"b"})


def test_scores_that_are_equal_but_for_rounding_can_be_drawn(make_run, tmp_path):
    """The mean of seeds with 1, 1 and 0 is 2/3 for every patient, and their mean another number by rounding."""
    runs = [
        edited(make_run(str(seed), facts={"label": "x", "seed": seed}), lambda rows, s=seed: rows.assign(dice=s < 2.0))
        for seed in range(3)
    ]
    assert write_report(runs, tmp_path / "out").is_file()


def test_names_with_signs_of_pages_and_of_tables_come_through(make_run, tmp_path):
    changed = {"patient": {"p0": "Smith #2"}, "convention": {"released": "R&D"}}
    runs = [
        edited(make_run(name, label=label), lambda rows: rows.replace(changed))
        for name, label in (("a", "crops <textarea> #64"), ("b", "b"))
    ]
    report = write_report(runs, tmp_path / "out")
    text = report.read_text(encoding="utf-8")
    assert "<textarea>" not in text
    assert ">Scores, R&amp;D convention</h2>" in text
    worst = pd.read_csv(report.parent / "tables" / "worst_challenge.csv", comment="#")
    smith = worst[worst["patient"] == "Smith #2"]
    assert list(smith["method"]) == ["crops <textarea> #64", "b"]
    assert smith[["WT", "TC", "ET", "mean"]].notna().all(axis=None)


@pytest.mark.parametrize(
    "left_out", [lambda rows: rows["patient"] == "p0", lambda rows: rows["combination"].str.contains("t1c")]
)
def test_none_is_best_of_methods_that_were_scored_on_other_patients_or_combinations(
    make_run, tmp_path, caplog, left_out
):
    runs = [make_run("a", label="a"), edited(make_run("b", label="b"), lambda rows: rows[~left_out(rows)])]
    report = write_report(runs, tmp_path / "out")
    text = report.read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "textbf" not in (report.parent / "tables" / "dice_challenge.tex").read_text(encoding="utf-8")
    for told in (caplog.text, text):
        assert "not scored on the same patients and combinations" in told
    assert "<b>" in write_report([runs[0], make_run("c", label="c")], tmp_path / "same").read_text(encoding="utf-8")
