"""What the files of a bundle say, read without torch, and how a command finds the bundles that a user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from monai_passion.bundle.run import trained_bundle
from monai_passion.bundle.trust import check_trusted
from monai_passion.bundle.weights import find_weights, weights_of
from monai_passion.errors import PassionError, UsageError, WeightsError
from monai_passion.system.files import PathLike, read_json
from monai_passion.system.resources import resource_folder
from monai_passion.tasks import Task, load_task

__all__ = ["DEFAULT_BUNDLE", "BundleFacts", "Member", "find_bundle", "find_member", "find_networks", "known_bundles"]

DEFAULT_BUNDLE = "brats_mri_segmentation_rfnet_passion"


class BundleFacts(NamedTuple):
    """What a bundle's files say, read without torch."""

    path: Path
    name: str
    version: str
    task: Task
    """Its task: modalities in channel order, classes, regions."""
    network: str
    """The class of its network."""
    pixel_size: float | None = None
    """Edge of a pixel (mm) that slices are resampled to, unless the weights say another."""
    run: Path | None = None
    """The training through which it was given, and whose weights are used."""

    @property
    def weights(self) -> Path:
        """The weights of the training; without a training, those of `weights_of`.

        Raises:
            WeightsError: there are none.
        """
        return Path(weights_of(self.path, self.name) if self.run is None else find_weights(self.run))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in channel order."""
        return self.task.modality_names

    @property
    def regions(self) -> Mapping[str, Sequence[int]]:
        """Region -> the network's classes that make it up."""
        return self.task.region_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, background first."""
        return tuple(label.name for label in self.task.classes)

    @property
    def label_values(self) -> tuple[int, ...]:
        """Value of each class in label files, background first."""
        return self.task.label_values

    @property
    def spatial_dims(self) -> int:
        """Spatial dimensions of the network: 2 if it sees slices, else 3."""
        return self.task.spatial_dims


def known_bundles() -> list[str]:
    """Names of the bundles that are found without a path."""
    return sorted({path.parents[1].name for folder in _folders() for path in folder.glob("*/configs/inference.json")})


def _folders() -> list[Path]:
    """Where a bundle is looked for by its name: here, and in this package."""
    try:
        return [Path("bundles"), resource_folder("bundles")]
    except PassionError:
        return [Path("bundles")]


def _full_name(short: str) -> str:
    """The bundle that a part of its name means, as "rfnet" or "myops_rfnet"; what means none comes back as it is.

    Of several it is the one for the task of ``DEFAULT_BUNDLE``.
    """
    parts = set(short.lower().split("_"))
    found = [name for name in known_bundles() if parts <= set(name.split("_"))]
    default = [name for name in found if name.split("_")[:2] == DEFAULT_BUNDLE.split("_")[:2]]
    return found[0] if len(found) == 1 else default[0] if len(default) == 1 else short


def find_bundle(bundle: str | None = None) -> BundleFacts:
    """The facts of a bundle, given by its folder, its name or a part of it ("rfnet"), or the output of ``train``.

    None stands for ``DEFAULT_BUNDLE``.

    Raises:
        UsageError: it does not exist, or is not a bundle of this package.
    """
    wanted = bundle or DEFAULT_BUNDLE
    names = [wanted, *([_full_name(wanted)] if "/" not in wanted else [])]
    places = [Path(wanted)]
    if (trained := trained_bundle(Path(wanted))) is not None:  # where it was, or where the package is now
        names, places = [trained.name], [trained]
    places += [folder / name for name in names for folder in _folders()]
    path = next((place for place in places if (place / "configs" / "inference.json").is_file()), None)
    if path is None:
        there = f"; found here: {', '.join(known)}" if (known := known_bundles()) else ""
        raise UsageError(f"no bundle '{wanted}' (a folder with configs/inference.json); give its path{there}")
    config, metadata = (
        read_json(path / "configs" / name, "is the bundle complete?", UsageError)
        for name in ("inference.json", "metadata.json")
    )
    try:
        network = str(config["network_def"]["_target_"].rpartition(".")[2])
        task = load_task(config["task"])
        facts = BundleFacts(
            path, str(config["bundle_name"]), str(metadata["version"]), task, network, config.get("pixel_size")
        )
        return facts if trained is None else facts._replace(run=Path(wanted))
    except (KeyError, TypeError, ValueError, PassionError) as error:
        raise UsageError(
            f"{path} is not a bundle of monai_passion ({error} is not as expected); give another"
        ) from error


class Member(NamedTuple):
    """One of the networks whose probabilities are averaged."""

    bundle: BundleFacts
    weights: Path


def find_member(member: PathLike, first: BundleFacts) -> Member:
    """A member of an ensemble, given by its weights, or by a bundle with weights as for `find_bundle`.

    Weights of another network than that of ``first`` belong to this package's bundle of that network for the same task;
    if there is none, `Segmenter` raises an error.

    Raises:
        WeightsError: there are none.
    """
    weights = Path(member)
    if not weights.is_file():
        try:
            bundle = find_bundle(str(member))
        except UsageError as error:
            raise WeightsError(f"no weights at {member}; check the path, or name a bundle that has some") from error
        return Member(bundle, bundle.weights)
    from monai_passion.networks.weights import load_weights

    facts = load_weights(weights)[1]
    fits = (first, *(found for name in known_bundles() if (found := find_bundle(name)).task.name == first.task.name))
    bundle = next((bundle for bundle in fits if facts.get("network", bundle.network) == bundle.network), first)
    return Member(bundle, weights)


def find_networks(
    bundle: str | None, ensemble: Sequence[PathLike] | None, trust: bool
) -> tuple[BundleFacts, list[Member]]:
    """The bundle and the members of the ensemble of a command; see `find_bundle` and `find_member`.

    Raises:
        UsageError: one of the bundles runs another program than this package's own, without ``trust``.
    """
    first = find_bundle(bundle)
    members = [find_member(member, first) for member in ensemble or ()]
    if not trust:
        check_trusted(first.path, *(member.bundle.path for member in members))
    return first, members
