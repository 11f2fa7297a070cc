"""``python -m tests.data.kinds``: how many variants of each kind of input are tried, and how many get the right answer.

The variants are the parameters of tests; docs/reference/data.md holds the table.
"""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from math import prod
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
KINDS = {
    "names of sequences": ("data/test_naming.py", "test_a_name_tells_the_sequence"),
    "descriptions of series": ("data/test_naming.py", "test_a_description_tells_the_sequence"),
    "names that a task asks for": ("data/test_naming.py", "test_what_a_task_asks_for_is_not_held_against_a_file"),
    "names of folders before those of sequences": (
        "data/test_naming.py",
        "test_the_name_of_the_folder_says_nothing_of_the_sequence",
    ),
    "unknown words after the sequence": (
        "data/test_naming.py",
        "test_a_word_after_the_sequence_that_nobody_knows_is_told",
    ),
    "layouts of folders, strays, files of macOS": (
        "data/test_layouts.py",
        "test_a_layout_gives_each_patient_the_right_files",
    ),
    "files that are not used are named": ("data/test_layouts.py", "test_every_file_is_used_or_named"),
    "files that systems add": ("data/test_layouts.py", "test_what_a_system_keeps_beside_files_is_nobodys"),
    "predict finds the patients of a training": ("data/test_layouts.py", "test_predict_finds_the_same_patients"),
    "damaged dataset.json": ("data/test_layouts.py", "test_a_damaged_dataset_json_is_an_error_that_names_it"),
    "label conventions": ("data/test_labels.py", "test_a_convention_says_what_each_value_is"),
    "conventions told by names": ("data/test_labels.py", "test_the_names_of_a_data_set_tell_its_convention"),
    "conventions told by folders": ("data/test_labels.py", "test_the_folder_of_a_label_map_tells_its_convention"),
    "labels of a dataset.json": (
        "data/test_labels.py",
        "test_the_labels_of_a_dataset_json_are_known_by_their_names_or_regions",
    ),
    "label values too few to tell": ("data/test_labels.py", "test_values_too_few_to_tell_what_they_mean_are_a_doubt"),
    "unexpected label values": (
        "data/test_labels.py",
        "test_a_value_that_the_convention_lacks_is_refused_with_the_files_name",
    ),
    "examinations of one patient": ("data/test_splits.py", "test_no_patient_is_in_two_splits"),
    "patients that stay apart": ("data/test_splits.py", "test_patients_stay_apart"),
    "DICOM that is not a volume": (
        "data/test_dicom.py",
        "test_every_slice_lies_on_the_normal_at_its_distance_or_the_series_is_refused",
    ),
    "DICOM series that were not asked for": (
        "data/test_dicom.py",
        "test_a_series_nobody_asked_for_does_not_stop_the_study",
    ),
    "DICOM of patients without names": ("data/test_dicom.py", "test_two_nameless_patients_are_not_segmented_as_one"),
    "DICOM of several patients in their folders": (
        "data/test_dicom.py",
        "test_folders_of_several_patients_are_a_cohort",
    ),
    "DICOM of several patients in one folder": (
        "data/test_dicom.py",
        "test_several_patients_in_one_folder_are_refused_and_named",
    ),
    "damaged DICOM": ("prediction/test_dicom.py", "test_bad_series_end_in_one_line_and_leave_nothing"),
    "tables of patients": ("data/test_sources.py", "test_a_table_is_read_however_it_was_saved"),
    "tables that are not text": ("data/test_sources.py", "test_what_is_no_text_says_how_to_save_it"),
    "labels that a program rounded": ("data/test_verify.py", "test_labels_that_a_program_rounded_are_whole"),
    "broken cohorts": ("data/test_verify.py", "test_a_broken_cohort_is_found_with_its_kind_and_its_file"),
    "broken cohorts given to datalist": (
        "data/test_verify.py",
        "test_a_broken_cohort_becomes_no_datalist_and_every_reason_has_its_line",
    ),
    "odd cohorts": ("data/test_verify.py", "test_an_odd_cohort_gets_a_warning_and_no_error"),
    "what is refused in training and repaired in inference": (
        "transforms/test_load.py",
        "test_what_one_policy_refuses_the_other_repairs_and_says_so",
    ),
}
"""Kind -> file and name of the test of its variants."""


class Count:
    """A plugin of pytest that counts."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self.tried: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.skipped:
            test = report.nodeid.split("::")[1].split("[")[0]
            self.tried[test] += not report.skipped
            self.passed[test] += report.passed


def table(tried: Mapping[str, int], passed: Mapping[str, int]) -> str:
    """The kinds as Markdown, given the number of variants of each test."""
    rows = [f"| {kind} | {tried[test]} | {passed[test]} |" for kind, (_, test) in KINDS.items()]
    return "\n".join(["| Kind | Variants tried | Right |", "| --- | --- | --- |", *rows])


def variants(test: Callable[..., object]) -> int:
    """How many times a parametrized test runs."""
    return prod(len(mark.args[1]) for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize")


def main() -> int:
    count = Count()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        tests = [f"{TESTS / file}::{test}" for file, test in KINDS.values()]
        pytest.main(["-q", "-W", "ignore", *tests], plugins=[count])
    print(table(count.tried, count.passed))
    return int(count.tried != count.passed)


if __name__ == "__main__":
    sys.exit(main())
