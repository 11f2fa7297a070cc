import os
import pickle
import resource
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from monai_passion.errors import ResourceError, UsageError, WeightsError
from monai_passion.handlers import (
    CheckpointHandler,
    newest_checkpoint,
    read_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from monai_passion.handlers import checkpoint as module
from tests.handlers import toy

STATE = {"a": torch.arange(1000.0), "b": {"c": [1, 2.5, "text"]}}


def flip_bit(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path):
    write_checkpoint(STATE, tmp_path / "new" / "x.pt")
    back = read_checkpoint(tmp_path / "new" / "x.pt")
    assert torch.equal(back["a"], STATE["a"])
    assert back["b"] == STATE["b"]
    assert names(tmp_path / "new") == ["x.pt", "x.pt.sha256"]


def test_the_sidecar_is_what_sha256sum_checks(tmp_path):
    write_checkpoint(STATE, tmp_path / "x.pt")
    write_checkpoint({"a": torch.zeros(3)}, tmp_path / "x.pt")
    subprocess.run(["sha256sum", "--check", "--strict", "x.pt.sha256"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_one_flipped_bit_is_found_and_both_sums_are_named(tmp_path, at):
    path = tmp_path / "x.pt"
    write_checkpoint(STATE, path)
    expected = (tmp_path / "x.pt.sha256").read_text().split()[0]
    flip_bit(path, at)
    assert not verify_checkpoint(path)
    with pytest.raises(WeightsError, match=f"SHA-256 is (?!{expected})[0-9a-f]{{64}} instead of {expected}"):
        read_checkpoint(path)


@pytest.mark.parametrize("size", [0, 1, 500, -1])
def test_a_truncated_file_does_not_verify(tmp_path, size):
    path = tmp_path / "x.pt"
    write_checkpoint(STATE, path)
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    assert not verify_checkpoint(path)


def test_a_file_without_sidecar_or_that_is_not_there_does_not_verify(tmp_path):
    write_checkpoint(STATE, tmp_path / "x.pt")
    (tmp_path / "x.pt.sha256").unlink()
    assert not verify_checkpoint(tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="does not exist"):
        read_checkpoint(tmp_path / "y.pt")


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_pickle_that_would_run_code_is_never_run_even_with_the_right_sum(tmp_path, save):
    path, harm = tmp_path / "checkpoint_epoch=1.pt", tmp_path / "harm"
    save(Malicious(harm), path)
    digest = subprocess.run(["sha256sum", path.name], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (tmp_path / f"{path.name}.sha256").write_text(digest)
    assert newest_checkpoint(tmp_path) is None
    with pytest.raises(WeightsError, match="is no checkpoint of tensors and plain values"):
        read_checkpoint(path)
    assert not harm.exists()


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "x.pt"
    write_checkpoint(STATE, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(ResourceError, match=r"x\.pt could not be written: File too large"):
            write_checkpoint({"a": torch.zeros(1 << 20)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(read_checkpoint(path)["a"], STATE["a"])
    assert names(tmp_path) == ["x.pt", "x.pt.sha256"]


def test_the_file_verifies_at_every_step_of_replacing_it(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    write_checkpoint(STATE, path)
    seen, replace = [], os.replace

    def watched(*args):
        replace(*args)
        seen.append(verify_checkpoint(path))

    monkeypatch.setattr(module.os, "replace", watched)
    write_checkpoint({"a": torch.zeros(3)}, path)
    assert seen == [True, True, True]


def test_what_takes_the_final_name_is_on_the_disk_first_and_then_the_folder(tmp_path, monkeypatch):
    steps, replace, fsync = [], os.replace, os.fsync

    def synced(handle):
        steps.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def replaced(source, target):
        steps.append(("replace", Path(source).name))
        replace(source, target)

    monkeypatch.setattr(module.os, "fsync", synced)
    monkeypatch.setattr(module.os, "replace", replaced)
    write_checkpoint(STATE, tmp_path / "x.pt")
    replacements = [(at, name) for at, (what, name) in enumerate(steps) if what == "replace"]
    assert len(replacements) == 2  # the checksum, then the file
    for at, name in replacements:
        assert ("sync", name) in steps[:at]
        assert steps[at + 1] == ("sync", tmp_path.name)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_dying_between_the_steps_twice_in_a_row_keeps_the_file_verifiable(tmp_path, monkeypatch, step):
    path = tmp_path / "x.pt"
    write_checkpoint(STATE, path)
    replace = os.replace
    for value in (1.0, 2.0):
        left = [step]

        def dying(*args, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            replace(*args)

        monkeypatch.setattr(module.os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint({"a": torch.full((3,), value)}, path)
        assert verify_checkpoint(path)


def test_the_newest_is_the_highest_epoch_that_verifies_and_each_damaged_one_is_named_once(tmp_path, caplog):
    for epoch in (9, 10, 11):
        write_checkpoint({"epoch": epoch}, tmp_path / f"checkpoint_epoch={epoch}.pt")
    write_checkpoint({}, tmp_path / "checkpoint_epoch=12.pt.bak.pt")
    flip_bit(tmp_path / "checkpoint_epoch=11.pt")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint_epoch=10.pt"
    assert len(caplog.records) == 1
    assert "checkpoint_epoch=11.pt is damaged" in caplog.text
    assert newest_checkpoint(tmp_path / "missing") is None


def test_the_folder_holds_the_last_two_the_best_and_the_last_model(tmp_path):
    trainer = toy.build(tmp_path, epochs=4)
    trainer.run()
    files = ["checkpoint_epoch=3.pt", "checkpoint_epoch=4.pt", "model.pt", "model_last.pt"]
    assert names(tmp_path) == sorted(files + [f"{name}.sha256" for name in files])


def test_model_pt_is_of_the_epoch_with_the_best_score(tmp_path):
    trainer = toy.build(tmp_path, epochs=3, keep=3)
    trainer.toy["evaluator"].metric_cmp_fn = lambda new, best: trainer.state.epoch == 2
    trainer.run()
    best = read_checkpoint(tmp_path / "model.pt")["model"]
    second = read_checkpoint(tmp_path / "checkpoint_epoch=2.pt")["model"]
    last = read_checkpoint(tmp_path / "checkpoint_epoch=3.pt")["model"]
    assert toy.different(best, second) == []
    assert toy.different(best, last) != []
    assert toy.different(read_checkpoint(tmp_path / "model_last.pt")["model"], last) == []


def test_a_resumed_training_remembers_its_best_score(tmp_path):
    toy.build(tmp_path, epochs=1).run()
    first = (tmp_path / "model.pt").read_bytes()
    resumed = toy.build(tmp_path, epochs=2)
    resumed.toy["evaluator"].metric_cmp_fn = lambda new, best: False
    resumed.run()
    assert resumed.toy["evaluator"].state.best_metric_epoch == 1
    assert (tmp_path / "model.pt").read_bytes() == first


def test_a_damaged_later_checkpoint_does_not_count_among_those_kept(tmp_path):
    toy.build(tmp_path, epochs=4, keep=3).run()
    flip_bit(tmp_path / "checkpoint_epoch=3.pt")
    flip_bit(tmp_path / "checkpoint_epoch=4.pt")
    toy.build(tmp_path, epochs=3, keep=2).run()
    assert verify_checkpoint(tmp_path / "checkpoint_epoch=2.pt")
    assert verify_checkpoint(tmp_path / "checkpoint_epoch=3.pt")


def test_a_resumed_training_says_so_and_stops_at_max_epochs(tmp_path, caplog):
    toy.build(tmp_path, epochs=2).run()
    caplog.set_level("INFO")
    trainer = toy.build(tmp_path, epochs=3, handlers=[toy.Log(tmp_path / "log")])
    trainer.run()
    assert any(record.message.startswith("resuming from") for record in caplog.records)
    assert (tmp_path / "log").read_text() == "3\n"
    assert trainer.state.iteration == 9


def test_a_finished_training_is_not_repeated(tmp_path):
    toy.build(tmp_path, epochs=2).run()
    toy.build(tmp_path, epochs=2, handlers=[toy.Log(tmp_path / "log")]).run()
    assert not (tmp_path / "log").exists()


def test_the_interval_decides_which_epochs_are_kept_and_the_last_always_is(tmp_path):
    toy.build(tmp_path, epochs=5, interval=2, keep=9).run()
    assert [n for n in (1, 2, 3, 4, 5) if (tmp_path / f"checkpoint_epoch={n}.pt").exists()] == [2, 4, 5]


def test_a_damaged_newest_checkpoint_costs_one_epoch_and_the_end_is_the_same(tmp_path):
    toy.build(tmp_path / "a", epochs=3).run()
    whole = toy.build(tmp_path / "b", epochs=3)
    whole.run()
    flip_bit(tmp_path / "a" / "checkpoint_epoch=3.pt")
    resumed = toy.build(tmp_path / "a", epochs=3, handlers=[toy.Log(tmp_path / "log")])
    resumed.run()
    assert (tmp_path / "log").read_text() == "3\n"
    assert toy.different(toy.everything(whole), toy.everything(resumed)) == []
    assert verify_checkpoint(tmp_path / "a" / "checkpoint_epoch=3.pt")


def test_old_checkpoints_stay_until_the_new_one_verifies(tmp_path, monkeypatch):
    toy.build(tmp_path, epochs=2).run()
    real = module.write_checkpoint

    def broken(state, path):
        real(state, path)
        flip_bit(Path(path))

    monkeypatch.setattr(module, "write_checkpoint", broken)
    with pytest.raises(WeightsError, match="just written, is damaged"):
        toy.build(tmp_path, epochs=3, evaluator=None).run()
    assert verify_checkpoint(tmp_path / "checkpoint_epoch=1.pt")
    assert verify_checkpoint(tmp_path / "checkpoint_epoch=2.pt")


def test_nothing_starts_over_when_no_checkpoint_is_intact(tmp_path):
    toy.build(tmp_path, epochs=2).run()
    for epoch in (1, 2):
        flip_bit(tmp_path / f"checkpoint_epoch={epoch}.pt")
    with pytest.raises(WeightsError, match=r"epoch=1\.pt, checkpoint_epoch=2\.pt.*start anew"):
        toy.build(tmp_path, epochs=3).run()


def test_resume_false_never_overwrites_a_training(tmp_path):
    toy.build(tmp_path, epochs=1, resume=False).run()
    with pytest.raises(UsageError, match="holds a training of 1 epochs and resume is false"):
        toy.build(tmp_path, epochs=2, resume=False).run()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"net": toy.Net(modalities=4)}, r"model\.encoders\.3.* is only here"),
        ({"net": toy.Net(modalities=2)}, r"model\.encoders\.2.* is only there"),
        ({"net": toy.Net(classes=5)}, r"model\.head\.weight is \(2, 4, 1, 1\) there and \(5, 4, 1, 1\) here"),
        ({"net": torch.nn.Conv2d(3, 2, 1)}, "network is Net there and Conv2d here"),
        ({"metadata": {"modalities": ["t1", "t2"]}}, r"modalities is None there and \['t1', 't2'\] here"),
        ({"data": toy.cases()[:4]}, "iterations per epoch is 3 there and 2 here"),
    ],
)
def test_a_checkpoint_of_another_training_changes_nothing_and_the_differences_are_listed(tmp_path, changes, said):
    toy.build(tmp_path, epochs=1).run()
    trainer = toy.build(tmp_path, epochs=2, **changes)
    before = toy.everything(trainer)
    with pytest.raises(WeightsError, match=said):
        trainer.run()
    assert toy.different(before, toy.everything(trainer)) == []


def test_a_full_disk_is_tried_again_and_ends_the_training_with_the_third_time(tmp_path, monkeypatch, caplog):
    toy.build(tmp_path, epochs=1).run()

    def full(state, path):
        raise ResourceError("no space")

    monkeypatch.setattr(module, "write_checkpoint", full)
    trainer = toy.build(tmp_path, epochs=9, evaluator=None)
    with pytest.raises(ResourceError):
        trainer.run()
    assert trainer.state.epoch == 4
    assert [r.message for r in caplog.records if "more tries" in r.message] == [
        "no space; training goes on, 2 more tries",
        "no space; training goes on, 1 more tries",
    ]


def test_state_that_could_not_be_read_back_is_found_when_it_is_written(tmp_path):
    class Odd:
        def state_dict(self):
            return {"path": Path("x")}

        def load_state_dict(self, state): ...

    net = toy.Net()
    with pytest.raises(WeightsError, match="just written, is no checkpoint of tensors and plain values"):
        toy.build(tmp_path, epochs=1, net=net, save_dict={"model": net, "odd": Odd()}).run()


@pytest.mark.parametrize("save", [{}, {"network": 1}, {"model": 1, "trainer": 2}])
def test_a_save_dict_without_model_or_with_reserved_names_is_refused(tmp_path, save):
    with pytest.raises(ValueError, match="save_dict has"):
        CheckpointHandler(tmp_path, save)


def test_a_signal_during_a_write_takes_effect_after_it(tmp_path, monkeypatch):
    real = module.write_checkpoint
    arrived = []

    def slow(state, path):
        signal.raise_signal(signal.SIGTERM)
        real(state, path)
        arrived.append(path.name)

    monkeypatch.setattr(module, "write_checkpoint", slow)
    with pytest.raises(SystemExit) as end:
        toy.build(tmp_path, epochs=2, evaluator=None).run()
    assert end.value.code == 143
    assert arrived == ["checkpoint_epoch=1.pt", "model_last.pt"]
    assert verify_checkpoint(tmp_path / "checkpoint_epoch=1.pt")
