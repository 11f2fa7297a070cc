import json

import numpy as np
import pandas as pd
import pytest

from monai_passion.errors import InputError
from monai_passion.evaluation.metrics import BRATS_REGIONS, COLUMNS, score_case
from monai_passion.evaluation.summary import AVERAGE, read_metrics, summarize, write_metrics, write_summary


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return [
        row
        for patient in range(4)
        for combination in ("t1", "t1+t2")
        for row in score_case(
            *rng.integers(0, 4, (2, 6, 6, 6)), BRATS_REGIONS, (1, 1, 1), case=f"p{patient}", combination=combination
        )
    ]


def cell(summary, **where):
    return summary[np.logical_and.reduce([summary[name] == value for name, value in where.items()])].squeeze()


def test_written_rows_are_read_back_unchanged(rows, tmp_path):
    frame = read_metrics(write_metrics(rows, tmp_path / "metrics.csv"))
    pd.testing.assert_frame_equal(frame, pd.DataFrame(rows, columns=list(COLUMNS)), check_dtype=False)


def test_files_from_before_calibration_are_read(rows, tmp_path):
    path = write_metrics(rows, tmp_path / "metrics.csv")
    pd.read_csv(path).drop(columns="ece").to_csv(path, index=False)
    assert read_metrics(path)["ece"].isna().all()


def test_unknown_volumes_are_read_back_as_unknown(rows, tmp_path):
    path = write_metrics([{**row, "predicted_ml": np.nan, "reference_ml": np.nan} for row in rows], tmp_path / "m.csv")
    assert read_metrics(path)["predicted_ml"].isna().all()


def test_names_that_look_like_numbers_stay_text(rows, tmp_path):
    path = write_metrics([{**row, "patient": "007", "case": "NA" + row["case"]} for row in rows], tmp_path / "m.csv")
    assert set(read_metrics(path)["patient"]) == {"007"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "No columns"),
        (lambda text: text.replace("hd95", "hausdorff"), "lacks the column.* hd95"),
        (lambda text: text.splitlines()[0], "no rows"),
        (lambda text: text.replace("p1", "", 1), "line 14: case is empty"),
        (lambda text: text + text.splitlines()[1], "line 50: this case was scored before"),
        (lambda text: text.rsplit(",", 1)[0] + ",many\n", "column ece has text"),
        (lambda text: text.replace("challenge", "../../challenge"), "line 2: convention has a slash"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(rows, tmp_path, change, message):
    path = write_metrics(rows, tmp_path / "metrics.csv")
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message) as caught:
        read_metrics(path)
    assert "metrics.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.csv: No such file"):
        read_metrics(tmp_path / "metrics.csv")


def test_every_cell_is_the_mean_of_its_rows(rows):
    frame = pd.DataFrame(rows)
    summary = summarize(frame)
    for (convention, combination, region), group in frame.groupby(["convention", "combination", "region"]):
        found = cell(summary, convention=convention, combination=combination, region=region, metric="assd")
        assert found["mean"] == pytest.approx(group["assd"].mean())
        assert found["low"] <= found["mean"] <= found["high"]
        assert found["n"] == found["cases"] == 4


def test_averages_are_means_over_combinations_and_regions(rows):
    summary = summarize(pd.DataFrame(rows), ["dice"])
    challenge = summary[summary["convention"] == "challenge"]
    single = challenge[(challenge["combination"] != AVERAGE) & (challenge["region"] != AVERAGE)]
    for region, group in single.groupby("region"):
        assert cell(challenge, combination=AVERAGE, region=region)["mean"] == pytest.approx(group["mean"].mean())
    overall = cell(challenge, combination=AVERAGE, region=AVERAGE)
    assert overall["mean"] == pytest.approx(single["mean"].mean())
    assert overall["n"] == 4


def test_a_second_seed_adds_no_patients_and_does_not_narrow_the_interval(rows):
    frame = pd.DataFrame(rows)
    pd.testing.assert_frame_equal(summarize(pd.concat([frame, frame])), summarize(frame))


def test_summary_is_strict_json_with_null_for_unknown(rows, tmp_path):
    frame = pd.DataFrame([row for row in rows if row["patient"] == "p0"])
    path = write_summary(summarize(frame), tmp_path / "new" / "summary.json", label="passion")
    document = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert document["label"] == "passion"
    assert document["results"][0]["low"] is None
    assert document["results"][0]["n"] == 1


def test_a_failed_write_leaves_the_old_file_alone(rows, tmp_path):
    path = write_summary(summarize(pd.DataFrame(rows), ["dice"]), tmp_path / "summary.json")
    before = path.read_text()
    with pytest.raises(TypeError):
        write_summary(summarize(pd.DataFrame(rows), ["dice"]), path, label=object())
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
