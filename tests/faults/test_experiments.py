"""Killing the runner of a grid: what is lost, and that nobody is left behind."""

import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from tests.experiment.fake import write_project

pytestmark = pytest.mark.faults

EPOCHS, WAIT, KILLS = 12, 0.5, 3


def epochs(folder):
    """(epoch, process) of each line of a cell's log of epochs."""
    path = folder / "train" / "epochs.log"
    return [tuple(map(int, line.split()[:2])) for line in path.read_text().splitlines()] if path.is_file() else []


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def gone(processes, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(alive, processes)):
        time.sleep(0.1)
    return not any(map(alive, processes))


@pytest.fixture
def runner(tmp_path):
    grid = write_project(tmp_path)
    command = [
        sys.executable,
        "-m",
        "monai_passion",
        "experiments",
        "run",
        str(grid),
        "--output",
        str(tmp_path / "runs"),
    ]
    command += ["--data", str(tmp_path / "data"), "--datalist", str(tmp_path / "data" / "datalist.json")]
    command += ["--presence-dir", str(tmp_path / "data"), "--only", "seed1", "--jobs", "2"]
    command += ["--set", f"epochs={EPOCHS}", "--set", f"wait={WAIT}"]
    started = []

    def start():
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
        started.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                # A shell lets its background jobs, as this may be one, ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()


def wait_for_epochs(runner, cells, before):
    while sum(len(epochs(cell)) for cell in cells) <= before + 1:
        assert runner.poll() is None, runner.communicate()[0]
        time.sleep(0.05)


def test_a_runner_killed_again_and_again_loses_at_most_one_epoch_of_a_cell(runner, tmp_path, outcome):
    cells = [tmp_path / "runs" / f"idt-{name}-seed1" for name in ("baseline", "one")]
    for _ in range(KILLS):
        process = runner()
        wait_for_epochs(process, cells, sum(len(epochs(cell)) for cell in cells))
        time.sleep(random.uniform(0, 2 * WAIT))
        process.kill()
        process.wait()
        # a second runner starts at once, while the cells of the first are still ending
    process = runner()
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    lost = 0
    for cell in cells:
        log = epochs(cell)
        writers = [writer for _, writer in log]
        assert len([1 for a, b in pairwise(writers) if a != b]) == len(set(writers)) - 1, "interleaved"
        assert sorted({epoch for epoch, _ in log}) == list(range(1, EPOCHS + 1))
        assert len(log) - EPOCHS <= len(set(writers)) - 1
        lost += len(log) - EPOCHS
        assert gone(set(writers))
    again = runner()
    text, _ = again.communicate(timeout=60)
    assert "2 cells, 2 of them done before, 0 to run" in text
    outcome("SIGKILL of the experiment runner", "random moments, 2 cells at a time", KILLS, f"{lost} epochs of 2 cells")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_runner_that_is_stopped_stops_its_cells(runner, tmp_path, number, code):
    cells = [tmp_path / "runs" / f"idt-{name}-seed1" for name in ("baseline", "one")]
    process = runner()
    wait_for_epochs(process, cells, 0)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in text
    assert gone({writer for cell in cells for _, writer in epochs(cell)}, seconds=1)
