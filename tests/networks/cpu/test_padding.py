import pytest
import torch
import torch.nn.functional as F

from monai_passion.networks.cpu.padding import crop_gradient, pad


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("widths", [(1, 1, 1), (0, 2, 1), (2, 2, 2), (0, 0, 0)])
def test_equals_torch_in_values_and_gradient(widths, channels, mode):
    x = torch.randn(2, channels, 3, 4, 5, requires_grad=True)
    edges = [width for width in reversed(widths) for _ in range(2)]
    theirs = F.pad(x, edges, mode="constant" if mode == "zeros" else mode)
    ours = pad(x.detach(), widths, mode)
    assert torch.equal(ours, theirs)
    upstream = torch.randn(theirs.shape)
    theirs.backward(upstream)
    torch.testing.assert_close(crop_gradient(upstream, widths, mode), x.grad)


def test_fewer_voxels_than_are_mirrored_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 1, 4\) voxels can't be reflected by \(1, 1, 1\)"):
        pad(torch.zeros(1, 1, 4, 1, 4), (1, 1, 1), "reflect")
