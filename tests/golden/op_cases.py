"""Draws and the table that the op cases add themselves to."""
import json
import math
import zlib

import torch

TENSORS, META = {}, {}


def draws(key):
    """The generator of a key; without a key PyTorch's own."""
    return None if key is None else torch.Generator().manual_seed(zlib.crc32(key.encode()))


def emit(op, case, fn, inputs, grad=True, names=None, **params):
    """One case: fn(*inputs) -> tensor or tuple.  grad=False leaves the products out."""
    key = f"{op}.{case}"
    assert key not in META, key
    inputs = [t.detach().clone() for t in inputs]
    floats = [i for i, t in enumerate(inputs) if t.is_floating_point()] if grad else []
    live = [t.requires_grad_(True) if i in floats else t for i, t in enumerate(inputs)]
    result = fn(*live)
    several = not isinstance(result, torch.Tensor)
    outs = list(result) if several else [result]
    tensors = {f"in{i}": t for i, t in enumerate(inputs)}
    tensors |= {f"out{i if several else ''}": t for i, t in enumerate(outs)}
    tracked = [i for i, t in enumerate(outs) if t.requires_grad]
    if floats and tracked:
        generator = draws(key + ".cot")
        cots = [torch.randn(outs[i].shape, generator=generator, dtype=torch.float64) for i in tracked]
        grads = torch.autograd.grad([outs[i] for i in tracked], [live[i] for i in floats], cots, allow_unused=True)
        for i, c in zip(tracked, cots):
            tensors[f"cot{i if several else ''}"] = c
        for i, g in zip(floats, grads):
            g = torch.zeros_like(live[i]) if g is None else g
            assert torch.isfinite(g).all(), key
            tensors[f"grad{i}"] = g
    TENSORS.update({f"{key}.{name}": t.detach().clone().contiguous() for name, t in tensors.items()})
    META[key] = json.dumps(params | ({"inputs": names} if names else {}))


def normal(key, *shape, scale=1.0):
    return torch.randn(shape, generator=draws(key), dtype=torch.float64) * scale


def uniform(key, low, high, *shape):
    return torch.rand(shape, generator=draws(key), dtype=torch.float64) * (high - low) + low


def apart(t, *kinks, gap=0.05):
    """Moves values nearer than `gap` to a kink away from it."""
    for k in kinks:
        near = (t - k).abs() < gap
        t = torch.where(near, k + torch.where(t >= k, 2.0, -2.0) * gap, t)
    return t


def distinct(key, *shape):
    """Values of a random permutation, at least 0.2 apart: no ties, order safe from rounding."""
    n = math.prod(shape)
    order = torch.randperm(n, generator=draws(key)).double()
    return ((order - n / 2) * 0.3 + uniform(key, 0, 0.1, n)).reshape(shape)


def integers(key, high, *shape):
    return torch.randint(0, high, shape, generator=draws(key))
