"""``monai-passion bundles``: write the bundles from their fragments, check them, or export one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from monai_passion.errors import PassionError, UsageError
from monai_passion.system.files import PathLike
from monai_passion.system.output import refuse_older

if TYPE_CHECKING:
    from monai_passion.bundle.facts import BundleFacts

__all__ = ["check", "export", "make"]


def make(
    *,
    task: PathLike | None = None,
    network: str = "rfnet",
    method: str = "passion",
    configs: PathLike | None = None,
    output: PathLike = "bundles",
) -> list[Path]:
    """Write a bundle for a task of yours, or all bundles of this project from their fragments.

    Example:
        monai-passion bundles make --task my_task.json --network rfnet --output MY_BUNDLE
        monai-passion bundles make

    Args:
        task: a task file, see ``monai-passion task``, or the name of a task of this package.
        network: rfnet, mmformer, m2ftrans or transunet, for ``task``.
        method: how it is trained, a name in configs/methods, for ``task``.
        configs: folder of the fragments (default: those of this package; without ``task``, configs/).
        output: folder of the bundle, new or empty; its name becomes the bundle's. Without ``task``: folder of the
            bundles.

    Returns:
        The files that were written.

    Raises:
        UsageError: an unknown network, or a folder that is not empty.
        InputError: the task file is wrong; the message says where.
    """
    from monai_passion.bundle.materialize import make_bundle, materialize
    from monai_passion.tasks import load_task

    if task is None:
        changed = materialize(_fragments(configs or "configs"), Path(output))
        print("\n".join(f"wrote {path}" for path in changed) or "nothing to change")
        return changed
    output = Path(output)
    make_bundle(load_task(os.fspath(task)), network, output, method, None if configs is None else _fragments(configs))
    print(f"wrote {output}; its README has the commands: {output / 'docs' / 'README.md'}")
    return sorted(path for path in output.rglob("*") if path.is_file())


def check(*, configs: PathLike = "configs", output: PathLike = "bundles") -> None:
    """Change nothing; fail when a bundle differs from what the fragments make.

    Example:
        monai-passion bundles check

    Args:
        configs: folder of the fragments.
        output: folder of the bundles.

    Raises:
        PassionError: there are differences; the message names the files.
    """
    from monai_passion.bundle.materialize import drift

    if differing := drift(_fragments(configs), Path(output)):
        names = ", ".join(map(os.fspath, differing))
        raise PassionError(f"these differ from what {configs}/ makes: {names}; run: monai-passion bundles make")
    print(f"{output} equals what {configs} makes")


def export(
    bundle: str,
    *,
    output: PathLike,
    weights: PathLike | None = None,
    vendor: bool = False,
    url: str | None = None,
    trust: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write one bundle as a zip, or its network as ONNX or TorchScript.

    Example:
        monai-passion bundles export brats_mri_segmentation_rfnet_passion --weights RUN/model.pt --output rfnet.zip

    Args:
        bundle: its name or folder, or the output of ``train``.
        output: X.zip, X.onnx or X.ts, the file to write.
        weights: file (default: those in the bundle's models/, if any).
        vendor: include the package, so that it need not be installed.
        url: address at which the weights will lie; they are put beside the zip, which has a large_files.yml for them.
        trust: export ONNX or TorchScript of a bundle that is not this package's own.
        overwrite: replace an older file.

    Returns:
        ``output``.

    Raises:
        UsageError: ``output`` exists, or does not end in .zip, .ts or .onnx.
        WeightsError: the weights are not of this network.
    """
    from monai_passion.bundle.facts import find_bundle

    output, weights = Path(output), None if weights is None else Path(weights)
    if output.suffix not in (".zip", ".onnx", ".ts"):
        raise UsageError(f"--output must end in .zip, .onnx or .ts, got {output}")
    refuse_older(output, overwrite, [weights])
    facts = find_bundle(bundle)
    if facts.run is not None:
        weights = weights or facts.weights
    if output.suffix == ".zip":
        from monai_passion.bundle.export import export_bundle

        export_bundle(facts.path, output, weights, vendor, url)
    else:
        if vendor or url:
            raise UsageError(f"--{'vendor' if vendor else 'url'} is for a zip; {output.suffix} needs no package")
        _export_network(facts, output, weights, trust)
    without = weights is None and output.suffix == ".zip" and not any((facts.path / "models").glob("model*.*"))
    print(f"{output}: {_size(output)}{', without weights: add --weights FILE to put them in' * without}")
    return output


def _size(path: Path) -> str:
    """Of a file, as people read it."""
    size = path.stat().st_size
    return f"{size / 2**20:.1f} MB" if size > 2**19 else f"{size / 2**10:.0f} kB"


def _fragments(configs: PathLike) -> Path:
    if not (Path(configs) / "bundles.json").is_file():
        raise UsageError(f"{configs} has no bundles.json; run this in the project's folder or give --configs")
    return Path(configs)


def _export_network(bundle: BundleFacts, output: Path, weights: Path | None, trust: bool) -> None:
    from monai_passion.bundle.export import describe_network, export_onnx, export_torchscript
    from monai_passion.bundle.trust import check_trusted
    from monai_passion.bundle.weights import trained_settings
    from monai_passion.networks import MultiModalBackbone
    from monai_passion.prediction.segmenter import Segmenter
    from monai_passion.prediction.terminal import print_findings

    if not trust:
        check_trusted(bundle.path)
    segmenter = Segmenter(bundle, weights=weights, device="cpu")
    print_findings(segmenter.findings)
    if not isinstance(segmenter.network, MultiModalBackbone):
        raise UsageError(f"the network of {bundle.name} takes no mask of what is available; export it by MONAI's means")
    keys = ("roi_size", "overlap", "spacing", "crop_size", "pixel_size", "coarsen")
    settings = {key: segmenter.parser[key] for key in keys if key in segmenter.parser}
    if -1 in (sizes := settings["roi_size"]):  # as large as memory allows: what it was trained with
        crops = zip(sizes, settings["crop_size"], strict=True)
        settings["roi_size"] = [crop if size == -1 else size for size, crop in crops]
        print(f"roi_size is {sizes}; exported for windows of {settings['roi_size']} voxels, as crops of the training")
    facts = describe_network(bundle.path, segmenter.weights, **settings)
    if output.suffix == ".onnx":
        export_onnx(segmenter.network, output, settings["roi_size"], facts)
    else:
        trained = {**trained_settings(segmenter.facts), "roi_size": settings["roi_size"]}
        export_torchscript(segmenter.network, output, settings["roi_size"], bundle.path, facts, trained)
