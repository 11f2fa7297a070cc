"""What every backbone must hold, in 2-D and 3-D. A test module of a backbone subclasses `BackboneContract`."""

import pytest
import torch
from monai.data import MetaTensor

from monai_passion.networks import MultiModalBackbone


class BackboneContract:
    """``size`` is a spatial size that the strides allow; `build` makes a small network."""

    size = 16

    def build(self, **kwargs) -> MultiModalBackbone:
        raise NotImplementedError

    @pytest.fixture(params=[2, 3], ids=["2d", "3d"])
    def network(self, request):
        return self.build(num_modalities=3, num_classes=5, spatial_dims=request.param).eval()

    def images(self, network, batch=2):
        return torch.randn(batch, network.num_modalities, *(self.size,) * network.spatial_dims)

    def test_shapes(self, network):
        image, mask = self.images(network), torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()
        decoded = network.decode(network.encode(image, mask), mask)
        assert decoded.logits[0].shape == (2, 5, *image.shape[2:])
        assert decoded.features.shape[2:] == image.shape[2:]
        for level in decoded.logits[1:]:
            assert level.shape[:2] == (2, 5)
            assert all(full % size == 0 for full, size in zip(image.shape[2:], level.shape[2:], strict=True))

    def test_absent_voxels_change_no_bit(self, network):
        image, mask = self.images(network), torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()
        expected = network(image, mask)
        for filler in (0.0, 1e30, float("nan"), float("inf")):
            spoiled = image.clone()
            spoiled[~mask] = filler
            assert torch.equal(network(spoiled, mask), expected)

    def test_absent_encoders_get_no_gradient(self, network):
        network.train()
        mask = torch.tensor([[1, 0, 1], [1, 0, 0]]).bool()
        network(self.images(network), mask).square().mean().backward()
        assert all(p.grad is None for p in network.modality_parameters(1))
        for m in (0, 2):
            assert any(p.grad is not None and p.grad.abs().max() > 0 for p in network.modality_parameters(m))

    def test_every_parameter_gets_a_gradient(self, network):
        network.train()
        everything = torch.ones(1, 3).bool()
        decoded = network.decode(network.encode(self.images(network, 1), everything), everything)
        sum(level.square().mean() for level in decoded.logits).backward()
        assert [name for name, p in network.named_parameters() if p.grad is None] == []

    def test_a_modality_that_shows_nothing_in_a_crop_does_not_blow_up_the_gradient(self, network):
        network.train()
        image = self.images(network, 1)
        image[:, 1] = 0.07
        image[:, 2] = -3
        everything = torch.ones(1, 3).bool()
        decoded = network.decode(network.encode(image, everything), everything)
        sum(level.square().mean() for level in decoded.logits).backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        assert 0 < norm < 1e4

    def test_half_precision_is_close_and_trains(self, network):
        image, mask = self.images(network, 1), torch.tensor([[1, 0, 1]]).bool()
        expected = network(image, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(image, mask)
        half.float().square().mean().backward()
        # Random weights and a coarsest level of few voxels magnify the rounding; unrelated maps differ by 1.1.
        assert (half - expected).abs().mean() < 0.2 * expected.std()
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)

    def test_other_sizes_fit_the_same_weights(self, network):
        size = (2 * self.size, *(self.size,) * (network.spatial_dims - 1))
        assert torch.isfinite(network(torch.randn(1, 3, *size))).all()

    def test_another_number_of_modalities_and_classes(self):
        network = self.build(num_modalities=2, num_classes=3, spatial_dims=2).eval()
        assert network(self.images(network, 1)).shape == (1, 3, self.size, self.size)

    def test_absent_encoders_do_not_run(self, network):
        ran = []
        original = network.encode_modality
        network.encode_modality = lambda m, image: ran.append((m, len(image))) or original(m, image)
        network(self.images(network), torch.tensor([[1, 0, 1], [1, 0, 0]]).bool())
        assert ran == [(0, 2), (2, 1)]

    def test_forward_is_decode_of_encode(self, network):
        image, mask = self.images(network), torch.tensor([[1, 1, 0], [0, 1, 1]]).bool()
        assert torch.equal(network(image, mask), network.decode(network.encode(image, mask), mask).logits[0])

    def test_one_encode_serves_every_decode(self, network):
        image, all_of_them = self.images(network), torch.ones(2, 3).bool()
        features = network.encode(image, all_of_them)
        masks = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]]).bool()
        samples = [0, 1, 1, 0]
        rows = network.decode(features, masks, samples).logits[0]
        for row, mask, sample in zip(rows, masks, samples, strict=True):
            alone = network(image[sample : sample + 1], mask[None])[0]
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-4)

    def test_mixed_batch_equals_samples_one_by_one(self, network):
        image, mask = self.images(network, 3), torch.tensor([[1, 1, 0], [0, 0, 1], [1, 1, 1]]).bool()
        together = network(image, mask)
        for b in range(3):
            alone = network(image[b : b + 1], mask[b : b + 1])
            torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-4, atol=1e-4)

    def test_modalities_are_not_interchangeable(self, network):
        image = self.images(network, 1)
        outputs = [network(image[:, [0, 0, 0]], mask[None]) for mask in torch.eye(3).bool()]
        assert not torch.allclose(outputs[0], outputs[1])
        assert not torch.allclose(outputs[1], outputs[2])

    def test_traced_network_gives_the_same_numbers(self, network):
        image = self.images(network, 1)
        everything = torch.ones(1, 3).bool()
        traced = torch.jit.trace(network, (image, everything), check_trace=False)
        for mask in ([1, 1, 1], [1, 0, 0], [0, 1, 1]):
            mask = torch.tensor([mask]).bool()
            torch.testing.assert_close(traced(image, mask), network(image, mask), rtol=1e-4, atol=1e-4)

    def test_traced_network_takes_any_batch_with_a_mask_for_each(self, network):
        """In double precision, as single rounds by a thousandth of the smaller logits in either."""
        network.double()
        image, mask = self.images(network, 3).double(), torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1]]).bool()
        network.requires_grad_(False)  # traced as a function, in a fraction of the time of the module above
        traced = torch.jit.trace(lambda *given: network(*given), (image[:1], mask[:1]), check_trace=False)
        torch.testing.assert_close(traced(image, mask), network(image, mask), rtol=1e-6, atol=1e-6)

    def test_exported_network_gives_the_same_numbers(self):
        network = self.build(num_modalities=2, num_classes=5, spatial_dims=2).eval()
        image, mask = self.images(network), torch.tensor([[0, 1], [1, 1]]).bool()
        exported = torch.export.export(network, (image, torch.ones(2, 2).bool())).module()
        torch.testing.assert_close(exported(image, mask), network(image, mask), rtol=1e-3, atol=1e-3)

    @pytest.mark.slow
    def test_compiled_network_gives_the_same_numbers_whatever_is_missing(self, network):
        image = self.images(network, 1)
        torch.compiler.reset()
        compiled = torch.compile(network, backend="eager")  # what is traced is at stake, not the code made of it
        for mask in ([1, 0, 1], [0, 1, 0], [1, 1, 1], [1, 0, 1]):
            mask = torch.tensor([mask]).bool()
            torch.testing.assert_close(compiled(image, mask), network(image, mask), rtol=1e-3, atol=1e-3)

    def test_channels_last_gives_the_same_numbers(self, network):
        image, mask = self.images(network), torch.tensor([[0, 1, 1], [1, 0, 0]]).bool()
        expected = network(image, mask)
        memory_format = torch.channels_last if network.spatial_dims == 2 else torch.channels_last_3d
        network.to(memory_format=memory_format)
        actual = network(image.contiguous(memory_format=memory_format), mask)
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)

    def test_bfloat16_is_close(self, network):
        image, mask = self.images(network), torch.tensor([[0, 1, 1], [1, 0, 0]]).bool()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(image, mask).float()
        assert torch.cosine_similarity(rounded.flatten(), network(image, mask).flatten(), dim=0) > 0.97

    def test_meta_tensors_are_taken_as_tensors(self, network):
        image, mask = self.images(network), torch.tensor([[0, 1, 1], [1, 0, 0]]).bool()
        output = network(MetaTensor(image), MetaTensor(mask))
        assert type(output) is torch.Tensor
        assert torch.equal(output, network(image, mask))

    def test_no_modality_is_refused(self, network):
        image = self.images(network)
        with pytest.raises(ValueError, match="no available modality"):
            network(image, torch.tensor([[0, 0, 0], [1, 0, 0]]).bool())
        features = network.encode(image, torch.tensor([[1, 0, 0], [1, 1, 0]]).bool())
        with pytest.raises(ValueError, match="without any modality"):
            network.decode(features, torch.zeros(2, 3).bool())
        with pytest.raises(ValueError, match="not available"):
            network.decode(features, torch.ones(2, 3).bool())

    def test_wrong_input_is_refused_with_the_remedy(self, network):
        available = torch.ones(1, 3).bool()
        with pytest.raises(ValueError, match="one channel per modality"):
            network(torch.zeros(1, 2, *(self.size,) * network.spatial_dims), available)
        with pytest.raises(ValueError, match="multiples of"):
            network(torch.zeros(1, 3, *(self.size + 1,) * network.spatial_dims), available)
        strides = network.stride if isinstance(network.stride, tuple) else (network.stride,) * network.spatial_dims
        with pytest.raises(ValueError, match="at least twice"):
            network(torch.zeros(1, 3, *strides), available)
        with pytest.raises(ValueError, match="modalities"):
            network(self.images(network, 1), torch.ones(1, 2).bool())

    @pytest.mark.parametrize("wrong", [{"num_modalities": 1}, {"num_classes": 1}, {"spatial_dims": 4}])
    def test_wrong_arguments_are_refused(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            self.build(**{"num_modalities": 3, "num_classes": 5, "spatial_dims": 3, **wrong})
