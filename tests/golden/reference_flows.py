"""Plain PyTorch definitions of the richer discrete flows, beside reference_models.py.

The spline itself is zuko's MonotonicRQSTransform at given knots, the mixture torch.distributions'.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from zuko.transforms import MonotonicRQSTransform

import reference_models as ref


def zuko_spline(x, y, slope):
    """zuko's transform with these knots (..., K + 1) in place of its own parametrisation."""
    bins = x.shape[-1] - 1
    transform = MonotonicRQSTransform(x[..., :bins], x[..., :bins], x[..., : bins - 1])
    transform.horizontal, transform.vertical, transform.derivatives = x, y, slope
    return transform


def knots(raw, bins, tail):
    """nflows' parametrisation, with its boundary constant added to the inner slopes."""
    smallest = 1e-3

    def positions(u):
        share = smallest + (1 - smallest * bins) * F.softmax(u, -1)
        inner = 2 * tail * share.cumsum(-1)[..., :-1] - tail
        end = torch.full_like(u[..., :1], tail)
        return torch.cat([-end, inner, end], -1)

    widths, heights, slopes = raw.split([bins, bins, bins - 1], -1)
    one = torch.ones_like(raw[..., :1])
    inner = smallest + F.softplus(slopes + math.log(math.expm1(1 - smallest)))
    return positions(widths), positions(heights), torch.cat([one, inner, one], -1)


class SplineCoupling(nn.Module):
    """Data to base: z = spline(x), with trained numbers on the kept axes and a net's on the others."""

    def __init__(self, dim, bins, tail, hidden, keep_even, condition_dim=0):
        super().__init__()
        axes = torch.arange(dim)
        self.kept, self.moved = axes[0 if keep_even else 1::2], axes[1 if keep_even else 0::2]
        self.bins, self.tail, numbers = bins, tail, 3 * bins - 1
        self.kept_spline = nn.Parameter(torch.zeros(len(self.kept), numbers))
        self.net = ref.mlp([len(self.kept) + condition_dim, hidden, hidden, len(self.moved) * numbers], nn.ReLU)

    def splines(self, kept, condition):
        raw = self.net(ref.join(kept, condition)).unflatten(-1, (len(self.moved), -1))
        return zuko_spline(*knots(raw, self.bins, self.tail))

    def own_splines(self):
        return zuko_spline(*knots(self.kept_spline, self.bins, self.tail))

    def join(self, kept, moved, log_det):
        out = torch.empty(kept.shape[0], len(self.kept) + len(self.moved), dtype=kept.dtype)
        out[:, self.kept], out[:, self.moved] = kept, moved
        return out, log_det

    def inverse(self, x, condition=None):
        a, da = self.own_splines().call_and_ladj(x[:, self.kept])
        b, db = self.splines(x[:, self.kept], condition).call_and_ladj(x[:, self.moved])
        return self.join(a, b, da.sum(-1) + db.sum(-1))

    def forward(self, z, condition=None):
        own = self.own_splines()
        kept = own.inv(z[:, self.kept])
        splines = self.splines(kept, condition)
        moved = splines.inv(z[:, self.moved])
        log_det = own.call_and_ladj(kept)[1].sum(-1) + splines.call_and_ladj(moved)[1].sum(-1)
        return self.join(kept, moved, -log_det)


class ActNorm(nn.Module):
    """x = z exp(log_scale) + shift per channel of rows that hold (C, positions) in C-order."""

    def __init__(self, channels):
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.ones((), dtype=torch.int64))

    def parts(self, x):
        shape = (1, -1) + (1,) * (x.dim() - 2)
        log_det = self.log_scale.sum() * (x[0].numel() / self.log_scale.numel())
        return self.log_scale.view(shape), self.shift.view(shape), log_det.expand(x.shape[0])

    def forward(self, z, condition=None):
        s, t, log_det = self.parts(z)
        return z * s.exp() + t, log_det

    def inverse(self, x, condition=None):
        s, t, log_det = self.parts(x)
        return (x - t) * (-s).exp(), -log_det


class Mixture(nn.Module):
    def __init__(self, components, dim):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.zeros(components, dim))
        self.log_scales = nn.Parameter(torch.zeros(components, dim))

    def forward(self, z):
        parts = Independent(Normal(self.means, self.log_scales.exp()), 1)
        return MixtureSameFamily(Categorical(logits=self.logits), parts).log_prob(z)


class Stack(nn.Module):
    """Couplings, each after its ActNorm if there are any, on a mixture base if components are given."""

    def __init__(self, couplings, dim, actnorm=False, base_components=0):
        super().__init__()
        self.flows = nn.ModuleList(couplings)
        if actnorm:
            self.actnorms = nn.ModuleList(ActNorm(dim) for _ in couplings)
        if base_components:
            self.base = Mixture(base_components, dim)

    def steps(self):
        for i, flow in enumerate(self.flows):
            if hasattr(self, "actnorms"):
                yield self.actnorms[i]
            yield flow

    def base_log_prob(self, z):
        return self.base(z) if hasattr(self, "base") else ref.standard_normal_log_prob(z)

    def forward(self, z, condition=None):
        total = 0
        for step in self.steps():
            z, log_det = step(z, condition)
            total = total + log_det
        return z, total

    def inverse(self, x, condition=None):
        total = 0
        for step in reversed(list(self.steps())):
            x, log_det = step.inverse(x, condition)
            total = total + log_det
        return x, total


class InvertibleConv(nn.Module):
    """Data to base: channels times P L (U + diag(sign exp(log_diagonal))), by a 1x1 convolution."""

    def __init__(self, channels):
        super().__init__()
        self.lower, self.upper = (nn.Parameter(torch.zeros(channels, channels)) for _ in range(2))
        self.log_diagonal = nn.Parameter(torch.zeros(channels))
        self.register_buffer("permutation", torch.eye(channels).roll(1, 0))
        self.register_buffer("sign", torch.tensor([1.0, -1.0]).repeat(channels // 2))

    def parts(self, x):
        lower = self.lower.tril(-1) + torch.eye(len(self.lower), dtype=x.dtype)
        upper = self.upper.triu(1) + torch.diag(self.sign.to(x.dtype) * self.log_diagonal.exp())
        log_det = self.log_diagonal.sum() * x[0, 0].numel()
        return self.permutation.to(x.dtype) @ lower @ upper, log_det.expand(x.shape[0])

    def inverse(self, x, condition=None):
        weight, log_det = self.parts(x)
        return F.conv2d(x, weight[:, :, None, None]), log_det

    def forward(self, z, condition=None):
        weight, log_det = self.parts(z)
        return F.conv2d(z, torch.linalg.inv(weight)[:, :, None, None]), -log_det


class ImageCoupling(nn.Module):
    """The first half of the channels, and a condition as constant channels, moves the second; hidden = 0: one 3x3
    convolution."""

    def __init__(self, channels, hidden, condition_dim=0):
        super().__init__()
        half = channels // 2
        inputs = half + condition_dim
        if hidden:
            self.net = nn.Sequential(nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1),
                                     nn.ReLU(), nn.Conv2d(hidden, 2 * half, 3, padding=1))
        else:
            self.net = nn.Sequential(nn.Conv2d(inputs, 2 * half, 3, padding=1))

    def parts(self, kept, condition):
        if condition is not None:
            kept = torch.cat([kept, condition[:, :, None, None].repeat(1, 1, *kept.shape[2:])], 1)
        raw, shift = self.net(kept).chunk(2, 1)
        log_scale = 3 * torch.tanh(raw / 3)
        return log_scale, shift, log_scale.flatten(1).sum(1)

    def forward(self, z, condition=None):
        kept, moved = z.chunk(2, 1)
        s, t, log_det = self.parts(kept, condition)
        return torch.cat([kept, moved * s.exp() + t], 1), log_det

    def inverse(self, x, condition=None):
        kept, moved = x.chunk(2, 1)
        s, t, log_det = self.parts(kept, condition)
        return torch.cat([kept, (moved - t) * (-s).exp()], 1), -log_det


class Level(nn.Module):
    def __init__(self, channels, steps, hidden, last, condition_dim):
        super().__init__()
        self.actnorms = nn.ModuleList(ActNorm(channels) for _ in range(steps))
        self.convs = nn.ModuleList(InvertibleConv(channels) for _ in range(steps))
        self.couplings = nn.ModuleList(ImageCoupling(channels, hidden, condition_dim) for _ in range(steps))
        if not last:
            self.prior = ImageCoupling(channels, 0, condition_dim)

    def steps(self):
        """From data to base."""
        for parts in zip(self.actnorms, self.convs, self.couplings):
            yield from parts
        if hasattr(self, "prior"):
            yield self.prior


class Glow(nn.Module):
    """Rows of images; the base lists the halves split off, first to last, and then what is left."""

    def __init__(self, height, width, channels, levels, steps, hidden, condition_dim=0):
        super().__init__()
        self.image, self.levels = (channels, height, width), nn.ModuleList()
        for level in range(levels):
            self.levels.append(Level(4 * channels, steps, hidden, level == levels - 1, condition_dim))
            channels *= 2

    def inverse(self, x, condition=None):
        at, total, parts = x.unflatten(1, self.image), 0, []
        for level in self.levels:
            at = F.pixel_unshuffle(at, 2)
            for step in level.steps():
                at, log_det = step.inverse(at, condition)
                total = total + log_det
            if hasattr(level, "prior"):
                at, split = at.chunk(2, 1)
                parts.append(split.flatten(1))
        return torch.cat(parts + [at.flatten(1)], 1), total

    def forward(self, z, condition=None):
        channels, height, width = self.image
        total, at = 0, None
        for i, level in reversed(list(enumerate(self.levels))):
            size = (channels * 4 * 2**i, height >> (i + 1), width >> (i + 1))
            if hasattr(level, "prior"):
                half = size[0] // 2 * size[1] * size[2]
                part, z = z[:, -half:], z[:, :-half]
                at = torch.cat([at, part.unflatten(1, (size[0] // 2, *size[1:]))], 1)
            else:
                count = size[0] * size[1] * size[2]
                at, z = z[:, -count:].unflatten(1, size), z[:, :-count]
            for step in reversed(list(level.steps())):
                at, log_det = step(at, condition)
                total = total + log_det
            at = F.pixel_shuffle(at, 2)
        return at.flatten(1), total
