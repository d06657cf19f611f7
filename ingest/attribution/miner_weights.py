"""MINER's metrics, weight presets and modality splits (Huang et al. 2024), for the method and for the labels."""

from __future__ import annotations

from collections.abc import Mapping

from atlas.errors import UsageError

METRICS = ("prob", "mean", "max", "attn_k", "attn_q")
ATTENDED = ("attn_k", "attn_q")

PRESETS: Mapping[str, tuple[float, ...]] = {
    **{name: tuple(float(name == metric) for metric in METRICS) for name in METRICS},
    "mean_max": (0.0, 0.5, 0.5, 0.0, 0.0),
    "attn": (0.0, 0.0, 0.0, 0.5, 0.5),
    "published": (0.0, 0.25, 0.25, 0.5, 0.0),
    "published_q": (0.0, 0.25, 0.25, 0.0, 0.5),
    "uniform": (0.2,) * 5,
}

SPLITS: Mapping[str, tuple[str, ...]] = {
    "special_text_separate": ("text", "special", "image", "video", "audio"),
    "special_text_as_one": ("special_text", "image", "video", "audio"),
    "prompt": ("prompt",),
}
"""Which token roles are distinguished; those that never occur are left out."""


def parse_weights(text: str, *, attention: bool) -> tuple[float, ...]:
    """One weight for each of METRICS, from a preset's name or five numbers: `published`, `0,0.25,0.25,0.5,0`.

    An empty text is the published default with attention, and without it `mean_max`, which keeps the default's
    proportion of mean and max.

    Raises:
        UsageError: neither; or a weight on attention without attention.
    """
    name = text.strip() or ("published" if attention else "mean_max")
    try:
        values = PRESETS.get(name) or tuple(float(part) for part in name.split(","))
    except ValueError:
        values = ()
    if len(values) != len(METRICS) or not all(w >= 0 for w in values) or not 0 < sum(values) < float("inf"):
        raise UsageError(
            f"no weights called '{text}'; give five numbers for {','.join(METRICS)}, or one of {', '.join(PRESETS)}"
        )
    if not attention and any(w for w, metric in zip(values, METRICS, strict=True) if metric in ATTENDED):
        raise UsageError(f"the weights '{name}' need attention; set miner.attention=true, or weights=mean_max")
    return values
