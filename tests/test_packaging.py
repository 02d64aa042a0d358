"""The wheel, installed alone into a second environment, and what importing it costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A second environment with the built wheel; torch and the rest are borrowed from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    with FileLock(tmp_path_factory.getbasetemp().parent / "build.lock"):  # workers build in one tree
        shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools packs what an earlier build left there
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder / "dist", ROOT)
    (wheel,) = (folder / "dist").glob("agf_fx-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    python = folder / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, site, folder


def test_the_wheel_works_alone(installed):
    python, site, folder = installed
    program = """
import agf_fx, agf_fx.passes.heads
from agf_fx.data import sample_scenes
scene = sample_scenes()[0]
loaded = agf_fx.load_model("digits-vgg")
explainer = agf_fx.compile(loaded.model)
image, _ = loaded.preprocessing.prepare(agf_fx.read_image(scene.path))
print(agf_fx.__file__, agf_fx.passes.heads.__file__, explainer(image[None]).shape)
"""
    out = run(python, "-c", program, cwd=folder).split(maxsplit=2)
    assert Path(out[0]).is_relative_to(site)
    assert Path(out[1]) == site / "agf_fx" / "passes" / "heads.py"
    assert out[2].strip() == "torch.Size([1, 64, 64])"
    assert "0.1.0" in run(folder / "env" / "bin" / "agf-fx", "--version", cwd=folder)


def test_the_wheel_holds_what_it_should(installed):
    _, site, _ = installed
    files = {path.relative_to(site / "agf_fx").as_posix() for path in (site / "agf_fx").rglob("*") if path.is_file()}
    assert {"py.typed", "assets/digits-vgg.safetensors", "assets/digits-resnet.safetensors"} <= files
    assert {f"inspect/assets/page.{ending}" for ending in ("html", "css", "js")} <= files
    assert not [name for name in files if "test" in name]
    tree = {path.relative_to(ROOT / "agf_fx").as_posix() for path in (ROOT / "agf_fx").rglob("*.py")}
    assert tree <= files


def test_importing_the_package_loads_nothing_else():
    program = "import sys; before = set(sys.modules); import agf_fx; print(*sorted(set(sys.modules) - before))"
    loaded = set(run(sys.executable, "-c", program, cwd=ROOT).split())
    assert not loaded & {"torch", "torchvision", "numpy", "matplotlib", "networkx", "sympy", "PIL", "typer", "rich"}
    assert {name for name in loaded if name.startswith("agf_fx")} == {"agf_fx"}


def test_a_checkout_that_is_not_installed_finds_its_passes():
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import agf_fx.passes; print(agf_fx.passes.__file__)"
    assert run(sys.executable, "-I", "-S", "-c", program).strip() == str(ROOT / "passes" / "__init__.py")
