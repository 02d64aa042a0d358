"""The example service, in a process that cannot import agf-fx."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import agf_fx
from agf_fx.data import sample_scenes

SERVICE = Path(__file__).parent.parent / "examples" / "service" / "service.py"
WITHOUT_AGF_FX = """
import runpy, sys
sys.modules["agf_fx"] = sys.modules["passes"] = None  # importing either is an ImportError from now on
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a running service, and what it serves."""
    path = tmp_path_factory.mktemp("service") / "explainer.pt"
    loaded = agf_fx.load_model("digits-vgg")
    explainer = agf_fx.compile(loaded.model, torch.zeros(1, 3, 64, 64))
    explainer.export(
        path, class_names=[f"digit {name}" for name in loaded.class_names], preprocessing=loaded.preprocessing
    )
    command = [sys.executable, "-c", WITHOUT_AGF_FX, str(SERVICE), str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("serving"), process.communicate(timeout=60)[1]
            yield line.split()[-1], explainer, loaded
        finally:
            process.terminate()


def ask(address, query, content):
    with urllib.request.urlopen(f"{address}/explain?{query}", data=content, timeout=120) as answer:
        return answer.read()


def test_the_service_gives_the_maps_of_the_explainer(served):
    address, explainer, loaded = served
    scene = sample_scenes()[3]
    images = loaded.preprocessing.prepare(agf_fx.read_image(scene.path))[0][None]
    expected = explainer.explain(images, top_k=2)
    upload = Path(scene.path).read_bytes()

    found = np.load(io.BytesIO(ask(address, "top=2&as=npy", upload)), allow_pickle=False)
    assert found.shape == (2, 64, 64)
    assert np.abs(found - expected.maps[0].numpy()).max() <= 1e-5 * np.abs(found).max()

    summary = json.loads(ask(address, "top=2", upload))
    assert [entry["class"] for entry in summary["explained"]] == expected.target[0].tolist()
    assert summary["explained"][0]["name"] == f"digit {expected.target[0, 0]}"

    red, _, blue = Image.open(io.BytesIO(ask(address, "target=3&as=png", upload))).split()
    strongest = explainer(images, 3)[0].flatten().argmax()
    assert np.asarray(red).flat[strongest] >= np.asarray(blue).flat[strongest]


@pytest.mark.parametrize(
    ("query", "content", "reason"),
    [
        ("", b"no picture", "no picture"),
        ("target=10", None, "0 to 9"),
        ("target=x", None, "whole"),
        ("as=gif", None, "npy"),
    ],
)
def test_bad_requests_are_told_why(served, query, content, reason):
    upload = content or Path(sample_scenes()[0].path).read_bytes()
    with pytest.raises(urllib.error.HTTPError) as refusal:
        ask(served[0], query, upload)
    assert refusal.value.code == 400
    assert reason in refusal.value.read().decode()


def test_the_service_says_what_it_serves(served):
    with urllib.request.urlopen(served[0], timeout=60) as answer:
        about = json.loads(answer.read())
    assert about["fingerprint"] == served[1].fingerprint
    assert about["class_names"][3] == "digit 3"
