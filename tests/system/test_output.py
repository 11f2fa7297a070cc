import os
import subprocess
from pathlib import Path

import pytest

from monai_passion.errors import ResourceError, UsageError
from monai_passion.system.output import output_folder, refuse_older


def write(output, **options):
    with output_folder(output, **options) as folder:
        (folder / "report.json").write_text("new")
        (folder / "figures").mkdir()
        (folder / "figures" / "a.png").write_text("new")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


NEW = {"report.json": "new", "figures/a.png": "new"}


@pytest.mark.parametrize("there", [False, True])
def test_what_was_written_is_there_as_a_whole(tmp_path, there):
    if there:
        (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert contents(tmp_path) == {f"out/{name}": text for name, text in NEW.items()}


@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_left_when_it_fails(tmp_path, there):
    if there:
        (tmp_path / "out").mkdir()

    def fail():
        with output_folder(tmp_path / "out") as folder:
            (folder / "report.json").write_text("{")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"] * there


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_stays_the_same_folder_as_a_mounted_disk_or_a_link_needs_it(tmp_path, link):
    disk = tmp_path / "disk"
    disk.mkdir()
    if link:
        (tmp_path / "out").symlink_to(disk)
    output, before = tmp_path / "out" if link else disk, disk.stat().st_ino
    write(output)
    write(output, overwrite=True)
    assert output.is_symlink() == link
    assert output.stat().st_ino == before
    assert contents(disk) == NEW


def test_here_is_a_folder_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("."))
    assert contents(tmp_path) == NEW


def test_older_results_are_refused_before_anything_is_computed_and_replaced_when_asked(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("report.json", "mine", "figures/old.png"):
        (tmp_path / name).write_text("old")
    with pytest.raises(UsageError, match="is not empty"), output_folder(tmp_path):
        pytest.fail("computed")
    write(tmp_path, overwrite=True)
    assert contents(tmp_path) == {**NEW, "mine": "old"}


@pytest.mark.parametrize("there", [False, True])
def test_what_killed_runs_left_is_removed(tmp_path, there):
    """Also where the number of the process is this one's, as in a container, where each is number 1."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    home = tmp_path / "out" if there else tmp_path
    for process in (gone.pid, os.getpid()):
        (home / f".out.unfinished.{process}").mkdir(parents=True)
    (tmp_path / f".out.{gone.pid}").mkdir()  # somebody's own
    write(tmp_path / "out")
    assert contents(tmp_path) == {f"out/{name}": text for name, text in NEW.items()}
    assert {path.name for path in tmp_path.iterdir()} == {"out", f".out.{gone.pid}"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_another_run_writes_to_is_refused_before_anything_is_computed(tmp_path, there, overwrite):
    folder = (tmp_path / "out" if there else tmp_path) / f".out.unfinished.{os.getppid()}"
    folder.mkdir(parents=True)
    refused = pytest.raises(UsageError, match=f"process {os.getppid()} writes to")
    with refused, output_folder(tmp_path / "out", overwrite=overwrite):
        pytest.fail("computed")
    assert folder.is_dir()
    with output_folder(tmp_path / "other"), pytest.raises(UsageError, match=f"process {os.getpid()} writes to"):
        write(tmp_path / "other")


@pytest.mark.parametrize("there", [False, True])
def test_what_another_run_wrote_meanwhile_is_not_replaced(tmp_path, there):
    if there:
        (tmp_path / "out").mkdir()

    def write_at_the_same_time():
        with output_folder(tmp_path / "out") as folder:
            (folder / "report.json").write_text("new")
            (tmp_path / "out").mkdir(exist_ok=True)
            (tmp_path / "out" / "report.json").write_text("of another run")

    with pytest.raises(UsageError, match="another run wrote to"):
        write_at_the_same_time()
    assert contents(tmp_path) == {"out/report.json": "of another run"}


def test_a_folder_that_cannot_be_written_to_is_found_out_before_anything_is_computed():
    with pytest.raises(ResourceError, match="cannot write to /proc/out"), output_folder(Path("/proc/out")):
        pytest.fail("computed")


@pytest.mark.parametrize(("there", "overwrite", "said"), [("file", False, "exists"), ("folder", True, "is a folder")])
def test_a_file_is_refused_like_a_folder(tmp_path, there, overwrite, said):
    path = tmp_path / "x"
    refuse_older(path)
    path.mkdir() if there == "folder" else path.touch()
    with pytest.raises(UsageError, match=said):
        refuse_older(path, overwrite)


def test_what_an_earlier_result_had_and_this_one_has_not_is_removed_and_other_files_stay(tmp_path):
    write(tmp_path / "out")
    for name in ("uncertainty.nii.gz", "mine.txt"):
        (tmp_path / "out" / name).write_text("old")
    write(tmp_path / "out", overwrite=True, replaces=["uncertainty.nii.gz", "report.json", "absent"])
    assert contents(tmp_path / "out") == {**NEW, "mine.txt": "old"}


@pytest.mark.parametrize("there", [False, True])
def test_folders_that_were_made_for_a_result_go_with_it(tmp_path, there):
    if there:
        (tmp_path / "a").mkdir()
    with pytest.raises(ZeroDivisionError), output_folder(tmp_path / "a" / "b" / "c"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["a"] * there
