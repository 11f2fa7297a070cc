"""Two processes that train together, on the CPU."""

import math
import multiprocessing
import os

import torch
from torch.nn.parallel import DistributedDataParallel

from monai_passion.handlers import newest_checkpoint, read_checkpoint
from tests.handlers import toy


def train_rank(rank, folder, port, epochs):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0")
    torch.distributed.init_process_group("gloo")
    data = toy.cases()
    for case in data:
        if rank == 1 and case["case"] == "case3":
            case["image"][:] = math.nan
    torch.manual_seed(0)
    net = DistributedDataParallel(toy.Net(), find_unused_parameters=True)
    trainer = toy.build(folder / "ckpt", epochs=epochs, data=data, net=net, evaluator=None)
    trainer.run()
    torch.save([p.detach() for p in net.parameters()], folder / f"rank{rank}_{epochs}.pt")
    torch.distributed.destroy_process_group()


def train(folder, port, epochs):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=train_rank, args=(rank, folder, port, epochs)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"rank{rank}_{epochs}.pt") for rank in range(2)]


def test_two_processes_skip_together_resume_together_and_save_the_plain_network(tmp_path):
    port = 20000 + os.getpid() % 20000
    train(tmp_path, port, epochs=1)
    resumed = train(tmp_path, port + 1, epochs=3)
    (tmp_path / "whole").mkdir()
    whole = train(tmp_path / "whole", port + 2, epochs=3)
    for here, other in zip(*resumed, strict=True):
        assert torch.equal(here, other)
        assert bool(here.isfinite().all())
    for here, other in zip(resumed[0], whole[0], strict=True):
        assert torch.equal(here, other)
    model = read_checkpoint(newest_checkpoint(tmp_path / "ckpt"))["model"]
    assert list(model) == list(toy.Net().state_dict())
