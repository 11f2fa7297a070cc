"""``monai-passion compare``: two examinations of one patient."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_passion.errors import UsageError
from monai_passion.system.files import PathLike

if TYPE_CHECKING:
    from monai_passion.bundle.facts import BundleFacts
    from monai_passion.prediction.compare import Examination
    from monai_passion.prediction.terminal import Voice

__all__ = ["compare"]


def compare(
    before: PathLike,
    after: PathLike,
    *,
    output: PathLike,
    bundle: str | None = None,
    weights: PathLike | None = None,
    device: str | None = None,
    register: bool = False,
    overwrite: bool = False,
    trust: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Compare two examinations of one patient: volumes, diameters, what is new and what is gone.

    Example:
        monai-passion compare EARLIER LATER --output OUT

    The earlier images are registered rigidly onto the later ones. The category by RANO's thresholds is a computation
    from two segmentations, not a judgment.

    Args:
        before: the earlier examination: a folder of its images, which are segmented first; or what ``predict
            --keep-names`` wrote.
        after: the later one, likewise.
        output: a new or empty folder, for comparison.html, comparison.json, preview.png and, on the later grid,
            segmentation_before.nii.gz; the results of images that are segmented first are in its before and after.
        bundle: its folder or name, where images are segmented (default: the RFNet bundle for brain tumors).
        weights: file, where images are segmented.
        device: cpu, cuda or cuda:1.
        register: co-register the sequences of each examination first.
        overwrite: replace what an earlier run left in the output.
        trust: run a bundle that is not this package's own; it can run any program.
        quiet: print errors only.

    Returns:
        The content of comparison.json.

    Raises:
        InputError: a folder that is neither, or examinations that share no sequence.
    """
    import numpy as np
    from matplotlib.image import imsave

    from monai_passion.bundle.facts import find_networks
    from monai_passion.data.patient import Finding
    from monai_passion.prediction.compare import compare as compared
    from monai_passion.prediction.output.html import make_comparison_page
    from monai_passion.prediction.output.images import write_labels
    from monai_passion.prediction.output.preview import preview
    from monai_passion.prediction.run import Options
    from monai_passion.prediction.segmenter import Segmenter
    from monai_passion.prediction.terminal import speaking
    from monai_passion.system.output import output_folder, writing

    facts, _ = find_networks(bundle, None, trust)
    file = None if weights is None else Path(weights)
    open_segmenter = functools.cache(functools.partial(Segmenter, facts, weights=file, device=device))
    options = Options(register=register)
    target = Path(output)
    _check_apart(target, (Path(before), Path(after)))
    with (
        output_folder(target, [], overwrite, last="comparison.json", replaces=("before", "after")) as folder,
        speaking(quiet) as voice,
    ):
        first = _examination(Path(before), folder / "before", facts, open_segmenter, options, voice)
        second = _examination(Path(after), folder / "after", facts, open_segmenter, options, voice)
        voice.stage("registering")
        result, views, findings = compared(first, second)
        for finding in findings:
            voice.finding(Finding(**finding))
        voice.stage("writing")
        labels = np.rint(second.labels.data).astype(np.uint16)
        affine = second.labels.affine
        with writing(target):
            write_labels(folder / "segmentation_before.nii.gz", views["labels_before"], second.labels.path)
            images = {"before": views["before"], "after": views["after"]}
            maps = {"before": views["labels_before"], "after": labels}
            titles = {**second.report["titles"], "before": "before", "after": "after"}
            shown = {**second.report, "titles": titles, "findings": result["findings"]}
            still = preview(images, maps, affine, shown, _told(result, second.report["titles"]))
            imsave(folder / "preview.png", still)
            page = make_comparison_page(result, views, labels, affine, second.report, still)
            (folder / "comparison.html").write_text(page, encoding="utf-8")
            (folder / "comparison.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        voice.repeat()
    if not quiet:
        print("\n".join(_changes(result)))
        if category := result["category"]:
            print(category["caveat"])
        print(f"{target}: {', '.join(sorted(path.name for path in target.iterdir()))}")
        print(result["notice"])
    return result


def _changes(result: Mapping[str, Any]) -> list[str]:
    """A line per region, and one for the category."""
    lines = []
    for row in result["regions"]:
        volume = row["volume_ml"]
        percent = "" if volume["percent"] is None else f" ({volume['percent']:+.0f} %)"
        lines.append(f"{row['title']}: {volume['before']:.2f} -> {volume['after']:.2f} mL{percent}")
    if category := result["category"]:
        lines.append(f"{category['category']} by the thresholds of RANO for {category['region']}: {category['why']}")
    return lines


def _told(result: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    """What stands beneath the picture: the changes, the sequences of each day, the notice."""
    used = (f"{day} from {', '.join(titles.get(m, m) for m in result['used'][day])}" for day in ("before", "after"))
    return [*_changes(result), "; ".join(used), result["notice"]]


def _check_apart(output: Path, sources: Sequence[Path]) -> None:
    """Refuse an output that holds what is compared, or folders that are not results where those of the days go."""
    home = os.path.realpath(output)
    for source in map(os.path.realpath, sources):
        if os.path.commonpath([home, source]) == home:
            raise UsageError(f"{source} lies in --output {output}, where it might be replaced; give another --output")
    for folder in (output / "before", output / "after"):
        if folder.exists() and not (folder / "report.json").is_file():
            raise UsageError(f"{folder} is not an earlier result and would be replaced; give another --output")


def _examination(
    source: Path, folder: Path, facts: BundleFacts, open_segmenter: Any, options: Any, voice: Voice
) -> Examination:
    """What is in a folder of results; a folder of images is segmented into ``folder`` first."""
    from monai_passion.data.patient import Finding
    from monai_passion.data.sources import find_files
    from monai_passion.prediction.compare import open_examination
    from monai_passion.prediction.run import predict_patient

    tell = functools.partial(voice.finding, patient=folder.name)
    if (source / "report.json").is_file():
        result = open_examination(source)
        for finding in result.report["findings"]:
            if finding["level"] != "note":
                tell(Finding(**finding))
        return result
    files = find_files(source, facts.task)
    predict_patient(files, folder, facts, open_segmenter, options, voice.stage, tell)
    return open_examination(folder, files, options.max_voxels)
