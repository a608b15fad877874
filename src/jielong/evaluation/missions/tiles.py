"""Rooms read from frames: every cell is the nearest of all tiles that the simulator draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from jielong.evaluation.missions.rooms import COLORS, DOOR_STATES, EMPTY, SIDE, STEPS, THINGS, Agent, Cell, Room
from jielong.media.reading.libraries import library

PIXELS = 8
"""Side of a tile."""
SIZE = SIDE * PIXELS
"""Side of a frame in pixels."""
UNKNOWN = 0.25
"""Root mean square difference from the nearest tile, of values in [-1, 1], above which a cell shows none."""


class Tile(NamedTuple):
    """A cell, and the direction of the agent in it."""

    cell: Cell
    facing: int | None = None


@dataclass(frozen=True)
class TileTable:
    """All tiles.

    Attributes:
        tiles: What they show.
        drawn: ``(N, 8, 8, 3)`` of 8 bits.
        pixels: The same as ``(N, 8 * 8 * 3)`` in [-1, 1].
        distances: Euclidean distance of each tile from each, ``(N, N)``.
    """

    tiles: tuple[Tile, ...]
    drawn: Tensor
    pixels: Tensor
    distances: Tensor


@dataclass(frozen=True)
class Reading:
    """What the frames of a clip show, and how clearly.

    Attributes:
        rooms: One a frame.
        errors: Root mean square difference of each cell from its tile, ``(T, 8, 8)``.
        margins: Euclidean length of the smallest change to a cell's 192 values by which it is read as another tile, ``(T, 8, 8)``.
    """

    rooms: tuple[Room, ...]
    errors: Tensor
    margins: Tensor


def all_tiles() -> tuple[Tile, ...]:
    """Everything that a cell can show; an agent stands in an empty cell or an open door."""
    doors = [Cell("door", color, state) for color in COLORS for state in DOOR_STATES]
    things = [Cell(kind, color) for kind in THINGS for color in COLORS]
    entered = [EMPTY, *(door for door in doors if door.free)]
    agents = [Tile(cell, facing) for cell in entered for facing in range(len(STEPS))]
    return (*map(Tile, (EMPTY, Cell("wall"), *doors, *things)), *agents)


@cache
def tile_table() -> TileTable:
    """The tiles as minigrid draws them, without the agent's view.

    Raises:
        jielong.media.reading.libraries.MissingLibraryError: if minigrid is not installed.
    """
    simulator = library("jielong.evaluation.missions.simulator", "missions", "judging missions")
    tiles = all_tiles()
    drawn = torch.stack([torch.from_numpy(simulator.draw_tile(tile.cell, tile.facing, PIXELS)) for tile in tiles])
    pixels = drawn.flatten(1).float() / 127.5 - 1
    return TileTable(tiles, drawn, pixels, torch.cdist(pixels, pixels, compute_mode="donot_use_mm_for_euclid_dist"))


def draw(rooms: Sequence[Room]) -> Tensor:
    """Frames ``(T, 64, 64, 3)`` of 8 bits, as minigrid draws them; the inverse of :func:`read`."""
    table, indices = tile_table(), list[list[int]]()
    numbers = {tile: number for number, tile in enumerate(table.tiles)}
    for room in rooms:
        facing = {agent.place: agent.facing for agent in room.agents}
        tiles = (Tile(cell, facing.get((index % SIDE, index // SIDE))) for index, cell in enumerate(room.cells))
        indices.append([numbers[tile] for tile in tiles])
    return table.drawn[torch.tensor(indices)].unflatten(1, (SIDE, SIDE)).transpose(2, 3).reshape(len(rooms), SIZE, SIZE, 3)


def read(frames: Tensor) -> Reading:
    """The rooms that frames show.

    A cell is the tile at the smallest squared distance. It is unknown where even that differs by more than :data:`UNKNOWN` on average.

    Args:
        frames: ``(T, 64, 64, 3)``, float in [-1, 1] or 8-bit.

    Raises:
        ValueError: if they have another shape or type, or values that are not finite.
        jielong.media.reading.libraries.MissingLibraryError: if minigrid is not installed.
    """
    if frames.ndim != 4 or frames.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"frames of missions are (frames, {SIZE}, {SIZE}, 3), not {tuple(frames.shape)}")
    if frames.dtype == torch.uint8:
        frames = frames.float() / 127.5 - 1
    elif not frames.is_floating_point():
        raise ValueError(f"frames are float in [-1, 1] or 8-bit, not {frames.dtype}")
    if not frames.isfinite().all():
        raise ValueError("frames have values that are not finite")
    table = tile_table()
    cells = frames.float().cpu().unflatten(1, (SIDE, PIXELS)).unflatten(3, (SIDE, PIXELS)).transpose(2, 3).flatten(3).flatten(0, 2)
    squared = table.pixels.square().sum(1) - 2 * cells @ table.pixels.T + cells.square().sum(1, keepdim=True)  # (T * 64, N)
    nearest = squared.argmin(1)
    least = (cells - table.pixels[nearest]).square().sum(1)  # without the rounding of the products
    # The plane between two tiles is at (d_j^2 - d_1^2) / (2 |t_j - t_1|) from the cell's values.
    planes = (squared - least[:, None]) / (2 * table.distances[nearest])
    margins = planes.scatter(1, nearest[:, None], float("inf")).min(1).values.clamp_min(0)
    errors = (least / cells.shape[1]).sqrt()
    shape = (len(frames), SIDE, SIDE)
    found = nearest.view(len(frames), -1).tolist()
    lost = (errors > UNKNOWN).view(len(frames), -1).tolist()
    rooms = tuple(_room([table.tiles[index] for index in row], unknown) for row, unknown in zip(found, lost, strict=True))
    return Reading(rooms, errors.view(shape), margins.view(shape))


def _room(tiles: list[Tile], unknown: list[bool]) -> Room:
    agents = [
        Agent(index % SIDE, index // SIDE, tile.facing)
        for index, (tile, lost) in enumerate(zip(tiles, unknown, strict=True))
        if tile.facing is not None and not lost
    ]
    missing = tuple((index % SIDE, index // SIDE) for index, each in enumerate(unknown) if each)
    return Room(tuple(tile.cell for tile in tiles), tuple(agents), missing)
