"""The grids that a prompt's image tokens form, for heatmaps: where in a picture each token looks.

Derived from the prompt itself: how many tokens a picture became, and the size that its processor reports. Models that
read a picture through queries (Q-Former) or as one pooled vector (GILL) have tokens without a place, and no grid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from atlas.live.encode import Encoder, Prompt
from atlas.live.grid.crops import WHOLE, Box, fine_grid, kept_part, tiling
from atlas.live.media import IMAGE, VIDEO

CROP = re.compile(r"<row_(\d+)_col_(\d+)>\s*$")


@dataclass(frozen=True, slots=True)
class Grid:
    """The tokens of one picture as a grid.

    positions: rows of columns, each a position of the prompt. picture: its number in the prompt, from 0. box: the part
    of the picture that the grid covers (processors crop). frame: the time step of a video; else 0.
    """

    picture: int
    positions: tuple[tuple[int, ...], ...]
    box: Box = WHOLE
    frame: int = 0


def grids(encoder: Encoder, prompt: Prompt, config: Any) -> list[Grid]:
    """Every grid of a prompt's pictures (or of its video); none where the tokens have no place.

    Any-resolution families have several for one picture: a coarse one of the whole picture, and finer ones.
    """
    if not has_places(config):
        return []
    result: list[Grid] = []
    for kind in (IMAGE, VIDEO):
        runs = _runs(prompt.ids, encoder.role_of.media_ids.get(kind))
        if f"{kind}_grid_thw" in prompt.extras:
            result += _timed(runs, prompt.extras[f"{kind}_grid_thw"].tolist(), encoder)
        elif kind == IMAGE and runs:
            result += _pictures(runs, prompt, encoder, config)
    return result


def has_places(config: Any) -> bool:
    """Whether such a model's image tokens have a place in the picture; those of a Q-Former have none."""
    return not (getattr(config, "num_query_tokens", None) or getattr(config, "visual_tokens", None))


def _runs(ids: Sequence[int], token: int | None) -> list[list[int]]:
    """The positions of a token, as runs of consecutive ones."""
    runs: list[list[int]] = []
    for i, token_id in enumerate(ids):
        if token_id == token:
            if runs and runs[-1][-1] == i - 1:
                runs[-1].append(i)
            else:
                runs.append([i])
    return runs


def _rows(positions: Sequence[int], columns: int, skip: int = 0) -> tuple[tuple[int, ...], ...]:
    """Rows of `columns` positions each, leaving out `skip` tokens after each row."""
    step = columns + skip
    return tuple(tuple(positions[i : i + columns]) for i in range(0, len(positions) - columns + 1, step))


def _timed(runs: list[list[int]], shapes: list[list[int]], encoder: Encoder) -> list[Grid]:
    """Qwen-VL: each medium gives its patches in time, height and width; merge_size by merge_size make a token."""
    merge = encoder.processor.image_processor.merge_size
    remaining, result = [p for run in runs for p in run], []
    for number, (steps, height, width) in enumerate(shapes):
        rows, columns = height // merge, width // merge
        for step in range(steps):
            step_positions, remaining = remaining[: rows * columns], remaining[rows * columns :]
            result.append(Grid(number, _rows(step_positions, columns), frame=step))
    return result


def _pictures(runs: list[list[int]], prompt: Prompt, encoder: Encoder, config: Any) -> list[Grid]:
    kind = str(config.model_type)
    if kind in ("idefics3", "smolvlm"):
        return _crops(runs, prompt, encoder)
    sizes = prompt.extras["image_sizes"].tolist() if "image_sizes" in prompt.extras else None
    if sizes is not None and getattr(config, "image_grid_pinpoints", None):
        return list(_any_resolution([p for run in runs for p in run], sizes, config))
    result: list[Grid] = []
    for number, run in enumerate(runs if kind == "internvl" else _one_run_each(runs, prompt, sizes)):
        if kind == "emu3" and sizes is not None:
            rows, columns = (edge // encoder.processor.downsample_ratio for edge in sizes[number])
            result.append(Grid(number, _rows(run, columns, skip=1)[:rows]))
        elif kind == "internvl":
            result += _tiles(run, number, prompt, encoder)
        elif (side := math.isqrt(len(run))) ** 2 == len(run):
            known = number < len(prompt.sizes)
            box = kept_part(encoder.processor.image_processor, prompt.sizes[number]) if known else WHOLE
            result.append(Grid(number, _rows(run, side), box))
    return result


def _tiles(run: Sequence[int], number: int, prompt: Prompt, encoder: Encoder) -> Iterator[Grid]:
    """InternVL: tiles of the picture row by row, then the whole; one tile is the whole."""
    length = int(encoder.processor.image_seq_length)
    tiles = [_rows(run[first : first + length], math.isqrt(length)) for first in range(0, len(run), length)]
    if number < len(prompt.sizes):
        rows, columns = tiling(encoder.processor.image_processor, prompt.sizes[number])
        if rows * columns + 1 == len(tiles):  # else laid out in a way that is not known here
            for place, tile in enumerate(tiles[:-1]):
                row, column = divmod(place, columns)
                yield Grid(number, tile, (row / rows, column / columns, (row + 1) / rows, (column + 1) / columns))
    yield Grid(number, tiles[-1])


def _one_run_each(runs: list[list[int]], prompt: Prompt, sizes: list[list[int]] | None) -> list[list[int]]:
    """One run for each picture: adjacent pictures of the same size make one run, which is cut evenly."""
    pixels = prompt.extras.get("pixel_values")
    count = len(sizes) if sizes is not None else len(pixels) if pixels is not None and pixels.dim() == 4 else len(runs)
    if len(runs) != 1 or count < 2:
        return runs
    length, alike = len(runs[0]) // count, sizes is None or all(size == sizes[0] for size in sizes)
    if not alike or length * count != len(runs[0]):
        return []
    return [runs[0][i * length : (i + 1) * length] for i in range(count)]


def _any_resolution(positions: list[int], sizes: list[list[int]], config: Any) -> Iterator[Grid]:
    """LLaVA-NeXT and OneVision: a coarse grid, then a fine one whose rows each end with a separator token."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    fine = [fine_grid(config, size) for size in sizes]
    if len(positions) != sum(side * side + rows * (columns + 1) for rows, columns, _ in fine):
        return  # laid out in a way that is not known here
    for number, (rows, columns, box) in enumerate(fine):
        yield Grid(number, _rows(positions[: side * side], side))
        end = side * side + rows * (columns + 1)
        if rows and columns:
            yield Grid(number, _rows(positions[side * side : end], columns, skip=1), box)
        positions = positions[end:]


def _crops(runs: list[list[int]], prompt: Prompt, encoder: Encoder) -> list[Grid]:
    """Idefics 3: crops in rows and columns, each preceded by its name, followed by the whole picture."""
    result: list[Grid] = []
    number, crops = 0, list[tuple[int, int, list[int]]]()
    for run in runs:
        before = encoder.tokenizer.decode(list(prompt.ids[max(0, run[0] - 32) : run[0]]))
        named = CROP.search(before)
        if named is not None:
            crops.append((int(named[1]) - 1, int(named[2]) - 1, run))
            continue
        rows = max((row for row, _, _ in crops), default=0) + 1
        columns = max((column for _, column, _ in crops), default=0) + 1
        for row, column, crop in crops:
            box = (row / rows, column / columns, (row + 1) / rows, (column + 1) / columns)
            result.append(Grid(number, _rows(crop, math.isqrt(len(crop))), box))
        result.append(Grid(number, _rows(run, math.isqrt(len(run)))))
        number, crops = number + 1, []
    return result
