"""Where in a picture each of its tokens looks: the grids that a prompt's image tokens form, for heatmaps.

Found from the prompt itself: how many tokens a picture became, and what its processor said of its size. Models that
read a picture through queries (Q-Former) or as one pooled vector (GILL) have tokens without a place, and no grid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from atlas.live.encode import Encoder, Prompt
from atlas.live.grid.crops import WHOLE, Box, fine_grid, kept
from atlas.live.media import IMAGE, VIDEO

CROP = re.compile(r"<row_(\d+)_col_(\d+)>\s*$")


@dataclass(frozen=True, slots=True)
class Grid:
    """positions: rows of columns, each a position of the prompt. picture: which of the prompt's, from 0. box: the part
    of the picture that it covers (processors cut). frame: of a video, which step of time; else 0."""

    picture: int
    positions: tuple[tuple[int, ...], ...]
    box: Box = WHOLE
    frame: int = 0


def grids(encoder: Encoder, prompt: Prompt, config: Any) -> list[Grid]:
    """Every grid of a prompt's pictures (or of its video); none where the tokens have no place.

    Any-resolution families have several of one picture: the whole of it coarsely, and finer ones.
    """
    if getattr(config, "num_query_tokens", None) or getattr(config, "visual_tokens", None):
        return []
    found: list[Grid] = []
    for kind in (IMAGE, VIDEO):
        runs = _runs(prompt.ids, encoder.role_of.media_ids.get(kind))
        if f"{kind}_grid_thw" in prompt.extras:
            found += _timed(runs, prompt.extras[f"{kind}_grid_thw"].tolist(), encoder)
        elif kind == IMAGE and runs:
            found += _pictures(runs, prompt, encoder, config)
    return found


def _runs(ids: Sequence[int], token: int | None) -> list[list[int]]:
    """The stretches of a token, as positions."""
    runs: list[list[int]] = []
    for i, one in enumerate(ids):
        if one == token:
            if runs and runs[-1][-1] == i - 1:
                runs[-1].append(i)
            else:
                runs.append([i])
    return runs


def _rows(positions: Sequence[int], columns: int, skip: int = 0) -> tuple[tuple[int, ...], ...]:
    """Rows of so many columns, `skip` tokens after each left out."""
    step = columns + skip
    return tuple(tuple(positions[i : i + columns]) for i in range(0, len(positions) - columns + 1, step))


def _timed(runs: list[list[int]], shapes: list[list[int]], encoder: Encoder) -> list[Grid]:
    """Qwen-VL: each medium says its patches in time, height and width; merge_size by merge_size are a token."""
    merge = encoder.processor.image_processor.merge_size
    every, found = [p for run in runs for p in run], []
    for number, (steps, height, width) in enumerate(shapes):
        rows, columns = height // merge, width // merge
        for step in range(steps):
            mine, every = every[: rows * columns], every[rows * columns :]
            found.append(Grid(number, _rows(mine, columns), frame=step))
    return found


def _pictures(runs: list[list[int]], prompt: Prompt, encoder: Encoder, config: Any) -> list[Grid]:
    kind = str(config.model_type)
    if kind in ("idefics3", "smolvlm"):
        return _crops(runs, prompt, encoder)
    sizes = prompt.extras["image_sizes"].tolist() if "image_sizes" in prompt.extras else None
    if sizes is not None and getattr(config, "image_grid_pinpoints", None):
        return list(_any_resolution([p for run in runs for p in run], sizes, config))
    found: list[Grid] = []
    for number, run in enumerate(runs if kind == "internvl" else _apart(runs, prompt, sizes)):
        if kind == "emu3" and sizes is not None:
            rows, columns = (edge // encoder.processor.downsample_ratio for edge in sizes[number])
            found.append(Grid(number, _rows(run, columns, skip=1)[:rows]))
        elif kind == "internvl":  # several tiles, the last of which is the whole picture
            tile = int(encoder.processor.image_seq_length)
            found.append(Grid(number, _rows(run[-tile:], math.isqrt(tile))))
        elif (side := math.isqrt(len(run))) ** 2 == len(run):
            known = number < len(prompt.sizes)
            box = kept(encoder.processor.image_processor, prompt.sizes[number]) if known else WHOLE
            found.append(Grid(number, _rows(run, side), box))
    return found


def _apart(runs: list[list[int]], prompt: Prompt, sizes: list[list[int]] | None) -> list[list[int]]:
    """One stretch a picture: pictures of the same size that stand side by side are one stretch, cut evenly."""
    pixels = prompt.extras.get("pixel_values")
    count = len(sizes) if sizes is not None else len(pixels) if pixels is not None and pixels.dim() == 4 else len(runs)
    if len(runs) != 1 or count < 2:
        return runs
    length, alike = len(runs[0]) // count, sizes is None or all(size == sizes[0] for size in sizes)
    if not alike or length * count != len(runs[0]):
        return []
    return [runs[0][i * length : (i + 1) * length] for i in range(count)]


def _any_resolution(positions: list[int], sizes: list[list[int]], config: Any) -> Iterator[Grid]:
    """LLaVA-NeXT and OneVision: the picture coarsely, then finely in rows that each end with a token of their own."""
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
    """Idefics 3: crops in rows and columns, named before each, and the whole picture behind them."""
    found: list[Grid] = []
    number, mine = 0, list[tuple[int, int, list[int]]]()
    for run in runs:
        before = encoder.tokenizer.decode(list(prompt.ids[max(0, run[0] - 32) : run[0]]))
        named = CROP.search(before)
        if named is not None:
            mine.append((int(named[1]) - 1, int(named[2]) - 1, run))
            continue
        rows = max((row for row, _, _ in mine), default=0) + 1
        columns = max((column for _, column, _ in mine), default=0) + 1
        for row, column, crop in mine:
            box = (row / rows, column / columns, (row + 1) / rows, (column + 1) / columns)
            found.append(Grid(number, _rows(crop, math.isqrt(len(crop))), box))
        found.append(Grid(number, _rows(run, math.isqrt(len(run)))))
        number, mine = number + 1, []
    return found
