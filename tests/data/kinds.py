"""``python -m tests.data.kinds``: of each kind of bad input, how many siblings are tried, how many get what they must.

The siblings are those of the tests beside this file, run one by one; see docs/reference/data.md for what each gets.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KINDS = {
    "names of sequences": ("test_naming.py", "test_a_name_tells_the_sequence"),
    "descriptions of series": ("test_naming.py", "test_a_description_tells_the_sequence"),
    "names that a task asks for": ("test_naming.py", "test_what_a_task_asks_for_is_not_held_against_a_file"),
    "names of folders before those of sequences": (
        "test_naming.py",
        "test_the_name_of_the_folder_says_nothing_of_the_sequence",
    ),
    "layouts of folders, strays, files of macOS": (
        "test_layouts.py",
        "test_a_layout_gives_each_patient_the_right_files",
    ),
    "files that are not used are named": ("test_layouts.py", "test_every_file_is_used_or_named"),
    "predict finds the patients of a training": ("test_layouts.py", "test_predict_finds_the_same_patients"),
    "damaged dataset.json": ("test_layouts.py", "test_a_damaged_dataset_json_is_an_error_that_names_it"),
    "label conventions": ("test_labels.py", "test_a_convention_says_what_each_value_is"),
    "conventions told by names": ("test_labels.py", "test_the_names_of_a_data_set_tell_its_convention"),
    "conventions told by folders": ("test_labels.py", "test_the_folder_of_a_label_map_tells_its_convention"),
    "labels of a dataset.json": (
        "test_labels.py",
        "test_the_labels_of_a_dataset_json_are_known_by_their_names_or_regions",
    ),
    "label values too few to tell": (
        "test_labels.py",
        "test_values_too_few_to_tell_what_they_mean_are_a_doubt",
    ),
    "label values that are not expected": (
        "test_labels.py",
        "test_a_value_that_the_convention_lacks_is_refused_with_the_files_name",
    ),
    "examinations of one patient": ("test_splits.py", "test_no_patient_is_in_two_splits"),
    "patients that stay apart": ("test_splits.py", "test_patients_stay_apart"),
    "DICOM that is no volume": (
        "test_dicom.py",
        "test_every_slice_lies_on_the_normal_at_its_distance_or_the_series_is_refused",
    ),
    "DICOM that nobody asked for": ("test_dicom.py", "test_a_series_nobody_asked_for_does_not_stop_the_study"),
    "DICOM of nobody": ("test_dicom.py", "test_two_nameless_patients_are_not_segmented_as_one"),
    "DICOM of several patients in their folders": (
        "test_dicom.py",
        "test_folders_of_several_patients_are_a_cohort",
    ),
    "DICOM of several patients in one folder": (
        "test_dicom.py",
        "test_several_patients_in_one_folder_are_refused_and_named",
    ),
    "damaged DICOM": ("test_dicom.py", "test_bad_series_end_in_one_line_and_leave_nothing"),
    "tables of patients": ("test_sources.py", "test_a_table_is_read_however_it_was_saved"),
    "broken cohorts": ("test_verify.py", "test_a_broken_cohort_is_found_with_its_kind_and_its_file"),
    "broken cohorts given to datalist": (
        "test_verify.py",
        "test_a_broken_cohort_becomes_no_datalist_and_every_reason_has_its_line",
    ),
    "odd cohorts": ("test_verify.py", "test_an_odd_cohort_gets_a_warning_and_no_error"),
    "what is refused in training and repaired in inference": (
        "../transforms/test_load.py",
        "test_what_one_policy_refuses_the_other_repairs_and_says_so",
    ),
}
"""Kind -> file and name of the test of its siblings."""


class Count:
    """A plugin of pytest that counts."""

    def __init__(self) -> None:
        self.passed: dict[str, int] = {}
        self.tried: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.skipped:
            test = report.nodeid.split("::")[1].split("[")[0]
            self.tried[test] = self.tried.get(test, 0) + (not report.skipped)
            self.passed[test] = self.passed.get(test, 0) + report.passed


def main() -> int:
    count = Count()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        pytest.main(
            ["-q", "-W", "ignore", *(f"{HERE / file}::{test}" for file, test in KINDS.values())], plugins=[count]
        )
    print("| Kind | Siblings tried | As they must be |\n| --- | --- | --- |")
    for kind, (_, name) in KINDS.items():
        print(f"| {kind} | {count.tried.get(name, 0)} | {count.passed.get(name, 0)} |")
    return int(count.tried != count.passed)


if __name__ == "__main__":
    sys.exit(main())
