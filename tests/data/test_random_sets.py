"""Random folders, shards and tables: used and not used are all that was found, nothing but DataError, and the same split again.

Few examples by default; ``pytest tests/data/test_random_sets.py --hypothesis-profile=thorough`` draws thousands.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jielong.core.json import printable, to_text
from jielong.data.content_hash import hash_bytes
from jielong.data.folder import METADATA, SIDECARS, FolderSource
from jielong.data.inspecting import inspect
from jielong.data.ledger import Cause
from jielong.data.opening import open_quietly, open_source
from jielong.data.source import DataError, Source
from jielong.data.splits import HELDOUT_SHARE, Split, fraction
from jielong.media.kinds.base import kind_of

KINDS = ("image", "audio")
FILES = {"image": (".png", ".PNG", ".jpg"), "audio": (".wav", ".WAV", ".flac")}
READ = {"image": {"size": 8}, "audio": {"sample_rate": 4_000, "duration": 0.05}}
ABOUT_FILES = {Cause.BROKEN, Cause.LINK, Cause.SPECIAL, Cause.ENDING, Cause.OTHER, Cause.UNLISTED, Cause.OUTSIDE, Cause.ORPHAN, Cause.WORDS}


def picture(number: int) -> bytes:
    """A PNG; one of a pixel, a grey one, an animation or a CMYK JPEG for some numbers."""
    noise, buffer = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8), io.BytesIO()
    image = Image.fromarray(noise)
    if number % 7 == 0:
        image.convert("CMYK").save(buffer, "JPEG")
    elif number % 7 == 1:
        image.save(buffer, "GIF", save_all=True, append_images=[image.rotate(90)])
    else:
        image.crop((0, 0, 1, 1) if number % 7 == 2 else (0, 0, 5, 6)).convert("L" if number % 7 == 3 else "RGB").save(buffer, "PNG")
    return buffer.getvalue()


def sound(number: int) -> bytes:
    """A WAV of up to 0.1 s; silence, one sample or none for some numbers."""
    rate, length, channels = (4_000, 96_000)[number % 5 == 0], {1: 0, 2: 1}.get(number % 7, 40 * (number % 9) + 8), 1 + (number % 3 == 0)
    samples = np.random.default_rng(number).integers(-9_000, 9_000, (length, channels)) * (number % 7 != 3)
    data = samples.astype("<i2").tobytes()
    words = [(16, 4), (1, 2), (channels, 2), (rate, 4), (2 * channels * rate, 4), (2 * channels, 2), (16, 2)]
    head = b"".join(value.to_bytes(size, "little") for value, size in words)
    return b"RIFF" + (36 + len(data)).to_bytes(4, "little") + b"WAVEfmt " + head + b"data" + len(data).to_bytes(4, "little") + data


WHOLE = {"image": picture, "audio": sound}
# The share decides where some items of a set, not all, are of these.
HELD_OUT = {kind: [n for n in range(60, 200) if fraction(hash_bytes(whole(n))) < HELDOUT_SHARE] for kind, whole in WHOLE.items()}
MARKS = (b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
WORDS = st.sampled_from(
    ["a cat", "", " \n", "ein Bär\r\nzwei", '{"text": ["a", "b"], "label": 7}', '"x"', "[1]", '{"text": 3', "[[[[", "a\0b", "é\u2028y"]
)
CAPTIONS = st.one_of(
    st.builds(
        lambda text, mark: mark + text.encode({b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(mark, "utf-8")),
        WORDS,
        st.sampled_from(MARKS),
    ),
    st.sampled_from([b"caf\xe9", b"\xff", b"\xef\xbb\xbf\xef\xbb\xbf"]),
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n"


def contents(kind: str) -> st.SearchStrategy[bytes]:
    """Whole items, equal ones often, and cut, empty, foreign and other files."""
    whole = st.one_of(st.integers(0, 20), st.sampled_from(HELD_OUT[kind])).map(WHOLE[kind])
    return st.one_of(
        whole,
        whole,
        whole,
        st.builds(lambda data, part: data[: int(len(data) * part)], whole, st.floats(0, 1)),
        st.builds(lambda data, at: data[:at] + b"\xff" + data[at + 1 :], whole, st.integers(0, 80)),
        st.sampled_from([b"", b"\0" * 100, EPS, b"RIFF\xff\xff\xff\x7fWAVE", b"\x89PNG\r\n\x1a\n"]),
        CAPTIONS,
    )


NAMES = st.one_of(
    st.sampled_from(
        [
            "a",
            "b",
            "a.b",
            "22.05",
            "-",
            " ",
            "a ",
            "~",
            ".a",
            "..b",
            "☃ 🎉",
            "\udcff\udce9",
            "a\nb",
            "%s{0}",
            "[red]",
            "A",
            "x" * 230,
            "é" * 110,
        ]
    ),
    st.text(st.sampled_from("ab1é .-_\udce9\n\t漢"), min_size=1, max_size=4),
)
OTHERS = (".txt", ".TXT", ".json", ".md", "", ".", ".tar.gz", ".mp4", ".bak")
FOLDERS = st.sampled_from(["", "", "cat", "7", "10", "dog/deep", "train", "train/cat", "test", "Val/7", ".git", "☃\udce9"])


@contextmanager
def written(files: dict[str, bytes], links: dict[str, str]) -> Iterator[Path]:
    """A folder with those files and links, beside an item that links may lead to; names that collide are left out."""
    with tempfile.TemporaryDirectory() as top:
        (Path(top) / "outside.png").write_bytes(picture(50))
        root = Path(top) / "set"
        root.mkdir()
        write(root, files)
        for name, target in links.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(root / name):
                (root / name).symlink_to(target)
        yield root


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        if not os.path.lexists(root / name) and all(not os.path.isfile(parent) for parent in (root / name).parents):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)


@st.composite
def folders(draw: st.DrawFn, kind: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files and links of a folder."""
    endings = st.sampled_from(FILES[kind] * 3 + OTHERS)
    name = st.builds(lambda folder, stem, ending: os.path.join(folder, stem + ending), FOLDERS, NAMES, endings)
    name = name.filter(lambda path: os.path.basename(path) not in (".", ".."))
    files = draw(st.dictionaries(name, contents(kind), max_size=12))
    for path in draw(st.lists(st.sampled_from(sorted(files)), max_size=4)) if files else []:
        files[os.path.splitext(path)[0] + draw(st.sampled_from((".txt", ".json", ".TXT")))] = draw(CAPTIONS)
    for listing in draw(st.lists(st.sampled_from([*METADATA, "train/metadata.csv", "Metadata.CSV"]), max_size=1)):
        files[listing] = draw(metadata(sorted(files), listing.endswith("jsonl")))
    links = draw(st.dictionaries(name, st.sampled_from(["nowhere", ".", "..", "../outside.png", "cat", "a.png", "/dev/null"]), max_size=3))
    return files, links


@st.composite
def metadata(draw: st.DrawFn, paths: list[str], lines: bool) -> bytes:
    """A list of some of those files and of others, with sound and unsound rows."""
    named = draw(
        st.lists(st.sampled_from([*(printable(path) for path in paths), "gone.png", "../outside.png", "/etc/passwd", "", "\0", "x" * 300]))
    )
    words = [draw(st.sampled_from(["a cat", 'with "quotes"', 'an "open', "a, b", "", "é"])) for _ in named]
    if lines:
        rows = [json.dumps({"file_name": path, "text": text}) for path, text in zip(named, words, strict=True)]
        return "\n".join([*rows, *draw(st.lists(st.sampled_from(["{", "[1]", "", "null", '{"text": "no file"}'])))]).encode()
    return "\n".join(["file_name,text", *(f"{path},{text}" for path, text in zip(named, words, strict=True))]).encode() + draw(CAPTIONS)


@contextmanager
def refused_by_name(root: Path) -> Iterator[None]:
    """A DataError may end the block if its text names the set or a file in it."""
    try:
        yield
    except DataError as error:
        text = str(error)
        if root.name not in text and not any(printable(path.name) in text for path in root.rglob("*")):
            raise


def opened(path: Path, kind: str) -> Source | None:
    """The source; ``None`` where a DataError refuses it."""
    with refused_by_name(path):
        return open_source(path, kind)
    return None


def found_in(root: Path) -> dict[str, Path]:
    """Files, and links to folders or nothing, by key; hidden ones and what lies in hidden folders are not counted."""
    found: dict[str, Path] = {}
    for top, inside, files in os.walk(root):
        inside[:] = [name for name in inside if not name.startswith(".")]
        links = [name for name in inside if (Path(top) / name).is_symlink()]
        for name in [*files, *links]:
            if not name.startswith("."):
                path = Path(top) / name
                found[printable(path.relative_to(root).as_posix())] = path
    return found


def check_the_count(source: FolderSource, root: Path) -> None:
    """Each file is an item, the words of one, a list of items, or not used: one of these, once."""
    found, stems = found_in(root), Counter[Path]()
    items = Counter(item.key for item in source.items)
    unused = Counter(entry.name for entry in source.unused if entry.cause in ABOUT_FILES)
    everything = {printable(path.relative_to(root).as_posix()) for path in root.rglob("*")}
    assert (items | unused).keys() <= everything  # metadata may list hidden files
    for key, path in found.items():
        if path.suffix.lower() in source.suffixes and (key in items or key in unused):
            stems[path.with_suffix("")] += 1
    for key, path in found.items():
        times = items[key] + unused[key]
        words = path.suffix.lower() in SIDECARS and path.with_suffix("") in stems
        listing = path.name.lower() in METADATA
        assert times == 1 or (times == 0 and (words or listing)), (key, items[key], unused[key])


def check_the_split(source: Source) -> dict[str, set[Split]]:
    """The splits of each content, of which there is one unless splits are declared."""
    sides: dict[str, set[Split]] = {}
    for content, side in zip(source.content_hashes, source.splits, strict=True):
        sides.setdefault(content, set()).add(side)
    assert source.declares_splits or all(len(each) == 1 for each in sides.values())
    return sides


def check_reading(path: Path, kind: str) -> None:
    """Every item decodes or is named, and the report is JSON."""
    with refused_by_name(path):
        report = inspect(path, limit=None, kind=kind, **READ[kind])
        text = to_text(report.as_dict())
        found = open_quietly(path, kind=kind, **READ[kind])
        batch = found.batch(range(len(found)))
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
        assert report.count + len(report.unused) == len(found) + len(found.source.unused)
        assert {*report.broken} == {*found.broken}
        assert batch.media.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_random_folders(kind: str, data: st.DataObject) -> None:
    files, links = data.draw(folders(kind))
    with written(files, links) as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = opened(root, kind)
        if source is None:
            return
        assert isinstance(source, FolderSource)
        check_the_count(source, root)
        sides = check_the_split(source)
        again = open_source(root, kind)
        assert (again.items, again.splits, again.unused.entries) == (source.items, source.splits, source.unused.entries)
        check_reading(root, kind)
        if not any(path.name.lower() in METADATA for path in found_in(root).values()):
            folder = (root / source.items[0].key).parent if source.items else root
            check_changes(source, sides, root, folder if folder.is_dir() else root, kind)


def check_changes(source: FolderSource, sides: dict[str, set[Split]], root: Path, folder: Path, kind: str) -> None:
    """What holds after renaming all files, and after adding some."""
    for path in found_in(root).values():
        if not path.is_symlink() and (kind_of(kind).suffixes | {*SIDECARS}) & {path.suffix.lower()}:
            path.rename(path.with_name(f"r{path.name}"))
    renamed = open_source(root, kind)
    links = sum(path.is_symlink() for path in found_in(root).values())
    if not links:  # whose targets are renamed
        assert len(renamed.items) == len(source.items)
        assert check_the_split(renamed) == sides
        assert Counter(item.captions for item in renamed.items) == Counter(item.captions for item in source.items)
    sides = check_the_split(renamed)
    write(folder, {f"new {number}{FILES[kind][0]}": WHOLE[kind](number) for number in (103, 104, 105)})
    grown = open_source(root, kind)
    after = check_the_split(grown)
    assert grown.declares_splits == source.declares_splits
    below = [content for content in sides if fraction(content) < HELDOUT_SHARE]
    if source.declares_splits or 0 < len(below) < len(sides):
        assert {content: after[content] for content in sides if source.declares_splits <= (len(sides[content]) == 2)} == {
            content: side for content, side in sides.items() if source.declares_splits <= (len(side) == 2)
        }


@st.composite
def members(draw: st.DrawFn, kind: str) -> list[tuple[str, bytes, bytes]]:
    """Names, contents and types of members of a shard."""
    endings = st.sampled_from([*FILES[kind] * 3, *OTHERS, ".cls", ".seg.png", ".caption.txt"])
    name = st.builds(
        lambda folder, stem, ending: f"{folder}{stem}{ending}", st.sampled_from(["", "", "x/", "./", "../", "/"]), NAMES, endings
    )
    types = st.sampled_from([tarfile.REGTYPE] * 8 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
    return draw(st.lists(st.tuples(name, st.one_of(contents(kind), CAPTIONS), types), max_size=12))


def shard(path: Path, held: list[tuple[str, bytes, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data, kind in held:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(data)
            elif kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = "a.png"
            archive.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_random_shards(kind: str, data: st.DataObject) -> None:
    held, cut = data.draw(members(kind)), data.draw(st.sampled_from([0, 0, 0, 0, 1, 100, 700, 2_000]))
    with tempfile.TemporaryDirectory() as top, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(top) / "set.tar"
        shard(path, held)
        path.write_bytes(path.read_bytes()[: -cut or None])
        source = opened(path, kind)
        if source is None:
            return
        check_the_split(source)
        assert open_source(path, kind).items == source.items
        if not cut:
            check_members(
                source, [(name, kind) for name, _, kind in held if not os.path.basename(name).startswith(".") and kind != tarfile.DIRTYPE]
            )
        check_reading(path, kind)


def check_members(source: Source, held: list[tuple[str, bytes]]) -> None:
    """Each member of another kind is not used, and each plain one belongs to an item or to a name that is not used."""
    assert sum(entry.cause in (Cause.LINK, Cause.SPECIAL) for entry in source.unused) == sum(kind != tarfile.REGTYPE for _, kind in held)
    names = [item.key for item in source.items] + [entry.name for entry in source.unused]
    assert len({item.key for item in source.items}) == len(source.items)
    for name, _ in held:
        assert any(printable(name).startswith(each) for each in names), name


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_random_tables(kind: str, data: st.DataObject) -> None:
    column = st.one_of(contents(kind), st.none())
    texts = st.one_of(
        st.none(), st.sampled_from(["a cat", "", " ", "é", "[red]", "\0"]), st.lists(st.sampled_from(["a", ""]), max_size=2).map(str)
    )
    rows = data.draw(st.lists(st.tuples(column, texts, st.one_of(st.none(), st.integers(-1, 3))), max_size=12))
    wrapped, split = data.draw(st.booleans()), data.draw(st.sampled_from([None, ["train", "test"], ["val", None]]))
    table = {
        kind: [{"bytes": item, "path": None} if wrapped else item for item, _, _ in rows],
        "text": [text for _, text, _ in rows],
        "label": [label for _, _, label in rows],
    } | ({} if split is None else {"split": [split[place % 2] for place in range(len(rows))]})
    held = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if wrapped else pa.binary()
    schema = pa.schema([(kind, held), ("text", pa.string()), ("label", pa.int64()), *([] if split is None else [("split", pa.string())])])
    damaged = data.draw(st.sampled_from([None, None, None, 5, 60, 200]))
    with tempfile.TemporaryDirectory() as top, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(top) / "set.parquet"
        pq.write_table(pa.table(table, schema), path, row_group_size=data.draw(st.integers(1, 5)))
        if damaged is not None:
            whole = bytearray(path.read_bytes())
            whole[min(damaged, len(whole) - 1)] ^= 0x55
            path.write_bytes(whole)
        source = opened(path, kind)
        if source is None:
            return
        check_the_split(source)
        assert open_source(path, kind).items == source.items
        assert len(source.items) + len(source.unused) == len(rows)
        check_reading(path, kind)
