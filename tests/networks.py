"""Small networks for the tests: those of the reference data, and ones that use features in unusual ways."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

import agf_fx

GOLDEN = Path(__file__).parent / "golden"


def options_of(method: str, model: nn.Module, size: int = 32) -> dict[str, object] | None:
    """What a method must be given for a model, such as patterns fitted on random images; None for nothing."""
    from agf_fx.methods import REGISTRY  # here, as tools/same_maps runs earlier packages on these networks
    from agf_fx.methods.patterns import PatternOptions
    from agf_fx.runtime.fitting import PatternsWarning

    if not issubclass(REGISTRY[method].options, PatternOptions):
        return None
    like = next(model.parameters())
    images = torch.randn(24, 3, size, size, generator=torch.Generator().manual_seed(0)).to(like)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatternsWarning)  # of dead neurons, which random networks have
        return {"patterns": agf_fx.fit_patterns(model, images.split(8))}


@dataclass(frozen=True)
class Golden:
    """One file of reference data: the network with its weights, and every stored tensor by key."""

    model: nn.Module
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def group(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def golden_names() -> list[str]:
    return sorted(path.name.removesuffix(".safetensors") for path in GOLDEN.glob("*.safetensors"))


def load_golden(name: str) -> Golden:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        metadata = file.metadata()
    structure = json.loads(metadata["structure"])
    model = {"vgg": TinyVGG, "resnet": TinyResNet}[structure["fam"]](structure).double().eval()
    found = Golden(model, tensors, metadata)
    model.load_state_dict(found.group("weights/"))
    return found


class TinyVGG(nn.Module):
    def __init__(self, structure: dict) -> None:
        super().__init__()
        layers, channels = [], 3
        for entry in structure["cfg"]:
            if entry == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers.append(nn.Conv2d(channels, entry, 3, padding=1))
            layers.extend([nn.BatchNorm2d(entry)] if structure["bn"] else [])
            layers.append(nn.ReLU(inplace=True))
            channels = entry
        hidden = structure["hidden"]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(structure["pool"])
        self.classifier = nn.Sequential(
            nn.Linear(structure["fin"], hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, structure["ncls"]),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class TinyResNet(nn.Module):
    def __init__(self, structure: dict) -> None:
        super().__init__()
        block = {"Bottleneck": Bottleneck, "BasicBlock": BasicBlock}[structure["block"]]
        base = channels = structure["base"]
        self.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, count in enumerate(structure["layers"]):
            planes, stride = base * 2**stage, 1 if stage == 0 else 2
            blocks = []
            for index in range(count):
                blocks.append(_block(block, channels, planes, stride if index == 0 else 1))
                channels = planes * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, structure["ncls"])

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _block(block: type[nn.Module], channels: int, planes: int, stride: int) -> nn.Module:
    out, downsample = planes * block.expansion, None
    if stride != 1 or channels != out:
        downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    return block(channels, planes, stride, downsample)


def basic_resnet(classes: int = 5, seed: int = 0) -> nn.Module:
    """A two-stage residual network of basic blocks, float64, with lively batch-norm statistics."""
    torch.manual_seed(seed)
    structure = {"block": "BasicBlock", "base": 4, "layers": [1, 1, 1, 1], "ncls": classes}
    return _lively(TinyResNet(structure))


def small_vgg(classes: int = 5, seed: int = 0, bn: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    structure = {"cfg": [4, "M", 6, 6, "M"], "bn": bn, "pool": (2, 2), "fin": 24, "hidden": 12, "ncls": classes}
    return _lively(TinyVGG(structure))


def _lively(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.double().eval()


class Reuse(nn.Module):
    """One in-place ReLU module used three times, functional and method spellings, an in-place sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding="same")
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv1(x)))
        y = self.act(self.conv2(x))
        y = F.dropout(y, 0.5, training=self.training)
        y += x
        y = F.relu(y).relu_()
        y = F.max_pool2d(self.act(y), 2)
        y = F.adaptive_avg_pool2d(y, (4, 4))
        return self.fc(y.reshape(y.size(0), -1))


def reuse(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return _lively(Reuse())


def flat(x):
    """Everything of an image in one row."""
    return x.reshape(len(x), -1)
