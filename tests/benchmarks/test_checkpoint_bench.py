"""What safe checkpoints cost of a training epoch of `make demo`."""

import statistics
import time
from pathlib import Path

import pytest
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from monai_passion.cli import main
from monai_passion.handlers import CheckpointHandler

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "brats_mri_segmentation_rfnet_passion"
EPOCHS = 3


@pytest.mark.bench
def test_safe_checkpoints_take_at_most_5_percent_of_an_epoch_of_the_demo(tmp_path, monkeypatch):
    assert main(["phantom", "brats", str(tmp_path / "cohort"), "--cases", "28", "--size", "48", "--seed", "1"]) == 0
    monkeypatch.syspath_prepend(str(BUNDLE))
    workflow = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / "train.json"), str(ROOT / "configs" / "smoke.json")],
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=str(BUNDLE / "configs" / "logging.conf"),
        workflow_type="train",
        device="cpu",
        dataset_dir=str(tmp_path / "cohort"),
        ckpt_dir=str(tmp_path / "run"),
        epochs=EPOCHS,
        val_interval=EPOCHS + 1,
    )
    saving, ends = [], []
    save = CheckpointHandler.completed_epoch

    def timed(self, engine):
        start = time.perf_counter()
        save(self, engine)
        ends.append(time.perf_counter())
        saving.append(ends[-1] - start)

    monkeypatch.setattr(CheckpointHandler, "completed_epoch", timed)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    starts = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: starts.append(time.perf_counter()))
    workflow.run()
    epochs = [end - start for start, end in zip(starts, ends, strict=True)]
    ratios = [part / whole for part, whole in zip(saving, epochs, strict=True)]
    size = sum(path.stat().st_size for path in (tmp_path / "run").glob("*_epoch=3.pt")) / 1e6
    print(f"\nsaving {', '.join(f'{s:.2f}' for s in saving)} s of epochs of {', '.join(f'{s:.1f}' for s in epochs)} s")
    print(f"{100 * statistics.median(ratios):.1f} % of an epoch, a checkpoint of {size:.0f} MB")
    assert len(saving) == EPOCHS
    assert statistics.median(ratios) <= 0.05
