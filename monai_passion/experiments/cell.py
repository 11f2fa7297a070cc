"""The process of one cell: its training, then its evaluation; ``python -m monai_passion.experiments.cell FOLDER``.

It ends itself when the process that started it is gone, so that a runner that was killed leaves nothing running.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from monai_passion.errors import EXIT_TERMINATED, UsageError, install_excepthook
from monai_passion.experiments.folders import is_done
from monai_passion.system.files import write_text
from monai_passion.system.locks import RunLock

__all__ = ["EXIT_BUSY", "run_cell"]

EXIT_BUSY = 75
"""Another process has the folder."""
GRACE = 30.0
"""Seconds that a process may take to end after SIGTERM."""


def run_cell(folder: Path) -> int:
    """Train and evaluate what ``folder`` describes, unless that is done; return the exit code.

    Both go through `monai.bundle.run` with the files that the folder holds. A training that was interrupted resumes.
    """
    lock = RunLock(folder)
    try:
        lock.acquire()
    except UsageError as error:
        print(f"monai-passion: {error}", file=sys.stderr)
        return EXIT_BUSY
    try:
        if is_done(folder):
            return 0
        from monai.bundle import run

        began = time.monotonic()
        for step in ("train", "evaluate"):
            print(
                f"== {time.strftime('%F %T')} python -m monai.bundle run --args_file {folder}/{step}_args.json",
                flush=True,
            )
            run(args_file=str(folder / f"{step}_args.json"))
        _finish(folder, time.monotonic() - began)
    finally:
        lock.release()
    return 0


def _finish(folder: Path, seconds: float) -> None:
    """Say in ``run.json`` what the run belongs to, and that it is done."""
    cell = json.loads((folder / "cell.json").read_text())
    path = folder / "run.json"
    facts = json.loads(path.read_text()) if path.is_file() else {}
    facts |= {key: cell[key] for key in ("label", "row", "table", "data")} | {"seed": cell["specification"]["seed"]}
    write_text(path, json.dumps(facts, indent=2) + "\n")
    done = {"hash": cell["hash"], "seconds": round(seconds, 1), "finished": time.strftime("%FT%T%z")}
    write_text(folder / "done.json", json.dumps(done, indent=2) + "\n")


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(EXIT_TERMINATED)


if __name__ == "__main__":
    install_excepthook()
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    raise SystemExit(run_cell(Path(sys.argv[1])))
