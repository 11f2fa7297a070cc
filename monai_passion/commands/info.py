"""``monai-passion info``: the available bundles, their inputs and outputs; without loading torch."""

from __future__ import annotations

from json import dumps
from typing import Any

from monai_passion import NOTICE, __version__

__all__ = ["info"]


def info(bundle: str | None = None, *, json: bool = False) -> list[dict[str, Any]]:
    """List the bundles, their sequences and labels.

    Example:
        monai-passion info
        monai-passion info brats_mri_segmentation_rfnet_passion --json

    Args:
        bundle: its folder or name (default: all that are found).
        json: print JSON.

    Returns:
        Name, version, path, modalities, labels and regions of each bundle, and its weights: its own, else those that
        came with this package.

    Raises:
        UsageError: no such bundle.
    """
    from monai_passion.bundle.facts import known_bundles

    rows = [_describe(name) for name in ([bundle] if bundle else known_bundles())]
    if json:
        print(dumps({"monai_passion": __version__, "notice": NOTICE, "bundles": rows}, indent=2))
        return rows
    for row in rows:
        print(f"{row['name']} {row['version']}  {row['path']}")
        print(f"  sequences  {', '.join(modality['name'] for modality in row['modalities'])}")
        print(f"  labels     {', '.join('{value} {name}'.format(**label) for label in row['labels'])}")
        print(f"  regions    {', '.join('{name} {values}'.format(**region) for region in row['regions'])}")
        none = f"none; make some: monai-passion train DATA --bundle {row['name']} --output RUN"
        print(f"  weights    {', '.join(row['weights']) or none}")
    if not rows:
        print("no bundles here; give --bundle FOLDER, or run where bundles/ is")
    return rows


def _describe(bundle: str) -> dict[str, Any]:
    from monai_passion.bundle.facts import find_bundle
    from monai_passion.bundle.weights import shipped_weights

    facts = find_bundle(bundle)
    models = facts.run or facts.path / "models"
    weights = sorted(path for path in models.glob("*") if path.suffix in (".pt", ".safetensors"))
    shipped = shipped_weights(facts.name)
    if not weights and not facts.run and shipped:
        weights = [shipped]
    return {
        "name": facts.name,
        "version": facts.version,
        "path": str(facts.path),
        "modalities": [{"name": m.name, "title": m.title, "aliases": list(m.aliases)} for m in facts.task.modalities],
        "labels": [
            {"value": value, "name": name} for value, name in zip(facts.label_values, facts.class_names, strict=True)
        ],
        "regions": [
            {"name": name, "values": [facts.label_values[k] for k in classes]}
            for name, classes in facts.regions.items()
        ],
        "weights": [str(path) for path in weights],
    }
