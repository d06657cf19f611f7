"""Pictures that the language model itself makes, token by token (Emu3, Janus), without a diffusion model.

A picture is a grid of tokens, each predicted at the position before it. A state's influence on the picture inside a
mask is the logit of the token that it predicts, weighted by how much of the token's cell lies in the mask:

    y = sum over the tokens j of  w_j * logit(token j) / sum of w,    w_j the share of cell j inside the mask
"""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from math import isqrt
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from atlas.errors import Unsupported
from atlas.live.draw.drawer import Drawn, DrawOptions
from atlas.live.encode import Prompt
from atlas.live.load.checkpoints import quiet

if TYPE_CHECKING:
    from PIL.Image import Image

    from atlas.live.model import LiveModel


class Maker(Protocol):
    """The part of a family. ids: the token ids of pictures. side: of a picture's grid; 0 where the request sets it."""

    side: int

    @property
    def ids(self) -> Container[int]:
        """The token ids of pictures."""
        ...

    def answers(self, prompts: Sequence[Prompt], side: int) -> list[list[int]]:
        """Token ids of one picture for each prompt, `side` tokens wide."""
        ...

    def logits(self, states: Tensor, tokens: Tensor) -> Tensor:
        """(B, J) logits of the tokens, (B, J), from the states that predict them, (B, J, d_model)."""
        ...

    def pixels(self, tokens: Tensor, side: int) -> Tensor:
        """(B, 3, height, width) from -1 to 1: the pictures of (B, side * side) tokens."""
        ...


class TokenDrawer:
    """See `atlas.live.draw.drawer.Drawer`."""

    offset = -1
    identity = ""

    def __init__(self, maker: Maker):
        self.maker = maker

    def answers(self, prompts: Sequence[Prompt], how: DrawOptions, max_new_tokens: int) -> list[list[int]]:
        return self.maker.answers(prompts, how.side)

    def places(self, answer: Sequence[int]) -> list[int] | None:
        positions = [i for i, token in enumerate(answer) if token in self.maker.ids]
        return positions if positions and isqrt(len(positions)) ** 2 == len(positions) else None

    @torch.no_grad()
    def draw(self, states: Tensor, tokens: Tensor, seeds: Sequence[int], how: DrawOptions) -> Drawn:
        from PIL import Image

        pixels = self.maker.pixels(tokens, isqrt(tokens.shape[1]))
        arrays = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pictures: list[Image.Image] = [Image.fromarray(array) for array in arrays]
        return Drawn(pictures, tokens)

    def importance(self, states: Tensor, drawn: Drawn, masks: Tensor, how: DrawOptions) -> Tensor:
        side = isqrt(drawn.memory.shape[1])
        share = torch.nn.functional.adaptive_avg_pool2d(masks[:, None].float(), (side, side)).flatten(1)
        with torch.enable_grad():
            leaf = states.detach().requires_grad_(True)
            logits = self.maker.logits(leaf, drawn.memory).float()
            total = (logits * share).sum(1) / share.sum(1).clamp(min=1e-6)
            [gradient] = torch.autograd.grad(total.sum(), leaf)
        return gradient


class Emu3:
    """Pictures as tokens of the vocabulary, each row closed by a token for that; the unembedding predicts them."""

    side = 0
    usual = 90  # 720 pixels, the size it was trained for

    def __init__(self, live: LiveModel):
        self.live, names = live, live.model.config.vocabulary_map
        self.ids = frozenset(live.encoder.family.picture_ids(live.model.config))
        self.row_end = next(token for name, token in names.items() if name == live.encoder.tokenizer.eol_token)

    def answers(self, prompts: Sequence[Prompt], side: int) -> list[list[int]]:
        """Greedy tokens in the form of a picture: its size, then rows of picture tokens, each closed, then the end."""
        live, side = self.live, side or self.usual
        text = live.encoder.tokenizer
        begin = text(f"{text.boi_token}{side}*{side}{text.image_wrapper_token}", add_special_tokens=False).input_ids
        end = text.convert_tokens_to_ids([text.eof_token, text.eoi_token])
        batch = live.batch([Prompt((*p.ids, *begin), (), p.extras) for p in prompts], left=True)
        before, picture_ids = batch.inputs["input_ids"].shape[1], sorted(self.ids)

        def allowed(_: int, ids: Tensor) -> list[int]:
            count = len(ids) - before
            if count >= side * (side + 1):
                return [end[min(count - side * (side + 1), 1)]]
            return [self.row_end] if count % (side + 1) == side else picture_ids

        out = live.model.generate(
            **batch.inputs,
            max_new_tokens=side * (side + 1) + 2,
            do_sample=False,
            pad_token_id=live.encoder.pad_id,
            prefix_allowed_tokens_fn=allowed,
        )
        return [[*begin, *row] for row in out[:, before:].tolist()]

    def logits(self, states: Tensor, tokens: Tensor) -> Tensor:
        scores: Tensor = self.live.layout.head(states)
        return scores.gather(-1, tokens[..., None])[..., 0]

    def pixels(self, tokens: Tensor, side: int) -> Tensor:
        rows = tokens.view(-1, side, side)
        ends = torch.full((len(rows), side, 1), self.row_end, device=tokens.device)
        flat = torch.cat([rows, ends], 2).flatten(1)
        closing = flat.new_zeros(len(flat), 3)  # the three closing tokens, which decoding cuts off
        decoded: Any = self.live.model.decode_image_tokens(
            image_tokens=torch.cat([flat, closing], 1), height=side, width=side
        )
        pixels: Tensor = decoded.reshape(-1, *decoded.shape[-3:])
        return pixels


class Janus:
    """Pictures as tokens of a separate vocabulary, with embeddings and a head of their own.

    Here their ids follow those of the words. Generated with classifier-free guidance, as the model does.
    """

    guidance = 5.0

    def __init__(self, live: LiveModel):
        self.live = live
        first = live.layout.vocabulary
        self.ids = range(first, first + live.model.config.vq_config.num_embeddings)
        self.side = isqrt(live.model.config.vision_config.num_image_tokens)

    def answers(self, prompts: Sequence[Prompt], side: int) -> list[list[int]]:
        live = self.live
        if side not in (0, self.side):
            raise Unsupported(f"{live.name} draws {self.side} x {self.side} tokens, not {side} x {side}")
        boi = live.encoder.tokenizer.convert_tokens_to_ids(live.encoder.tokenizer.boi_token)
        batch = live.batch([Prompt((*p.ids, boi), (), p.extras) for p in prompts], left=True)
        config = copy.deepcopy(live.model.generation_config)
        config.update(do_sample=False, guidance_scale=self.guidance, max_length=None, pad_token_id=live.encoder.pad_id)
        config.generation_kwargs = {"boi_token_id": boi}
        with quiet():  # Janus warns of deprecation at every call
            tokens = live.model.generate(**batch.inputs, generation_mode="image", generation_config=config)
        return [[boi, *(token + self.ids.start for token in row)] for row in tokens.tolist()]

    def logits(self, states: Tensor, tokens: Tensor) -> Tensor:
        scores = self.live.model.model.generation_head(states)
        return scores.gather(-1, (tokens - self.ids.start)[..., None])[..., 0]  # type: ignore[no-any-return]

    def pixels(self, tokens: Tensor, side: int) -> Tensor:
        decoded: Tensor = self.live.model.decode_image_tokens(tokens - self.ids.start)
        return decoded.permute(0, 3, 1, 2)


def embed_tokens(model: Any, ids: Tensor, words: int) -> Tensor:
    """(batch, position, d_model) embeddings of Janus' words and, from id `words` on, of its pictures' tokens."""
    pictures = ids >= words
    embeddings: Tensor = model.get_input_embeddings()(ids.masked_fill(pictures, 0))
    of_pictures = model.prepare_embeddings_for_image_generation(ids[pictures] - words)
    return embeddings.masked_scatter(pictures[..., None].expand_as(embeddings), of_pictures.to(embeddings))
