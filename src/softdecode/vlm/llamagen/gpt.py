"""LlamaGen's autoregressive transformer (Sun et al. 2024, arXiv 2406.06525), which transformers has no class for.

A Llama without biases over condition tokens (a caption's T5 embeddings, or a class) followed by image tokens. Its
rotary table is two-dimensional over the image grid, and **zero** at the condition's positions, so that queries and keys
vanish there. Parameter names are the official checkpoint's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError

NORM_EPS = 1e-5
ROPE_BASE = 10_000.0


@dataclass(frozen=True, kw_only=True)
class GptConfig:
    """Sizes of the transformer.

    Attributes:
        dim, layers, heads, ffn_dim: width, depth, attention heads, width of the feed-forward.
        codes: image tokens V.
        grid: side of the square image grid.
        condition_tokens: tokens of the condition: 120 for captions, 1 for classes.
        caption_dim: width of the caption's embeddings; None for class conditions.
        classes: number of classes; None for captions. Class `classes` is the unconditional one.
    """

    dim: int
    layers: int
    heads: int
    ffn_dim: int
    codes: int
    grid: int
    condition_tokens: int
    caption_dim: int | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        if (self.caption_dim is None) == (self.classes is None):
            raise SoftDecodeError("a LlamaGen model is conditioned on captions or on classes: give one of the two")
        if self.dim % self.heads or self.dim // self.heads % 4:
            raise SoftDecodeError(f"width {self.dim} does not fit {self.heads} heads of a multiple of 4 channels")


class RmsNorm(nn.Module):
    """Root-mean-square normalisation, in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS)
        return normed.type_as(hidden) * self.weight


class CaptionEmbedding(nn.Module):
    """Caption embeddings to the transformer's width, and the stored embeddings of no caption."""

    def __init__(self, caption_dim: int, dim: int, tokens: int) -> None:
        super().__init__()
        self.cap_proj = nn.ModuleDict(
            {"fc1": nn.Linear(caption_dim, dim, bias=False), "fc2": nn.Linear(dim, dim, bias=False)}
        )
        self.register_buffer("uncond_embedding", torch.zeros(tokens, caption_dim))

    def forward(self, captions: Tensor) -> Tensor:
        """[B, tokens, caption_dim] to [B, tokens, D]."""
        return self.cap_proj["fc2"](F.gelu(self.cap_proj["fc1"](captions), approximate="tanh"))


class ClassEmbedding(nn.Module):
    """One token for a class; the last class is the unconditional one."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, dim)

    def forward(self, classes: Tensor) -> Tensor:
        """[B] int64 to [B, 1, D]."""
        return self.embedding_table(classes)[:, None]


class KeyValues:
    """Keys and values of the positions so far, for all layers, in buffers of full length."""

    def __init__(self, config: GptConfig, batch: int, length: int, like: Tensor) -> None:
        shape = (config.layers, batch, config.heads, length, config.dim // config.heads)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)

    def extend(self, layer: int, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, heads, T, c] at positions start..start+T-1, and return all up to there."""
        stop = start + keys.shape[2]
        self.keys[layer][:, :, start:stop], self.values[layer][:, :, start:stop] = keys, values
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]


class Attention(nn.Module):
    """Multi-head attention with one matrix for queries, keys and values."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.wqkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self, hidden: Tensor, rope: Tensor, mask: Tensor, layer: int, start: int, cache: KeyValues | None
    ) -> Tensor:
        batch, length, dim = hidden.shape
        query, key, value = (
            part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.wqkv(hidden).chunk(3, dim=-1)
        )
        query, key = rotate(query, rope), rotate(key, rope)
        if cache is not None:
            key, value = cache.extend(layer, start, key, value)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.wo(mixed.transpose(1, 2).reshape(batch, length, dim))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(hidden)) * self.w3(hidden))


class Block(nn.Module):
    """Attention and feed-forward, each after its norm and added to its input."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RmsNorm(config.dim)
        self.ffn_norm = RmsNorm(config.dim)

    def forward(
        self, hidden: Tensor, rope: Tensor, mask: Tensor, layer: int, start: int, cache: KeyValues | None
    ) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), rope, mask, layer, start, cache)
        return hidden + self.feed_forward(self.ffn_norm(hidden))


class LlamaGenGpt(nn.Module):
    """The transformer: embeddings in, logits over the codebook out."""

    rope: Tensor

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        if config.caption_dim is not None:
            self.cls_embedding = CaptionEmbedding(config.caption_dim, config.dim, config.condition_tokens)
        elif config.classes is not None:
            self.cls_embedding = ClassEmbedding(config.classes, config.dim)
        self.tok_embeddings = nn.Embedding(config.codes, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RmsNorm(config.dim)
        self.output = nn.Linear(config.dim, config.codes, bias=False)
        table = rope_table(config.grid, config.dim // config.heads, config.condition_tokens)
        self.register_buffer("rope", table, persistent=False)

    def forward(self, embeddings: Tensor, mask: Tensor, *, start: int = 0, cache: KeyValues | None = None) -> Tensor:
        """Logits [B, T, V] float32.

        Args:
            embeddings: [B, T, D] of positions start..start+T-1, condition tokens first.
            mask: [B, 1, T, S] bool, S = start + T; True where a position may look.
            start: position of the first embedding.
            cache: of the positions before; extended in place.
        """
        hidden = embeddings
        rope = self.rope[start : start + embeddings.shape[1]]
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden, rope, mask, number, start, cache)
        return self.output(self.norm(hidden)).float()


def rope_table(grid: int, head_dim: int, condition_tokens: int) -> Tensor:
    """Cosines and sines [condition_tokens + grid², head_dim/2, 2]: zero for the condition, then rows and columns."""
    frequencies = ROPE_BASE ** -(torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2))
    angles = torch.arange(grid).float()[:, None] * frequencies  # [grid, head_dim/4]
    rows = angles[:, None].expand(grid, grid, -1)
    columns = angles[None, :].expand(grid, grid, -1)
    both = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    table = torch.stack([both.cos(), both.sin()], dim=-1)
    return torch.cat([torch.zeros(condition_tokens, head_dim // 2, 2), table])


def rotate(heads: Tensor, rope: Tensor) -> Tensor:
    """Rotate interleaved pairs of channels of [B, heads, T, c] by `rope` [T, c/2, 2], in float32."""
    pairs = heads.float().unflatten(-1, (-1, 2))
    cosine, sine = rope[..., 0], rope[..., 1]
    real, imaginary = pairs[..., 0], pairs[..., 1]
    turned = torch.stack([real * cosine - imaginary * sine, imaginary * cosine + real * sine], dim=-1)
    return turned.flatten(-2).type_as(heads)


def attention_mask(text_mask: Tensor, length: int) -> Tensor:
    """Which positions each may look at: earlier ones that are no padding of the caption, and always itself.

    Args:
        text_mask: [B, condition_tokens], nonzero where the caption has a token.
        length: positions S in all.

    Returns:
        [B, 1, S, S] bool.
    """
    batch, tokens = text_mask.shape
    causal = torch.ones(length, length, dtype=torch.bool, device=text_mask.device).tril()
    visible = torch.ones(batch, length, dtype=torch.bool, device=text_mask.device)
    visible[:, :tokens] = text_mask.bool()
    mask = causal[None] & visible[:, None]
    mask |= torch.eye(length, dtype=torch.bool, device=text_mask.device)
    return mask[:, None]
