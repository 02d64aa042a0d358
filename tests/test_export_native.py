"""TorchScript files, exported programs and AOTInductor packages give the same maps wherever they are loaded."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from classifiers import CLASSES, lively, random_images, small_efficientnet
from filelock import FileLock
from networks import TinyResNet
from torch import nn
from torch._inductor import config
from torchvision import models
from torchvision.models import efficientnet, mobilenetv3, vgg

import agf_fx
from agf_fx.errors import ExportError
from agf_fx.options import AGFOptions

FILES = {"torchscript": "explainer.pt", "export": "exported.pt2", "aoti": "compiled.pt2"}
EXAMPLES = Path(__file__).parent.parent / "examples"


def load(format, path):
    """As somebody without agf-fx does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if format == "torchscript":
            return torch.jit.load(path)
        return torch.export.load(path).module() if format == "export" else torch._inductor.aoti_load_package(path)


# The same in a process where agf-fx cannot be imported: FILE... CASES RESULTS; prints the metadata of each file.
ELSEWHERE = """
    import json, sys, warnings
    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("agf_fx", "passes"):
                raise ImportError(name)
    sys.meta_path.insert(0, Blocker())
    try:
        import agf_fx
        raise SystemExit("agf_fx was importable")
    except ImportError:
        pass
    import torch
    warnings.simplefilter("ignore")
    script, program, package, cases, results = sys.argv[1:]
    texts = [{"agf_fx.json": ""}, {"agf_fx.json": ""}]
    explainers = [
        torch.jit.load(script, _extra_files=texts[0]),
        torch.export.load(program, extra_files=texts[1]).module(),
        torch._inductor.aoti_load_package(package),
    ]
    texts.append(explainers[2].get_metadata())
    try:
        explainers[2](torch.zeros(2, 3, 20, 20), torch.zeros(2, 1, dtype=torch.int64))
        raise SystemExit("another image size was accepted")
    except RuntimeError as error:
        assert "unmatched dim value" in str(error), error
    cases = torch.load(cases)
    torch.save([[explain(*case) for case in cases] for explain in explainers], results)
    print(json.dumps([json.loads(text["agf_fx.json"]) for text in texts]))
"""


@pytest.fixture(autouse=True)
def _little_optimisation():
    """What AOT_INDUCTOR_DEBUG_COMPILE=1 sets: the C++ compiler takes a fifth of the time."""
    with config.patch({"aot_inductor.debug_compile": True}):
        yield


def wide_vgg():
    """Few operations and weights of 10 MB, beside which the graph weighs little, compiled for debugging too."""
    model = models.VGG(vgg.make_layers([4, "M"], batch_norm=True), init_weights=False)
    widths = nn.Linear(4 * 49, 4096), nn.Linear(4096, 384), nn.Linear(384, CLASSES)
    model.classifier = nn.Sequential(widths[0], nn.ReLU(True), nn.Dropout(), widths[1], nn.ReLU(True), widths[2])
    return model


def tiny_resnet():
    return TinyResNet({"block": "BasicBlock", "base": 4, "layers": [0, 1, 0, 0], "ncls": CLASSES})


def tiny_mobilenet_v3():
    block = partial(mobilenetv3.InvertedResidualConfig, width_mult=1.0)
    return models.MobileNetV3([block(8, 3, 16, 8, True, "HS", 2, 1)], last_channel=16, num_classes=CLASSES)


# The smallest members that still have a block of their family: builder, image size, and a seed for which the network
# decides nothing by differences that float32 cannot tell, so that its maps in float32 and float64 agree to 1e-5.
FAMILIES = {
    "resnet": (tiny_resnet, 33, 0),
    "densenet": (lambda: models.DenseNet(4, (2,), 8, bn_size=2, num_classes=CLASSES), 29, 3),
    "mobilenetv3": (tiny_mobilenet_v3, 33, 7),
    "efficientnet": (
        lambda: small_efficientnet(efficientnet.MBConvConfig(2, 3, 1, 8, 8, 1), last_channel=16),
        29,
        0,
    ),
}


def member(builder, size, seed=0):
    torch.manual_seed(seed)
    return lively(builder().double(), random_images(4, size, torch.float64, seed=1)).float().eval()


def requests(size):
    """Eight images with four targets each, some by rank; and batches of 1, 3 and 8 of them with 1 and 4 targets."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, size, size, generator=generator)
    target = torch.randint(CLASSES, (8, 4), generator=generator)
    target[:, 1], target[::2, 2] = -1, -CLASSES
    return images, target, [(images[:n].clone(), target[:n, :k].clone()) for n in (1, 3, 8) for k in (1, 4)]


def in_process(explainer, images, target):
    logits = explainer.explain(images).logits
    ranked = logits.argsort(1, descending=True)
    return explainer.explain(images, torch.where(target < 0, ranked.gather(1, (-target - 1).clamp(min=0)), target))


def check(expected, images, target, maps, logits):
    """Against the explanation of the whole, of which this is the beginning."""
    wanted = expected.maps[: target.shape[0], : target.shape[1]]
    assert maps.shape == (*target.shape, *images.shape[2:])
    assert logits.shape == (len(images), CLASSES)
    assert (logits - expected.logits[: len(images)]).abs().max() <= 1e-5 * expected.logits.abs().max()
    error = (maps - wanted).abs().amax((2, 3)) / wanted.abs().amax((2, 3))
    assert error.max() <= 1e-4, error


def weight_bytes(model):
    tensors = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def tensor_bytes(path):
    with zipfile.ZipFile(path) as archive:
        names = r".*/data/(\d+|weights/weight_\d+|constants/tensor_\d+|sample_inputs/.*)"
        return sum(member.file_size for member in archive.infolist() if re.fullmatch(names, member.filename))


@pytest.mark.parametrize(
    ("family", "formats"),
    [
        *((family, ("torchscript", "export")) for family in FAMILIES),
        *((family, ("aoti",)) for family in FAMILIES if family != "densenet"),  # which takes longest to compile
    ],
    ids=lambda value: value if isinstance(value, str) else " and ".join(value),
)
def test_every_format_gives_the_maps(family, formats, tmp_path):
    model, size = member(*FAMILIES[family]), FAMILIES[family][1]
    images, target, cases = requests(size)
    explainer = agf_fx.compile(model, images)
    expected = in_process(explainer, images, target)
    for format in formats:
        file = tmp_path / FILES[format]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            explainer.export(file, format=format)
        explain = load(format, file)
        for case in cases:
            check(expected, *case, *explain(*case))
        if format != "export":  # which tests/test_load_exported.py reads back
            given = images.contiguous(memory_format=torch.channels_last)
            result = agf_fx.load(file, fingerprint=explainer.fingerprint).explain(given, expected.target)
            check(expected, images, expected.target, result.maps, result.logits)
        if format != "aoti":  # whose weights lie in the library
            assert 0 < tensor_bytes(file) <= 1.1 * weight_bytes(model)
    assert {path.name for path in tmp_path.iterdir()} == {FILES[format] for format in formats}


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """examples/cpp, built once for all processes of the tests against the libtorch of this environment."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    build, found = shared / "cpp", os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    cmake = [shutil.which("cmake", path=found)]
    with FileLock(shared / "cpp.lock"):
        if not (build / "explain").exists():
            options = ["-G", "Ninja", f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"]
            for command in ([*cmake, "-S", EXAMPLES / "cpp", "-B", build, *options], [*cmake, "--build", build]):
                done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": found})
                assert done.returncode == 0, done.stdout + done.stderr
    return build / "explain"


def run(program, *arguments):
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_files_run_elsewhere(program, tmp_path):
    """In a process that cannot import agf-fx, and in the C++ program; and they hold little but the weights."""
    model = member(wide_vgg, 37)
    images, target, cases = requests(37)
    explainer = agf_fx.compile(model, images)
    expected = in_process(explainer, images, target)
    torch.save(cases, tmp_path / "cases.pt")
    images.numpy().astype("<f4").tofile(tmp_path / "images.f32")
    for format, name in FILES.items():
        explainer.export(tmp_path / name, format=format, class_names=[f"no. {c}" for c in range(CLASSES)])
        assert os.path.getsize(tmp_path / name) <= 1.1 * weight_bytes(model), format

    names = [*FILES.values(), "cases.pt", "results.pt"]
    command = [sys.executable, "-c", textwrap.dedent(ELSEWHERE), *(str(tmp_path / name) for name in names)]
    checked = {**os.environ, "AOTI_RUNTIME_CHECK_INPUTS": "1"}  # or packages take any tensor for what they expect
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=checked, check=False)
    assert done.returncode == 0, done.stderr
    for results in torch.load(tmp_path / "results.pt"):
        for case, result in zip(cases, results, strict=True):
            check(expected, *case, *result)
    for format, metadata in zip(FILES, json.loads(done.stdout), strict=True):
        assert metadata["format"] == format
        assert metadata["method"] == "agf"
        assert metadata["image_shape"] == [3, 37, 37]
        assert metadata["class_names"][3] == "no. 3"

    row = [7, -1, 2]
    wanted = in_process(explainer, images, torch.tensor(row).expand(8, 3))
    for format in ("torchscript", "aoti"):
        file = tmp_path / FILES[format]
        done = run(program, file, tmp_path / "images.f32", *row, "--maps", tmp_path / "maps.f32")
        assert done.returncode == 0, done.stderr
        maps = torch.from_numpy(np.fromfile(tmp_path / "maps.f32", "<f4")).reshape(8, 3, 37, 37)
        check(wanted, images, torch.tensor(row).expand(8, 3), maps, wanted.logits)
        tops = re.findall(r"image (\d): top class (\d)", done.stdout)
        assert tops == [(str(i), str(top)) for i, top in enumerate(wanted.logits.argmax(1).tolist())]

    complaints(program, tmp_path)


def complaints(program, folder):
    """What the C++ program says of bad input, and that it ends with status 1."""
    file, images = folder / "explainer.pt", folder / "images.f32"
    (folder / "short.f32").write_bytes(images.read_bytes()[:-4])
    for arguments, message in (
        ((file, images), "usage:"),
        ((file, images, "cat"), "target cat: is not a class number"),
        ((file, images, CLASSES), f"there are {CLASSES} classes"),
        ((folder / "missing.pt", images, 1), "missing.pt: cannot be read"),
        ((file, folder / "short.f32", 1), "no number of float32 images"),
        ((images, images, 1), "zip archive"),
        ((folder / FILES["export"], images, 1), "Failed to find a generated"),
        ((file, images, 1, "--maps", folder), "cannot be written"),
    ):
        done = run(program, *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_script_module_is_like_others(tmp_path):
    """Its prepared constants move, are copied and frozen with it, and are not written again."""
    images, target, _ = requests(29)
    model = member(*FAMILIES["efficientnet"])
    agf_fx.compile(model, images).export(tmp_path / "explainer.pt")
    module = load("torchscript", tmp_path / "explainer.pt")
    maps = module(images, target)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for other in (copy.deepcopy(module), torch.jit.freeze(module)):
            assert torch.equal(other(images, target)[0], maps)
        optimised = torch.jit.optimize_for_inference(module)(images, target)[0]
        torch.jit.save(module, tmp_path / "again.pt")
    torch.testing.assert_close(optimised, maps, rtol=0, atol=1e-4 * float(maps.abs().max()))
    assert tensor_bytes(tmp_path / "again.pt") == tensor_bytes(tmp_path / "explainer.pt")

    in_double = agf_fx.compile(model.double(), images.double())
    expected = in_process(in_double, images.double(), target)
    maps, _ = module.double()(images.double(), target)  # constants that were prepared in float32, to single precision
    torch.testing.assert_close(maps, expected.maps, rtol=0, atol=1e-4 * float(expected.maps.abs().max()))


@pytest.mark.parametrize("options", [None, AGFOptions(input_agnostic=False, division="exact")])
def test_methods_without_prepared_constants(options, tmp_path):
    model, (images, target, cases) = member(tiny_resnet, 17), requests(17)
    method = {"method": "gradient_x_input"} if options is None else {"options": options}
    explainer = agf_fx.compile(model, images, **method)
    explainer.export(tmp_path / "explainer.pt")
    expected = in_process(explainer, images, target)
    for case in cases:
        check(expected, *case, *load("torchscript", tmp_path / "explainer.pt")(*case))


def test_a_package_needs_a_compiler(tmp_path):
    explainer = agf_fx.compile(member(tiny_resnet, 17), torch.zeros(2, 3, 17, 17))
    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(ExportError, match=r"apt install g\+\+"):
        explainer.export(tmp_path / "explainer.pt2", format="aoti")
    assert not list(tmp_path.iterdir())
