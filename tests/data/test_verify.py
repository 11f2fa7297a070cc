"""Cohorts that are broken in one way each: the verdict names the way and the file; a sound one has nothing to tell."""

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from monai_passion.cli import main
from monai_passion.data.datalists import absolute, make_datalist
from monai_passion.data.verify import verify_cohort, verify_datalist
from monai_passion.errors import InputError

SHAPE = (6, 6, 6)


def save(path, data, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), np.eye(4) if affine is None else affine), path)
    return path


def image(seed):
    data = np.random.default_rng(seed).uniform(100, 900, SHAPE)
    data[[0, -1]] = 0
    return data


def label(*values):
    data = np.zeros(SHAPE)
    data[2, 2, : len(values)] = values
    return data


@pytest.fixture
def cohort(tmp_path):
    folder = tmp_path / "cohort"
    for p in range(4):
        for k, m in enumerate(("flair", "t1c", "t1", "t2")):
            save(folder / f"P{p}" / f"P{p}_{m}.nii.gz", image(4 * p + k))
        save(folder / f"P{p}" / f"P{p}_seg.nii.gz", label(1, 2, 4))
    return folder


def at(folder, name, p=2):
    return folder / f"P{p}" / f"P{p}_{name}.nii.gz"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def shifted(mm):
    return nib.affines.from_matvec(np.eye(3), [mm, 0, 0])


def spoil_header(path, **values):
    raw = gzip.decompress(path.read_bytes())
    header = nib.Nifti1Header(raw[:348], check=False)
    for name, value in values.items():
        header[name] = value
    path.write_bytes(gzip.compress(header.binaryblock + raw[348:]))


BROKEN = {
    "an empty file": (lambda d: at(d, "t1").write_bytes(b""), "file", "P2_t1.nii.gz is empty"),
    "text in place of an image": (lambda d: at(d, "t1").write_text("<html>"), "file", "P2_t1.nii.gz is not a NIfTI"),
    "a file cut short": (lambda d: truncate(at(d, "t1")), "file", "P2_t1.nii.gz is cut short"),
    "many NaN": (lambda d: save(at(d, "t1"), image(1) * np.nan), "file", "P2_t1.nii.gz: 100 % of its voxels are NaN"),
    "a series in place of a volume": (lambda d: save(at(d, "t1"), np.stack([image(1)] * 3, -1)), "file", "6x6x6x3"),
    "another shape": (lambda d: save(at(d, "t1"), image(1)[1:]), "geometry", "P2_t1.nii.gz have different grids"),
    "another place": (lambda d: save(at(d, "t1"), image(1), shifted(3)), "geometry", "3 mm apart"),
    "a label on another grid": (lambda d: save(at(d, "seg"), label(1), shifted(3)), "geometry", "P2_seg.nii.gz have"),
    "no voxel size": (
        lambda d: spoil_header(at(d, "t1"), pixdim=0, sform_code=0, qform_code=0),
        "file",
        "gives no voxel sizes",
    ),
    "a constant image": (lambda d: save(at(d, "t1"), np.full(SHAPE, 3)), "image", "every voxel is 3"),
    "another background": (lambda d: save(at(d, "t1"), image(1) - 5), "image", "background of -5"),
    "a label map as image": (lambda d: save(at(d, "t1"), label(1, 2)), "image", "a label map, not the image"),
    "an image as label map": (lambda d: save(at(d, "seg"), image(1)), "label", "not whole numbers"),
    "3 and 4 together": (lambda d: save(at(d, "seg"), label(1, 2, 3, 4)), "label", "P2_seg.nii.gz has the label 3"),
    "a label of 7": (lambda d: save(at(d, "seg"), label(1, 7)), "label", "P2_seg.nii.gz has the label 7 where"),
    "a label of 255": (lambda d: save(at(d, "seg"), label(255)), "label", "P2_seg.nii.gz has the label 255"),
    "a label below 0": (lambda d: save(at(d, "seg"), label(-1)), "label", "P2_seg.nii.gz has the label -1"),
    "no label": (lambda d: at(d, "seg").unlink(), "label", "P2 has no label"),
    "two files for a sequence": (lambda d: shutil.copy(at(d, "t1"), at(d, "T1w")), "name", "P2 has two files for t1"),
    "two labels": (lambda d: shutil.copy(at(d, "seg"), at(d, "label")), "name", "P2 has two files for label"),
    "one file for two sequences": (lambda d: shutil.copy(at(d, "t1"), at(d, "t2")), "duplicate", "the same image"),
    "one patient under two names": (
        lambda d: [shutil.copy(at(d, m, 1), at(d, m, 2)) for m in ("flair", "t1", "t2", "t1c")],
        "duplicate",
        "may fall into training and test",
    ),
    "a single slice": (
        lambda d: [save(path, nib.load(path).get_fdata()[..., :1]) for path in (d / "P2").iterdir()],
        "geometry",
        "is a single slice",
    ),
}
ODD = {
    "an empty label map": (lambda d: save(at(d, "seg"), label()), "label", "P2_seg.nii.gz is empty"),
    "nobody has a sequence": (lambda d: [at(d, "t1", p).unlink() for p in range(4)], "name", "no patient has t1"),
    "nobody has a label": (lambda d: [at(d, "seg", p).unlink() for p in range(4)], "label", "nothing to train on"),
    "a few NaN": (lambda d: save(at(d, "t1"), nan(image(1))), "image", "NaN voxels set to 0"),
    "slices without an image": (
        lambda d: save(at(d, "t1"), image(1) * (np.arange(6) % 2)),
        "image",
        "P2: t1 covers 50 % of what flair shows; it is 0 in the rest",
    ),
    "heads that do not lie on each other": (
        lambda d: save(at(d, "t1"), np.where(np.indices(SHAPE).sum(axis=0) < 7, image(1), 0)),
        "image",
        "P2: the heads in flair and t1 overlap by",
    ),
    "axes as they are stored": (
        lambda d: [spoil_header(path, sform_code=0, qform_code=0) for path in (d / "P2").iterdir()],
        "geometry",
        "orientation unknown",
    ),
    "words that nobody knows": (
        lambda d: at(d, "t1").rename(at(d, "T1_charite")),
        "name",
        "P2/P2_T1_charite.nii.gz as t1 (not known: 'charite')",
    ),
    "names that share their beginnings": (
        lambda d: [rename(d, f"P{p}", f"site{p % 2}_{p}") for p in range(4)],
        "patient",
        "4 cases share the beginning of their names",
    ),
}


def nan(data):
    data[2, 2, 2] = np.nan
    return data


def rename(folder, old, new):
    for path in (folder / old).iterdir():
        path.rename(path.with_name(path.name.replace(old, new)))
    (folder / old).rename(folder / new)


def test_a_sound_cohort_has_nothing_to_tell(cohort):
    verdict = verify_cohort(cohort)
    assert (verdict.problems, verdict.unused, len(verdict.cases)) == ((), (), 4)
    assert (verdict.task.name, verdict.layout, verdict.labels.name) == ("brats_mri", "folders", "brats_mri")


def test_what_is_wrong_with_a_file_of_all_sequences_is_one_line(tmp_path):
    save(tmp_path / "imagesTr" / "C.nii.gz", np.stack([image(k) for k in range(3)], axis=-1))
    save(tmp_path / "labelsTr" / "C.nii.gz", label(1, 2, 3))
    content = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumor"},
        "training": [{"image": "./imagesTr/C.nii.gz", "label": "./labelsTr/C.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert len([problem for problem in verify_cohort(tmp_path).errors if problem.kind == "file"]) == 1


def test_a_few_negative_numbers_of_a_normalized_image_are_no_overflow(cohort):
    data = (image(1) - 90) / 300 + 0.01
    data[2, 2, 2] = -9
    save(at(cohort, "t1"), np.where(image(1) == 0, 0, data))
    assert not verify_cohort(cohort).problems


def test_of_cubes_it_is_not_asked_whether_they_are_heads(real_data):
    verdict = verify_cohort(real_data / "brats2020_cubes")
    assert verdict.layout == "cubes"
    assert not [problem for problem in verdict.problems if problem.kind == "image"]


@pytest.mark.parametrize("off", [1e-4, -1e-4, 1e-6])
def test_labels_that_a_program_rounded_are_whole(cohort, off):
    save(at(cohort, "seg"), label(1, 2, 4) + off * (label(1, 2, 4) > 0))
    assert not verify_cohort(cohort).problems


def test_where_all_patients_are_archives_their_names_are_told(tmp_path):
    (tmp_path / "P0.zip").touch()
    with pytest.raises(InputError, match=r"no patients.*not used: P0.zip \(an archive, which is not read; unpack it\)"):
        verify_cohort(tmp_path)


def test_there_are_20_broken_cohorts():
    assert len(BROKEN) >= 20


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_cohort_is_found_with_its_kind_and_its_file(cohort, name):
    spoil, kind, part = BROKEN[name]
    spoil(cohort)
    errors = verify_cohort(cohort).errors
    assert [problem for problem in errors if problem.kind == kind and part in problem.text], errors
    assert {problem.case for problem in errors} <= {"P2", ""}
    assert all("\n" not in problem.text for problem in errors)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_cohort_gets_a_warning_and_no_error(cohort, name):
    spoil, kind, part = ODD[name]
    spoil(cohort)
    verdict = verify_cohort(cohort)
    assert not verdict.errors
    assert [problem for problem in verdict.problems if problem.kind == kind and part in problem.text], verdict.problems


@pytest.mark.parametrize(
    "name",
    [
        *("an empty file", "another shape", "a label on another grid", "no label", "no voxel size", "a label of 7"),
        *("an image as label map", "one file for two sequences", "one patient under two names", "a single slice"),
    ],
)
def test_a_training_stops_before_anything_is_computed(cohort, name):
    datalist = absolute(make_datalist(cohort, fractions=(1, 0, 0)), cohort)
    verify_datalist(datalist)
    BROKEN[name][0](cohort)
    datalist = absolute(make_datalist(cohort, fractions=(1, 0, 0)), cohort)
    with pytest.raises(InputError, match="P2"):
        verify_datalist(datalist)


@pytest.mark.parametrize("name", [name for name in BROKEN if BROKEN[name][1] != "image" and name != "many NaN"])
def test_a_broken_cohort_becomes_no_datalist_and_every_reason_has_its_line(cohort, tmp_path, capsys, name):
    spoil, _, part = BROKEN[name]
    spoil(cohort)
    code = main(["datalist", str(cohort), "--output", str(tmp_path / "d.json")])
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("warning" if name == "no label" else "error")]
    assert [line for line in lines if part in line], (out, err)
    assert code == (0 if name == "no label" else 3)
    assert (tmp_path / "d.json").exists() == (name == "no label")
    assert "Traceback" not in err


@pytest.mark.parametrize("name", BROKEN)
def test_the_command_ends_with_3_on_a_broken_cohort_and_writes_the_reason_as_json(cohort, tmp_path, capsys, name):
    spoil, kind, part = BROKEN[name]
    spoil(cohort)
    assert main(["verify", str(cohort), "--output", str(tmp_path / "v.json")]) == 3
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("error: ") and part in line]
    assert len(err.splitlines()) == 1
    problems = json.loads((tmp_path / "v.json").read_text())["problems"]
    assert [p for p in problems if (p["level"], p["kind"]) == ("error", kind) and part in p["text"]]


def test_what_the_policy_repair_puts_right_is_no_error_of_it(cohort):
    BROKEN["another shape"][0](cohort)
    BROKEN["another background"][0](cohort)
    assert verify_cohort(cohort).errors
    assert not verify_cohort(cohort, policy="repair").errors


def test_a_mask_of_one_value_is_a_warning(cohort):
    for p in range(4):
        save(at(cohort, "seg", p), label(1))
    (problem,) = verify_cohort(cohort).problems
    assert (problem.level, problem.kind) == ("warning", "label")
    assert "(1 as NCR/NET); if they mean something else, say so by --labels" in problem.text


def test_the_command_prints_a_line_for_each_problem_writes_json_and_fails(cohort, tmp_path, capsys):
    assert main(["verify", str(cohort)]) == 0
    assert "no problems" in capsys.readouterr().out
    BROKEN["a label of 7"][0](cohort)
    BROKEN["a constant image"][0](cohort)
    (cohort / "P1" / "P1_brainmask.nii.gz").touch()
    assert main(["verify", str(cohort), "--output", str(tmp_path / "v.json")]) == 3
    out, err = capsys.readouterr()
    assert len([line for line in out.splitlines() if line.startswith("error: ")]) == 2
    assert "not used: P1/P1_brainmask.nii.gz (a mask (brainmask))" in out
    assert err == "monai-passion: error: 2 errors in 4 cases; the lines above say what to do\n"
    written = json.loads((tmp_path / "v.json").read_text())
    assert {problem["kind"] for problem in written["problems"]} == {"label", "image"}
    assert written["unused"][0]["why"] == "a mask (brainmask)"
    assert main(["verify", str(cohort), "--quick"]) == 3
    out = capsys.readouterr().out
    assert [line.split(" has ")[0].split("/")[-1] for line in out.splitlines() if "error: " in line] == [
        "P2_seg.nii.gz"
    ]


@pytest.mark.parametrize(("data", "cases"), [("brats_whole", 30), ("myops2020", 25)])
def test_real_cohorts_have_no_problems(real_data, data, cases):
    verdict = verify_cohort(real_data / data, voxels=False)
    assert (verdict.problems, len(verdict.cases)) == ((), cases)


def test_the_same_image_in_training_and_test_stops_a_training(cohort):
    datalist = make_datalist(cohort, fractions=(0.5, 0.25, 0.25))
    trained, tested = (datalist[split][0]["case"] for split in ("training", "test"))
    for path in (cohort / tested).iterdir():
        path.write_bytes((cohort / trained / path.name.replace(tested, trained)).read_bytes())
    with pytest.raises(InputError, match="are the same image"):
        verify_datalist(absolute(datalist, cohort), ("training", "validation"))


def test_one_image_in_two_examinations_of_a_patient_is_no_leak_by_the_pattern(cohort):
    first, second = cohort / "P0", cohort / "P1"
    for path in second.iterdir():
        path.write_bytes((first / path.name.replace(second.name, first.name)).read_bytes())
    assert [p.kind for p in verify_cohort(cohort).errors] == ["duplicate"] * 4
    verdict = verify_cohort(cohort, patient_pattern="(P)")
    assert not verdict.errors
    assert {case["patient"] for case in verdict.to_json(cohort)["cases"]} == {"P"}
