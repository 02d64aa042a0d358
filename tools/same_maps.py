"""Whether a change of the compiler changes any heat map: bits of AGF's maps at a commit and in the working tree.

tools/same_maps COMMIT [--networks 100]

Explained are the reference data (tests/golden), all its ablations, the bundled networks on their scenes, and random
networks; with AGF and gradient × input, in the dtype of the data. Both sides run in processes of their own. The exit
status is 1 if a single bit of a map differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from ir import ROOT, UsageError, checked_out, resolved
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.append(str(ROOT / "tests"))

COMMAND = "import sys; sys.path[:0] = [sys.argv[1]]; import same_maps; same_maps.write(sys.argv[2], sys.argv[3])"
METHODS = ("agf", "gradient_x_input")


def main() -> int:
    """Compare; 1 where bits differ, 2 for a request that cannot be met."""
    head, _, details = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        "tools/same_maps", description=head, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", help="anything that git understands: HEAD, HEAD~3, a branch, a hash")
    parser.add_argument("--networks", type=int, default=100, help="number of random networks (default: 100)")
    arguments = parser.parse_args()
    from random_networks.script import network_source

    sources = [network_source(seed) for seed in range(arguments.networks)]
    try:
        with checked_out(resolved(arguments.commit)) as folder:
            before = maps_of(folder, sources)
        after = maps_of(ROOT, sources)
    except UsageError as error:
        print(f"tools/same_maps: {error}", file=sys.stderr)
        return 2
    differing = sorted(
        {*before, *after} - {name for name in before if name in after and same(before[name], after[name])}
    )
    for name in differing:
        print(f"differs: {name}")
    print(f"{len(before)} sets of maps, {len(differing)} differ")
    return bool(differing)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether all bits are equal."""
    kind = torch.int64 if one.dtype is torch.float64 else torch.int32
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.view(kind), other.view(kind))


def maps_of(folder: Path, sources: list[str]) -> dict[str, Tensor]:
    """The maps that the package in ``folder`` makes; of random networks as well, given as programs."""
    with tempfile.TemporaryDirectory(prefix="agf-fx-maps-") as name:
        path = Path(name) / "maps.safetensors"
        programs = path.with_name("networks.json")
        programs.write_text(json.dumps(sources), encoding="utf-8")
        command = [sys.executable, "-P", "-c", COMMAND, str(Path(__file__).parent), str(path), str(programs)]
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, env=environment, check=False)
        if done.returncode:
            raise UsageError(f"the package in {folder} cannot explain the networks")
        return load_file(path)


def write(path: str, programs: str) -> None:
    """Write all maps to a file; the entry point of the other processes."""
    warnings.simplefilter("ignore")
    torch.use_deterministic_algorithms(True)
    sources = json.loads(Path(programs).read_text(encoding="utf-8"))
    save_file({name: maps.contiguous() for name, maps in explained(sources)}, path)


def explained(sources: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Names and maps."""
    from networks import golden_names, load_golden

    import agf_fx
    from agf_fx.data import sample_scenes

    options = agf_fx.AGFOptions()
    switches = [field for field, value in vars(options).items() if value is True]
    choices = {"": options} | {f" without {name}": replace(options, **{name: False}) for name in switches}
    choices |= {" paper": replace(options, dialect="paper"), " exact": replace(options, division="exact")}
    for name in golden_names():
        golden = load_golden(name)
        images, target = golden.tensors["input"], golden.tensors["targets/other"]
        for words, chosen in choices.items():
            yield f"{name}{words}", agf_fx.compile(golden.model, options=chosen)(images, target)
        yield f"{name} gradient", agf_fx.compile(golden.model, method="gradient_x_input")(images, target)
    for name in ("digits-vgg", "digits-resnet", "digits-basic"):
        loaded = agf_fx.load_model(name)
        scenes = torch.stack(
            [loaded.preprocessing.prepare(agf_fx.read_image(scene.path))[0] for scene in sample_scenes()]
        )
        for method in METHODS:
            yield (
                f"{name} {method}",
                agf_fx.compile(loaded.model, method=method).explain(scenes, top_k=2).maps,
            )
    for seed, source in enumerate(sources):
        names: dict[str, object] = {}
        exec(source, names)
        classes = names["target"].clamp_min(0)  # ranks are for compiled graphs
        for method in METHODS:
            found = agf_fx.compile(names["model"], method=method, channel_dim=1)(names["images"], classes)
            yield f"random network {seed} {method}", found


if __name__ == "__main__":
    sys.exit(main())
