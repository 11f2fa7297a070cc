import logging
import warnings

import pytest

from monai_passion.system.logs import PROGRESS, calm_terminal, keep_log


@pytest.fixture
def root():
    """The root logger with a handler of the terminal, put back afterwards."""
    logger, kept = logging.getLogger(), None
    kept = list(logger.handlers), logger.level
    logger.handlers = [logging.StreamHandler()]
    yield logger
    logging.captureWarnings(False)
    logger.handlers, logger.level = kept


def test_libraries_speak_to_the_file_and_this_package_to_the_terminal_too(root, capsys, tmp_path):
    root.handlers[0].setStream(__import__("sys").stderr)
    calm_terminal()
    keep_log(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    logging.getLogger("ignite.engine").info("Engine run starting")
    logging.getLogger("monai_passion.bundle.steps.data").info("3 patients")
    logging.getLogger(PROGRESS).info("epoch 1")
    logging.getLogger("ignite.engine").error("it ended badly")
    warnings.warn("Num foregrounds 0", stacklevel=1)
    assert capsys.readouterr().err.splitlines() == ["3 patients", "it ended badly"]
    text = (tmp_path / "run" / "log.txt").read_text()
    for said in ("Engine run starting", "3 patients", "epoch 1", "it ended badly", "Num foregrounds 0"):
        assert text.count(said) == 1 or said == "Num foregrounds 0"


def test_the_file_of_an_earlier_run_gets_no_more_and_one_that_goes_on_is_continued(root, tmp_path):
    for name in ("a", "b", "a"):
        keep_log(tmp_path / name)
        root.info("hello")
    assert len((tmp_path / "a" / "log.txt").read_text().splitlines()) == 2
    assert len((tmp_path / "b" / "log.txt").read_text().splitlines()) == 1
