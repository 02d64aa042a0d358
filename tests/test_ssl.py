"""Self-supervised explanation and linear probes."""

from __future__ import annotations

import copy
import json
import pickle
from importlib.resources import files
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import agf_fx
from agf_fx.errors import (
    ArchitectureError,
    CaptureError,
    CheckpointError,
    InputError,
    NonFiniteInputError,
    OptionsError,
)
from agf_fx.ssl import LinearProbe, MemoryBank, explain, linear_probe, neighbours
from agf_fx.ssl.encoder import Encoder
from agf_fx.ssl.memory import pixel_digests

SHAPE = (3, 12, 12)


class Net(nn.Module):
    """Two blocks, a pool, a linear head; what a head may look like is overridden."""

    def __init__(self, classes=5, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.block1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(8, classes)
        with torch.no_grad():
            self.fc.weight.mul_(20)  # beside which the bias does not decide alone
        self.block1[1].running_mean.normal_()
        self.eval()

    def features(self, x):
        return F.max_pool2d(self.block2(self.block1(x)), 2)

    def latents(self, x):
        return self.features(x).mean((2, 3))

    def forward(self, x):
        return self.fc(self.latents(x))


@pytest.fixture(scope="module")
def net():
    return Net()


@pytest.fixture(scope="module")
def images():
    return torch.randn(30, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def memory(net, images):
    return MemoryBank.build(net, images.split(7), ids=[f"image {n}" for n in range(len(images))])


def brute_force(queries, bank, out=frozenset()):
    """Index and distance by loops over pairs, in float64; the first of equal ones."""
    found = []
    for n, query in enumerate(queries.double()):
        pairs = [((query - entry).square().sum().sqrt().item(), m) for m, entry in enumerate(bank.double())]
        found.append(min((d, m) for d, m in pairs if (n, m) not in out))
    return torch.tensor([m for _, m in found]), torch.tensor([d for d, _ in found], dtype=torch.float64)


# --- nearest neighbours -------------------------------------------------------------------------------------


def pairs(*given):
    return torch.tensor(given, dtype=torch.int64).reshape(-1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("entries", [2**22, 40])
def test_neighbours_are_those_of_brute_force(monkeypatch, dtype, entries):
    monkeypatch.setattr(neighbours, "ENTRIES", entries)
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(57, 9, generator=generator, dtype=dtype)
    queries = torch.cat([torch.randn(11, 9, generator=generator, dtype=dtype), bank[:4]])
    out = [(12, 1), (3, 5), (11, 0), (0, 30)]
    index, distance = brute_force(queries, bank, set(out))
    found = neighbours.nearest(queries, bank, pairs(*out))
    assert torch.equal(found.index, index)
    torch.testing.assert_close(found.distance, distance, rtol=1e-14, atol=0)


@pytest.mark.parametrize("entries", [2**22, 16])
def test_of_equal_distances_the_first_is_taken(monkeypatch, entries):
    monkeypatch.setattr(neighbours, "ENTRIES", entries)
    bank = torch.tensor([[9.0, 0], [1, 0], [0, 1], [0, -1], [-1, 0], [1, 0]]).repeat(5, 1)
    assert neighbours.nearest(torch.zeros(2, 2), bank, pairs((1, 1), (1, 2))).index.tolist() == [1, 3]
    assert neighbours.nearest(torch.ones(3, 2), torch.ones(40, 2), pairs((2, 0))).index.tolist() == [0, 0, 1]


def test_differences_far_below_the_lengths_are_told_apart():
    base = torch.full((1, 4), 1e8, dtype=torch.float64)  # products alone leave nothing of 0.25 beside 1e16
    bank = (
        base + torch.tensor([[2.0], [0.75], [0.5], [0.5]], dtype=torch.float64) * torch.eye(4, dtype=torch.float64)[:1]
    )
    found = neighbours.nearest(base, bank, pairs())
    assert found.index.tolist() == [2]
    assert found.distance.item() == 0.5


def test_without_anything_left_there_is_no_neighbour():
    found = neighbours.nearest(torch.zeros(2, 3), torch.ones(1, 3), pairs((0, 0)))
    assert found.index.tolist() == [-1, 0]
    assert found.distance.tolist() == [float("inf"), pytest.approx(3**0.5)]


@pytest.mark.skipif(find_spec("faiss") is None, reason="FAISS is not installed")
def test_faiss_finds_the_same(monkeypatch):
    monkeypatch.setattr(neighbours, "FAISS_FROM", 50)
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(400, 5, generator=generator)
    bank[200:300] = bank[100:200]  # ties
    queries = torch.cat([torch.randn(20, 5, generator=generator), bank[90:120]])
    out = pairs(*[(20 + n, 90 + n) for n in range(30)])
    index = neighbours.faiss_index(bank)
    found, expected = neighbours.nearest(queries, bank, out, index), neighbours.nearest(queries, bank, out)
    assert torch.equal(found.index, expected.index)
    assert torch.equal(found.distance, expected.distance)
    _, settled = neighbours._by_faiss(queries.double(), bank, out, index)
    assert settled.sum() >= 20  # so FAISS was asked, and answered


# --- Algorithm 2 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["difference", "sum", "none"])
def test_the_steps_of_algorithm_2(net, images, memory, combine):
    new = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(5))
    found = explain(net, new, memory, combine=combine)
    with torch.no_grad():
        latents, bank = net.latents(new), net.latents(images)
        nearest = [int((bank - latent).norm(dim=1).argmin()) for latent in latents]
        other = {"difference": -bank[nearest], "sum": bank[nearest], "none": 0}[combine]
        v = (latents + other) @ net.fc.weight.T + net.fc.bias
    torch.testing.assert_close(found.latents, latents)
    torch.testing.assert_close(found.combined_logits, v)
    torch.testing.assert_close(found.logits, net(new).detach())
    assert found.target.tolist() == v.argmax(1, keepdim=True).tolist()
    assert torch.equal(found.maps[:, 0], agf_fx.compile(net)(new, v.argmax(1)))
    if combine == "none":
        assert found.neighbour.tolist() == [-1] * 4
        assert found.neighbour_ids is None
    else:
        assert found.neighbour.tolist() == nearest
        assert found.neighbour_ids == tuple(f"image {n}" for n in nearest)
        torch.testing.assert_close(found.distance, (latents - bank[nearest]).norm(dim=1).double())


@pytest.mark.parametrize("method", ["rap", "gradcam"])
def test_any_method_and_an_explainer_that_is_there(net, images, memory, method):
    explainer = agf_fx.compile(net, method=method)
    found = explain(explainer, images[:3], memory)
    assert torch.equal(found.maps, explain(net, images[:3], memory, method=method).maps)
    assert torch.equal(found.maps, explainer(images[:3], found.target))
    with pytest.raises(OptionsError, match=r"method belong to agf_fx\.compile"):
        explain(explainer, images[:3], memory, method=method)


def test_the_classes_differ_between_the_variants(net, images, memory):
    """So the tests above tell them apart."""
    found = [explain(net, images, memory, combine=c, method="gradient").target for c in ("difference", "sum", "none")]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_image_itself_is_no_neighbour(net, images, memory):
    found = explain(net, images, memory, method="gradient")
    itself = torch.arange(len(images))
    assert not (found.neighbour == itself).any()
    with torch.no_grad():
        latents = net.latents(images)
    assert torch.equal(found.neighbour, brute_force(latents, latents, {(n, n) for n in range(30)})[0])


def test_a_picture_is_known_by_its_pixels_in_any_batch_and_by_its_id(net, images):
    twice = torch.cat([images[:4], images[:1], images[1:2] + 1e-6])
    memory = MemoryBank.build(net, twice.split(2), ids=["a", "b", "c", "d", "e", "b"])
    nearest = explain(net, images[:2], memory, method="gradient").neighbour
    assert nearest[0] not in (0, 4)  # under two ids, it is one picture
    assert nearest[1] == 5  # other pixels are another one
    assert explain(net, images[1:2], memory, method="gradient", ids=["b"]).neighbour[0] not in (1, 5)
    assert explain(net, images[2:3] + 1e-6, memory, method="gradient").neighbour.tolist() == [2]
    assert explain(net, images[2:3] + 1e-6, memory, method="gradient", ids=["c"]).neighbour[0] != 2


def test_digests_of_pixels():
    x = torch.randn(3, 2, 4, 4)
    assert torch.equal(pixel_digests(x), pixel_digests(x.double()))
    assert torch.equal(pixel_digests(x)[1:2], pixel_digests(x[1:2]))
    assert torch.equal(pixel_digests(torch.zeros(1, 2)), pixel_digests(-torch.zeros(1, 2)))
    assert len(pixel_digests(x).unique(dim=0)) == 3


def test_an_image_alone_in_the_bank(net, images):
    memory = MemoryBank.build(net, [images[:1]])
    with pytest.raises(InputError, match=r"1 has no other image for images \[1\]"):
        explain(net, images[[2, 0]], memory)


def test_bad_images_are_named(net, images, memory):
    broken = images[:3].clone()
    broken[1, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteInputError) as error:
        explain(net, broken, memory)
    assert error.value.indices == (1,)
    with pytest.raises(NonFiniteInputError, match="batch 1 of the loader"):
        MemoryBank.build(net, [images[:3], broken])
    for loader, message in (
        (images, r"loader is a tensor; give batches, such as images.split"),
        ([images[:3], images[:0]], "batch 1 of the loader: the batch is empty"),
        ([images[:3].byte()], "batch 0 of the loader: images are torch.uint8"),
    ):
        with pytest.raises(InputError, match=message):
            MemoryBank.build(net, loader)
    with pytest.raises(InputError, match="prepare them in the same way"):
        explain(net, images[:2, :, :10], memory)
    with pytest.raises(InputError, match="prepare them in the same way"):
        explain(net, images[:2].double(), memory)


def test_latents_that_are_not_finite_are_named(images):
    net = Net()
    with torch.no_grad():
        net.block2[0].weight.fill_(3e38)
        few = images[:2].clone()
        few[0] = 0
        net.block1[0].bias.zero_()
        net.block1[1].running_mean.zero_()
    with pytest.raises(NonFiniteInputError, match=r"latent vectors of images \[1\]") as error:
        MemoryBank.build(net, [few])
    assert error.value.indices == (1,)


@pytest.mark.parametrize(
    ("loader", "options", "error", "words"),
    [
        ([], {}, InputError, "no batch"),
        (3, {}, InputError, "DataLoader"),
        ([torch.zeros(2, *SHAPE, dtype=torch.uint8)], {}, InputError, "floating"),
        ([torch.zeros(2, *SHAPE), torch.zeros(2, 3, 8, 8)], {}, InputError, "of one size"),
        ([torch.zeros(2, *SHAPE)], {"ids": ["a"]}, OptionsError, "1 ids were given for 2 images"),
        ([torch.zeros(2, *SHAPE)], {"head": "fcc"}, OptionsError, "did you mean 'fc'"),
    ],
)
def test_loaders_that_say_nothing(net, loader, options, error, words):
    with pytest.raises(error, match=words):
        MemoryBank.build(net, loader, **options)


def test_arguments_that_contradict_each_other(net, images, memory):
    with pytest.raises(OptionsError, match=r"MemoryBank\.build"):
        explain(net, images)
    with pytest.raises(OptionsError, match="'difference', 'sum', 'none'"):
        explain(net, images, memory, combine="product")
    with pytest.raises(OptionsError, match="has none"):
        explain(net, images[:1], MemoryBank.build(net, [images]), ids=["a"])
    with pytest.raises(InputError, match="1 ids were given for 2"):
        explain(net, images[:2], memory, ids=["a"])
    with pytest.raises(OptionsError, match="leave out head"):
        explain(net, images, memory, head="block2")
    with pytest.raises(InputError, match="8 entries"):
        memory.nearest(torch.zeros(1, 9))
    with pytest.raises(InputError, match="NaN"):
        memory.nearest(torch.full((1, 8), torch.nan))
    assert explain(net, images[:1], combine="none").target.shape == (1, 1)


def test_a_bank_of_pairs_from_a_data_loader(net, images, memory):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.arange(30)), batch_size=7)
    assert torch.equal(MemoryBank.build(net, loader).latents, memory.latents)


# --- files --------------------------------------------------------------------------------------------------


def test_a_bank_is_written_and_read(net, images, memory, tmp_path):
    memory.save(tmp_path / "bank.safetensors")
    again = MemoryBank.load(tmp_path / "bank.safetensors")
    for name in ("latents", "pixels", "reference"):
        assert torch.equal(getattr(again, name), getattr(memory, name))
    for name in ("ids", "image_shape", "dtype", "head", "fingerprint"):
        assert getattr(again, name) == getattr(memory, name)
    one, other = (explain(net, images[:2], bank, ids=["image 0", "image 1"]) for bank in (memory, again))
    assert torch.equal(one.maps, other.maps)
    assert one.neighbour_ids == other.neighbour_ids
    with pytest.raises(agf_fx.errors.ExportError, match="cannot be written"):
        memory.save(tmp_path / "nowhere" / "bank.safetensors")


def test_a_bank_is_sent_to_another_process(net, images, memory):
    explain(net, images[:1], memory, method="gradient")
    again = pickle.loads(pickle.dumps(memory))
    assert torch.equal(again.nearest(memory.latents, images).index, memory.nearest(memory.latents, images).index)


def test_a_bank_in_front_of_a_named_layer_is_read(images, tmp_path):
    net = nn.Sequential(Net(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    bank = MemoryBank.build(net, [images], head="0.fc")
    assert torch.allclose(bank.latents, net[0].latents(images), atol=1e-6)
    bank.save(tmp_path / "bank.safetensors")
    found = explain(net, images[:2], MemoryBank.load(tmp_path / "bank.safetensors"), method="gradient")
    difference = net[0].latents(images[:2]) - bank.latents[found.neighbour]
    torch.testing.assert_close(found.combined_logits, net[1:](net[0].fc(difference)).detach())


@pytest.mark.parametrize("damage", ["gone", "text", "other", "ids", "nan", "shape"])
def test_files_that_are_no_banks(memory, tmp_path, damage):
    path = tmp_path / "bank.safetensors"
    if damage == "text":
        path.write_text("latents")
    elif damage == "other":
        save_file({"latents": torch.zeros(2, 3)}, path)
    elif damage != "gone":
        memory.save(path)
        about = {"kind": "agf-fx memory bank", "layout": "1", "image_shape": "[3, 12, 12]", "dtype": "float32"}
        about |= {"head": "fc", "asked": "", "fingerprint": memory.fingerprint}
        stored = load_file(path)
        key = {"ids": "ids", "nan": "latents", "shape": "pixels"}[damage]
        stored[key] = {"ids": torch.zeros(3).byte(), "nan": stored["latents"] * torch.nan, "shape": torch.zeros(1)}[
            damage
        ]
        save_file(stored, path, about)
    with pytest.raises(CheckpointError, match=r"bank\.safetensors: .*"):
        MemoryBank.load(path)


def test_a_bank_of_another_network_is_refused(net, images, memory):
    moved = copy.deepcopy(net)
    with torch.no_grad():
        moved.block1[0].weight[0, 0, 0, 0] += 1e-4
    for other, words in [
        (Net(seed=1), "other weights"),
        (moved, "other weights"),
        (
            nn.Sequential(net.block1, net.block2, nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.fc).eval(),
            "head is 4|weights",
        ),
    ]:
        with pytest.raises(ArchitectureError, match=words):
            explain(other, images[:2], memory)
    other = copy.deepcopy(net)
    other.block2[1] = nn.Tanh()  # of the same weights
    with pytest.raises(ArchitectureError, match="computes other latents"):
        explain(other, images[:2], memory)
    head = copy.deepcopy(net)
    head.fc = nn.Linear(8, 9)
    assert explain(head, images[:2], memory).logits.shape == (2, 9)  # latents do not depend on the head


def test_weights_that_change_make_a_bank_old(images):
    net = Net()
    memory = MemoryBank.build(net, [images])
    explainer = agf_fx.compile(net)
    explain(explainer, images[:1], memory)
    with torch.no_grad():
        net.block2[0].weight.mul_(1.5)
    with pytest.raises(ArchitectureError, match="other weights"):
        explain(explainer, images[:1], memory)


# --- heads --------------------------------------------------------------------------------------------------


class FunctionalHead(Net):
    def forward(self, x):
        return F.linear(F.dropout(self.latents(x), 0.5, self.training), self.fc.weight, self.fc.bias)


class ConvolutionalHead(Net):
    """A 1x1 convolution at every position, and their mean."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return F.adaptive_avg_pool2d(self.head(self.features(x)), 1).flatten(1)


class TokenHead(ConvolutionalHead):
    """The same over tokens, by a linear layer."""

    def forward(self, x):
        return self.fc(self.features(x).flatten(2).transpose(1, 2)).mean(1)


class PooledConvolutionalHead(ConvolutionalHead):
    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.features(x), 1)).flatten(1)


class LogSoftmaxHead(Net):
    def forward(self, x):
        return super().forward(x).log_softmax(1)


class ScaledHead(Net):
    """A temperature behind the head belongs to φ_τ."""

    def forward(self, x):
        return super().forward(x) / 0.1


class ClassToken(Net):
    """Attention over positions and a class token, as in a ViT."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.norm = nn.LayerNorm(8)

    def latents(self, x):
        tokens = self.features(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        return self.norm(self.attention(tokens))[:, 0]


GOOD = [
    Net,
    FunctionalHead,
    PooledConvolutionalHead,
    ConvolutionalHead,
    TokenHead,
    LogSoftmaxHead,
    ClassToken,
    ScaledHead,
]


@pytest.mark.filterwarnings("ignore:.*ends in log_softmax")
@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
def test_heads(images, kind):
    net = kind().eval()
    encoder = Encoder(net)
    latents = encoder.latents(images[:4])
    with torch.no_grad():
        torch.testing.assert_close(latents, net.latents(images[:4]), rtol=1e-4, atol=1e-5)
        layer = getattr(net, "head", net.fc) if "Convolution" in kind.__name__ else net.fc
        expected = F.linear(2 * latents, layer.weight.flatten(1), layer.bias) / (0.1 if kind is ScaledHead else 1)
        torch.testing.assert_close(encoder.logits(2 * latents), expected, rtol=1e-4, atol=1e-5)
    assert encoder.split.name == ("linear" if kind is FunctionalHead else encoder.split.name)


class MaxHead(ConvolutionalHead):
    def forward(self, x):
        return self.head(self.features(x)).amax((2, 3))


class ReluHead(ConvolutionalHead):
    def forward(self, x):
        return F.relu(self.head(self.features(x))).mean((2, 3))


class StridedHead(ConvolutionalHead):
    def forward(self, x):
        return F.conv2d(self.features(x), self.head.weight, stride=2).mean((2, 3))


class WideHead(Net):
    """A 3x3 convolution at the end."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(8, 5, 3)

    def forward(self, x):
        return self.head(self.features(x)).mean((2, 3))


class TwoHeads(Net):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(8, 2)

    def forward(self, x):
        return torch.cat([self.fc(self.latents(x)), self.other(self.latents(x) ** 2)], 1)


class Bypass(TwoHeads):
    """The images reach the logits beside the named layer."""

    def forward(self, x):
        return self.other(torch.cat([self.fc(self.latents(x)), x.mean((2, 3))], 1))

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(8, 2)


class Reused(Net):
    def __init__(self):
        super().__init__()
        self.again, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.again(F.relu(self.again(self.latents(x)))))


class NoHead(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class Dense(Net):
    def forward(self, x):
        return nn.functional.conv2d(self.features(x), self.fc.weight[:, :, None, None])


@pytest.mark.parametrize(
    ("kind", "head", "error", "words"),
    [
        (MaxHead, None, CaptureError, "no mean over all of them"),
        (ReluHead, None, CaptureError, "no mean over all of them"),
        (StridedHead, None, CaptureError, "no mean over all of them"),
        (WideHead, None, CaptureError, "head is no linear|no linear layer nor"),
        (TwoHeads, None, CaptureError, r"2 last layers \(.*fc"),
        (TwoHeads, "fc", CaptureError, "beside fc"),
        (Bypass, "fc", CaptureError, "beside fc"),
        (Reused, "again", OptionsError, "is called 2 times"),
        (Reused, "block1.0", OptionsError, "no linear layer nor a 1x1"),
        (NoHead, None, CaptureError, "no convolution or linear layer"),
        (Dense, None, CaptureError, "36 positions"),
    ],
)
def test_heads_that_are_none(images, kind, head, error, words):
    with pytest.raises(error, match=words):
        Encoder(kind().eval(), head=head).latents(images[:2])


def test_a_wrapped_model_and_half_precision(net, images, memory):
    assert torch.equal(MemoryBank.build(nn.DataParallel(net), [images]).latents, memory.latents)
    half = copy.deepcopy(net).half()
    bank = MemoryBank.build(half, [images])
    assert bank.latents.dtype == torch.float32
    assert bank.dtype == torch.float16
    found = explain(half, images[:2].half(), bank)
    exact = copy.deepcopy(half).float().latents(images[:2].half().float())
    torch.testing.assert_close(found.latents, exact.detach())


def test_the_model_is_not_touched(images):
    net = Net()
    before = copy.deepcopy(net.state_dict())
    hooks = [dict(vars(module)) for module in net.modules()]
    net.train()
    with pytest.warns(UserWarning, match="training mode"):
        memory = MemoryBank.build(net, [images])
    with pytest.warns(UserWarning, match="training mode"):
        explain(net, images[:2], memory)
    with pytest.warns(UserWarning, match="training mode"):
        linear_probe(net, "block2", (images, torch.arange(30) % 3))
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())
    assert [set(vars(module)) for module in net.modules()] == [set(was) for was in hooks]
    assert not any(module._forward_hooks or module._backward_hooks for module in net.modules())


# --- probes -------------------------------------------------------------------------------------------------


def pooled(net, images):
    with torch.no_grad():
        return net.block1(images).mean((2, 3))


def test_a_probe_is_logistic_regression(net, images):
    linear_model = pytest.importorskip("sklearn.linear_model")
    labels = (images.mean((2, 3)) @ torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, 0, 3]])).argmax(1)
    probe = linear_probe(net, "block1", [(images[:20], labels[:20]), (images[20:], labels[20:])], penalty=0.01)
    x = pooled(net, images).double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    reference = linear_model.LogisticRegression(C=1 / (0.01 * 30), tol=1e-10, max_iter=10_000)
    reference.fit(((x - mean) / deviation).numpy(), labels.numpy())
    expected = torch.from_numpy(reference.decision_function(((x - mean) / deviation).numpy()))
    logits = probe(images).detach().double()
    centred = logits - logits.mean(1, keepdim=True)  # a softmax leaves the mean open
    torch.testing.assert_close(centred, expected - expected.mean(1, keepdim=True), rtol=1e-3, atol=1e-4)
    assert probe.train_accuracy == pytest.approx(float((expected.argmax(1) == labels).double().mean()))
    assert probe.accuracy is None


def test_a_probe_of_several_labels(net, images):
    linear_model = pytest.importorskip("sklearn.linear_model")
    labels = (images.mean((2, 3)) > 0).float()
    probe = linear_probe(net, "block1", (images, labels), penalty=0.02, held_out=[(images[:9], labels[:9])])
    assert probe.multi_label
    x = pooled(net, images).double()
    x = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    for k in range(3):
        reference = linear_model.LogisticRegression(C=1 / (0.02 * 30), tol=1e-10, max_iter=10_000)
        expected = reference.fit(x, labels[:, k].numpy()).decision_function(x)
        torch.testing.assert_close(
            probe(images)[:, k].detach().double(), torch.from_numpy(expected), rtol=1e-3, atol=1e-4
        )
    right = (probe(images[:9]) > 0) == labels[:9].bool()
    assert probe.accuracy == pytest.approx(float(right.double().mean()))


def test_a_probe_is_the_same_every_time_and_its_constant_features_count_nothing(images):
    net = Net()
    with torch.no_grad():
        net.block1[1].weight[2] = 0
    data = images, torch.arange(30) % 2
    with torch.inference_mode(), torch.autocast("cpu"):  # what is around does not matter
        one = linear_probe(net, "block1", data)
    other = linear_probe(net, "block1", data)
    assert torch.equal(one.classifier.weight, other.classifier.weight)
    assert not one.classifier.weight[:, 2].any()


@pytest.mark.parametrize(("method", "pool"), [("agf", 1), ("agf", 3), ("rap", 1)])
def test_maps_of_a_probe_are_those_of_a_network_cut_by_hand(net, images, method, pool):
    probe = linear_probe(net, "block2.0", (images, torch.arange(30) % 4), pool=pool)
    by_hand = nn.Sequential(net.block1, net.block2[0], nn.AdaptiveAvgPool2d(pool), nn.Flatten(), probe.classifier)
    found = agf_fx.compile(probe, method=method).explain(images[:3], 1)
    expected = agf_fx.compile(by_hand.eval(), method=method).explain(images[:3], 1)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.maps, expected.maps)


def test_a_probe_shares_the_weights_of_the_model(net, images):
    probe = linear_probe(net, "block1", (images, torch.arange(30) % 2))
    assert isinstance(probe, LinearProbe)
    ours = dict(net.named_parameters())
    shared = dict(probe.features.named_parameters())
    assert set(shared) == {name for name in ours if name.startswith("block1")}
    assert all(weight is ours[name] for name, weight in shared.items())
    assert dict(probe.features.named_buffers())["block1.1.running_mean"] is net.block1[1].running_mean


class Residual(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.sum = Sum()
        self.act = nn.Identity()

    def features(self, x):
        x = self.block2(self.block1(x))
        return self.sum(x, self.conv(x))


class Sum(nn.Module):
    def forward(self, x, y):
        return F.relu(x + y)


@pytest.mark.parametrize(
    ("kind", "layer", "value"),
    [
        (Residual, "sum", lambda net, x: net.features(x).mean((2, 3))),
        (ClassToken, "attention", lambda net, x: tokens(net, x)[1].mean(1)),
        (Net, "fc", lambda net, x: net.fc(net.latents(x))),
    ],
)
def test_probes_of_other_layers(images, kind, layer, value):
    net = kind().eval()
    probe = linear_probe(net, layer, (images, torch.arange(30) % 3))
    with torch.no_grad():
        torch.testing.assert_close(probe.pool(probe.features(images)), value(net, images), rtol=1e-4, atol=1e-5)
    assert agf_fx.compile(probe)(images[:2], 1).shape == (2, 12, 12)


def tokens(net, x):
    before = net.features(x).flatten(2).transpose(1, 2)
    before = torch.cat([net.token.expand(len(x), -1, -1), before], 1)
    return before, net.attention(before)


@pytest.mark.parametrize(
    ("layer", "data", "options", "error", "words"),
    [
        ("block3", None, {}, OptionsError, "did you mean"),
        ("block1", [], {}, InputError, "no batch"),
        ("block1", [torch.zeros(2, *SHAPE)], {}, InputError, "no pair"),
        ("block1", (torch.zeros(2, *SHAPE), torch.zeros(2)), {}, InputError, "labels of batch 0"),
        ("block1", (torch.zeros(2, *SHAPE), torch.zeros(3).long()), {}, InputError, "for 2 images"),
        ("block1", (torch.zeros(2, *SHAPE), torch.zeros(2).long()), {}, InputError, "nothing to tell apart"),
        ("block1", (torch.zeros(2, *SHAPE) * torch.nan, torch.arange(2)), {}, NonFiniteInputError, "NaN"),
        ("block1", None, {"classes": 2}, OptionsError, "contradict"),
        ("block1", None, {"pool": 0}, OptionsError, "pool is 0"),
        ("block1", None, {"penalty": 0}, OptionsError, "above 0"),
        ("fc", None, {"held_out": []}, InputError, "no held-out batch"),
        ("fc", None, {"held_out": (torch.zeros(1, *SHAPE), torch.tensor([4]))}, InputError, "of 5 classes"),
    ],
)
def test_probes_that_cannot_be(net, images, layer, data, options, error, words):
    data = (images, torch.arange(30) % 4) if data is None else data
    with pytest.raises(error, match=words):
        linear_probe(net, layer, data, **options)


def test_a_half_precision_model_is_not_probed(net, images):
    with pytest.raises(InputError, match=r"deepcopy\(model\)\.float"):
        linear_probe(copy.deepcopy(net).half(), "block1", (images.half(), torch.arange(30) % 4))


# --- the bundled networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes"), [("digits-rotation", 4), ("digits-clusters", 16), ("digits-supervised", 10)]
)
def test_networks_trained_without_labels(name, classes):
    loaded = agf_fx.load_model(name)
    assert len(loaded.class_names) == classes
    assert loaded.multi_label == (name == "digits-supervised")
    assets = files("agf_fx.assets")
    assert len((assets / f"{name}.safetensors").read_bytes()) < 300_000
    record = json.loads((assets / f"{name}.json").read_text())
    assert record["network"] == name
    assert record["parameters"] == sum(weight.numel() for weight in loaded.model.parameters())
    assert set(record["probes"]) == {"block1", "block2", "block3", "block4", "block5"}


def test_rotations_are_told():
    pytest.importorskip("sklearn")
    from agf_fx.data import digit_scenes

    scenes = digit_scenes(64, split="test", seed=3).images
    turned = torch.cat([torch.rot90(scenes, k, (2, 3)) for k in range(4)])
    with torch.no_grad():
        answers = agf_fx.load_model("digits-rotation").model((turned - 0.5) / 0.5).argmax(1)
    assert (answers == torch.arange(4).repeat_interleave(64)).double().mean() > 0.9
