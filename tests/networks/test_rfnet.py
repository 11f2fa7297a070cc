import pytest

from monai_passion.networks import RFNet
from tests.networks.contract import BackboneContract


class TestRFNet(BackboneContract):
    def build(self, **kwargs):
        return RFNet(width=4, levels=3, **kwargs)


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match="even width"):
        RFNet(width=3)
