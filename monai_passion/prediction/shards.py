"""A cohort in shards, each a process that an engine starts: on this machine or in a Ray cluster."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_passion.errors import ResourceError
from monai_passion.prediction.cohort import failure, read_manifests, shard_manifest, write_manifest
from monai_passion.prediction.run import Stage, silent
from monai_passion.system.engines import Engine, Process, end_processes

__all__ = ["predict_shards"]


def predict_shards(
    words: Sequence[str],
    patients: Sequence[str],
    output: Path,
    engine: Engine,
    shards: int,
    stage: Stage = silent,
    pause: float = 1.0,
) -> dict[str, dict[str, Any]]:
    """Run ``monai-passion WORDS --shard k/N`` for each k, until each patient has a result or an error.

    A shard whose process was killed is started again and goes on where it was. If it is killed twice at one patient,
    its remaining patients have failed. The output of each shard is in ``output``/shards.

    Args:
        words: of the command, without the shard.
        patients: their names, in the order in which the command takes them.
        output: the folder that all shards share.
        engine: starts the processes, some at a time.
        shards: how many.

    Raises:
        UsageError: ``output`` holds something else.

    Returns:
        As `monai_passion.prediction.cohort.predict_cohort`.
    """
    logs, there = output / "shards", read_manifests(output)
    own = {k: patients[k - 1 :: shards] for k in range(1, shards + 1)}
    logs.mkdir(parents=True, exist_ok=True)
    first = {name: there[name] for name in own[1] if name in there}
    write_manifest(shard_manifest(output, (1, shards)), first, patients)  # the folder is known as that of a cohort
    waiting, running, ended_before = deque(own), dict[int, Process](), dict[int, int]()
    try:
        while waiting or running:
            while waiting and (engine.jobs is None or len(running) < engine.jobs):
                k = waiting.popleft()
                arguments = ("monai_passion.cli.tied", *words, "--shard", f"{k}/{shards}")
                running[k] = engine.start(arguments, logs / f"{k}of{shards}.txt")
            ended = len(read_manifests(output))
            stage(f"{ended} of {len(patients)} patients", ended / max(len(patients), 1))
            for k, process in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                del running[k]
                done = len(read_manifests(output).keys() & set(own[k]))
                if (code < 0 or done < len(own[k])) and done > ended_before.get(k, -1):
                    ended_before[k] = done
                    waiting.append(k)
            if running:
                time.sleep(pause)
    finally:
        end_processes(running.values())
    found = read_manifests(output)
    for k, names in own.items():
        killed = ResourceError(f"its process was killed or could not be started; see {logs / f'{k}of{shards}.txt'}")
        if missing := {name: failure(killed) for name in names if name not in found}:
            rest = {name: found[name] for name in names if name in found}
            write_manifest(shard_manifest(output, (k, shards)), {**rest, **missing}, patients)
            found |= missing
    return {name: found[name] for name in patients}
