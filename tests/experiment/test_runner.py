import json

import pytest

from monai_passion.experiment.cell import EXIT_BUSY
from monai_passion.experiment.runner import run_cells


class FakeTask:
    """Ends at the second look, with what its engine says."""

    def __init__(self, engine, folder):
        self.engine, self.folder, self.looks, self.ended = engine, folder, 0, False

    def poll(self):
        self.looks += 1
        if self.ended:
            return 143
        if self.looks < 2 or self.folder.name in self.engine.endless:
            return None
        code = self.engine.codes.get(self.folder.name, [0])
        code = code.pop(0) if len(code) > 1 else code[0]
        if code == 0:
            cell = json.loads((self.folder / "cell.json").read_text())
            (self.folder / "metrics.csv").write_text("")
            (self.folder / "done.json").write_text(json.dumps({"hash": cell["hash"]}))
        self.ended = True
        self.engine.running -= 1
        return code

    def terminate(self):
        self.ended = True

    kill = terminate


class FakeEngine:
    def __init__(self, jobs=1, codes=None, endless=()):
        self.jobs, self.codes, self.endless = jobs, codes or {}, endless
        self.started, self.running, self.most = [], 0, 0

    def start(self, arguments, log):
        folder = log.parent
        self.running += 1
        self.most = max(self.most, self.running)
        self.started.append(folder.name)
        self.last = FakeTask(self, folder)
        return self.last


@pytest.fixture
def folders(tmp_path):
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
        (folder / "cell.json").write_text(json.dumps({"hash": folder.name, "epochs": 1}))
    return folders


@pytest.mark.parametrize(("jobs", "most"), [(1, 1), (3, 3), (None, 4)])
def test_as_many_run_at_a_time_as_there_are_jobs(folders, jobs, most):
    engine = FakeEngine(jobs)
    assert run_cells(folders, engine, lambda line: None, pause=0) == {}
    assert engine.started == ["a", "b", "c", "d"]
    assert engine.most == most


def test_a_second_run_starts_only_what_is_not_done(folders):
    run_cells(folders[1:3], FakeEngine(), lambda line: None, pause=0)
    engine, lines = FakeEngine(), []
    run_cells(folders, engine, lines.append, pause=0)
    assert engine.started == ["a", "d"]
    assert lines[0] == "4 cells, 2 of them done before, 2 to run"


def test_a_failure_is_told_with_its_last_words_and_the_others_go_on(folders):
    (folders[1] / "log.txt").write_text("monai-passion: error: no such patient\n")
    engine, lines = FakeEngine(codes={"b": [3]}), []
    assert run_cells(folders, engine, lines.append, pause=0) == {folders[1]: 3}
    assert engine.started == ["a", "b", "c", "d"]
    assert any("exit code 3: monai-passion: error: no such patient" in line for line in lines)


def test_exit_code_0_without_a_marker_is_a_failure(folders, monkeypatch):
    monkeypatch.setattr(FakeTask, "poll", lambda self: 0)
    assert run_cells(folders[:1], FakeEngine(), lambda line: None, pause=0) == {folders[0]: 1}


def test_a_folder_that_another_process_took_is_tried_again_last(folders):
    engine = FakeEngine(codes={"a": [EXIT_BUSY, 0]})
    assert run_cells(folders, engine, lambda line: None, pause=0) == {}
    assert engine.started == ["a", "b", "c", "d", "a"]


def test_an_interrupt_ends_what_runs(folders):
    engine = FakeEngine(2, endless="ab")

    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells(folders, engine, lambda line: engine.started[1:] and interrupt(line), pause=0)
    assert engine.last.ended


def test_time_left_is_judged_by_the_work_of_this_session(folders, monkeypatch):
    clock = iter(range(0, 10000, 10))
    monkeypatch.setattr("monai_passion.experiment.runner.time.monotonic", lambda: next(clock))
    lines = []
    run_cells(folders, FakeEngine(), lines.append, pause=0, every=1e9)
    done = [line for line in lines if " done, " in line]
    assert "1 of 4; about" in done[0]
    assert done[-1].endswith("4 of 4")
