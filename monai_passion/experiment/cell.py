"""The process of one cell: its training, then its evaluation; ``python -m monai_passion.experiment.cell FOLDER``.

It ends when the process that started it is gone, so a killed runner leaves nothing running.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from monai_passion.errors import UsageError, install_excepthook
from monai_passion.experiment.folders import cell_facts, is_done
from monai_passion.system.files import write_text
from monai_passion.system.locks import RunLock
from monai_passion.system.parent import end_with

__all__ = ["EXIT_BUSY", "run_cell"]

EXIT_BUSY = 75
"""Exit code if another process uses the folder."""


def run_cell(folder: Path) -> int:
    """Train and evaluate the cell in ``folder`` unless it is done; return the exit code.

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
    path = folder / "run.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_text(path, json.dumps({**facts, **cell_facts(folder)}, indent=2) + "\n")
    digest = json.loads((folder / "cell.json").read_text(encoding="utf-8"))["hash"]
    done = {"hash": digest, "seconds": round(seconds, 1), "finished": time.strftime("%FT%T%z")}
    write_text(folder / "done.json", json.dumps(done, indent=2) + "\n")


if __name__ == "__main__":
    install_excepthook()
    end_with(int(sys.argv[2]))
    raise SystemExit(run_cell(Path(sys.argv[1])))
