"""Networks with one encoder per modality, and the wrapper that trains them."""

from monai_passion.networks.backbone import Decoded, MultiModalBackbone
from monai_passion.networks.rfnet import RFNet
from monai_passion.networks.self_distillation import SelfDistillationNet, SelfDistillationOutput

__all__ = ["Decoded", "MultiModalBackbone", "RFNet", "SelfDistillationNet", "SelfDistillationOutput"]
