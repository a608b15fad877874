"""Remake the built-in set ``emoji`` from its npm packages: Noto and Twemoji drawings at 64 x 64 with English and Chinese names.

    python scripts/build_emoji.py                        # fetches the packages with npm into a temporary folder
    python scripts/build_emoji.py --packages node_modules

The same packages, Pillow and pyarrow give the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from jielong_zoo.builders.emoji import read_concepts, read_sheet_package, write_set
from jielong_zoo.builders.npm import install

PACKAGES = ("emoji-datasource-google@16.0.0", "emoji-datasource-twitter@16.0.0", "emojibase-data@17.0.0")
TARGET = Path(__file__).resolve().parents[1] / "zoo" / "src" / "jielong_zoo" / "data" / "emoji.parquet"


def build(packages: Path, target: Path) -> int:
    """Write the set from unpacked packages; returns the number of drawings."""
    concepts = read_concepts(packages / "emojibase-data")
    noto = read_sheet_package(packages / "emoji-datasource-google", "google", "Noto", concepts)
    twemoji = read_sheet_package(packages / "emoji-datasource-twitter", "twitter", "Twemoji", concepts)
    return write_set(target, [*noto, *twemoji])


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="a folder with the unpacked npm packages (a node_modules)")
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        packages = arguments.packages or install(PACKAGES, Path(scratch))
        count = build(packages, arguments.out)
    print(f"{arguments.out}: {count} drawings, {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
