"""The projector of photo-vlm: ridge regression to caption words, then the caption loss through the frozen language
model."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ingest.zoo.photo_vlm import CELL, FEATURES, IMAGE_TOKEN, SIDE
from ingest.zoo.train.photo_corpus import Shown

CELLS = (SIDE // CELL) ** 2
DESCRIBE = (
    "Describe the image in few words.",
    "Describe the image in few words.",
    "Describe the picture in one short sentence.",
    "What is in the picture?",
)
NAME = ("What is this?",)
"""Asked besides of pictures whose captions say their name."""


@dataclass(frozen=True, slots=True)
class ProjectorOptions:
    """steps: of Adam. batch: pictures a step. captions: of one picture in a step. rate: the highest learning rate,
    reached after `warmup` steps; a cosine brings it to 0. named: the share of the steps that show named pictures, while
    the others show photographs. rare: the exponent of a token's weight in the loss, its inverse frequency in the
    captions, so that "zebra" counts for more than "a". ridge: the penalty of the regression that training starts from.
    dropped: the share of features that are left out of a picture. average: how much of the running mean of the
    projector is kept a step. unseen: the captions of one photograph in so many are not trained on: every `judged` steps
    their loss is taken with the running mean, and the one that does best by it is kept. (The regression and the named
    crops have these photographs too.)
    """

    steps: int = 600
    batch: int = 8
    captions: int = 3
    rate: float = 1e-3
    warmup: int = 50
    named: float = 0.35
    rare: float = 0.25
    ridge: float = 3.0
    dropped: float = 0.2
    average: float = 0.98
    unseen: int = 10
    judged: int = 50


class Projector(nn.Module):
    """A linear map of standardised features; `plain` is the same map of features as they are."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.map = nn.Linear(FEATURES, width)

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """kept: what standardised features are multiplied by, to leave some out."""
        standardised = (features - self.mean) / self.deviation
        mapped: Tensor = self.map(standardised if kept is None else standardised * kept)
        return mapped

    def plain(self) -> dict[str, Tensor]:
        """ "weight" (width, 1,280) and "bias" (width)."""
        weight = (self.map.weight / self.deviation).detach()
        return {"weight": weight, "bias": (self.map.bias - weight @ self.mean).detach()}


def initial(corpus: Sequence[Shown], tokenizer: Any, embeddings: Tensor, options: ProjectorOptions) -> Projector:
    """Ridge regression from a picture's mean feature to the tf-idf mean embedding of its captions' words, scaled to the
    typical length of a token embedding.

    embeddings: (vocabulary, width). The penalty is `options.ridge` times the mean squared length of the inputs.
    """
    cells = torch.cat([shown.views[:1].float().reshape(-1, FEATURES) for shown in corpus])
    projector = Projector(cells.mean(0), cells.std(0).clamp(min=1e-3), embeddings.shape[1])
    words = [tokenizer(" " + " ".join(shown.captions), add_special_tokens=False).input_ids for shown in corpus]
    spread = Counter(token for ids in words for token in set(ids))
    idf = {token: math.log(len(corpus) / count) for token, count in spread.items()}
    targets = torch.stack([_mean_word(ids, idf, embeddings) for ids in words])
    inputs = torch.stack(
        [(shown.views.float().mean((0, 1)) - projector.mean) / projector.deviation for shown in corpus]
    )
    penalty = options.ridge * inputs.square().sum(1).mean()
    centred = targets - targets.mean(0)
    solution = torch.linalg.solve(inputs.T @ inputs + penalty * torch.eye(FEATURES), inputs.T @ centred)
    length = embeddings.norm(dim=1).mean()
    scale = length / (inputs @ solution).norm(dim=1).mean()
    with torch.no_grad():
        projector.map.weight.copy_((solution * scale).T)
        projector.map.bias.copy_(targets.mean(0) * length / targets.norm(dim=1).mean())
    return projector


def _mean_word(ids: Sequence[int], idf: dict[int, float], embeddings: Tensor) -> Tensor:
    weights = torch.tensor([idf[token] for token in ids])
    return (weights[:, None] * embeddings[torch.tensor(ids)]).sum(0) / weights.sum().clamp(min=1e-6)


class CaptionLoss:
    """The caption loss of pictures: several captions of one picture in one sequence, each of which sees the picture
    and the prompt and none of the others."""

    def __init__(self, language: Any, tokenizer: Any, corpus: Sequence[Shown], rare: float) -> None:
        self.language, self.tokenizer = language, tokenizer
        counts = Counter(token for shown in corpus for text in shown.captions for token in self._caption(text))
        total, kinds = sum(counts.values()), len(counts)
        self.weight = {token: (total / kinds / count) ** rare for token, count in counts.items()}

    def _caption(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text + self.tokenizer.eos_token, add_special_tokens=False).input_ids
        return ids

    def __call__(self, pictures: Tensor, prompt: str, captions: Sequence[Sequence[str]]) -> Tensor:
        """The weighted mean loss of a caption token.

        pictures: (batch, 49, width) token embeddings. captions: of each picture.
        """
        message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
        text = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        before, after = (self.tokenizer(part, add_special_tokens=False).input_ids for part in text.split(IMAGE_TOKEN))
        start = len(before) + CELLS + len(after)
        answers = [[self._caption(text) for text in texts] for texts in captions]
        length = start + max(sum(map(len, ids)) for ids in answers)
        tokens = torch.full((len(answers), length), self.tokenizer.pad_token_id)
        seen = torch.tril(torch.ones(length, length, dtype=torch.bool)).repeat(len(answers), 1, 1)
        places = torch.arange(length).repeat(len(answers), 1)
        wanted: list[tuple[int, int, int]] = []  # row, position that predicts, token
        for row, ids in enumerate(answers):
            at = start
            for caption in ids:
                tokens[row, at : at + len(caption)] = torch.tensor(caption)
                seen[row, at : at + len(caption), start:at] = False
                places[row, at : at + len(caption)] = torch.arange(start, start + len(caption))
                wanted += [(row, start - 1 if i == 0 else at + i - 1, token) for i, token in enumerate(caption)]
                at += len(caption)
        tokens[:, : len(before)] = torch.tensor(before)
        tokens[:, len(before) + CELLS : start] = torch.tensor(after)
        embedded = self.language.get_input_embeddings()(tokens)
        embedded = torch.cat(
            [embedded[:, : len(before)], pictures.to(embedded.dtype), embedded[:, len(before) + CELLS :]], dim=1
        )
        mask = torch.zeros(seen.shape, dtype=embedded.dtype).masked_fill(~seen, torch.finfo(embedded.dtype).min)
        hidden = self.language.model(
            inputs_embeds=embedded, attention_mask=mask[:, None], position_ids=places, use_cache=False
        ).last_hidden_state
        rows, positions, targets = (torch.tensor(column) for column in zip(*wanted, strict=True))
        logits = self.language.lm_head(hidden[rows, positions]).float()
        weights = torch.tensor([self.weight[token] for token in targets.tolist()])
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        return (weights * losses).sum() / weights.sum()


def train(
    projector: Projector,
    loss_of: CaptionLoss,
    corpus: Sequence[Shown],
    options: ProjectorOptions,
    seed: int,
    log: Callable[[str], None],
) -> list[float]:
    """Train the projector in place; the losses of the photographs that only judge, every `options.judged` steps."""
    random = torch.Generator().manual_seed(seed)
    crops = [shown for shown in corpus if shown.named]
    photographs = [shown for shown in corpus if not shown.named]
    judges = photographs[:: options.unseen]
    photographs = [shown for place, shown in enumerate(photographs) if place % options.unseen]
    optimizer = torch.optim.Adam(projector.parameters(), lr=options.rate, betas=(0.9, 0.98))

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / options.warmup) * 0.5 * (1 + math.cos(math.pi * step / options.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    ema: Any = get_ema_multi_avg_fn(options.average)  # type: ignore[no-untyped-call]
    mean: Any = AveragedModel(projector, multi_avg_fn=ema)
    judged, best = [judge(projector, loss_of, judges, options)], copy.deepcopy(projector.state_dict())
    log(f"at first: loss {judged[0]:.3f}")
    losses: list[float] = []
    for step in range(options.steps):
        naming = bool(crops) and float(torch.rand((), generator=random)) < options.named
        views, captions = _drawn(crops if naming else photographs, options, random)
        prompts = NAME + DESCRIBE if naming else DESCRIBE
        prompt = prompts[int(torch.randint(len(prompts), (), generator=random))]
        kept = (torch.rand(len(views), 1, FEATURES, generator=random) >= options.dropped) / (1 - options.dropped)
        loss = loss_of(projector(views, kept), prompt, captions)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean.update_parameters(projector)
        losses.append(loss.item())
        if step % options.judged == options.judged - 1:
            judged.append(judge(mean.module, loss_of, judges, options))
            if judged[-1] == min(judged):
                best = copy.deepcopy(mean.module.state_dict())
            of_last = sum(losses[-options.judged :]) / options.judged
            log(f"step {step + 1}: loss {of_last:.3f}, of photographs that only judge {judged[-1]:.3f}")
    projector.load_state_dict(best)
    return judged


def _drawn(pool: Sequence[Shown], options: ProjectorOptions, random: torch.Generator) -> tuple[Tensor, list[list[str]]]:
    """A view of each of a few pictures, (batch, 49, 1,280), and some of their captions."""
    often = torch.tensor([float(shown.weight) for shown in pool])
    views, captions = [], []
    for i in torch.multinomial(often, options.batch, replacement=True, generator=random).tolist():
        shown = pool[i]
        views.append(shown.views[int(torch.randint(len(shown.views), (), generator=random))])
        drawn = torch.randperm(len(shown.captions), generator=random)[: options.captions]
        captions.append([shown.captions[place] for place in drawn.tolist()])
    return torch.stack(views).float(), captions


@torch.no_grad()
def judge(projector: Projector, loss_of: CaptionLoss, judges: Sequence[Shown], options: ProjectorOptions) -> float:
    """The mean loss of the first captions of photographs as they are."""
    losses = []
    for start in range(0, len(judges), options.batch):
        chunk = judges[start : start + options.batch]
        views = torch.stack([shown.views[0].float() for shown in chunk])
        losses.append(float(loss_of(projector(views), DESCRIBE[0], [shown.captions[:2] for shown in chunk])))
    return sum(losses) / len(losses)
