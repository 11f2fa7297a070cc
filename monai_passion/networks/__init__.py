"""Networks that take any subset of their modalities; `_target_` in a bundle names them by this path."""

from monai_passion.networks.backbone import Decoded, MultiModalBackbone
from monai_passion.networks.m2ftrans import M2FTrans
from monai_passion.networks.mmformer import MMFormer
from monai_passion.networks.rfnet import RFNet
from monai_passion.networks.transunet import TransUNet
from monai_passion.networks.unet import HeteroModalUNet

__all__ = ["Decoded", "HeteroModalUNet", "M2FTrans", "MMFormer", "MultiModalBackbone", "RFNet", "TransUNet"]
