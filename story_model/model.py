"""The model: a Llama-shaped decoder of about three million parameters."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

DIMENSION = 192
LAYERS = 6
HEADS = 6
HEAD_DIMENSION = DIMENSION // HEADS
FEED_FORWARD = 512
CONTEXT = 512
ROPE_BASE = 10000.0
NORM_EPSILON = 1e-5


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def _norm() -> nn.RMSNorm:
    return nn.RMSNorm(DIMENSION, eps=NORM_EPSILON)


def rotations(length: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, each of shape (length, HEAD_DIMENSION / 2)."""
    exponents = torch.arange(0, HEAD_DIMENSION, 2).float() / HEAD_DIMENSION
    angles = torch.outer(torch.arange(length).float(), ROPE_BASE**-exponents)
    return angles.cos(), angles.sin()


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    # Pairs are neighbours (2i, 2i + 1), as llama.cpp has them: the export needs no permutation.
    cosine, sine = rotation
    even, odd = heads[..., 0::2], heads[..., 1::2]
    turned = (even * cosine - odd * sine, even * sine + odd * cosine)
    return torch.stack(turned, dim=-1).flatten(-2)


class Block(nn.Module):
    """Attention and a gated feed-forward network, each on a normalized copy of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_norm, self.ffn_norm = _norm(), _norm()
        self.attn_q = _linear(DIMENSION, DIMENSION)
        self.attn_k = _linear(DIMENSION, DIMENSION)
        self.attn_v = _linear(DIMENSION, DIMENSION)
        self.attn_output = _linear(DIMENSION, DIMENSION)
        self.ffn_gate = _linear(DIMENSION, FEED_FORWARD)
        self.ffn_up = _linear(DIMENSION, FEED_FORWARD)
        self.ffn_down = _linear(FEED_FORWARD, DIMENSION)

    def forward(self, stream: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        stream = stream + self._attend(self.attn_norm(stream), rotation)
        normed = self.ffn_norm(stream)
        gated = functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed)
        down: Tensor = self.ffn_down(gated)
        return stream + down

    def _attend(self, normed: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, _ = normed.shape
        query, key, value = (
            project(normed).view(batch, length, HEADS, HEAD_DIMENSION).transpose(1, 2)
            for project in (self.attn_q, self.attn_k, self.attn_v)
        )
        seen = functional.scaled_dot_product_attention(
            _rotate(query, rotation), _rotate(key, rotation), value, is_causal=True
        )
        joined: Tensor = self.attn_output(seen.transpose(1, 2).reshape(batch, length, DIMENSION))
        return joined


class StoryModel(nn.Module):
    """Token identifiers of shape (batch, length) to logits of shape (batch, length, vocabulary).

    The names of the weights are those of the GGUF format, and the output layer is the embedding.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(vocabulary, DIMENSION)
        self.blk = nn.ModuleList(Block() for _ in range(LAYERS))
        self.output_norm = _norm()
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                into_stream = name.endswith(("attn_output.weight", "ffn_down.weight"))
                deviation = 0.02 / math.sqrt(2 * LAYERS) if into_stream else 0.02
                nn.init.normal_(weight, std=deviation)

    def forward(self, tokens: Tensor) -> Tensor:
        rotation = rotations(tokens.shape[1])
        stream = self.token_embd(tokens)
        for block in self.blk:
            stream = block(stream, rotation)
        return functional.linear(self.output_norm(stream), self.token_embd.weight)
