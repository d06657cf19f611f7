"""What the tests of metrics share: answers, tiny random encoders, a tiny WordNet, a stand-in for moverscore_v2."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from atlas.testing.metrics import CAPTIONS, judged_answers, pictures
from ingest.evaluate.metric import Judged, Metric, load_metrics

__all__ = ["CAPTIONS", "answers", "pictures"]


def answers(name: str) -> list[Judged]:
    """Eight answers that the metric of this name can judge."""
    return judged_answers(choices=name == "multiple_choice")


def one(name: str, **options: Any) -> Metric:
    return load_metrics([name], {name: options})[name]


def values(metric: Metric, *pairs: tuple[str, Sequence[str]]) -> list[float]:
    """The metric's first value of (answer, references) pairs."""
    found = metric.score([Judged(said, tuple(wanted)) for said, wanted in pairs])
    return next(iter(found.values())).tolist()


def _tokenizer(first: str, last: str, pad: str, longest: int, **special: str) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    said = " ".join(text for answer, wanted in CAPTIONS for text in (answer, *wanted)) + " photo depicts"
    known = list(dict.fromkeys([pad, "[UNK]", first, *sorted(set(said.lower().split())), last]))
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, made.token_to_id(token)) for token in (first, last)]
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token=pad, model_max_length=longest, **special
    )


def _bert(folder: Path, kind: str, seed: int, **config: Any) -> str:
    import torch
    import transformers

    torch.manual_seed(seed)
    # No limit of its own, as many tokenizers come.
    words = _tokenizer("[CLS]", "[SEP]", "[PAD]", int(1e30), cls_token="[CLS]", sep_token="[SEP]")
    made = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=24,
        initializer_range=0.3,
        **config,
    )
    getattr(transformers, kind)(made).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def tiny_bert(folder: Path) -> str:
    return _bert(folder, "BertModel", 0)


def tiny_roberta(folder: Path) -> str:
    """Its tokens begin with their space, but for the first of a text that has none."""
    import torch
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([answer for answer, _ in CAPTIONS] * 4, 320, special_tokens=special)
    made = json.loads(trained.to_str())["model"]
    words = transformers.RobertaTokenizer(vocab=made["vocab"], merges=[tuple(pair) for pair in made["merges"]])
    torch.manual_seed(3)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.RobertaConfig(
        vocab_size=len(words), max_position_embeddings=40, initializer_range=0.3, pad_token_id=1, **size
    )
    transformers.RobertaModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def tiny_bleurt(folder: Path, num_labels: int = 1) -> str:
    return _bert(folder, "BertForSequenceClassification", 1, num_labels=num_labels)


def tiny_clip(folder: Path) -> str:
    import torch
    import transformers

    torch.manual_seed(2)
    words = _tokenizer("<s>", "</s>", "[PAD]", 77, bos_token="<s>", eos_token="</s>")
    size = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "max_position_embeddings": 10, "eos_token_id": words.eos_token_id, **size}
    config = transformers.CLIPConfig(
        text_config={**text, "bos_token_id": words.bos_token_id, "pad_token_id": words.pad_token_id},
        vision_config={"image_size": 8, "patch_size": 4, **size},
        projection_dim=16,
        initializer_factor=8.0,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    square = {"height": 8, "width": 8}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=square).save_pretrained(folder)
    return str(folder)


def tiny_wordnet(folder: Path, synonyms: Sequence[Sequence[str]]) -> Path:
    """Nouns in the form of WordNet's own files, as nltk's data folder; returns that folder."""
    where = folder / "corpora" / "wordnet"
    where.mkdir(parents=True)
    for kind in ("adj", "adv", "verb", "noun"):
        for name in (f"data.{kind}", f"index.{kind}", f"{kind}.exc"):
            (where / name).write_text("", encoding="ascii")
    (where / "index.sense").write_text("", encoding="ascii")
    (where / "cntlist.rev").write_text("", encoding="ascii")
    (where / "lexnames").write_text("00\tnoun.Tops\t1\n", encoding="ascii")
    data, index = "", ""
    for group in synonyms:
        at = f"{len(data):08d}"
        data += f"{at} 00 n {len(group):02x} " + " ".join(f"{word} 0" for word in group) + " 000 | made up  \n"
        index += "".join(f"{word} n 1 0 1 0 {at}  \n" for word in group)
    (where / "data.noun").write_text(data, encoding="ascii")
    (where / "index.noun").write_text(index, encoding="ascii")
    return folder


def stand_in_moverscore(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A module with the signature of the real one, which rates by shared words; returns the calls that it gets."""
    calls: list[dict[str, Any]] = []

    def word_mover_score(  # type: ignore[no-untyped-def]
        refs, hyps, idf_dict_ref, idf_dict_hyp, stop_words=(), n_gram=1, remove_subwords=True, batch_size=256
    ):
        calls.append({"refs": refs, "hyps": hyps, "weights": (idf_dict_ref[7], idf_dict_hyp[8]), "batch": batch_size})
        sets = [(set(ref.lower().split()), set(hyp.lower().split())) for ref, hyp in zip(refs, hyps, strict=True)]
        return [len(a & b) / len(a | b) for a, b in sets]

    module = ModuleType("moverscore_v2")
    module.word_mover_score = word_mover_score  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "moverscore_v2", module)
    return calls
