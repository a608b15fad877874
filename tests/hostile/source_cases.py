"""Hostile tables and shards."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Iterator

from PIL import Image

from .case import Case, Material, put
from .damage import TEXTS, damaged
from .media_cases import INSPECT, TRAIN_WORDS, whole_pictures

CSV = b"file_name,caption,label\ntrain/red/0.png,a red square,red\ntrain/red/1.png,another,red\ntrain/green/0.png,green,green\n"
JSONL = b'{"file_name": "train/red/0.png", "caption": "red"}\n{"file_name": "train/green/0.png", "caption": "green", "label": "green"}\n'


def tables(material: Material, draw: random.Random, count: int) -> Iterator[Case]:
    """Metadata tables and Parquet files."""
    for file, body in (("metadata.csv", CSV), ("metadata.jsonl", JSONL)):
        yield Case("tables", f"whole {file}", "", put(f"set/{file}", body, material.pictures), INSPECT, whole=True)
    yield Case("tables", "whole parquet", "", put("set/t.parquet", material.parquet.read_bytes()), TRAIN_WORDS, whole=True)
    head = b"file_name,caption,label\n"
    row = b"train/red/0.png,"
    csvs: dict[str, bytes] = {
        **TEXTS,
        "open quote": head + row + b'"a red square,red\n' + row + b"b,red\n" * 100,
        "unquoted comma": head + row + b"a, b, c,red\n",
        "long field": head + row + b"x" * 500_000 + b",red\n",
        "NUL": head + row + b"a\0b,red\n",
        "no header": row + b"a,red\n",
        "header twice": b"file_name,file_name,caption\n" + row + b"a,b\n",
        "only a header": head,
        "absolute": head + b"/etc/passwd,a,b\n",
        "above": head + b"../../../../etc/passwd,a,b\n",
        "a folder": head + b"train,a,b\ntrain/red,a,b\n",
        "a device": head + b"/dev/zero,a,b\n",
        "many columns": b",".join(b"c%d" % number for number in range(50_000)) + b"\n1\n",
        "many rows": head + b"train/red/0.png,a,b\n" * 50_000,
        "carriage returns": head.replace(b"\n", b"\r") + row + b"a,red\r",
        "latin-1": head + row + "été,red\n".encode("latin-1"),
        "utf-16": (head + row + b"a,red\n").decode().encode("utf-16"),
        "a name with escapes": head + b"\x1b[31mtrain/red/0.png,a,b\n",
        "a long name": head + b"x" * 5000 + b".png,a,b\n",
    }
    jsonls: dict[str, bytes] = {
        **TEXTS,
        "array": b"[1, 2]\n",
        "number": b"3\n",
        "deep": b"[" * 100_000 + b"\n",
        "names that are numbers": b'{"file_name": 3, "caption": 4}\n',
        "names that are lists": b'{"file_name": ["train/red/0.png"], "caption": {"a": 1}}\n',
        "null": b'{"file_name": null, "caption": null}\n',
        "NaN": b'{"file_name": "train/red/0.png", "caption": NaN, "label": -Infinity}\n',
        "surrogates": b'{"file_name": "train/red/0.png", "caption": "\\ud800"}\n{"file_name": "\\ud800.png", "caption": "a"}\n',
        "long number": b'{"file_name": "train/red/0.png", "label": ' + b"9" * 5000 + b"}\n",
        "separators": '{"file_name": "train/red/0.png", "caption": "a\u2028b\x85c"}\n'.encode(),
        "cut": b'{"file_name": "train/red/0.png", "cap',
    }
    special = [("csv", name, data) for name, data in csvs.items()] + [("jsonl", name, data) for name, data in jsonls.items()]
    special += [("parquet", name, data) for name, data in TEXTS.items()]
    parquet = material.parquet.read_bytes()
    wrong = sorted(material.wrong.glob("*.parquet"))
    special += [("parquet", path.stem, path.read_bytes()) for path in wrong]
    for number in range(max(count, len(special))):
        if number < len(special):
            ending, name, data = special[number]
        else:
            ending = draw.choice(("csv", "jsonl", "parquet", "parquet"))
            name, data = damaged({"csv": CSV, "jsonl": JSONL, "parquet": parquet}[ending], draw)
        command = TRAIN_WORDS if number % 4 == 3 else INSPECT
        if ending == "parquet":
            culprit = "set" if any(name == path.stem for path in wrong) else "t.parquet"  # a whole file of other contents
            yield Case("tables", f"{name} parquet {number}", culprit, put("set/t.parquet", data), command)
        else:
            culprit = f"metadata.{ending}"
            yield Case("tables", f"{name} {ending} {number}", culprit, put(f"set/{culprit}", data, material.pictures), command)


PATTERNS = (
    "set/{0..999999999}.tar",
    "set/{a,{b,c}}.tar",
    "set/{0..99999}{0..99999}.tar",
    "set/{9..0}.tar",
    "set/[",
    "set/**/*.tar",
    "set/{.tar",
)
SIZES = (-1, -512, -(1 << 40), 1 << 31, 1 << 40, 1 << 62, 1 << 80)
KINDS = (b"L", b"K", b"x", b"g", b"S", b"D", b"V", b"M", b"1", b"2", b"3", b"6", b"\x80")


def tar_of(files: dict[str, bytes], format: int = tarfile.USTAR_FORMAT, records: dict[str, str] | None = None) -> bytes:
    """A shard."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(data), dict(records or {})
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def sample_of(names: str) -> dict[str, bytes]:
    """Members of a shard: different pictures with words."""
    files: dict[str, bytes] = {}
    for number, name in enumerate(names):
        image = io.BytesIO()
        Image.new("RGB", (16, 16), (40 * number, ord(name), 90)).save(image, "PNG")
        files |= {f"{name}.png": image.getvalue(), f"{name}.txt": b"a word", f"{name}.cls": b"red"}
    return files


def header(size: int, kind: bytes = tarfile.REGTYPE, name: str = "x.png") -> bytes:
    """A header block of any size and kind."""
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    mark = b"\xff" if size < 0 else b"\x80"
    block[124:136] = mark + (size & (1 << 88) - 1).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def shards(material: Material, draw: random.Random, count: int) -> Iterator[Case]:
    """Tar shards and patterns of their names."""
    whole = whole_pictures()
    files = sample_of("abc")
    good = tar_of(files)
    yield Case("shards", "whole", "", put("set/bad.tar", good, material.shard), TRAIN_WORDS, whole=True)
    pax = tarfile.PAX_FORMAT
    special = {
        **TEXTS,
        **{f"size {size}": good[:3072] + header(size) + good[3072:] for size in SIZES},
        **{f"first of size {size}": header(size) + good for size in (-512, 1 << 40)},
        **{f"type {kind!r}": header(1 << 20, kind) + good for kind in KINDS},
        "pax of negative size": tar_of(files, pax, {"size": "-1024"}),
        "pax of absurd size": tar_of(files, pax, {"size": "9" * 30}),
        "pax of no size": tar_of(files, pax, {"size": "many"}),
        "pax path": tar_of(files, pax, {"path": "../../etc/passwd.png"}),
        "pax junk": tar_of(files, pax, {"x" * 3000: "y" * 9000, "GNU.sparse.map": "1,2,3"}),
        "pax sparse": tar_of(files, pax, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 20}),
        "pax sparse 0.1": tar_of(files, pax, {"GNU.sparse.map": "0,9999999999,5", "GNU.sparse.size": "1"}),
        "long names": tar_of({"n" * 200 + "/" + "m" * 90 + ".png": whole["png"]}, pax),
        "no end": good[: 512 * 3],
        "twice": good + good,
        "dots": tar_of({"22.05.png": whole["png"], "22.10.png": whole["png"], "..png": whole["png"], ".png": whole["png"], "...": b"x"}),
        "long caption": tar_of({"a.png": whole["png"], "a.txt": b"word " * 500_000}),
        "bad words": tar_of({"a.png": whole["png"], "a.txt": b"\xff\xfe\x00", "a.json": b"[" * 100_000, "a.cls": b"\0"}),
        "ten thousand empty": b"".join(header(0, name=f"{number}.png") for number in range(10_000)) + b"\0" * 1024,
        "gzip of a shard": gzip.compress(good),
    }
    for pattern in PATTERNS:
        write, culprit = put("set/a.tar", good), pattern.partition(",")[0]
        yield Case("shards", f"pattern {pattern}", culprit, write, ("data", "inspect", pattern))
        yield Case("shards", f"trained pattern {pattern}", culprit, write, ("train", "vqgan-tiny", "--data", pattern, "--dry-run"))
    for number in range(max(count - 2 * len(PATTERNS), len(special))):
        if number < len(special):
            name, data = list(special.items())[number]
        else:
            name, data = damaged(good, draw)
        yield Case(
            "shards", f"{name} {number}", "bad.tar", put("set/bad.tar", data, material.shard), TRAIN_WORDS if number % 4 == 3 else INSPECT
        )
