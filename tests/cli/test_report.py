import json

import pytest

from monai_passion.cli import main
from tests.reporting.made_up import write_run


def test_prints_where_the_report_is(tmp_path, capsys):
    run = write_run(tmp_path / "run", modalities=("t1", "t2"), curves=False)
    assert main(["report", str(run), "--output", str(tmp_path / "new" / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'out' / 'report.html'}\n"
    assert json.loads((tmp_path / "new" / "out" / "summary.json").read_text())["patients"] == 6


@pytest.mark.parametrize("missing", ["run", "run/metrics.csv"])
def test_a_missing_file_is_one_line_and_exit_code_3(tmp_path, capsys, missing):
    run = tmp_path / "run"
    if missing != "run":
        run.mkdir()
    assert main(["report", str(run), "--output", str(tmp_path / "out")]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path / missing) in error
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_one_line_and_exit_code_2(tmp_path, capsys):
    run = write_run(tmp_path / "run", modalities=("t1", "t2"), curves=False)
    (tmp_path / "out").write_text("mine")
    assert main(["report", str(run), "--output", str(tmp_path / "out")]) == 2
    assert "out" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"
