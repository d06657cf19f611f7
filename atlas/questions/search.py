"""The neurons whose decoded tokens and best concepts contain the words of a text."""

from __future__ import annotations

from pathlib import Path

from atlas.query.neuron_set import NeuronSet
from atlas.query.option import described, option, required
from atlas.query.question import Question
from atlas.vectors.neighbours import with_words


@described
class Search(Question[NeuronSet]):
    """The neurons whose decoded tokens and best concepts have the words of a text.

    No encoder is loaded. `ingest.embed.search` finds neurons near a text's sentence embedding, or active on a picture,
    a recording or a video.

    Raises:
        UsageError: the text has no word, or the atlas has no such model.
    """

    examples = ('atlas search "an animal that barks"',)

    text: str = required("What to look for, in words.", argument=True, kw_only=False)
    model: str | None = option("The model's name, or the beginning of its fingerprint.", "--model", "-m", default=None)
    top: int = option("How many neurons.", "--top", "-n", "--limit", default=10, least=1)

    def answer(self, path: Path) -> NeuronSet:
        return with_words(path, self.text, top=self.top, model=self.model)
