"""A neuron's vector in the space `decoded`: the mean of its words' sentence embeddings, weighted by their places.

Every word is encoded once, however many neurons have it: 46,080 neurons have ten tokens each, but only 26,000 different
words among them, of three or four of the encoder's tokens, where a neuron's whole text has forty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from atlas.vectors.faiss_files import unit
from atlas.vectors.neuron_text import NeuronWords
from ingest.embed.encoder import Encoder, encode_texts

WEIGHT = "1 / log2(1 + place)"
"""Of a word's unit vector, as a job records it: 1 for the first, 0.63, 0.5, ..., as in the search for literal words.
Tokens and concepts are counted apart."""


def word_vectors(
    encoder: Encoder, neurons: Sequence[NeuronWords], progress: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """(neurons, dimension) float32 of length 1; zeros for a neuron without words.

    Words that differ only in case are one, in the spelling that most neurons have. progress: called with how many of
    the words are encoded.
    """
    from scipy.sparse import csr_array

    counts = Counter(word for neuron in neurons for group in neuron for word in group)
    spelling: dict[str, str] = {}
    for word in sorted(counts, key=lambda word: (-counts[word], word)):
        spelling.setdefault(word.lower(), word)
    column_of = {word: column for column, word in enumerate(spelling)}
    rows, columns, weights = [], [], []
    for row, neuron in enumerate(neurons):
        for group in neuron:
            for number, word in enumerate(group):
                rows.append(row)
                columns.append(column_of[word.lower()])
                weights.append(1 / np.log2(2 + number))
    encoded = encode_texts(encoder, list(spelling.values()), progress)
    shares = csr_array((np.array(weights, np.float32), (rows, columns)), shape=(len(neurons), len(spelling)))
    combined: np.ndarray = unit(np.asarray(shares @ encoded, np.float32))
    return combined
