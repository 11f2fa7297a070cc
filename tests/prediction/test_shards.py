"""A cohort in shards, with processes that segment nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monai_passion.prediction.shards import predict_shards

WORKER = """
import json, os, signal, sys
from pathlib import Path
from monai_passion.prediction.cohort import failure, read_manifests, shard_manifest, write_manifest
output, k, n = Path(sys.argv[1]), *map(int, sys.argv[2].split("/"))
names = list("abcdef")
mine, there = names[k - 1 :: n], read_manifests(output)
manifest = {name: there[name] for name in mine if name in there}
for name in mine:
    if name in manifest:
        continue
    mark = output / f"{name}.killed"
    if name == "c" or (name == "d" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    entry = failure(ValueError("broken")) if name == "b" else {
        "status": "done", "exit_code": 0, "message": "", "findings": [], "row": {"patient": name, "used": "t1"}
    }
    manifest[name] = entry
    write_manifest(shard_manifest(output, (k, n)), manifest, names)
sys.exit(1 if "b" in mine else 0)
"""


class Engine:
    """Runs the worker above in place of the command."""

    jobs = 2

    def __init__(self, output):
        self.output, self.started = output, []

    def start(self, arguments, log):
        self.started.append(arguments[-1])
        with log.open("ab") as file:
            return subprocess.Popen([sys.executable, "-c", WORKER, str(self.output), arguments[-1]], stderr=file)


@pytest.mark.slow
def test_a_killed_shard_goes_on_and_a_deadly_patient_costs_the_rest_of_its_shard_only(tmp_path):
    """a c e and b d f: c kills each time, d once, b is broken."""
    (tmp_path / "out").mkdir()
    engine = Engine(tmp_path / "out")
    entries = predict_shards(["predict", "IN"], list("abcdef"), tmp_path / "out", engine, 2, pause=0.05)
    assert {name: entry["exit_code"] for name, entry in entries.items()} == {
        "a": 0, "b": 1, "c": 5, "d": 0, "e": 5, "f": 0,
    }  # fmt: skip
    assert sorted(engine.started) == ["1/2", "1/2", "2/2", "2/2"]
    assert "was killed" in entries["c"]["message"]
    assert (tmp_path / "out" / "volumes.csv").read_text().split() == ["patient,used", "a,t1", "d,t1", "f,t1"]
    assert (tmp_path / "out" / "index.html").read_text().count("failed (exit code") == 3


def words(process):
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


@pytest.mark.faults
def test_two_workers_of_a_ray_cluster_share_a_cohort_and_one_that_is_killed_is_replaced(tmp_path, monkeypatch):
    """The processes are those of Ray; what they run is the worker above, in place of the command."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from monai_passion.system.engines import RayEngine

    module = tmp_path / "package" / "ray_worker.py"
    module.parent.mkdir()
    slow = "import time; time.sleep(4)\n"
    module.write_text(slow + WORKER.replace("sys.argv[2].split", "sys.argv[-2].split"))
    monkeypatch.setenv("PYTHONPATH", f"{module.parent}:{':'.join(sys.path)}")
    (tmp_path / "out").mkdir()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    engine = RayEngine(2)
    tasks = []

    class Shards:
        jobs = 2

        def start(self, arguments, log):
            tasks.append(engine.start(("ray_worker", str(tmp_path / "out"), arguments[-1]), log))
            return tasks[-1]

    def stage(name, share):
        if not (tmp_path / "shot").exists():
            workers = [int(path.name) for path in Path("/proc").glob("[0-9]*") if b"ray::run_process" in words(path)]
            if workers:
                (tmp_path / "shot").touch()
                os.kill(workers[0], signal.SIGKILL)

    try:
        entries = predict_shards(["predict"], list("abcdef"), tmp_path / "out", Shards(), 2, stage, pause=0.2)
    finally:
        ray.shutdown()
    assert (tmp_path / "shot").exists()
    assert {name: entry["exit_code"] for name, entry in entries.items()}["d"] == 0
    assert (tmp_path / "out" / "volumes.csv").read_text().split() == ["patient,used", "a,t1", "d,t1", "f,t1"]
