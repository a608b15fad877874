"""SVG, drawn by resvg at the size that is read."""

from __future__ import annotations

import io
import math
import os
import re
import subprocess
import sys
import threading
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.parsers import expat

from PIL import Image

from jielong.media.reading import resvg_process
from jielong.media.reading.faults import BrokenImageError, budget, naming, refuse_large
from jielong.media.reading.libraries import library

if TYPE_CHECKING:
    from PIL._imaging import PixelAccess

SUFFIXES = (".svg", ".svgz")
VECTOR = "SVG"
"""Its name among the formats of Pillow."""
TEXT = "text"
"""In ``info`` of an opened drawing: that it has text, which fonts of the system draw."""
MARK = 4096
"""Bytes by which SVG is recognised."""
_GZIP = b"\x1f\x8b"
_START = re.compile(rb"\s*<(\?xml|!--|!DOCTYPE\s+svg|(\w+:)?svg)\b", re.IGNORECASE)
_LENGTH = re.compile(r"\s*\+?(\d*\.?\d+(?:e[+-]?\d+)?)\s*(px|pt|pc|mm|cm|in|em|ex)?\s*", re.IGNORECASE)
_PIXELS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0, "em": 16.0, "ex": 8.0}
_DEFAULT = (100.0, 100.0)
_ATTRIBUTE = re.compile(rb"""\s+([^\s=]+)\s*=\s*(?:"[^"]*"|'[^']*')""")
_ROOT = re.compile(rb"""(<[^\s/>]+)((?:\s+[^\s=]+\s*=\s*(?:"[^"]*"|'[^']*'))*)(\s*/?>)""")
_PROCESS_BYTES = 1_000_000_000
"""Memory of the process that draws, beside twice the budget of a decoded file."""
_PIXEL_BYTES = 4


@dataclass(frozen=True)
class _Outline:
    """What is known of a drawing before it is drawn.

    Attributes:
        size: Width and height in pixels.
        root: Where the tag of its root begins.
        text: Whether it has text.
    """

    size: tuple[float, float]
    root: int
    text: bool


def is_vector(data: bytes) -> bool:
    """Whether bytes are an SVG by their beginning, plain or compressed by gzip."""
    start = data[:MARK]
    if start.startswith(_GZIP):
        try:
            start = zlib.decompressobj(31).decompress(start, MARK)
        except zlib.error:
            return False
    return _START.match(start.removeprefix(b"\xef\xbb\xbf")) is not None


class VectorImage(Image.Image):
    """An SVG opened lazily, with transparency; :meth:`draft` chooses the size at which it is drawn.

    Args:
        data: The file.
        name: For messages.

    Raises:
        BrokenImageError: if it is not SVG, or refers to another file.
        MissingLibraryError: without resvg.
    """

    format = VECTOR

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__()
        library("resvg_py", "svg", f"{name}: SVG")
        self._text, self._name = _unpacked(data, name), name
        outline = _outline(self._text, name)
        self._natural, self._root = outline.size, outline.root
        self._covered: tuple[int, int] | None = None
        self._mode, self.info = "RGBA", {TEXT: True} if outline.text else {}
        self._size = (math.ceil(outline.size[0]), math.ceil(outline.size[1]))

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> None:
        """Draw it at the smallest size that covers ``size`` (columns, rows)."""
        width, height = self._natural
        if size is not None:
            factor = max(size[0] / width, size[1] / height)
            self._size = (max(size[0], math.ceil(width * factor - 1e-6)), max(size[1], math.ceil(height * factor - 1e-6)))
            self._covered = size

    def load(self) -> PixelAccess | None:
        """Draw it, once."""
        if self._text:
            columns, rows = self._size
            refuse_large(self._name, f"a drawing of {columns:,} x {rows:,} pixels", columns * rows * _PIXEL_BYTES, BrokenImageError)
            text = _resized(self._text, self._root, self._natural, (columns, rows), self._name)
            png = _draw(text, columns, rows, TEXT in self.info, self._name)
            drawn = Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGBA")
            if self._covered is not None:  # the centre of that size then begins at a whole pixel, and is not resampled
                odd = [(side - covered) % 2 for side, covered in zip(drawn.size, self._covered, strict=True)]
                drawn = drawn.crop((0, 0, drawn.width - odd[0], drawn.height - odd[1]))
            self.im, self._size, self._text = drawn.im, drawn.size, b""
        return super().load()


def _unpacked(data: bytes, name: str) -> bytes:
    if not data.startswith(_GZIP):
        return data
    with naming(name, BrokenImageError, "cannot be decompressed"):
        decompressor = zlib.decompressobj(31)
        text = decompressor.decompress(data, budget())
        if decompressor.unconsumed_tail:
            refuse_large(name, "its text", budget() + 1, BrokenImageError)
        if not decompressor.eof:
            raise BrokenImageError(f"{name} cannot be decompressed: it is cut off after {len(data):,} bytes")
    return text


def _outline(text: bytes, name: str) -> _Outline:
    """Read the XML: its root says the size, and no element may refer to another file."""
    parser, root, begins = expat.ParserCreate(namespace_separator=" "), dict[str, str](), list[int]()
    texts, outside = list[str](), list[str]()

    def start(tag: str, attributes: dict[str, str]) -> None:
        local = tag.rpartition(" ")[2]
        if not root:
            root.update(attributes, tag=local)
            begins.append(parser.CurrentByteIndex)
        if local == "text":
            texts.append(local)
        target = next((value for key, value in attributes.items() if key.rpartition(" ")[2] == "href"), "").strip()
        if target and local != "a" and not target.startswith(("#", "data:")):
            outside.append(target)

    parser.StartElementHandler = start
    with naming(name, BrokenImageError, "is not whole SVG"):
        parser.Parse(text, True)
    if root.get("tag") != "svg":
        raise BrokenImageError(f"{name} is not SVG: its outermost element is {root.get('tag')}")
    if outside:
        raise BrokenImageError(f"{name} refers to {outside[0]:.80}: a drawing is read by itself, so embed what it shows")
    size = _size(root)
    if not 0 < min(size) <= max(size) < math.inf:
        raise BrokenImageError(f"{name} has no area: it declares {size[0]:g} x {size[1]:g} pixels")
    return _Outline(size, begins[0], bool(texts))


def _resized(text: bytes, start: int, natural: tuple[float, float], size: tuple[int, int], name: str) -> bytes:
    """A drawing that declares another size; resvg would take a size that is no whole number for the next one, and leave a margin."""
    root = _ROOT.match(text, start)
    if root is None:
        raise BrokenImageError(f"{name} cannot be drawn: the tag of its root is no tag of UTF-8 text")
    kept = [each[0] for each in _ATTRIBUTE.finditer(root[2]) if each[1] not in (b"width", b"height")]
    if not any(each.split(b"=")[0].strip() == b"viewBox" for each in kept):
        kept.append(f' viewBox="0 0 {natural[0]!r} {natural[1]!r}"'.encode())
    kept.append(f' width="{size[0]}" height="{size[1]}"'.encode())
    return text[:start] + root[1] + b"".join(kept) + root[3] + text[root.end() :]


def _size(root: dict[str, str]) -> tuple[float, float]:
    """Width and height in pixels, by the view box where they are missing or relative; 100 where that is missing, too."""
    box = [float(number) for number in re.findall(r"[-+]?\d*\.?\d+(?:e[-+]?\d+)?", root.get("viewBox", ""), re.IGNORECASE)]
    inner = (box[2], box[3]) if len(box) == 4 and box[2] > 0 and box[3] > 0 else None
    given = [_pixels(root.get(side)) for side in ("width", "height")]
    width, height = given
    if inner is not None and (width is None) != (height is None):  # one alone keeps the aspect
        aspect = inner[0] / inner[1]
        return (width, width / aspect) if width is not None else ((height or 1) * aspect, height or 1)
    fallback = inner or _DEFAULT
    return (fallback[0] if width is None else width, fallback[1] if height is None else height)


def _pixels(length: str | None) -> float | None:
    """A length; ``None`` if it is missing or relative."""
    found = None if length is None else _LENGTH.fullmatch(length)
    return None if found is None else float(found[1]) * _PIXELS[(found[2] or "").lower()]


_lock = threading.Lock()
_process: tuple[int, int, subprocess.Popen[bytes]] | None = None  # process that began it, its memory, itself


def _draw(text: bytes, columns: int, rows: int, fonts: bool, name: str) -> bytes:
    """The PNG of a drawing that fits into ``columns`` x ``rows``, by the process of resvg, which is started where there is none.

    Raises:
        BrokenImageError: if it cannot be drawn.
    """
    request = resvg_process.REQUEST.pack(columns, rows, fonts, len(text)) + text
    with _lock:
        process, memory = _running()
        answer = _exchange(process, request)
        if answer is None:
            process.kill()
            why = f"it takes more than {memory / 1e6:,.0f} MB or {resvg_process.SECONDS:g} s, or is nested too deep"
            raise BrokenImageError(f"{name} cannot be drawn: resvg ended by {process.wait()}; {why}")
    drawn, data = answer
    if not drawn:
        raise BrokenImageError(f"{name} cannot be drawn: {data.decode(errors='replace') or 'resvg gives no reason'}")
    return data


def _exchange(process: subprocess.Popen[bytes], request: bytes) -> tuple[bool, bytes] | None:
    """The answer to a request; ``None`` if the process ended."""
    if process.stdin is None or process.stdout is None:
        return None
    try:
        process.stdin.write(request)
        process.stdin.flush()
    except OSError:
        return None
    header = process.stdout.read(resvg_process.ANSWER.size)
    if len(header) < resvg_process.ANSWER.size:
        return None
    drawn, length = resvg_process.ANSWER.unpack(header)
    data = process.stdout.read(length)
    return (drawn, data) if len(data) == length else None


def _running() -> tuple[subprocess.Popen[bytes], int]:
    """The process of resvg, and the bytes that it may take."""
    global _process
    memory = _PROCESS_BYTES + 2 * budget()
    if _process is None or _process[:2] != (os.getpid(), memory) or _process[2].poll() is not None:
        if _process is not None and _process[0] == os.getpid():
            _process[2].kill()
            _process[2].wait()
        command = [sys.executable, "-P", resvg_process.__file__, str(memory)]
        paths = os.pathsep.join(path for path in sys.path if path)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        _process = (os.getpid(), memory, process)
    return _process[2], memory
