"""A CLAP (Wu et al. 2023): texts and recordings in one space. A recording that is longer than the model takes is cut
into windows, and the mean of theirs is its vector (the feature extractor itself would take a random piece)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas.errors import Unsupported
from ingest.encoders._common import PairedEncoder, in_batches, load_pair


class Clap(PairedEncoder):
    """See the module."""

    modalities = frozenset({"text", "audio"})

    def sounds(self, sounds: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
        """(recordings, dimension) float32 of length 1. sounds: (samples,) and samples a second, each."""
        return np.concatenate([self._sound(samples, rate) for samples, rate in sounds])

    def _sound(self, samples: np.ndarray, rate: int) -> np.ndarray:
        from atlas.vectors.faiss_files import unit

        samples = resampled(samples, rate, int(self.media.sampling_rate))
        longest = int(self.media.nb_max_samples)
        windows = [samples[start : start + longest] for start in range(0, len(samples), longest)]
        return unit(in_batches(windows, self.batch_size, self._windows).mean(0, keepdims=True))

    def _windows(self, windows: Sequence[np.ndarray]) -> Any:
        rate = self.media.sampling_rate
        features = self.media([np.asarray(w) for w in windows], sampling_rate=rate, return_tensors="pt")
        inputs = {name: value.to(self.model.device) for name, value in features.items()}
        # No window is too long, and the extractor then marks a random one as "longer" for fusion.
        inputs["is_longer"] = inputs["is_longer"] & False
        return self.model.audio_projection(self.model.audio_model(**inputs).pooler_output)

    def images(self, images: Sequence[Any]) -> np.ndarray:
        raise Unsupported("a CLAP encodes texts and sound, not pictures; use clip:")


def resampled(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """(samples,) float32 at another rate, by a polyphase filter."""
    if rate == new_rate:
        return samples.astype(np.float32)
    from scipy.signal import resample_poly

    common = math.gcd(rate, new_rate)
    return np.asarray(resample_poly(samples, new_rate // common, rate // common), dtype=np.float32)


def build(model: str = "", *, revision: str = "", prefix: str = "", batch_size: int = 16, device: str = "cpu") -> Clap:
    """prefix: what is put before every text, such as "the sound of "."""
    parts = load_pair("clap", "CLAP", ("ClapModel", "AutoTokenizer", "AutoFeatureExtractor"), model, revision)
    return Clap(*parts, prefix=prefix, batch_size=batch_size, device=device)
