"""Write the photographs of the demo into a folder: camera, coffee, and a mosaic of four.

python tools/write_photographs.py out/pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path

from agf_fx.atomic import save_image
from agf_fx.data import mosaic, sample_photographs

ALONE = ("camera", "coffee")
MOSAIC = ("chelsea", "coffee", "camera", "rocket")  # a quarter each, in reading order


def main() -> None:
    """Write ``camera.png``, ``coffee.png`` and ``mosaic.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {photograph.name: photograph.image() for photograph in sample_photographs()}
    for name in ALONE:
        save_image(folder / f"{name}.png", pictures[name])
    save_image(folder / "mosaic.png", mosaic([pictures[name] for name in MOSAIC]))


if __name__ == "__main__":
    main()
