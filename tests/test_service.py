"""The example service, in a process that cannot import agf-fx."""

from __future__ import annotations

import io
import json
import runpy
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
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
    command = [sys.executable, "-c", WITHOUT_AGF_FX, str(SERVICE), str(path), "--port", "0", "--patience", "0.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("serving"), process.communicate(timeout=60)[1]
            yield line.split()[-1], explainer, loaded
        finally:
            process.terminate()


def written(picture):
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


MADE = {
    "thin": lambda: written(Image.new("1", (1, 3_000_000))),
    "large": lambda: written(Image.new("1", (6000, 6000))),
    "deep": lambda: written(Image.fromarray(np.zeros((9, 9), np.uint16))),
}


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
        *((f"top={top}", None, "1 to 10") for top in ("1000000000000", "0", "-1", "11", "1e3", "", "%EF%BC%91")),
        *((f"target={target}", None, "0 to 9") for target in ("-1", "9" * 5000, "1.0")),
        ("&".join(["target=1"] * 11), None, "up to 10"),
        ("&".join(["target=1"] * 500), None, "too many parameters"),
        ("target=1&top=2", None, "not both"),
        ("top=1&top=2", None, "twice"),
        ("tpo=2", None, "no parameter 'tpo'; there are target, top, as"),
        ("", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
        ("", "thin", "long and thin"),
        ("", "large", "25,000,000 pixels, and this has 6000x6000"),
        ("", "deep", "more than 8 bits"),
    ],
)
def test_bad_requests_are_told_why(served, query, content, reason):
    upload = MADE.get(content, lambda: content)() or Path(sample_scenes()[0].path).read_bytes()
    with pytest.raises(urllib.error.HTTPError) as refusal:
        ask(served[0], query, upload)
    assert refusal.value.code == 400
    assert reason in refusal.value.read().decode()


def test_the_service_says_what_it_serves(served):
    with urllib.request.urlopen(served[0], timeout=60) as answer:
        about = json.loads(answer.read())
    assert about["fingerprint"] == served[1].fingerprint
    assert about["class_names"][3] == "digit 3"


def posted(address, upload, headers):
    request = urllib.request.Request(f"{address}/explain", data=upload, headers=headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def form(*files, boundary="----x"):
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'.encode()
        + file
        + b"\r\n"
        for file in files
    ]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), {
        "Content-Type": f"multipart/form-data; boundary={boundary}"
    }


def test_a_form_with_one_picture_is_accepted(served):
    upload = Path(sample_scenes()[3].path).read_bytes()
    assert posted(served[0], *form(upload)) == json.loads(ask(served[0], "", upload))
    for content, headers in (form(), form(upload, upload)):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            posted(served[0], content, headers)
        assert "send one picture" in refusal.value.read().decode()


def raw(address, request):
    """What the service answers to bytes that are no good request; it stays alive."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        return connection.recv(4096).decode()


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "99999999999999", "", "20971521"])
def test_bad_lengths_are_refused(served, length):
    answer = raw(served[0], f"POST /explain HTTP/1.0\r\nContent-Length: {length}\r\n\r\n".encode())
    assert answer.split()[1] in ("400", "413")
    assert "Traceback" not in answer


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/explain", 405), ("POST", "/", 404), ("GET", "/x", 404)]
)
def test_other_addresses_are_told(served, method, path, status):
    assert raw(served[0], f"{method} {path} HTTP/1.0\r\n\r\n".encode()).split()[1] == str(status)


def test_many_clients_are_answered_or_told_to_come_again(served):
    """Slow clients hold no thread, and nobody's connection is reset."""
    address, upload = served[0], Path(sample_scenes()[0].path).read_bytes()
    host, port = address.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port)), timeout=30) for _ in range(40)]

    def status(_):
        try:
            ask(address, "", upload)
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    try:
        for connection in slow:
            connection.sendall(b"POST /explain HTTP/1.0\r\nContent-Length: 100\r\n\r\nx")
        with ThreadPoolExecutor(60) as pool:
            found = list(pool.map(status, range(60)))
    finally:
        for connection in slow:
            connection.close()
    assert set(found) <= {200, 503}
    assert found.count(200) >= 3


def test_more_pictures_than_turns_are_told_to_come_again():
    """The limit is on what is decoded at a time."""
    service = runpy.run_path(str(SERVICE))
    busy = object.__new__(service["Service"])
    busy.about, busy.turns, busy.patience = {"classes": 10}, threading.BoundedSemaphore(1), 0.01
    busy.turns.acquire()
    with pytest.raises(service["Refused"], match="come again") as refusal:
        busy.explain(b"", {})
    assert refusal.value.status.startswith("503")
