import pytest
import torch

from monai_passion.networks import RFNet, SelfDistillationNet

AVAILABLE = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 1]]).bool()


@pytest.fixture
def image():
    return torch.randn(3, 3, 8, 8, 8, dtype=torch.float64)


def wrapper(**kwargs):
    torch.manual_seed(1)
    return SelfDistillationNet(RFNet(3, 3, width=2, levels=3), **kwargs).double()


def test_students_are_the_available_modalities_of_samples_with_several(image):
    output = wrapper()(image, AVAILABLE)
    assert output.pairs == ((0, 0), (0, 1), (2, 0), (2, 1), (2, 2))
    assert output.fused.logits[0].shape[0] == 3
    assert output.unimodal.logits[0].shape[0] == 5


def test_students_of_single_modality_samples_on_request_equal_the_fused_decode(image):
    output = wrapper(skip_single=False)(image, AVAILABLE)
    row = output.pairs.index((1, 1))
    torch.testing.assert_close(output.unimodal.logits[0][row], output.fused.logits[0][1])


def test_each_student_equals_the_backbone_with_that_modality_alone(image):
    network = wrapper()
    output = network(image, AVAILABLE)
    for row, (b, m) in enumerate(output.pairs):
        alone = network.backbone(image[b : b + 1], torch.eye(3).bool()[m : m + 1])
        torch.testing.assert_close(output.unimodal.logits[0][row : row + 1], alone)


def test_sequential_decoding_gives_the_same_numbers(image):
    batched, sequential = wrapper()(image, AVAILABLE), wrapper(sequential=True)(image, AVAILABLE)
    for ours, theirs in ((batched.fused, sequential.fused), (batched.unimodal, sequential.unimodal)):
        for a, b in zip(ours.logits, theirs.logits, strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(ours.features, theirs.features)


def test_checkpointing_gives_the_same_numbers_and_gradients(image):
    results = []
    for network in (wrapper(), wrapper(checkpointing=True)):
        output = network(image, AVAILABLE)
        maps = [*output.fused.logits, output.fused.features, *output.unimodal.logits, output.unimodal.features]
        sum(x.square().mean() for x in maps).backward()
        results.append((maps, [p.grad for p in network.parameters()]))
    torch.testing.assert_close(results[0], results[1])


def test_checkpointing_keeps_less_for_the_backward_pass(image):
    kept = []
    for network in (wrapper(), wrapper(checkpointing=True)):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):
            network(image, AVAILABLE)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_monitoring_decodes_the_students_without_gradient(image):
    watched, trained = wrapper(unimodal="monitor")(image, AVAILABLE), wrapper()(image, AVAILABLE)
    assert not watched.unimodal.logits[0].requires_grad
    assert watched.fused.logits[0].requires_grad
    torch.testing.assert_close(watched.unimodal.logits[0], trained.unimodal.logits[0])


def test_off_means_no_students(image):
    output = wrapper(unimodal="off")(image, AVAILABLE)
    assert output.unimodal is None
    assert output.pairs == ()


def test_a_mask_fuses_less_than_is_available_but_teaches_all_of_it(image):
    network = wrapper()
    mask = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1]]).bool()
    output = network(image, AVAILABLE, mask)
    torch.testing.assert_close(output.fused.logits[0], network.backbone(image, mask))
    assert (0, 1) in output.pairs


def test_the_separate_decoder_reads_every_encoded_modality_once(image):
    network = wrapper(separate=True)
    output = network(image, AVAILABLE)
    assert sorted(output.separate_pairs) == [(b, m) for b, m in AVAILABLE.nonzero().tolist()]
    features = network.backbone.encode(image[2:], AVAILABLE[2:])
    row = output.separate_pairs.index((2, 0))
    torch.testing.assert_close(output.separate[row : row + 1], network.separate(features.maps[0].pyramid))


def test_the_backbone_alone_is_what_inference_needs():
    network = wrapper(separate=True)
    names = set(network.backbone.state_dict())
    assert not any("separate" in name for name in names)
    RFNet(3, 3, width=2, levels=3).load_state_dict(network.backbone.state_dict())


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="monitor"):
        wrapper(unimodal="yes")
