"""``monai-passion score``: what to expect of weights, patient by patient and combination by combination."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from monai_passion.system.files import PathLike

__all__ = ["score"]


def score(
    data: PathLike,
    *,
    output: PathLike,
    datalist: PathLike | None = None,
    split: Literal["training", "validation", "test", "all"] = "all",
    labels: str | None = None,
    bundle: str | None = None,
    weights: PathLike | None = None,
    device: str | None = None,
    roi_size: Sequence[int] | int | None = None,
    overlap: float | None = None,
    precision: str | None = None,
    mirror: bool = False,
    ensemble: Sequence[PathLike] | None = None,
    decision: Literal["most_probable", "expected_dice"] | None = None,
    trust: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Score predict on labeled patients: every combination of their sequences, on the grid of their files.

    Example:
        monai-passion score DATA --output SCORES
        monai-passion score DATA --datalist DATALIST.json --split validation --weights RUN/model.pt --output SCORES

    Args:
        data: folder of patients with label maps, as in BraTS2020.
        output: folder for metrics.csv, summary.json and tables.md, the tables of a card.
        datalist: a JSON with the split of each patient (default: all belong to the test split).
        split: which patients (default: all).
        labels: meaning of label values, as for datalist, for data without a datalist (default: found out).
        bundle: its folder or name (default: the RFNet bundle for brain tumors).
        weights: file (default: as for predict).
        device: cpu, cuda or cuda:1 (default: cuda where there is one).
        roi_size: sliding window in voxels, such as 96 or 96x96x64; -1 for as large as memory allows (default: the
            bundle's).
        overlap: overlap of windows, 0 to 1 (default: the bundle's).
        precision: fp32, bf16, fp16 (on a GPU) or auto (default: auto).
        mirror: as for predict.
        ensemble: as for predict.
        decision: as for predict.
        trust: as for predict.
        overwrite: replace earlier scores.

    Returns:
        The content of summary.json. Copy the file beside the weights to let predict warn of poor regions.

    Raises:
        InputError: no labeled patients, or files that cannot be used.
        UsageError: ``output`` is not empty, or both ``labels`` and a datalist are given.
        WeightsError: no weights, or those of another network.
    """
    from monai_passion.bundle.facts import find_networks
    from monai_passion.data.datalists import absolute, labeled_items, load_datalist, make_datalist
    from monai_passion.data.verify import verify_datalist
    from monai_passion.errors import InputError, UsageError
    from monai_passion.evaluation.summary import read_metrics, summarize, write_metrics, write_summary
    from monai_passion.prediction.scoring import score_patients
    from monai_passion.prediction.segmenter import Segmenter
    from monai_passion.prediction.terminal import print_findings
    from monai_passion.reporting.card import card_tables
    from monai_passion.system.files import sha256, write_text
    from monai_passion.system.output import output_folder

    if labels and datalist:
        raise UsageError("--labels is for data without a datalist, which says what its labels mean; leave one out")
    facts, members = find_networks(bundle, ensemble, trust)
    root, output = Path(data), Path(output)
    if datalist:
        lists = load_datalist(datalist, root, facts.task)
    else:
        lists = absolute(make_datalist(root, task=facts.task, fractions=(0, 0, 1), labels=labels), root)
    chosen = ("training", "validation", "test") if split == "all" else (split,)
    labeled = {name: labeled_items(lists[name]) for name in chosen}
    items = [item for found, _ in labeled.values() for item in found]
    if not items:
        raise InputError(f"{data} has no patients with a label map in {' or '.join(chosen)}; give others")
    if unlabeled := [case for _, others in labeled.values() for case in others]:
        print(f"warning: not scored for lack of a label: {', '.join(unlabeled)}")
    scored = {name: found for name, (found, _) in labeled.items()}
    file = None if weights is None else Path(weights)
    with output_folder(output, overwrite=overwrite, last="summary.json") as folder:
        verify_datalist({"labels": lists.get("labels"), **scored}, chosen, "repair", facts.spatial_dims)
        segmenter = Segmenter(
            facts,
            weights=file,
            device=device,
            roi_size=roi_size,
            overlap=overlap,
            precision=precision,
            mirror=mirror,
            ensemble=members,
            decision=decision,
        )
        print_findings(segmenter.findings)
        rows = score_patients(items, segmenter, lambda case, dice: print(f"{case}  mean Dice {dice:.3f}", flush=True))
        table = read_metrics(write_metrics(rows, folder / "metrics.csv"))
        told = {"weights_sha256": sha256(segmenter.weights), "split": split, **segmenter.settings}
        write_summary(summarize(table), folder / "summary.json", **told)
        write_text(folder / "tables.md", card_tables(table, segmenter.bundle.task.titles))
    path = output / "summary.json"
    cases, patients = (table[name].nunique() for name in ("case", "patient"))
    print(f"mean Dice {table['dice'].mean():.3f} (patients: {patients}, cases: {cases}); {path}")
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
