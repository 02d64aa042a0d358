"""A web service that explains pictures with an exported explainer: torch, torchvision, Pillow, waitress; no agf-fx.

    agf-fx export resnet50 --weights DEFAULT -o explainer.pt
    python service.py explainer.pt --port 8000
    curl --data-binary @photo.jpg 'http://localhost:8000/explain?top=2'            # classes and probabilities, as JSON
    curl -F image=@photo.jpg 'http://localhost:8000/explain?target=207&as=png' -o map.png
    curl --data-binary @photo.jpg 'http://localhost:8000/explain?as=npy' -o map.npy  # float32 (targets, height, width)

A TorchScript file can run code of whoever wrote it: serve files that you have exported yourself. README.md says what
the service promises under load, and what it leaves to a proxy in front of it.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
import waitress
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

MOST_BYTES = 20 * 2**20  # of an upload
MOST_PIXELS = 25_000_000  # of a picture, as it is and resized
MOST_TARGETS = 10  # classes of one request
AT_ONCE = 2  # pictures that are decoded and explained at a time
PATIENCE = 10.0  # seconds that a request waits for its turn; then it is told to come again
THREADS = 16  # requests that wait or run; further ones wait in a queue, and cost no thread
IDLE = 30  # seconds after which a connection that sends nothing is closed
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # other decoders are not tried: some start programs
PARAMETERS = ("target", "top", "as")

Query = dict[str, list[str]]
Answer = tuple[str, str, bytes]  # status, media type, content


class Refused(Exception):
    """A request that cannot be answered: the status, and the reason for its sender."""

    def __init__(self, reason: str, status: str = "400 Bad Request") -> None:
        super().__init__(reason)
        self.status = status


class Service:
    """An exported explainer, with the preprocessing and class names that its file carries."""

    def __init__(self, path: str, at_once: int = AT_ONCE, patience: float = PATIENCE) -> None:
        extra = {"agf_fx.json": ""}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
            self.explainer = torch.jit.load(path, _extra_files=extra)
        self.about = json.loads(extra["agf_fx.json"])
        if self.about["preprocessing"] is None:
            raise SystemExit(f"{path} says nothing of preprocessing; export it with agf-fx export.")
        self.turns, self.patience = threading.BoundedSemaphore(at_once), patience

    def targets(self, query: Query) -> torch.Tensor:
        """The classes asked for, (1, K): ``target=3&target=7``, or ``top=2``; -1 stands for the top class."""
        count = self.about["classes"]
        most = min(count, MOST_TARGETS)
        if "target" in query and "top" in query:
            raise Refused("give target or top, not both.")
        if len(query.get("target", [])) > most:
            raise Refused(f"one request explains up to {most} classes.")
        classes = [_whole(text, "target", 0, count - 1) for text in query.get("target", [])]
        top = _whole(query.get("top", ["1"])[0], "top", 1, most)
        return torch.tensor([classes or [-1 - rank for rank in range(top)]])

    def prepared(self, upload: bytes) -> torch.Tensor:
        """The bytes of a picture as one image (1, C, H, W)."""
        steps = self.about["preprocessing"]
        picture = _picture(upload)
        if len(steps["mean"]) == 1:
            picture = picture.convert("L")
        if steps["resize"] is not None:
            scale = steps["resize"] / min(picture.size)
            if picture.width * scale * picture.height * scale > MOST_PIXELS:
                raise Refused(f"a picture of {picture.width}x{picture.height} pixels is too long and thin.")
            picture = F.resize(picture, [steps["resize"]], InterpolationMode(steps["interpolation"]))
        _, height, width = self.about["image_shape"]
        pixels = F.pil_to_tensor(F.center_crop(picture, [height, width]))
        images = F.normalize(F.convert_image_dtype(pixels, torch.float32), steps["mean"], steps["std"])
        return images[None].to(getattr(torch, self.about["dtype"]))

    def explain(self, upload: bytes, query: Query) -> Answer:
        """The answer to a request: everything is checked before a picture is decoded, and few are at a time."""
        target, kind = self.targets(query), query.get("as", ["json"])[0]
        if kind not in ("json", "npy", "png"):
            raise Refused("as is json, npy or png.")
        if not self.turns.acquire(timeout=self.patience):
            raise Refused("too many pictures at once; come again.", "503 Service Unavailable")
        try:
            with torch.no_grad():
                maps, logits = self.explainer(self.prepared(upload), target)
        finally:
            self.turns.release()
        if kind == "npy":
            return "200 OK", "application/octet-stream", npy(maps[0].float().numpy())
        if kind == "png":
            return "200 OK", "image/png", png(maps[0, 0])
        return "200 OK", "application/json", json.dumps(self.summary(target[0], logits[0])).encode()

    def summary(self, target: torch.Tensor, logits: torch.Tensor) -> dict[str, object]:
        """What was explained, in words."""
        ranked = logits.argsort(descending=True)
        names = self.about["class_names"] or [str(number) for number in range(len(logits))]
        classes = [int(ranked[-1 - number]) if number < 0 else number for number in target.tolist()]
        found = [
            {"class": number, "name": names[number], "logit": round(float(logits[number]), 4)} for number in classes
        ]
        return {"model": self.about["model"], "method": self.about["method"], "explained": found}

    def answer(self, request: dict[str, Any]) -> Answer:
        """Answer ``POST /explain`` with a picture, and ``GET /`` with what is served."""
        method, path = request["REQUEST_METHOD"], request["PATH_INFO"]
        if (method, path) == ("GET", "/"):
            return "200 OK", "application/json", json.dumps(self.about).encode()
        if path != "/explain":
            raise Refused("POST a picture to /explain.", "404 Not Found")
        if method != "POST":
            raise Refused("POST a picture to /explain.", "405 Method Not Allowed")
        query = _query(request.get("QUERY_STRING", ""))
        upload = request["wsgi.input"].read(MOST_BYTES + 1)
        return self.explain(_content(upload, request.get("CONTENT_TYPE", "")), query)

    def __call__(self, request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer as a WSGI application."""
        try:
            status, kind, content = self.answer(request)
        except Refused as refusal:
            status, kind, content = refusal.status, "text/plain", f"{refusal}\n".encode()
        headers = [("Content-Type", kind), ("Content-Length", str(len(content)))]
        start(status, [*headers, ("Retry-After", "5")] if status.startswith("503") else headers)
        return [content]


def _query(text: str) -> Query:
    """The parameters of an address; each is known, and all but target are given once."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise Refused("too many parameters.") from error
    query: Query = {}
    for name, value in pairs:
        if name not in PARAMETERS:
            raise Refused(f"there is no parameter {name[:40]!r}; there are {', '.join(PARAMETERS)}.")
        if name in query and name != "target":
            raise Refused(f"{name} is given twice.")
        query.setdefault(name, []).append(value)
    return query


def _whole(text: str, name: str, smallest: int, largest: int) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not smallest <= int(text) <= largest:
        raise Refused(f"{name} is a whole number: {smallest} to {largest}.")
    return int(text)


def _content(upload: bytes, kind: str) -> bytes:
    """The picture in a request: its body, or the one file of a form."""
    boundary = re.search('boundary="?([^";]{1,70})"?', kind) if kind.startswith("multipart/form-data") else None
    if boundary is not None:
        parts = upload.split(b"--" + boundary[1].encode())[1:-1]
        files = [part for part in parts if b"filename=" in part.partition(b"\r\n\r\n")[0]]
        if len(files) != 1:
            raise Refused(f"the form has {len(files)} files; send one picture, as in curl -F image=@photo.jpg.")
        upload = files[0].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
    if not upload:
        raise Refused("there is no picture in the request.")
    return upload


def _picture(upload: bytes) -> Image.Image:
    """A decoded picture, upright and in RGB; its size is checked before it is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(upload), formats=FORMATS)
            if picture.width * picture.height <= MOST_PIXELS and picture.mode[0] not in "IF":
                picture = ImageOps.exif_transpose(picture)
                if picture.has_transparency_data:
                    layer = picture.convert("RGBA")
                    picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
                return picture.convert("RGB")
    except Exception as error:  # whatever Pillow's decoders raise on foreign bytes
        raise Refused(f"this is no picture that can be read: {str(error)[:200]}") from error
    if picture.mode[0] in "IF":
        raise Refused("this picture has more than 8 bits; convert it.")
    raise Refused(f"a picture may have {MOST_PIXELS:,} pixels, and this has {picture.width}x{picture.height}.")


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


def main() -> None:
    """Serve until interrupted; one explainer answers all threads."""
    parser = argparse.ArgumentParser(description="Explain pictures with an exported explainer.")
    parser.add_argument("explainer", help="a TorchScript file, as agf-fx export writes it")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="pictures that are explained at a time")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds that a request waits for its turn")
    arguments = parser.parse_args()
    server = waitress.create_server(
        Service(arguments.explainer, arguments.at_once, arguments.patience),
        host=arguments.host,
        port=arguments.port,
        threads=THREADS,
        max_request_body_size=MOST_BYTES,
        channel_timeout=IDLE,
        backlog=1024,
        ident=None,
    )
    print(f"serving {arguments.explainer} on http://{arguments.host}:{server.effective_port}", flush=True)
    server.run()


if __name__ == "__main__":
    main()
