import errno
import os
import subprocess
import sys

import pytest

from monai_passion import errors

PROGRAM = """
import sys
from monai_passion.errors import *
assert "torch" not in sys.modules
install_excepthook()
{}
"""


def end(code, **environment):
    """Exit code and standard error of a program that runs ``code`` under our hook."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(code)], capture_output=True, text=True, env={**os.environ, **environment}
    )
    return done.returncode, done.stderr


WRAPPED = """
try:
    raise {}("x.pt is damaged")
except Exception as error:
    raise RuntimeError("Failed to evaluate ConfigExpression") from error
"""


@pytest.mark.parametrize("name", ["PassionError", "UsageError", "InputError", "WeightsError", "ResourceError"])
def test_an_error_of_ours_ends_in_one_line_with_its_exit_code_also_when_wrapped(name):
    code = getattr(errors, name).exit_code
    line = "monai-passion: error: x.pt is damaged\n"
    assert end(f"raise {name}('x.pt is damaged')") == (code, line)
    assert end(WRAPPED.format(name)) == (code, line)


def test_the_exit_codes_are_as_documented():
    kinds = [errors.PassionError, errors.UsageError, errors.InputError, errors.WeightsError, errors.ResourceError]
    assert [kind.exit_code for kind in kinds] == [1, 2, 3, 4, 5]


def test_other_errors_keep_their_traceback_and_exit_code_1():
    code, text = end("raise ValueError('theirs')")
    assert code == 1
    assert "Traceback" in text
    assert "monai-passion" not in text


def test_a_value_that_a_component_of_ours_refuses_ends_in_one_line_when_monai_makes_it():
    code = """
from monai_passion.networks.blocks import token_grid
try:
    token_grid(50, 16, 3)
except Exception as error:
    raise RuntimeError("Failed to instantiate component") from error
"""
    line = "monai-passion: error: roi_size is (50, 50, 50); it must be a multiple of 16, twice that or more\n"
    assert end(code) == (2, line)


def test_an_interrupt_ends_with_130():
    assert end("raise KeyboardInterrupt") == (130, "monai-passion: interrupted\n")


def test_the_traceback_can_be_asked_for():
    code, text = end("raise WeightsError('x')", MONAI_PASSION_DEBUG="1")
    assert code == 4
    assert "Traceback" in text


def test_a_full_disk_or_no_place_for_temporary_files_is_told_wherever_it_shows(monkeypatch):
    full, wrapped = OSError(errno.ENOSPC, "No space left on device", "/x/log"), RuntimeError("wrapped")
    wrapped.__cause__ = full
    line = "cannot write to /x/log (No space left on device); free some space or give another folder"
    assert errors.no_room(wrapped) == line
    assert errors.no_room(ValueError("other")) is None

    def nowhere():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    assert "set TMPDIR" in errors.no_room(RuntimeError("of matplotlib"))
