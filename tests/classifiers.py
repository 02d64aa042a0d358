"""A small member of every family of torchvision's classifiers, and of those that are exported in the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.models import convnext, efficientnet, mobilenetv3, regnet, resnet, swin_transformer, vgg

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

from coverage_report.networks import lively, random_images

CLASSES = 10
models = torchvision.models


def narrow(model: nn.Module) -> nn.Module:
    """The model with few features in its classifier, where torchvision has 4096."""
    linear = [module for module in model.classifier if isinstance(module, nn.Linear)]
    widths = [linear[0].in_features, 32, 32, CLASSES]
    for place, module in enumerate(model.classifier):
        if isinstance(module, nn.Linear):
            model.classifier[place] = nn.Linear(widths.pop(0), widths[0])
    return model


def small_vgg(batch_norm: bool) -> nn.Module:
    model = models.VGG(vgg.make_layers([8, "M", 16, 16, "M", 16, "M"], batch_norm), init_weights=False)
    model.classifier[0] = nn.Linear(16 * 7 * 7, 4096)
    return narrow(model)


def small_regnet(**options: float) -> nn.Module:
    parameters = regnet.BlockParams.from_init_params(depth=6, w_0=16, w_a=16, w_m=2.5, group_width=8, **options)
    return models.RegNet(parameters, CLASSES, stem_width=8)


def small_mobilenet_v3() -> nn.Module:
    block = partial(mobilenetv3.InvertedResidualConfig, width_mult=1.0)
    blocks = [
        block(8, 3, 8, 8, False, "RE", 1, 1),
        block(8, 3, 16, 16, True, "RE", 2, 1),
        block(16, 5, 32, 16, False, "HS", 1, 1),
        block(16, 5, 32, 24, True, "HS", 2, 1),
        block(24, 5, 48, 24, True, "HS", 1, 1),
    ]
    return models.MobileNetV3(blocks, last_channel=32, num_classes=CLASSES)


def small_efficientnet(
    *blocks: efficientnet.MBConvConfig | efficientnet.FusedMBConvConfig, **options: int
) -> nn.Module:
    return models.EfficientNet(blocks, dropout=0.2, num_classes=CLASSES, **options)


def small_swin(window: int, **options: Callable) -> nn.Module:
    """Images of 32 have feature maps of 8×8 and 4×4: windows of 3 have to be padded and shifted, those of 4 fit the last."""
    return models.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[window, window],
        num_classes=CLASSES,
        **options,
    )


MBConv, Fused = efficientnet.MBConvConfig, efficientnet.FusedMBConvConfig

# Builder and image size, by the module of torchvision that defines the family.
SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "alexnet": (lambda: narrow(models.alexnet()), 64),
    "vgg": (lambda: small_vgg(batch_norm=False), 32),
    "vgg, batch norm": (lambda: small_vgg(batch_norm=True), 32),
    "resnet, basic": (lambda: models.ResNet(resnet.BasicBlock, [2, 1, 1, 1], CLASSES), 32),
    "resnet, bottleneck": (lambda: models.ResNet(resnet.Bottleneck, [2, 1, 1, 1], CLASSES), 32),
    "resnet, groups": (
        lambda: models.ResNet(resnet.Bottleneck, [2, 1, 1, 1], CLASSES, groups=8, width_per_group=4),
        32,
    ),
    "densenet": (lambda: models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=CLASSES), 32),
    "googlenet": (lambda: models.GoogLeNet(CLASSES, transform_input=True, init_weights=False), 32),
    "inception": (lambda: models.Inception3(CLASSES, transform_input=True, init_weights=False), 80),
    "squeezenet": (lambda: models.squeezenet1_0(num_classes=CLASSES), 64),
    "squeezenet, 1.1": (lambda: models.squeezenet1_1(num_classes=CLASSES), 64),
    "shufflenetv2": (lambda: models.ShuffleNetV2([2, 2, 2], [8, 16, 32, 64, 64], CLASSES), 32),
    "mnasnet": (lambda: models.MNASNet(0.25, CLASSES), 32),
    "mobilenetv2": (
        lambda: models.MobileNetV2(CLASSES, 0.5, [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]),
        32,
    ),
    "mobilenetv3": (small_mobilenet_v3, 32),
    "efficientnet": (lambda: small_efficientnet(MBConv(1, 3, 1, 8, 8, 1), MBConv(6, 5, 2, 8, 16, 2)), 32),
    "efficientnet, v2": (
        lambda: small_efficientnet(
            Fused(1, 3, 1, 8, 8, 1), Fused(4, 3, 2, 8, 16, 2), MBConv(4, 3, 2, 16, 24, 2), last_channel=64
        ),
        32,
    ),
    "regnet, x": (small_regnet, 32),
    "regnet, y": (lambda: small_regnet(se_ratio=0.25), 32),
    "convnext": (
        lambda: models.ConvNeXt(
            [convnext.CNBlockConfig(8, 16, 2), convnext.CNBlockConfig(16, 32, 2), convnext.CNBlockConfig(32, None, 1)],
            num_classes=CLASSES,
        ),
        32,
    ),
    "vision_transformer": (lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES), 32),
    "swin_transformer": (lambda: small_swin(3), 32),
    "swin_transformer, v2": (
        lambda: small_swin(
            4, block=swin_transformer.SwinTransformerBlockV2, downsample_layer=swin_transformer.PatchMergingV2
        ),
        32,
    ),
    "maxvit": (lambda: models.MaxVit((32, 32), 8, 4, [8, 16], [1, 2], 4, 0.2, num_classes=CLASSES), 32),
}

# The families in which every export format is tested.
EXPORTED = ("vgg, batch norm", "resnet, basic", "densenet", "mobilenetv3", "efficientnet")


def small_classifier(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small member of a family in evaluation mode, with lively weights and statistics; `CLASSES` classes."""
    builder, size = SMALL[family]
    torch.manual_seed(0)
    return lively(builder().double(), random_images(4, size, torch.float64, seed=1)).to(dtype).eval()
