import pytest

from monai_passion.errors import UsageError
from monai_passion.system.settings import check_settings

CONFIG = {"epochs": 3, "network_def": {"_target_": "monai_passion.networks.MMFormer", "num_modalities": 4}}


@pytest.mark.parametrize("name", ["epochs", "network_def#num_modalities", "network_def#heads"])
def test_what_is_there_or_an_argument_of_what_is_made_may_be_set(name):
    check_settings({name: 2}, CONFIG)


@pytest.mark.parametrize(
    ("name", "said"), [("epoch", "did you mean epochs"), ("network_def#head", "did you mean heads")]
)
def test_a_mistyped_setting_is_refused_with_the_nearest(name, said):
    with pytest.raises(UsageError, match=said):
        check_settings({name: 2}, CONFIG)
