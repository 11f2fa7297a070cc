"""The notebooks run from top to bottom on phantoms, and carry no results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def code(notebook):
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@each_notebook
def test_a_notebook_is_stored_without_outputs(notebook):
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code(notebook))


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_from_top_to_bottom(notebook, tmp_path):
    pytest.importorskip("nilearn", reason="phantoms need the extra phantom")
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in code(notebook)), encoding="utf-8")
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, script.name]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr[-3000:]
