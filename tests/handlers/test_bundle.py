"""The exit codes of ``python -m monai.bundle run``, which is not our program."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.handlers import toy
from tests.handlers.test_checkpoint import flip_bit

pytestmark = pytest.mark.faults  # each start imports all of MONAI

CONFIG = {
    "imports": ["$from tests.handlers.toy import build", "$from monai_passion.errors import install_excepthook"],
    "epochs": 2,
    "initialize": ["$install_excepthook()"],
    "trainer": "$build('ckpt', epochs=@epochs)",
    "training": ["$@trainer.run()"],
}


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(CONFIG))

    def start(*overrides):
        command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "train.json", *overrides]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    return start


def test_a_bundle_with_damaged_checkpoints_ends_with_one_line_and_exit_code_4(bundle, tmp_path):
    toy.build(tmp_path / "ckpt", epochs=1).run()
    for path in (tmp_path / "ckpt").glob("*.pt"):
        flip_bit(path)
    process = bundle()
    _, text = process.communicate(timeout=60)
    assert process.returncode == 4
    assert text.splitlines()[-1].startswith("monai-passion: error: no checkpoint in ckpt is intact")
    assert "Traceback" not in text


def test_a_bundle_ended_by_sigterm_exits_143_and_leaves_a_checkpoint(bundle, tmp_path):
    process = bundle("--epochs", "1000000")
    while not list((tmp_path / "ckpt").glob("model_last.pt.sha256")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in text
