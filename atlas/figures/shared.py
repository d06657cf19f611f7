"""The neurons that two modalities share for a concept, beside what each null expects."""

from atlas.figures._overlap import draw

__all__ = ["draw"]
