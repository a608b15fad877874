"""Hostile recipes, checkpoints, states and token files."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import yaml
from safetensors.torch import load, save

from jielong.config.recipe import built_in
from jielong.config.recipe import load as load_recipe
from jielong.data.stored import write_tensors
from jielong.training.checkpoint import checksums_of, write_checksums

from .case import Case, Material, brief, put
from .damage import TEXTS, damaged

ABSURD: tuple[object, ...] = (
    0,
    -1,
    1_000_000_000,
    10**30,
    1e300,
    65_537,
    "x",
    [],
    {},
    True,
    [1] * 50,
    ".nan",
    ".inf",
    "\x1b[31m" * 50,
    2.5,
)
NAMES: dict[str, tuple[str, ...]] = {
    # recipe -> what makes it stand alone
    "maskgit-tiny": (),
    "vqgan-tiny": (),
    "vocos-tiny": (),
    "titok-tiny": (),
    "var-tokenizer-tiny": (),
    "wavenet-tiny": (),
    "pixelcnn-tiny": (),
    "encodec-tiny": (),
    "dac-tiny": (),
    "lfq-tiny": (),
    "mar-tiny": ("tokenizer.checkpoint=kl-faces", "data.size=64"),
}


def leaves(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys that lead to every plain value of a recipe."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, str(key)))
    else:
        yield path


def changed(page: dict[str, object], path: tuple[str, ...], value: object) -> bytes:
    """The recipe with another value at a place."""
    copy = json.loads(json.dumps(page))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return yaml.safe_dump(copy).encode()


def recipes(material: Material, draw: random.Random, count: int) -> Iterator[Case]:
    """Bombs, circles, encodings, damaged text, and every setting with an absurd value."""
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    plain = built_in()["maskgit-tiny"].encode()
    special = {
        **TEXTS,
        "laughs": laughs.encode(),
        "merged laughs": b"a: &a {x: 1}\nb: {<<: [" + b"*a, " * 9000 + b"]}\n",
        "itself": b"a: &a [*a]\n",
        "brackets": b"a: " + b"[" * 100_000,
        "braces": b"{a: " * 100_000,
        "dashes": b"- " * 100_000,
        "colons": b"? " * 50_000,
        "python": b"a: !!python/object/apply:os.system ['id']\n",
        "binary": b"a: !!binary aGVsbG8=\n",
        "anchors": b"".join(b"k%d: &a%d x\n" % (number, number) for number in range(20_000)),
        "long key": b"x" * 200_000 + b": 1\n",
        "circle": b"extends: bad.yaml\n",
        "extends a folder": b"extends: .\n",
        "extends a device": b"extends: /dev/zero\n",
        "extends a number": b"extends: 3\n",
        "extends nothing": b"extends: [maskgit-tiny]\n",
        "a date": b"extends: maskgit-tiny\ntrain: {samples: 2001-12-14}\n",
        "a wrong date": b"train: {samples: 2001-99-99}\n",
        "sexagesimal": b"extends: maskgit-tiny\ntrain: {samples: 190:20:30}\n",
        "utf-16 recipe": plain.decode().encode("utf-16"),
        "utf-7": plain.decode().encode("utf-7"),
        "cp037": plain.decode().encode("cp037"),
        "documents": plain + b"---\n" + plain,
    }
    pages = {name: yaml.safe_load(load_recipe(name, overrides).to_yaml()) for name, overrides in NAMES.items()}
    places = [(name, path) for name, page in pages.items() for path in leaves(page)]
    for name in NAMES:
        yield Case(
            "recipes",
            f"whole {name}",
            "",
            put("bad.yaml", yaml.safe_dump(pages[name]).encode()),
            ("train", "bad.yaml", "--dry-run"),
            whole=True,
        )
    for number in range(max(count, len(special))):
        command: tuple[str, ...] = ("train", "bad.yaml", "--dry-run")
        culprit = "bad.yaml"
        if number < len(special):
            name, data = list(special.items())[number]
        elif number % 6 == 0:
            name, data = damaged(yaml.safe_dump(pages[draw.choice(list(NAMES))]).encode(), draw)
        else:
            origin, path = draw.choice(places)
            value = draw.choice(ABSURD)
            name, culprit = f"{origin} {'.'.join(path)} = {str(value)[:20]!r}", ""
            data = changed(pages[origin], path, value)
        if number % 5 == 4:
            command = ("show", "bad.yaml")
        elif number % 11 == 10:
            command = ("train", "bad.yaml", "--out", "run", "--budget", "3s", *brief())
        yield Case("recipes", f"{name} {number}", culprit, put("bad.yaml", data), command)


def _header(path: Path, change: dict[str, object]) -> bytes:
    """A safetensors file with another header."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    first = next(name for name in header if name != "__metadata__")
    header[first] |= change
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def lying_weights(path: Path) -> dict[str, bytes]:
    """Safetensors files that lie, by name."""
    tensors = load(path.read_bytes())
    first = next(name for name, value in tensors.items() if value.is_floating_point() and value.dim())
    changes = {
        "NaN": tensors[first] * float("nan"),
        "infinite": tensors[first] + float("inf"),
        "huge": torch.full_like(tensors[first], 3e38),
        "whole numbers": tensors[first].to(torch.int64),
        "another shape": tensors[first].flatten()[:1],
        "empty": tensors[first].flatten()[:0],
    }
    found = {name: save({**tensors, first: value}) for name, value in changes.items()}
    found["without one"] = save({name: value for name, value in tensors.items() if name != first})
    found["with another"] = save({**tensors, "\x1b[31mmore" * 20: torch.ones(1)})
    heads: dict[str, dict[str, object]] = {
        "shape of 2^40": {"shape": [1 << 40]},
        "shape of many axes": {"shape": [1] * 100_000},
        "negative shape": {"shape": [-1]},
        "offsets behind the end": {"data_offsets": [0, 1 << 60]},
        "offsets backwards": {"data_offsets": [100, 0]},
        "unknown kind": {"dtype": "F1024"},
        "kind of 8 bits": {"dtype": "F8_E4M3"},
    }
    found |= {name: _header(path, change) for name, change in heads.items()}
    found["header of 100 MB"] = struct.pack("<Q", 100_000_000) + b"{" + b" " * 100_000_000
    found["header of 2^63"] = struct.pack("<Q", 1 << 63) + b"{}"
    found["deep header"] = struct.pack("<Q", 200_000) + b'{"a":' * 40_000
    return found


MEDIA: dict[str, object] = {"kind": "image", "channels": 3, "axes": ["rows", "columns"], "size": [8, 8]}


def described(classes: object = (), **media: object) -> bytes:
    """A ``model.json``."""
    return json.dumps({"media": MEDIA | media, "classes": classes, "tokenizer_sha256": None}).encode()


JSONS: dict[str, bytes] = {
    "array": b"[]",
    "null": b"null",
    "deep json": b"[" * 100_000,
    "empty object": b"{}",
    "numbers": b'{"media": 1, "classes": 2, "tokenizer_sha256": 3}',
    "lists": b'{"media": [], "classes": {}, "tokenizer_sha256": []}',
    "absurd media": described(size=[10**9, 10**9]),
    "negative media": described(channels=-3, size=[-8, 0]),
    "media of text": described(channels="3", size="88"),
    "media of many channels": described(channels=10**9),
    "unknown media": described(kind="smell"),
    "classes of numbers": described([1, None]),
    "NaN json": b'{"media": NaN, "classes": Infinity, "tokenizer_sha256": -Infinity}',
}


def use_of(model: str, material: Material) -> tuple[str, ...]:
    """A command that loads a model."""
    if model == "painter":
        return ("generate", "model", "--text", "a", "--out", "out")
    return ("evaluate", "model", "-n", "2", "--data", str(material.pictures / "set"))


def sealed(write: Callable[[Path], None], inside: str) -> Callable[[Path], None]:
    """Write, and record the checksums of the files beside the damaged one anew, as an attacker would."""

    def both(folder: Path) -> None:
        write(folder)
        around = (folder / inside).parent
        write_checksums(around, [name for name in checksums_of(around) if (around / name).exists()])

    return both


def with_recipe(write: Callable[[Path], None], text: str) -> Callable[[Path], None]:
    """Write, and a recipe beside."""

    def both(folder: Path) -> None:
        write(folder)
        (folder / "bad.yaml").write_text(text)

    return both


def checkpoints(material: Material, draw: random.Random, count: int) -> Iterator[Case]:
    """Damaged files of checkpoints, and whole ones that lie."""
    weights = {"tokenizer": material.tokenizer / "model.safetensors", "painter": material.painter / "model.safetensors"}
    special: list[tuple[str, str, str, bytes, bool]] = []
    for model, path in weights.items():
        special += [(model, "model.safetensors", name, data, True) for name, data in lying_weights(path).items()]
        for file in ("model.safetensors", "recipe.yaml", "SHA256SUMS"):
            special += [(model, file, name, data, False) for name, data in TEXTS.items()]
        special += [(model, "model.json", name, data, False) for name, data in (TEXTS | JSONS).items()]
    draw.shuffle(special)
    for model, path in weights.items():
        for name, words in (("verified", ("verify", "model")), ("used", use_of(model, material))):
            write = put("model/model.safetensors", path.read_bytes(), material.root / f"only-{model}")
            yield Case("checkpoints", f"whole {model}, {name}", "", write, words, whole=True)
    for number in range(count):
        if number < len(special) and number % 3:
            model, file, name, data, seal = special[number]
        else:
            model, seal = draw.choice(list(weights)), draw.random() < 0.3
            file = draw.choice(("model.safetensors", "model.safetensors", "model.json", "recipe.yaml", "SHA256SUMS"))
            name, data = damaged((material.root / model / file).read_bytes(), draw)
        write = put(f"model/{file}", data, material.root / f"only-{model}")

        if seal and file == "model.safetensors":
            write = sealed(write, f"model/{file}")
        use = use_of(model, material)
        command = (("verify", "model"), use, use, ("show", "model"), ("verify", "model", "--json"))[number % 5]
        yield Case("checkpoints", f"{model} {file} {name} {number}", "model", write, command)


def states(material: Material, draw: random.Random, count: int) -> Iterator[Case]:
    """Damaged saved states of a run, which is resumed."""
    run = next(material.halted.glob("run/state-*"))
    info = json.loads((run / "state.json").read_text())
    wrong: dict[str, bytes] = {**TEXTS, **JSONS}
    for key in info:
        for value in (None, [], {}, -1, "x", 10**30):
            wrong[f"{key} = {value}"] = json.dumps({**info, key: value}).encode()
    for key in info["counters"]:
        for value in (None, [1], -5, "x", 1e300):
            wrong[f"{key} = {value}"] = json.dumps({**info, "counters": {**info["counters"], key: value}}).encode()
    tensors = sorted(run.glob("*.safetensors"))
    special = [("state.json", name, data) for name, data in wrong.items()]
    special += [(path.name, name, data) for path in tensors for name, data in lying_weights_of(path).items()]
    draw.shuffle(special)
    data_set = str(material.pictures / "set")
    resume = ("train", "vqgan-tiny", "--data", data_set, "--out", "run", *brief("train.samples=8"))
    for words in (resume, ("verify", "run")):
        write = put(f"run/{run.name}/state.json", (run / "state.json").read_bytes(), material.halted)
        yield Case("states", f"whole, {words[0]}", "", write, words, whole=True)
    for number in range(count):
        if number < len(special) and number % 4:
            file, name, data = special[number]
        else:
            path = draw.choice([*tensors, run / "state.json", material.halted / "run/recipe.yaml", material.halted / "run/model.json"])
            file, (name, data) = path.name, damaged(path.read_bytes(), draw)
        inside = f"run/{run.name}/{file}" if file not in ("recipe.yaml", "model.json") else f"run/{file}"
        write = put(inside, data, material.halted)
        if number % 2 and file not in ("recipe.yaml", "model.json"):
            write = sealed(write, inside)
        yield Case("states", f"{file} {name} {number}", "run", write, ("verify", "run") if number % 4 == 3 else resume)


def lying_weights_of(path: Path) -> dict[str, bytes]:
    """As :func:`lying_weights`, where the file has a tensor of real numbers."""
    return lying_weights(path) if any(value.is_floating_point() and value.dim() for value in load(path.read_bytes()).values()) else {}


def tokens(material: Material, draw: random.Random, count: int) -> Iterator[Case]:
    """Damaged token files, and whole ones whose words or codes lie."""
    whole = material.root / "tokens.safetensors"
    data = whole.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    words: dict[str, str] = json.loads(data[8 : 8 + size])["__metadata__"]
    words.pop("xxh3_128")

    def stored(changed: dict[str, torch.Tensor], kept: dict[str, str]) -> bytes:
        """A token file whose checksum is right."""
        write_tensors(material.root / "stored.safetensors", changed, kept)
        return (material.root / "stored.safetensors").read_bytes()

    tensors = load(data)
    values = tensors["values"]
    special: dict[str, bytes] = {**TEXTS, **dict(lying_weights_of(whole).items())}
    for name, codes in {
        "codes behind the vocabulary": torch.full_like(values, 127).to(torch.int64) * 1000,
        "negative codes": -torch.ones_like(values, dtype=torch.int64),
        "real numbers": torch.full(values.shape, float("nan")),
        "no items": values[:0],
        "no positions": values[:, :0],
        "another shape": values.flatten(),
        "a number": torch.tensor(3),
    }.items():
        special[name] = stored({**tensors, "values": codes}, words)
    special["another tensor"] = stored({"other": values}, words)
    special["no words"] = stored(tensors, {})
    for key in words:
        for value in (
            "",
            "null",
            "[]",
            "{",
            "9" * 5000,
            "[" * 50_000,
            '{"grid": [1000000000, 1000000000], "vocabulary": 1}',
            "\x1b[31m",
            "NaN",
        ):
            special[f"{key} = {value[:12]}"] = stored(tensors, {**words, key: value})
        special[f"without {key}"] = stored(tensors, {each: value for each, value in words.items() if each != key})
    data_set = str(material.pictures / "set")
    train = ("train", "bad.yaml", "--tokens", "bad.safetensors", "--data", data_set, "--out", "run", *brief())
    parts = f"tokenizer: {{checkpoint: {material.tokenizer}}}\ncondition: {{class: {{width: 16}}}}\n"
    recipe = f"extends: llamagen-tiny\ndata: {{size: 16}}\n{parts}"
    for words in (train, ("detokenize", str(material.tokenizer), "bad.safetensors", "--out", "out")):
        yield Case("tokens", f"whole, {words[0]}", "", with_recipe(put("bad.safetensors", data), recipe), words, whole=True)
    for number in range(max(count, len(special))):
        name, body = list(special.items())[number] if number < len(special) else damaged(data, draw)
        write = with_recipe(put("bad.safetensors", body), recipe)
        command = ("detokenize", str(material.tokenizer), "bad.safetensors", "--out", "out") if number % 2 else train
        yield Case("tokens", f"{name} {number}", "bad.safetensors", write, command)
