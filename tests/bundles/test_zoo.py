"""The model zoo's checks, see `tests.bundles.zoo`: those of one bundle in every run, but for its workflows,
which other tests run; the rest on request."""

import pytest
import torch
from monai.bundle import ConfigParser

from tests.bundles.conftest import BUNDLES, NAMES, ROOT, row_of, small
from tests.bundles.zoo import CHECKS, EXCLUDED, quietly, workflows

PAGE = ROOT / "docs" / "reference" / "model-zoo.md"


@pytest.mark.parametrize(
    "check",
    [pytest.param(c, marks=pytest.mark.zoo if c is workflows else (), id=c.__name__) for c in CHECKS],
)
@pytest.mark.parametrize(
    "bundle",
    [pytest.param(name, marks=() if name == NAMES[0] else pytest.mark.zoo) for name in NAMES],
    indirect=True,
)
def test_a_bundle_passes_what_the_zoo_checks(check, bundle, cohorts):
    quietly(check, bundle, cohorts[row_of(bundle)["task"]])


@pytest.mark.parametrize("name", NAMES)
def test_readme_says_that_the_network_is_traced_and_not_scripted(name):
    """What is skipped where a modality is absent cannot be scripted."""
    network = quietly(network_of, BUNDLES / name)
    with pytest.raises(Exception, match=r"annotation|script|compile|supported"):
        torch.jit.script(network)
    assert "exclude_verify_torchscript_list" in (BUNDLES / name / "docs" / "README.md").read_text()


def network_of(bundle):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update(small(row_of(bundle), "inference"))
    return parser.get_parsed_content("network_def")


def test_the_documented_table_has_every_check_of_every_bundle_and_none_that_fails():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0][2:] for row in rows] == [*(check.__doc__.rstrip(".") for check in CHECKS), *EXCLUDED]
    assert all(row.count(" pass ") + row.count(" excluded ") == len(NAMES) for row in rows)
