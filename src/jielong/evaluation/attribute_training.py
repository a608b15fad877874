"""Train a judge of attributes on the training split of a set that has them as columns.

python -m jielong.evaluation.attribute_training --data faces --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, permutations
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.core.files import write_bytes
from jielong.data import MediaSet, open_data
from jielong.data.splits import unseen_combinations
from jielong.evaluation import fitting
from jielong.evaluation.attributes import PROVENANCE, WEIGHTS, AttributeJudge, AttributeNet, JudgeRecord, attribute_accuracy
from jielong.training.checkpoint import checksums_of, write_checksums, write_tensors

ATTRIBUTES = (
    *("style", "hair", "hair_color", "hat", "hat_color", "skin", "eyes", "eye_color", "expression"),
    *("glasses", "facial_hair", "earrings", "clothes", "clothes_color"),
)
"""Columns of `faces` that are judged."""
VALIDATION = 0.05
"""Share of the training split, in combinations of its own, that chooses what is judged."""
BLURRED = 0.15
"""Share of the batches that are blurred."""
NOISE = 0.05
"""Most noise of a picture, a standard deviation; every second one has none."""
READABLE = 0.98
"""Accuracy on real pictures of new combinations that an attribute needs to be judged."""


@dataclass(frozen=True)
class JudgeSettings:
    """Training settings of a judge.

    Attributes:
        width: Channels of the network after its first layer.
        hidden: Features of each place.
        epochs: Passes over the training split.
        batch: Pictures per step.
        lr: Peak learning rate (AdamW, one cycle).
        weight_decay: Weight decay of AdamW.
        seed: Seed of initialisation, order and augmentation.
    """

    width: int = 32
    hidden: int = 64
    epochs: int = 12
    batch: int = 128
    lr: float = 3e-3
    weight_decay: float = 0.05
    seed: int = 0


def classes_of(images: MediaSet, attributes: Sequence[str]) -> dict[str, list[str]]:
    """The values of each attribute in the set, sorted."""
    return {name: sorted({str(value) for value in images.columns[name] if value is not None}) for name in attributes}


def targets_of(images: MediaSet, classes: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """Class numbers ``(N,)`` of each attribute, -1 where an item has none."""
    found = {}
    for name, values in classes.items():
        number = {value: index for index, value in enumerate(values)}
        found[name] = torch.tensor([-1 if value is None else number.get(str(value), -1) for value in images.columns[name]])
    return found


def disturb(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted pictures, some of them blurred or noisy as decoded ones are, so that a judge looks at content."""
    blurred, scale = torch.rand(2, generator=generator).tolist()
    left, top = torch.randint(1, 4, (2,), generator=generator).tolist()
    side = pictures.shape[-1]
    x = F.pad(pictures, (2, 2, 2, 2), mode="replicate")[..., top : top + side, left : left + side]
    if blurred < BLURRED:
        small = round(side * (0.7 + 0.3 * scale))
        x = F.interpolate(F.interpolate(x, size=(small, small), mode="area"), size=(side, side), mode="bilinear")
    strength = (NOISE * (2 * torch.rand(len(x), 1, 1, 1, generator=generator) - 1)).clamp(min=0)
    return (x + strength * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def recolour(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures with their channels in random orders, every second one as it is, so that shapes are known in every color."""
    orders = torch.tensor(list(permutations(range(3))))
    chosen = torch.randint(-len(orders), len(orders), (len(pictures),), generator=generator).clamp(min=0)
    return pictures[torch.arange(len(pictures))[:, None], orders[chosen]]


def fit(
    pictures: Tensor,
    targets: Mapping[str, Tensor],
    classes: Mapping[str, Sequence[str]],
    settings: JudgeSettings,
    log: Callable[[str], None] = lambda line: None,
) -> AttributeNet:
    """Train a network on pictures ``(N, 3, S, S)`` as bytes; the same arguments give the same weights on one machine."""
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):  # initialisation and dropout draw from the global generator
        torch.manual_seed(settings.seed)
        network = AttributeNet(classes, pictures.shape[-1], settings.width, settings.hidden).train()
        for parameter in network.parameters():
            if parameter.ndim == 4:  # faster on a CPU, as bfloat16 is
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        steps = fitting.steps_of(len(pictures), settings.batch) * settings.epochs
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps, pct_start=0.15)

        def loss_of(rows: Tensor) -> Tensor:
            x = disturb(pictures[rows].float() / 127.5 - 1, generator)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(x, recolour(x, generator))
            known = {name: number[rows] for name, number in targets.items() if bool((number[rows] >= 0).any())}
            return torch.stack([F.cross_entropy(logits[name].float(), number, ignore_index=-1) for name, number in known.items()]).sum()

        losses = fitting.fit(len(pictures), settings.batch, generator, loss_of, optimizer, schedule)
        for epoch, loss in enumerate(islice(losses, settings.epochs), 1):
            log(f"epoch {epoch}/{settings.epochs}: loss {loss:.4f}")
    return network.eval()


def accuracy(wanted: Sequence[str | None], found: Sequence[str], without: Collection[str] = ()) -> float:
    """Share of the values that are read, over all of them but some, to five digits; 0 where there are none."""
    hits = [value == seen for value, seen in zip(wanted, found, strict=True) if value is not None and value not in without]
    return round(sum(hits) / len(hits), 5) if hits else 0.0


def readable(wanted: Sequence[str | None], found: Sequence[str]) -> list[str]:
    """The values that are not judged: those with the most errors are left out until accuracy on the others is :data:`READABLE`.

    Args:
        wanted: The value of each real picture, ``None`` where it has none.
        found: What was read.
    """
    errors = Counter({value: 0 for value in wanted if value is not None})
    errors.update(value for value, seen in zip(wanted, found, strict=True) if value is not None and value != seen)
    left: list[str] = []
    while len(left) < len(errors) and accuracy(wanted, found, left) < READABLE:
        left.append(max(errors.keys() - set(left), key=lambda value: (errors[value], value)))
    return sorted(left)


def card(record: JudgeRecord) -> str:
    """The model card of a judge, in Markdown."""
    judged = {name: f"{len(values) - len(record.unread.get(name, ()))} of {len(values)}" for name, values in record.classes.items()}
    rows = "\n".join(
        f"| `{name}` | {n} | {record.checked[name]} | {_percent(record.accuracy.get(name))} | {record.accuracy_all[name]:.2%} |"
        for name, n in judged.items()
    )
    left = "; ".join(f"`{name}` {', '.join(values)}" for name, values in record.unread.items())
    unread = f"Not judged, since they are confused too often in real pictures of new combinations: {left}.\n\n" if left else ""
    return f"""# A judge of attributes

Judges {len(record.accuracy)} of {len(record.classes)} attributes of `{record.data}`, for `attribute_accuracy` of `jielong evaluate`.
Trained on {record.pictures:,} real pictures of the training split, with small shifts, blur, noise and, for shapes, colors in
other orders. Its other {record.validation:,}, whose combinations of style, hair and its color are new to the judge, chose what is
judged: of each attribute, the values with the most errors are left out until {READABLE:.0%} of the others are read. On the
{record.heldout:,} held-out pictures, of new combinations again, it reads {record.accuracy_real:.2%} of the judged attributes that
captions name. No value was chosen on these. But an attribute below {READABLE:.0%} there is not judged at all, and the network was
designed with the errors of an earlier one there in view: the figures are a little optimistic.

| attribute | values judged | of them in held-out pictures | accuracy on them | accuracy on all values |
|---|---|---|---|---|
{rows}

{unread}Weights: `{WEIGHTS}`, SHA-256 `{record.sha256}`. Made by `{record.command}`. Licence: Apache-2.0.
Learned from drawings under CC BY 4.0 and CC0; `LICENSE-faces.md` names their authors.
"""


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def validation_rows(images: MediaSet, share: float = VALIDATION) -> list[int]:
    """Rows of a set whose combinations of style, hair and its color are left for validation, as the held-out ones were.

    A hat stands for hair that it hides.
    """
    columns = images.columns
    found: list[tuple[str, str, str] | None] = []
    for style, *kinds in zip(*(columns[name] for name in ("style", "hair", "hair_color", "hat", "hat_color")), strict=True):
        kind, colour = kinds[:2] if kinds[0] is not None else kinds[2:]
        found.append(None if kind is None or colour is None else (str(style), str(kind), str(colour)))
    out = unseen_combinations(Counter(each for each in found if each is not None), share)
    return [row for row, each in enumerate(found) if each in out]


def _side(images: MediaSet) -> int:
    rows, columns = images.medium.size
    if rows != columns:
        raise ValueError(f"a judge reads squares, and {images.name} has pictures of {rows} x {columns}")
    return rows


def train(data: str, folder: Path, settings: JudgeSettings, attributes: Sequence[str] = ATTRIBUTES) -> AttributeJudge:
    """Train a judge on a set, choose what it judges on a validation part of the training split, and measure it once on held-out pictures.

    Writes weights, their checksum, record and card.
    """
    images, heldout = open_data(data, "train"), open_data(data, "heldout")
    side, classes, validation = _side(images), classes_of(images, attributes), validation_rows(images)
    left = torch.ones(len(images), dtype=torch.bool)
    left[validation] = False
    targets = {name: number[left] for name, number in targets_of(images, classes).items()}
    network = fit(_bytes(images)[left], targets, classes, settings, lambda line: print(line, flush=True))
    for parameter in network.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()  # as they are stored
    options = f"--data {images.name} --epochs {settings.epochs} --seed {settings.seed} --out FOLDER"
    command = f"python -m jielong.evaluation.attribute_training {options}"
    record = JudgeRecord(images.name, side, settings.width, settings.hidden, classes, command)
    wanted = {name: [images.columns[name][row] for row in validation] for name in classes}
    seen = AttributeJudge(network, record).read(images.media(validation))
    unread = {name: readable(wanted[name], seen[name]) for name in classes}
    for name in classes:
        if len(unread[name]) == len({value for value in wanted[name] if value is not None}):
            network.drop(name)
    judge = AttributeJudge(
        network,
        replace(
            record,
            classes={name: values for name, values in classes.items() if name in network.heads},
            data_fingerprint=images.fingerprint,
            pictures=int(left.sum()),
            validation=len(validation),
            heldout=len(heldout),
            unread={name: values for name, values in unread.items() if values},
        ),
    )
    return write_judge(folder, measured(judge, heldout))


def measured(judge: AttributeJudge, heldout: MediaSet) -> AttributeJudge:
    """A judge with its accuracy on real held-out pictures; an attribute below :data:`READABLE` there is not judged at all."""
    real, wanted = heldout.media(range(len(heldout))), {name: heldout.columns[name] for name in judge.classes}
    seen = judge.read(real)
    shares = {name: accuracy(wanted[name], seen[name], judge.record.unread.get(name, ())) for name in judge.classes}
    unread = judge.record.unread | {name: judge.classes[name] for name, share in shares.items() if share < READABLE}
    record = replace(
        judge.record,
        accuracy={name: share for name, share in shares.items() if share >= READABLE},
        checked={name: len(set(wanted[name]) - {None, *unread.get(name, ())}) for name in judge.classes},
        accuracy_all={name: accuracy(wanted[name], seen[name]) for name in judge.classes},
        unread=unread,
    )
    judge = AttributeJudge(judge.network, record)
    return AttributeJudge(judge.network, replace(record, accuracy_real=attribute_accuracy(real, wanted, judge).value))


def write_judge(folder: Path, judge: AttributeJudge) -> AttributeJudge:
    """Write weights (bf16), their checksum, record and card; returns the judge with the checksum."""
    parameters = dict(judge.network.named_parameters())
    state = judge.network.state_dict()
    write_tensors(folder / WEIGHTS, {name: value.to(torch.bfloat16) if name in parameters else value for name, value in state.items()})
    write_checksums(folder, [WEIGHTS])
    record = replace(judge.record, sha256=checksums_of(folder)[WEIGHTS])
    write_bytes(folder / PROVENANCE, (json.dumps(asdict(record), indent=2) + "\n").encode())
    write_bytes(folder / "card.md", card(record).encode())
    return AttributeJudge(judge.network, record)


def _bytes(images: MediaSet) -> Tensor:
    parts = [(images.media(range(n, min(n + 512, len(images)))) + 1) * 127.5 for n in range(0, len(images), 512)]
    return torch.cat([part.round().to(torch.uint8) for part in parts])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m jielong.evaluation.attribute_training", description="Train a judge of attributes.")
    parser.add_argument("--data", default="faces", help="a set with attributes as columns")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--epochs", type=int, default=JudgeSettings.epochs)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    judge = train(given.data, given.out, JudgeSettings(epochs=given.epochs, seed=given.seed))
    print(json.dumps({"accuracy_real": judge.record.accuracy_real, **judge.record.accuracy, "unread": judge.record.unread}, indent=2))


if __name__ == "__main__":
    main()
