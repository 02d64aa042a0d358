"""A web service that explains pictures with an exported explainer: torch, torchvision and Pillow, without agf-fx.

    agf-fx export resnet50 --weights DEFAULT -o explainer.pt
    python service.py explainer.pt --port 8000
    curl --data-binary @photo.jpg 'http://localhost:8000/explain?top=2'            # classes and probabilities, as JSON
    curl --data-binary @photo.jpg 'http://localhost:8000/explain?target=207&as=png' -o map.png
    curl --data-binary @photo.jpg 'http://localhost:8000/explain?as=npy' -o map.npy  # float32 (targets, height, width)

A TorchScript file can run code of whoever wrote it: serve files that you have exported yourself.
"""

from __future__ import annotations

import argparse
import io
import json
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

MOST_BYTES = 20 * 2**20  # of an uploaded picture


class Refused(Exception):
    """A request that cannot be answered, with the reason for its sender."""


class Service:
    """An exported explainer, with the preprocessing and class names that its file carries."""

    def __init__(self, path: str) -> None:
        extra = {"agf_fx.json": ""}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
            self.explainer = torch.jit.load(path, _extra_files=extra)
        self.about = json.loads(extra["agf_fx.json"])
        if self.about["preprocessing"] is None:
            raise SystemExit(f"{path} says nothing of preprocessing; export it with agf-fx export.")

    def prepared(self, upload: bytes) -> torch.Tensor:
        """The bytes of a picture as one image (1, 3, H, W)."""
        steps = self.about["preprocessing"]
        try:
            picture = Image.open(io.BytesIO(upload)).convert("RGB")
        except Exception as error:  # whatever Pillow's decoders raise on foreign bytes
            raise Refused(f"this is no picture that can be read: {error}") from error
        if steps["resize"] is not None:
            picture = F.resize(picture, [steps["resize"]], InterpolationMode(steps["interpolation"]))
        _, height, width = self.about["image_shape"]
        pixels = F.pil_to_tensor(F.center_crop(picture, [height, width]))
        images = F.normalize(F.convert_image_dtype(pixels, torch.float32), steps["mean"], steps["std"])
        return images[None].to(getattr(torch, self.about["dtype"]))

    def targets(self, query: dict[str, list[str]]) -> torch.Tensor:
        """The classes asked for, (1, K): ``target=3&target=7``, or ``top=2``; -1 stands for the top class."""
        try:
            classes = [int(text) for text in query.get("target", [])]
            classes = classes or [-1 - rank for rank in range(int(query.get("top", ["1"])[0]))]
        except ValueError as error:
            raise Refused("target and top are whole numbers.") from error
        count = self.about["classes"]
        if not 0 < len(classes) <= count or not all(-count <= number < count for number in classes):
            raise Refused(f"there are {count} classes: 0 to {count - 1}.")
        return torch.tensor([classes])

    def explain(self, upload: bytes, query: dict[str, list[str]]) -> tuple[str, bytes]:
        """The answer to a request: its media type and content."""
        target = self.targets(query)
        with torch.no_grad():
            maps, logits = self.explainer(self.prepared(upload), target)
        kind = query.get("as", ["json"])[0]
        if kind == "npy":
            return "application/octet-stream", npy(maps[0].float().numpy())
        if kind == "png":
            return "image/png", png(maps[0, 0])
        if kind == "json":
            return "application/json", json.dumps(self.summary(target[0], logits[0])).encode()
        raise Refused("as is json, npy or png.")

    def summary(self, target: torch.Tensor, logits: torch.Tensor) -> dict[str, object]:
        """What was explained, in words."""
        ranked = logits.argsort(descending=True)
        names = self.about["class_names"] or [str(number) for number in range(len(logits))]
        classes = [int(ranked[-1 - number]) if number < 0 else number for number in target.tolist()]
        found = [
            {"class": number, "name": names[number], "logit": round(float(logits[number]), 4)} for number in classes
        ]
        return {"model": self.about["model"], "method": self.about["method"], "explained": found}


def npy(array: np.ndarray) -> bytes:
    """An array in NumPy's file format."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def png(heat: torch.Tensor) -> bytes:
    """A map (H, W): red where it speaks for the class, blue against it."""
    scaled = heat / heat.abs().max().clamp_min(1e-12)
    fade = 1 - scaled.abs()
    colours = torch.stack([torch.where(scaled > 0, 1.0, fade), fade, torch.where(scaled < 0, 1.0, fade)])
    file = io.BytesIO()
    F.to_pil_image(colours.clamp(0, 1)).save(file, format="PNG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """``POST /explain`` with the bytes of a picture; ``GET /`` says what is served."""

    service: Service

    def do_POST(self) -> None:
        """Explain a picture."""
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if url.path != "/explain" or not 0 < length <= MOST_BYTES:
            self.answer(
                404 if url.path != "/explain" else 413, "text/plain", b"POST a picture of up to 20 MB to /explain\n"
            )
            return
        try:
            kind, content = self.service.explain(self.rfile.read(length), parse_qs(url.query))
        except Refused as reason:
            self.answer(400, "text/plain", f"{reason}\n".encode())
        else:
            self.answer(200, kind, content)

    def do_GET(self) -> None:
        """Say what is served."""
        self.answer(200, "application/json", json.dumps(self.service.about).encode())

    def answer(self, status: int, kind: str, content: bytes) -> None:
        """Send a response."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    """Serve until interrupted; one explainer answers all threads."""
    parser = argparse.ArgumentParser(description="Explain pictures with an exported explainer.")
    parser.add_argument("explainer", help="a TorchScript file, as agf-fx export writes it")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    Handler.service = Service(arguments.explainer)
    with ThreadingHTTPServer((arguments.host, arguments.port), Handler) as server:
        print(f"serving {arguments.explainer} on http://{arguments.host}:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
