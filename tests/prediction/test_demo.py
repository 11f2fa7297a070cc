import pytest

from monai_passion.commands.demo import demo


def test_the_demonstration_finds_most_of_the_tumor_of_an_unseen_phantom_without_t1c(tmp_path, capsys):
    pytest.importorskip("nilearn")
    report = demo(output=tmp_path / "demo")
    assert report["modalities"]["absent"] == ["t1c"]
    assert (tmp_path / "demo" / "result" / "report.html").is_file()
    assert float(capsys.readouterr().out.split("whole tumor: Dice ")[1].split()[0]) > 0.8
