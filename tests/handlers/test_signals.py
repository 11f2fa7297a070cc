import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time

import pytest
from ignite.engine import Events

from monai_passion.errors import UsageError
from monai_passion.handlers import RunLock, SignalHandler, newest_checkpoint
from monai_passion.handlers.signals import _lost_worker, deferred_signals
from tests.handlers import toy


def wait_for(condition, process, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive(), "the process ended early"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_training_with_its_code_and_a_checkpoint_to_resume_from(tmp_path, number, code, workers):
    process = toy.start(tmp_path, epochs=100_000, workers=workers)
    wait_for(lambda: newest_checkpoint(tmp_path), process)
    os.kill(process.pid, number)
    process.join(20)
    assert process.exitcode == code
    trained = len((tmp_path.parent / f"{tmp_path.name}.log").read_text().split())
    epoch = int(newest_checkpoint(tmp_path).stem.split("=")[1])
    assert trained - 1 <= epoch <= trained
    resumed = toy.build(tmp_path, epochs=epoch + 1, handlers=[toy.Log(tmp_path / "log")])
    resumed.run()
    assert (tmp_path / "log").read_text() == f"{epoch + 1}\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_swallowed_by_a_destructor_still_ends_the_training(tmp_path):
    class Swallow:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_STARTED, self)

        def __call__(self, engine):
            if engine.state.iteration == 2:

                class Dies:
                    def __del__(self):
                        signal.raise_signal(signal.SIGTERM)

                Dies()

    trainer = toy.build(tmp_path, epochs=3, handlers=[Swallow()])
    with pytest.raises(SystemExit) as end:
        trainer.run()
    assert end.value.code == 143
    assert trainer.state.iteration == 3


@pytest.mark.parametrize("data", [None, [{"image": "nonsense"}]])
def test_the_handlers_that_were_there_come_back_after_the_training_however_it_ends(tmp_path, data):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with contextlib.nullcontext() if data is None else pytest.raises(RuntimeError):
        toy.build(tmp_path, epochs=1, data=data).run()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_worker_process_that_gets_ctrl_c_leaves_the_stopping_to_the_training(tmp_path):
    handler = SignalHandler()
    handler.started(toy.build(tmp_path))
    try:
        if (child := os.fork()) == 0:  # as the data loader does
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                os._exit(1 if sys.exc_info()[0] else 0)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        handler.restore()


def test_held_signals_arrive_at_the_end_of_the_block(request):
    # Whoever started the tests in the background had Ctrl-C ignored.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, previous))
    steps = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with deferred_signals():
            signal.raise_signal(signal.SIGINT)
            steps.append("inside")
        steps.append("after")
    assert steps == ["inside"]


def hold(folder, ready):
    RunLock(folder).acquire()
    ready.set()
    time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(20)
    yield process
    process.kill()
    process.join()


def test_a_second_training_in_the_folder_is_refused_and_the_first_is_named(tmp_path, holder):
    with pytest.raises(UsageError, match=f"in use by another training \\(process {holder.pid} on host"):
        toy.build(tmp_path, epochs=1).run()
    with pytest.raises(UsageError):  # asking does not break it
        RunLock(tmp_path).acquire()


def test_the_lock_of_a_killed_training_is_recognized_as_stale(tmp_path, holder, caplog):
    holder.kill()
    holder.join()
    caplog.set_level(logging.WARNING)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert f"stale: that training (process {holder.pid} on host" in caplog.text
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_process_keeps_the_lock_that_another_part_of_it_asks_for_too(tmp_path):
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    second.acquire()
    assert second.owner() is None
    second.release()
    other = multiprocessing.get_context("fork").Process(target=RunLock(tmp_path).acquire)
    other.start()
    other.join(20)
    assert other.exitcode == 1
    first.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("numbers", [[signal.SIGCHLD], [signal.SIGCHLD, signal.SIGTERM]])
def test_a_dead_worker_is_heard_of_when_the_block_ends_and_sigterm_goes_before_it(numbers):
    def raises(number, frame):
        raise RuntimeError(signal.Signals(number).name)

    previous = {number: signal.signal(number, raises) for number in (signal.SIGCHLD, signal.SIGTERM)}
    reached = []
    try:
        with pytest.raises(RuntimeError, match=numbers[-1].name), deferred_signals():
            reached += [signal.raise_signal(number) for number in numbers]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert len(reached) == len(numbers)


class Broken:
    def __init__(self, error):
        self.error = error

    def attach(self, engine):
        engine.data_loader.dataset.transform = self

    def __call__(self, item):
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("mine"), EOFError("mine")])
def test_an_error_in_a_worker_is_not_taken_for_a_dead_worker(tmp_path, error):
    with pytest.raises(type(error), match="mine"):
        toy.build(tmp_path, workers=1, handlers=[Broken(error)]).run()


def test_a_pipe_that_a_dying_worker_closed_is_taken_for_a_dead_worker():
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(EOFError) as raised:
        ours.recv()
    assert _lost_worker(raised.value)
