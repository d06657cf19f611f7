"""BERTScore (Zhang et al. 2020) by bert-score: F1 of matched token embeddings, best over references; 0 to 1.

Without idf weights and without rescaling. An empty answer or reference scores 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas.errors import UsageError
from ingest.evaluate.metric import Judged
from ingest.metrics._common import from_pretrained, need


class BertScore:
    """See the module. matched: bert-score's function for token matches."""

    def __init__(self, model: Any, tokenizer: Any, matched: Any, batch_size: int):
        self.model, self.tokenizer, self.matched, self.batch_size = model, tokenizer, matched, batch_size
        self.weights = defaultdict(lambda: 1.0, {tokenizer.cls_token_id: 0.0, tokenizer.sep_token_id: 0.0})

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        values = np.zeros(len(judged))
        with_words = [i for i, judged_answer in enumerate(judged) if self._has_tokens(judged_answer.answer)]
        pairs = [(i, text) for i in with_words for text in judged[i].references if self._has_tokens(text)]
        if pairs:
            answers, references = [judged[i].answer for i, _ in pairs], [text for _, text in pairs]
            matched_scores = self.matched(
                self.model,
                references,
                answers,
                self.tokenizer,
                self.weights,
                device=self.model.device,
                batch_size=self.batch_size,
            )
            np.maximum.at(values, [i for i, _ in pairs], matched_scores[:, 2].double().numpy())
        return {"bertscore": values}

    def _has_tokens(self, text: str) -> bool:
        """bert-score fails on an empty text, and complains on stderr about one without tokens."""
        return bool(text.strip() and self.tokenizer(text, add_special_tokens=False, truncation=True).input_ids)


def _encoder(model: str, revision: str, layers: int) -> tuple[Any, Any]:
    """The model cut after its layer `layers`, and its tokenizer.

    bert-score's own loader takes any path that contains "t5" for a T5.
    """
    import transformers

    config = from_pretrained("bertscore", transformers.AutoConfig, model, revision)
    if not 0 <= layers <= config.num_hidden_layers:
        raise UsageError(f"bertscore: layers={layers}, but '{model}' has {config.num_hidden_layers}")
    # bert-score asks for the space with every text, which tokenizers of transformers 5 ignore.
    space = {"add_prefix_space": True} if config.model_type == "roberta" else {}
    tokenizer = from_pretrained("bertscore", transformers.AutoTokenizer, model, revision, **space)
    if config.is_encoder_decoder or tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise UsageError(f"bertscore needs an encoder like BERT, with begin and end tokens; not '{model}'")
    positions = getattr(config, "max_position_embeddings", 512)
    if tokenizer.model_max_length > positions:  # many state no limit
        tokenizer.model_max_length = positions - 2  # RoBERTa's begin at 2
    cut = {"num_hidden_layers": layers} if layers else {}
    return from_pretrained("bertscore", transformers.AutoModel, model, revision, **cut), tokenizer


def build(
    *, model: str = "", revision: str = "", layers: int = 0, batch_size: int = 64, device: str = "cpu"
) -> BertScore:
    """model: an encoder like BERT, HuggingFace id or folder. layers: after how many layers to take the embeddings, 0
    for all; 17 for the paper's roberta-large."""
    matched = need("bertscore", "bert_score.utils").bert_cos_score_idf
    encoder, tokenizer = _encoder(model, revision, layers)
    from atlas.live.load.checkpoints import find_device

    return BertScore(encoder.eval().to(find_device(device)), tokenizer, matched, batch_size)
