"""Networks that take any subset of their modalities, and the wrapper that trains them."""

from monai_passion.networks.backbone import Decoded, MultiModalBackbone
from monai_passion.networks.m2ftrans import M2FTrans
from monai_passion.networks.mmformer import MMFormer
from monai_passion.networks.rfnet import RFNet
from monai_passion.networks.self_distillation import SelfDistillationNet, SelfDistillationOutput
from monai_passion.networks.transunet import TransUNet
from monai_passion.networks.unet import HeteroModalUNet

__all__ = [
    "Decoded",
    "HeteroModalUNet",
    "M2FTrans",
    "MMFormer",
    "MultiModalBackbone",
    "RFNet",
    "SelfDistillationNet",
    "SelfDistillationOutput",
    "TransUNet",
]
