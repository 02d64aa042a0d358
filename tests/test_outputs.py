"""Models that return more than one tensor, and which of them is explained."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, fields

import pytest
import torch
from emission import weights
from networks import small_vgg
from PIL import Image
from torch import Tensor, fx, nn
from torchvision.models import googlenet, inception_v3
from torchvision.models.googlenet import GoogLeNetOutputs
from typer.testing import CliRunner

import agf_fx
from agf_fx.cli import app
from agf_fx.errors import CaptureError, OptionsError

IMAGES = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

Named = namedtuple("Named", ["logits", "features"])


@dataclass
class Data:
    logits: Tensor
    features: Tensor | None = None


class ModelOutput(OrderedDict):
    """A dictionary whose entries are attributes, and items by position, as Hugging Face's models return it."""

    def __post_init__(self):
        for item in fields(self):
            if getattr(self, item.name) is not None:
                self[item.name] = getattr(self, item.name)

    def __getitem__(self, key):
        return dict(self.items())[key] if isinstance(key, str) else tuple(self.values())[key]


@dataclass
class ClassifierOutput(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None
    features: Tensor | None = None


WRAPS = {
    "tuple": lambda y, f: (f, y),
    "list": lambda y, f: [f, [y]],
    "dict": lambda y, f: {"features": f, "heads": {"logits": y, "a.b": y}},
    "named": lambda y, f: Named(y, f),
    "dataclass": lambda y, f: Data(y, f),
    "model output": lambda y, f: ClassifierOutput(logits=y, features=f),
    "torchvision": lambda y, f: GoogLeNetOutputs(y, f, None),
    "several heads": lambda y, f: (y, 2 * y),
}


class Returns(nn.Module):
    """A classifier that returns its logits in a container."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4 * 14 * 14, 5)

    def forward(self, x: Tensor) -> object:
        features = self.act(self.conv(x))
        return WRAPS[self.kind](self.fc(features.flatten(1)), features)  # the user's line


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return Returns(kind).double().eval()


class Plain(Returns):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv(x)).flatten(1))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Plain("tuple").double().eval()


CHOICES = [
    ("tuple", 1),
    ("tuple", -1),
    ("tuple", "1"),
    ("list", "1.0"),
    ("dict", "heads.logits"),
    ("dict", lambda out: out["heads"]["logits"]),
    ("named", "logits"),
    ("named", 0),
    ("dataclass", "logits"),
    ("model output", "logits"),
    ("model output", 0),
    ("model output", lambda out: out.logits),
    ("torchvision", "logits"),
    ("several heads", 0),
]


@pytest.mark.parametrize(("kind", "output"), CHOICES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_chosen_part_is_explained(kind, output):
    model = network(kind)
    canonical = agf_fx.capture(model, IMAGES, output=output)
    expected = agf_fx.capture(plain(), IMAGES)
    assert canonical.signature.weights == expected.signature.weights
    assert [(node.target, node.meta["module"]) for node in canonical.calls] == [
        (node.target, node.meta["module"]) for node in expected.calls
    ]
    assert all("test_outputs.py:" in node.meta["source"] for node in canonical.calls)
    explainer = agf_fx.compile(model, output=output)
    assert torch.equal(explainer(IMAGES, 1), agf_fx.compile(plain())(IMAGES, 1))
    assert explainer.model is model


@pytest.mark.parametrize("kind", WRAPS)
def test_without_a_choice_the_candidates_are_listed(kind):
    with pytest.raises(CaptureError, match="must return one tensor") as caught:
        agf_fx.capture(network(kind), IMAGES)
    message = str(caught.value)
    assert "(N, 5)" in message
    assert "output=" in message
    if kind == "dict":
        assert "'features' of shape (N, 4, 14, 14); 'heads.logits' of shape (N, 5)" in message
    if kind == "tuple":
        assert "0 of shape (N, 4, 14, 14); 1 of shape (N, 5)" in message


class Single(Plain):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": super().forward(x)}


def test_even_a_single_candidate_is_not_guessed():
    with pytest.raises(CaptureError, match=r"a dict.* 'logits' of shape \(N, 5\)"):
        agf_fx.capture(Single("tuple").double().eval(), IMAGES)


@pytest.mark.parametrize(
    ("kind", "output", "message"),
    [
        ("dict", "logits", r"no output='logits'.*'heads.logits' of shape \(N, 5\)"),
        ("tuple", 2, r"no output=2.*1 of shape \(N, 5\)"),
        ("named", "aux", r"no output='aux'.*'logits' of shape"),
        ("dict", "heads", r"output='heads' chooses a dict.*'heads.logits'"),
        ("model output", "loss", r"output='loss' chooses None|no output='loss'"),
        ("tuple", lambda out: out[0].sum((0, 1)), "has the shape"),
    ],
)
def test_a_choice_that_is_not_there_is_refused(kind, output, message):
    with pytest.raises(CaptureError, match=message):
        agf_fx.capture(network(kind), IMAGES, output=output)


@pytest.mark.parametrize("output", [1.5, "", True, [0], b"logits"])
def test_choices_without_meaning_are_refused_at_once(output):
    with pytest.raises(OptionsError, match="output is"):
        agf_fx.compile(network("tuple"), output=output)


def test_a_function_may_compute():
    model = network("several heads")
    explainer = agf_fx.compile(model, output=lambda heads: (heads[0] + heads[1]) / 3.0)
    torch.testing.assert_close(explainer.explain(IMAGES).logits, plain()(IMAGES), rtol=1e-12, atol=1e-12)


def test_the_plain_tensor_is_untouched_by_a_function():
    model = small_vgg()
    explainer = agf_fx.compile(model, output=lambda y: y)
    assert torch.equal(explainer(IMAGES, 0), agf_fx.compile(model)(IMAGES, 0))


class Auxiliary(Plain):
    """The pattern of GoogLeNet and Inception: a second head in training, plain logits in evaluation."""

    def __init__(self) -> None:
        super().__init__("tuple")
        self.aux = nn.Linear(4 * 14 * 14, 5)

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        features = self.act(self.conv(x)).flatten(1)
        aux = self.aux(features) if self.training else None
        return GoogLeNetOutputs(self.fc(features), aux, None) if self.training else self.fc(features)


@pytest.mark.filterwarnings("ignore:.*is in training mode")
@pytest.mark.parametrize("training", [False, True])
def test_auxiliary_heads_of_the_training_mode(training):
    torch.manual_seed(0)
    model = Auxiliary().double().train(training)
    canonical = agf_fx.capture(model, IMAGES)
    assert sorted(canonical.signature.weights.values()) == ["conv.bias", "conv.weight", "fc.bias", "fc.weight"]
    forward = fx.GraphModule(nn.Module(), canonical.graph)
    assert torch.equal(forward(IMAGES, *weights(canonical, model).values()), model.eval()(IMAGES))


@pytest.mark.parametrize(("build", "size"), [(googlenet, 32), (inception_v3, 75)])
def test_torchvision_networks_with_auxiliary_heads(build, size):
    torch.manual_seed(0)
    model = build(weights=None, num_classes=4, aux_logits=True, init_weights=False).eval()
    canonical = agf_fx.capture(model, torch.randn(1, 3, size, size))
    assert canonical.num_classes == 4
    assert not any("aux" in path.lower() for path in canonical.signature.weights.values())


def test_hooks_of_the_model_itself_are_seen():
    model = plain()
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2.0,))
    model.register_forward_hook(lambda module, inputs, y: {"logits": y + 1.0})
    found = agf_fx.compile(model, output="logits").explain(IMAGES).logits
    torch.testing.assert_close(found, plain()(2 * IMAGES) + 1, rtol=1e-12, atol=1e-12)


FACTORY = """
import torch
from torch import nn

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        y = self.fc(torch.i0(torch.relu(self.conv(x))).mean((2, 3)))
        return {"heads": [y, 2 * y]}
"""


def test_command_line(tmp_path, monkeypatch):
    (tmp_path / "many_heads.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Image.new("RGB", (40, 40), (200, 30, 90)).save("photo.png")
    model = ["--model", "many_heads:Heads", "--size", "16"]

    def explain(*arguments):
        return CliRunner().invoke(app, ["explain", "photo.png", *model, "--target", "1", "-o", "out", *arguments])

    refused = explain()
    assert refused.exit_code == 1
    assert "choose them with output" in refused.stderr
    missing = explain("--output", "heads.2")
    assert missing.exit_code == 1
    assert "'heads.0' of shape (1, 5)" in missing.stderr
    unknown = explain("--output", "heads.1")
    assert unknown.exit_code == 1
    assert "aten.i0.default" in unknown.stderr
    with pytest.warns(UserWarning, match="aten.i0.default has no relevance rule"):
        done = explain("--output", "heads.1", "--unknown-ops", "gradient", "--top-k", "1", "--json")
    assert done.exit_code == 0
    assert len(json.loads(done.stdout)["images"]) == 1
    with pytest.warns(UserWarning, match="aten.i0.default has no relevance rule"):
        printed = CliRunner().invoke(
            app,
            [
                "inspect",
                "many_heads:Heads",
                "--full",
                "--input-size",
                "16",
                "16",
                "--output",
                "heads.0",
                "--unknown-ops",
                "gradient",
            ],
        )
    assert printed.exit_code == 0
    assert "i0(" in printed.stdout
