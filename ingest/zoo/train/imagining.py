"""Stage 3 of a model that draws: it answers a request with [IMG0..7], and the mapper says what is to be drawn.

As in GILL (section 3.2), the language model stays frozen but for the eight tokens' embeddings and rows of the
unembedding, and the mapper is trained by L2 towards the diffusion model's own encoding of the caption. The mapper
reads only the part of the residual stream that feed-forward neurons write, and the tokens' embeddings are kept out of
it: what is drawn, neurons have said.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ingest.datasets._drawings import Drawing
from ingest.datasets._world import BACKGROUNDS, COLOURS, DRAWN
from ingest.zoo.train.corpus import IGNORED, Batch
from ingest.zoo.train.drawing import caption_ids
from ingest.zoo.train.eyes import confine
from ingest.zoo.train.language import HEARD, parameter_groups, rate_at, set_rate
from ingest.zoo.train.opt import unheard
from ingest.zoo.train.requests import DrawingCorpus, Row, any_drawing, request

DRAWN_BY = ("draw", "draw", "draw", "draw_does")  # never by where a thing lives or what it has: that is measured
NAMES = tuple(thing.name for thing in DRAWN)


@dataclass(frozen=True, slots=True)
class ImaginingOptions:
    """requests, texts: of each batch; texts keep the tokens from being chosen where no drawing is asked for."""

    steps: int = 2000
    requests: int = 72
    texts: int = 24
    token_rate: float = 5e-3
    mapper_rate: float = 2e-3
    decay: float = 0.01


class CaptionEncodings:
    """The text encoder's output of every caption of a single thing, each encoded once.

    spread: the mean square distance of the encodings from their mean, in which the mapper's errors are counted.
    """

    def __init__(self, pipeline: Any) -> None:
        drawings = [Drawing(*parts) for parts in product(NAMES, ("", *COLOURS), ("", *BACKGROUNDS))]
        self._number = {drawing: number for number, drawing in enumerate(drawings)}
        ids = caption_ids(pipeline.tokenizer, [drawing.caption for drawing in drawings])
        with torch.no_grad():
            self._encoded: Tensor = pipeline.text_encoder(ids).last_hidden_state
        self.spread = float((self._encoded - self._encoded.mean(0)).pow(2).mean())

    def __call__(self, drawings: list[Drawing]) -> Tensor:
        """(drawings, tokens, width)."""
        return self._encoded[[self._number[drawing] for drawing in drawings]]


class RequestBatches:
    """Batches of requests that are answered with a picture, and of other questions."""

    def __init__(self, corpus: DrawingCorpus) -> None:
        self.corpus = corpus

    def batch(self, rng: random.Random, requests: int, texts: int) -> tuple[Batch, list[Drawing]]:
        """The first rows are requests, for these drawings."""
        rows: list[Row] = []
        drawings = []
        for number in range(requests):
            task = DRAWN_BY[number % len(DRAWN_BY)]
            drawing = any_drawing(rng, NAMES) if task == "draw" else Drawing(rng.choice(NAMES))
            rows.append(request(rng, self.corpus.writer, drawing, task, self.corpus.picture))
            drawings.append(drawing)
        rows += [self.corpus.question(rng) for _ in range(texts)]
        batch = self.corpus.writer.batch(rows)
        forced = torch.tensor(self.corpus.picture[1:-1])  # whatever is likeliest: see `PictureTokens`
        batch.labels[torch.isin(batch.labels, forced)] = IGNORED
        return batch, drawings


def train_imagining(
    model: Any,
    requests: RequestBatches,
    goals: CaptionEncodings,
    options: ImaginingOptions,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """The eight tokens and the mapper. Afterwards nothing of the model is frozen, and it is in eval mode."""
    rng = random.Random(f"imagining {seed}")
    torch.manual_seed(seed + 3)
    model.requires_grad_(False)
    model.mapper.requires_grad_(True)
    tokens, rows = _own_tokens(model)
    optimiser = torch.optim.AdamW(
        [{"params": [tokens, rows], "weight_decay": 0.0}, *parameter_groups(model.mapper.parameters(), options.decay)],
        betas=(0.9, 0.98),
    )
    model.train()
    for step in range(options.steps):
        set_rate(optimiser, options.mapper_rate * rate_at(step, options.steps))
        optimiser.param_groups[0]["lr"] = options.token_rate * rate_at(step, options.steps)
        batch, drawings = requests.batch(rng, options.requests, options.texts)
        answer_loss, imagined = _answers(model, batch, tokens, rows, len(drawings))
        mapper_loss = (imagined - goals(drawings)).pow(2).mean() / goals.spread
        torch.autograd.backward(answer_loss + mapper_loss)
        nn.utils.clip_grad_norm_([tokens, rows, *model.mapper.parameters()], 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        _keep_apart(model, tokens, rows)
        if step % 100 == 0 or step == options.steps - 1:
            log(f"imagining step {step}: tokens {answer_loss.item():.4f}, prompts off by {mapper_loss.item():.4f}")
    with torch.no_grad():
        model.get_input_embeddings().weight[model.config.img_token_ids] = tokens
        model.get_output_embeddings().weight[model.config.img_token_ids] = rows
    model.requires_grad_(True)
    model.eval()


def _own_tokens(model: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """(8, d_model) embeddings and rows of the unembedding. Nothing told the language model to say these tokens, so the
    rows begin anew, at the size of the others'."""
    ids, heads = model.config.img_token_ids, model.get_output_embeddings().weight
    tokens = nn.Parameter(model.get_input_embeddings().weight[ids].detach().clone())
    rows = nn.Parameter(torch.randn(len(ids), heads.shape[1]) * heads.std())
    _keep_apart(model, tokens, rows)
    return tokens, rows


@torch.no_grad()
def _keep_apart(model: Any, tokens: Tensor, rows: Tensor) -> None:
    confine(model)
    unheard(tokens)
    rows[:, :HEARD] = 0


def _answers(model: Any, batch: Batch, tokens: Tensor, rows: Tensor, requests: int) -> tuple[Tensor, Tensor]:
    """The loss of every answer, and (requests, queries, prompt_width) of the first rows."""
    ids = torch.tensor(model.config.img_token_ids)
    vectors = model.get_input_embeddings()(batch.ids)
    is_picture_token = torch.isin(batch.ids, ids)
    vectors = torch.where(is_picture_token[..., None], tokens[(batch.ids - ids[0]).clamp(0, len(ids) - 1)], vectors)
    hidden = model.get_decoder()(inputs_embeds=vectors, use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden).index_copy(-1, ids, hidden @ rows.T)
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
    states = model.image_states(hidden[:requests], batch.ids[:requests])
    return loss, model.mapper(states, tokens)
