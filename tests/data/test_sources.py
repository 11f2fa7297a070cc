from pathlib import Path

import pytest

from monai_passion.data.sources import find_files, find_patients, read_cohort
from monai_passion.errors import InputError
from tests.data.layouts import touch_all
from tests.helpers.tasks import BRATS_MRI


def test_the_files_of_a_folder_are_found_in_channel_order(tmp_path):
    touch_all(tmp_path, "p_t2.nii.gz", "p_flair.nii.gz", "p_seg.nii.gz", "notes.txt")
    assert find_files(tmp_path, BRATS_MRI) == {"flair": tmp_path / "p_flair.nii.gz", "t2": tmp_path / "p_t2.nii.gz"}
    assert list(find_files(tmp_path, BRATS_MRI)) == ["flair", "t2"]


def test_two_files_for_a_sequence_are_an_error_that_lists_both_and_a_flag_decides(tmp_path):
    touch_all(tmp_path, "a_flair.nii.gz", "b_flair.nii.gz")
    with pytest.raises(InputError, match=r"2 files for flair \(a_flair.nii.gz, b_flair.nii.gz\); add --flair"):
        find_files(tmp_path, BRATS_MRI)
    assert find_files(tmp_path, BRATS_MRI, {"flair": tmp_path / "b_flair.nii.gz"})["flair"].name == "b_flair.nii.gz"


def test_a_word_that_nobody_knows_is_told_and_one_of_a_derived_image_gives_way_to_the_plain_one(tmp_path, caplog):
    touch_all(tmp_path, "T1_charite.nii.gz", "T1_cortex.nii.gz", "FLAIR.nii.gz", "FLAIR_laesion.nii.gz")
    found = find_files(tmp_path, BRATS_MRI)
    assert {m: path.name for m, path in found.items()} == {"flair": "FLAIR.nii.gz", "t1": "T1_charite.nii.gz"}
    unused, doubt = (record.getMessage() for record in caplog.records)
    assert "T1_cortex.nii.gz (a segmentation (cortex))" in unused
    assert "FLAIR_laesion.nii.gz (a tumor or" in unused
    assert "T1_charite.nii.gz as t1 (not known: 'charite')" in doubt


def test_a_folder_without_sequences_says_what_it_has(tmp_path):
    with pytest.raises(InputError, match="no NIfTI files"):
        find_files(tmp_path, BRATS_MRI)
    with pytest.raises(InputError, match=r"scan7.nii.gz"):
        find_files(touch_all(tmp_path, "scan7.nii.gz"), BRATS_MRI)


def test_patients_are_folders_bids_sessions_among_them(tmp_path):
    touch_all(
        tmp_path,
        "p1/p1_t1.nii.gz",
        "sub-2/ses-1/anat/sub-2_T1w.nii.gz",
        "sub-3/anat/sub-3_T2w.nii.gz",
        "none/x_seg.nii",
    )
    found = find_patients(tmp_path, BRATS_MRI)
    assert sorted(found) == ["p1", "sub-2_ses-1", "sub-3"]
    assert find_files(found["sub-2_ses-1"], BRATS_MRI)["t1"].name == "sub-2_T1w.nii.gz"


def test_a_csv_names_patients_and_files_and_an_empty_cell_is_absent(tmp_path):
    (tmp_path / "c.csv").write_text("patient,FLAIR,t1ce\na,x/f.nii.gz,\nb,,/y/c.nii.gz\n")
    assert read_cohort(tmp_path / "c.csv", BRATS_MRI) == {
        "a": {"flair": tmp_path / "x/f.nii.gz"},
        "b": {"t1c": Path("/y/c.nii.gz")},
    }


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("patient,flair\na,f\na,g\n", "'a' is there twice"),
        ("patient,flair\n../a,f\n", "cannot be the name of a folder"),
        ("name,flair\na,f\n", "name"),
        ("patient,flair,t2f\na,f,g\n", "one column per sequence"),
        ("patient\na\n", "one column per sequence"),
        ("", "cannot be read as a CSV"),
    ],
)
def test_a_bad_csv_is_an_input_error(tmp_path, text, part):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputError, match=part):
        read_cohort(tmp_path / "c.csv", BRATS_MRI)


TABLES = {
    "commas": "patient,flair,t1\na,f.nii,\n",
    "semicolons": "patient;flair;t1\na;f.nii;\n",
    "tabs": "patient\tflair\tt1\na\tf.nii\t\n",
    "an index column": ",patient,flair,t1\n0,a,f.nii,\n",
    "capitals": "Patient,FLAIR,T1w\na,f.nii,\n",
    "another word": "subject,flair,t1\na,f.nii,\n",
    "nan": "patient,flair,t1\na,f.nii,nan\n",
    "n/a": "patient,flair,t1\na,f.nii,N/A\n",
    "blanks": "patient , flair ,t1\na , f.nii , \n",
    "a mark at its start": "\ufeffpatient,flair,t1\na,f.nii,\n",
    "lines of Windows": "patient,flair,t1\r\na,f.nii,\r\n",
    "lines of old Macs": "patient,flair,t1\ra,f.nii,\r",
    "bars": "patient|flair|t1\na|f.nii|\n",
    "Excel's own first line": "sep=;\r\npatient;flair;t1\r\na;f.nii;\r\n",
    "empty columns": "patient,flair,t1,,\na,f.nii,,,\n",
    "a dash": "patient,flair,t1\na,f.nii,\u2013\n",
    "UTF-16": "patient\tflair\tt1\na\tf.nii\t\n".encode("utf-16"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_however_it_was_saved(tmp_path, name):
    text = TABLES[name]
    (tmp_path / "c.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_cohort(tmp_path / "c.csv", BRATS_MRI) == {"a": {"flair": tmp_path / "f.nii"}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("patient,flair\nM\u00fcller,f.nii\n".encode("latin-1"), "not in UTF-8 or UTF-16; save it as UTF-8"),
        ("patient,flair\nanna,f.nii\n".encode("utf-16-le"), "is not text; save it as a CSV in UTF-8"),
        (b"PK\x03\x04\x00\xff", "is a workbook or a zip, not a table of text; save it as CSV"),
    ],
    ids=["latin-1", "UTF-16 without a mark", "a workbook"],
)
def test_what_is_no_text_says_how_to_save_it(tmp_path, content, said):
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_cohort(tmp_path / "c.csv", BRATS_MRI)


def test_a_patient_without_any_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "c.csv").write_text("patient,flair\na,f.nii\nanna,nan\n")
    with pytest.raises(InputError, match="anna has no file at all"):
        read_cohort(tmp_path / "c.csv", BRATS_MRI)


def test_an_image_beside_the_patients_does_not_hide_them(tmp_path):
    touch_all(tmp_path, "p1/p1_t1.nii.gz", "p2/p2_t1.nii.gz", "template_T1.nii.gz", "x_T1.nii.gz")
    assert sorted(find_patients(tmp_path, BRATS_MRI)) == ["p1", "p2"]


def test_what_is_not_used_is_logged(tmp_path, caplog):
    find_files(touch_all(tmp_path, "p_t1.nii.gz", "p_adc.nii.gz", "p_T2star.nii.gz"), BRATS_MRI)
    (line,) = caplog.messages
    assert line.startswith("not used: ")
    assert "p_adc.nii.gz (a diffusion image (adc))" in line
    assert "p_T2star.nii.gz (a T2* or susceptibility image (t2star))" in line


def test_what_is_none_s_in_a_folder_of_many_patients_is_logged(tmp_path, caplog):
    touch_all(tmp_path, "A_flair.nii.gz", "A_t1.nii.gz", "B_flair.nii.gz", "B_t1.nii.gz")
    touch_all(tmp_path, "C_axial.nii.gz", "B_mystery.nii.gz", "B_t2.mha")
    assert sorted(find_patients(tmp_path, BRATS_MRI)) == ["A", "B"]
    told = " ".join(caplog.messages)
    assert "C_axial.nii.gz and 1 more" in told or "B_mystery.nii.gz and 1 more" in told
    assert "B_t2.mha (a .mha file" in told


@pytest.mark.parametrize("name", ["t2.mgh", "t2.mif", "t2.nhdr", "t1c.mnc", "t1ce.nii.gzip", "t1c.hdr.gz"])
def test_images_of_other_formats_are_named(tmp_path, caplog, name):
    find_files(touch_all(tmp_path, "flair.nii.gz", name), BRATS_MRI)
    assert f"not used: {name} (" in " ".join(caplog.messages)
