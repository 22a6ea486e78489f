"""The BitNet b1.58 graph (G-BITNET, as microsoft/bitnet-b1.58-2B-4T) in a form that trains.

Every projection keeps a float32 latent weight. The forward pass sees trits (-1, 0, +1) and int8 activation codes,
both exact in bfloat16, so the matrix products are integer sums; the two scales are applied afterwards in float32.
The backward pass takes both roundings as the identity (straight-through estimator).
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Shape:
    vocab: int = 4096
    hidden: int = 512
    layers: int = 6
    heads: int = 8
    kv_heads: int = 2
    ffn: int = 1024
    context: int = 1024
    eps: float = 1e-5
    theta: float = 10000.0

    @property
    def head_dim(self):
        return self.hidden // self.heads

    def json(self):
        return asdict(self)


class StraightRound(torch.autograd.Function):
    """Round half to even and clamp; the gradient passes through untouched, also where the clamp bites."""

    @staticmethod
    def forward(ctx, x, low, high):
        return x.round().clamp(low, high)

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


def absmean(w):
    return w.abs().mean().clamp(min=1e-5)


class TernaryWeight(nn.Module):
    """A latent [out, in] matrix, read as (trits, scale). Frozen, it holds the trits and the scale of a packed file."""

    def __init__(self, out, inp):
        super().__init__()
        self.latent = nn.Parameter(torch.randn(out, inp) * 0.02)
        self.frozen = None

    def forward(self):
        if self.frozen is not None:
            return self.frozen
        scale = absmean(self.latent.detach())
        return StraightRound.apply(self.latent / scale, -1.0, 1.0), scale

    def freeze(self, trits, scale):
        self.frozen = (trits, scale)


def bitlinear(x, weights, dtype):
    """x times each of the weights. Projections that share an input share one activation quantization and one product."""
    s = 127.0 / x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-5)
    codes = StraightRound.apply(x * s, -128.0, 127.0).to(dtype)
    pairs = [w() for w in weights]
    trits = torch.cat([t for t, _ in pairs]) if len(pairs) > 1 else pairs[0][0]
    y = F.linear(codes, trits.to(dtype)).float()
    parts = y.split([t.shape[0] for t, _ in pairs], -1)
    return [part * (scale / s) for part, (_, scale) in zip(parts, pairs)]


def rms(x, gain, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        kv = c.kv_heads * c.head_dim
        self.q = TernaryWeight(c.hidden, c.hidden)
        self.k = TernaryWeight(kv, c.hidden)
        self.v = TernaryWeight(kv, c.hidden)
        self.o = TernaryWeight(c.hidden, c.hidden)
        self.gate = TernaryWeight(c.ffn, c.hidden)
        self.up = TernaryWeight(c.ffn, c.hidden)
        self.down = TernaryWeight(c.hidden, c.ffn)
        self.norm_in = nn.Parameter(torch.ones(c.hidden))
        self.norm_post = nn.Parameter(torch.ones(c.hidden))
        self.norm_attn = nn.Parameter(torch.ones(c.hidden))
        self.norm_ffn = nn.Parameter(torch.ones(c.ffn))

    def forward(self, x, cos, sin, dtype):
        c = self.c
        b, t, _ = x.shape
        q, k, v = bitlinear(rms(x, self.norm_in, c.eps), [self.q, self.k, self.v], dtype)
        q = rotate(q.view(b, t, c.heads, -1).transpose(1, 2), cos, sin).to(dtype)
        k = rotate(k.view(b, t, c.kv_heads, -1).transpose(1, 2), cos, sin).to(dtype)
        v = v.view(b, t, c.kv_heads, -1).transpose(1, 2).to(dtype)
        group = c.heads // c.kv_heads
        a = F.scaled_dot_product_attention(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=True)
        a = rms(a.float().transpose(1, 2).reshape(b, t, c.hidden), self.norm_attn, c.eps)
        x = x + bitlinear(a, [self.o], dtype)[0]
        gate, up = bitlinear(rms(x, self.norm_post, c.eps), [self.gate, self.up], dtype)
        m = rms(F.relu(gate).square() * up, self.norm_ffn, c.eps)
        return x + bitlinear(m, [self.down], dtype)[0]


class Model(nn.Module):
    def __init__(self, shape, dtype=torch.float32):
        super().__init__()
        self.shape = shape
        self.dtype = dtype  # of the matrix products; bfloat16 is exact for trits and codes and fast on a GPU
        self.embed = nn.Parameter(torch.randn(shape.vocab, shape.hidden) * 0.02)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))
        d = shape.head_dim
        inv = 1.0 / shape.theta ** (torch.arange(0, d, 2).float() / d)
        angle = torch.outer(torch.arange(shape.context).float(), inv)
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def logits(self, ids):
        t = ids.shape[1]
        x = F.embedding(ids, self.embed)
        cos, sin = self.cos[:t], self.sin[:t]
        for layer in self.layers:
            x = layer(x, cos, sin, self.dtype)
        return F.linear(rms(x, self.norm, self.shape.eps).to(self.dtype), self.embed.to(self.dtype))

    def forward(self, ids, targets):
        """Mean cross-entropy in nats per token."""
        return F.cross_entropy(self.logits(ids).float().flatten(0, 1), targets.flatten())

    def ternary(self):
        """(Hugging Face name, TernaryWeight) of every ternary matrix, in the order of the graph."""
        for i, layer in enumerate(self.layers):
            for name in ("q", "k", "v", "o"):
                yield f"model.layers.{i}.self_attn.{name}_proj.weight", getattr(layer, name)
            for name in ("gate", "up", "down"):
                yield f"model.layers.{i}.mlp.{name}_proj.weight", getattr(layer, name)

    def floats(self):
        """(Hugging Face name, parameter) of everything that stays float."""
        yield "model.embed_tokens.weight", self.embed
        for i, layer in enumerate(self.layers):
            p = f"model.layers.{i}."
            yield p + "input_layernorm.weight", layer.norm_in
            yield p + "post_attention_layernorm.weight", layer.norm_post
            yield p + "self_attn.attn_sub_norm.weight", layer.norm_attn
            yield p + "mlp.ffn_sub_norm.weight", layer.norm_ffn
        yield "model.norm.weight", self.norm

    @torch.no_grad()
    def trit_counts(self):
        """{name: [minus, ergodic, plus]} of every ternary matrix."""
        out = {}
        for name, w in self.ternary():
            t = w()[0]
            minus, plus = int((t < 0).sum()), int((t > 0).sum())
            out[name] = [minus, t.numel() - minus - plus, plus]
        return out
