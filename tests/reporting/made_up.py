"""Folders of runs with made-up scores."""

import json

import numpy as np
import pandas as pd

from monai_passion.evaluation.metrics import BRATS_REGIONS
from monai_passion.evaluation.summary import write_metrics
from monai_passion.modalities import combinations


def write_run(
    folder,
    *,
    label=None,
    gain=0.0,
    modalities=("flair", "t1c", "t1", "t2"),
    regions=BRATS_REGIONS,
    n=6,
    curves=True,
    facts=None,
):
    """The same numbers each time; ``gain`` is added to every Dice, ``facts`` are the run.json."""
    rng = np.random.default_rng(0)
    rows = [
        {"case": f"p{i}", "patient": f"p{i}", "combination": "+".join(names), "region": region}
        | {"convention": convention, "dice": rng.uniform(0.3, 0.7) + gain, "hd95": rng.uniform(2, 9)}
        | {"assd": 1.0, "nsd": 0.5, "predicted_ml": 9.0, "reference_ml": 8.0}
        for i in range(n)
        for names in combinations(modalities)
        for region in regions
        for convention in ("challenge", "released")
    ]
    write_metrics(rows, folder / "metrics.csv")
    if label is not None or facts is not None:
        (folder / "run.json").write_text(json.dumps(facts or {"label": label}))
    if curves:
        lines = [(e, "beta", m, 1 + 0.1 * e * k) for e in range(4) for k, m in enumerate(modalities)]
        lines += [(e, "relative_preference", m, 0.1 * k) for e in range(4) for k, m in enumerate(modalities)]
        lines += [(e, "loss/segmentation", "", 1 / (e + 1)) for e in range(4)] + [(3, "val_dice", "", 0.625)]
        table = pd.DataFrame(lines, columns=["epoch", "name", "modality", "value"])
        table.to_csv(folder / "curves.csv", index=False)
    return folder
