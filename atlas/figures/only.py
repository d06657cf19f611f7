"""The neurons that one modality has for a concept and another has not, beside what each null expects."""

from atlas.figures._overlap import draw

__all__ = ["draw"]
