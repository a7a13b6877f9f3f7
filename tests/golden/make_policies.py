#!/usr/bin/env python3
"""Write models/{conv2d,avg_pool,...,flow_vla,hierarchical}_<case>.safetensors, as make_models.py does.

The weights of flow_vla are too many for a file: both sides make them by `pattern`, and gradients are compared by a
product with another pattern and by their norm.
"""
import numpy
import torch
import torch.nn as nn

import make_models
import reference_policies as ref
from make_models import DOT, case, layer_case, parameter_grads

make_models.CASES.clear()


# ---------------------------------------------------------------- layers
def layer(draw, model, *shape):
    x = draw.normal(*shape)
    draw.fill(model)
    return model, {"input": x, **layer_case(model, x, draw)}, {"objective": DOT}


def conv(d, channels, out, kernel, stride, padding):
    return layer(d, nn.Conv2d(channels, out, kernel, stride, padding), 2, channels, 9, 7)


case("conv2d_stride", "conv2d", channels=3, out=4, kernel=5, stride=2, padding=2)(conv)
case("conv2d_even", "conv2d", channels=2, out=3, kernel=2, stride=3, padding=1)(conv)
case("avg_pool", "avg_pool", kernel=3, stride=2, padding=1)(
    lambda d, kernel, stride, padding: layer(d, nn.AvgPool2d(kernel, stride, padding), 2, 3, 7, 5))
case("adaptive_avg_pool", "adaptive_avg_pool", height=2, width=3)(
    lambda d, height, width: layer(d, nn.AdaptiveAvgPool2d((height, width)), 2, 3, 7, 5))
case("spatial_softmax", "spatial_softmax", height=5, width=3)(
    lambda d, height, width: layer(d, ref.SpatialSoftmax(height, width), 2, 4, height, width))
case("layer_norm", "layer_norm", sizes=[3, 5])(lambda d, sizes: layer(d, nn.LayerNorm(sizes), 4, *sizes))


@case("embedding_padded", "embedding", entries=7, width=3, padding_index=2)
def _(draw, entries, width, padding_index):
    model = draw.fill(nn.Embedding(entries, width, padding_idx=padding_index))
    index = torch.tensor([[0, 2, 6], [6, 1, 2]])
    y = model(index)
    cotangent = draw.normal(*y.shape)
    return model, {"input": index, "cotangent": cotangent, "forward": y,
                   **parameter_grads(model, (y * cotangent).sum())}, {"objective": DOT}


def lstm(draw, width, hidden, layers, bidirectional, padded):
    model = draw.fill(nn.LSTM(width, hidden, layers, bidirectional=bidirectional, batch_first=True))
    x = draw.normal(4, 5, width).requires_grad_(True)
    lengths = torch.tensor([3, 5, 1, 4]) if padded else None
    n = layers * (2 if bidirectional else 1)
    h0, c0 = (draw.normal(n, 4, hidden).requires_grad_(True) for _ in range(2))
    output, h, c = ref.lstm(model, x, lengths, (h0, c0))
    out = {"input": x, "h0": h0, "c0": c0, "forward": output, "h": h, "c": c}
    objective = 0
    for name in ("forward", "h", "c"):
        out[f"cotangent.{name}"] = draw.normal(*out[name].shape)
        objective = objective + (out[name] * out[f"cotangent.{name}"]).sum()
    if padded:
        out["lengths"] = lengths
    out |= parameter_grads(model, objective)
    out["grad_input"], out["grad_h0"], out["grad_c0"] = torch.autograd.grad(objective, (x, h0, c0))
    return model, out, {"objective": "of sum(forward cotangent.forward + h cotangent.h + c cotangent.c)"}


case("lstm_one", "lstm", width=3, hidden=4, layers=1, bidirectional=False, padded=False)(lstm)
case("lstm_two_padded", "lstm", width=3, hidden=4, layers=2, bidirectional=True, padded=True)(lstm)


# ---------------------------------------------------------------- policies
def pattern(shape, number):
    """Uniform in [-1, 1), a hash (MurmurHash3's finalizer) of the element and of the tensor's number."""
    x = numpy.arange(int(numpy.prod(shape)), dtype=numpy.uint64) + (number << 32)
    x = (x * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * factor & 0xFFFFFFFF
    x ^= x >> 16
    return torch.from_numpy((x.astype(numpy.float64) / 2**31 - 1)).reshape(shape)


def fill(model, dtype):
    """Matrices within sqrt(3 / fan_in), vectors within 0.3, the table of words within 1; float32 values."""
    with torch.no_grad():
        for number, (name, p) in enumerate(model.named_parameters()):
            fan_in = p.numel() // len(p)
            scale = 1 if name == "language_encoder.0.weight" else (3 / fan_in) ** 0.5 if p.dim() > 1 else 0.3
            p.copy_((pattern(p.shape, number) * scale).float())
    return model.to(dtype)


def digest(grads, prefix):
    """For the gradient of parameter k: its product with pattern 1000 + k, and its norm."""
    return {prefix: torch.stack([torch.stack([(g * pattern(g.shape, 1000 + k).to(g.dtype)).sum(), g.norm()])
                                 for k, g in enumerate(grads.values())])}


def flow_vla(draw, rows, length, preset, action_dim, horizon, height, width, cameras=1, robot_dim=0, auxiliary=0.0):
    model = fill(ref.FlowVLA(preset, action_dim, horizon, height, width, cameras, robot_dim, auxiliary), draw.dtype)
    out = {"images": draw.normal(rows, 3 * cameras, height, width, scale=0.5),
           "tokens": draw.steps(rows * length, ref.PRESETS[preset]["vocabulary"] - 1).view(rows, length) + 1}
    if model.pad_id is not None:
        for i in range(rows):
            out["tokens"][i, i + 1:] = model.pad_id
    if robot_dim:
        out["robot"] = draw.normal(rows, robot_dim)
    chunk = action_dim * horizon
    out |= {"input": draw.normal(rows, chunk), "noise": draw.normal(rows, chunk), "time": draw.times(rows)}
    c = model.condition(out["images"], out["tokens"], out.get("robot"))
    loss, refiner = model.losses(out["input"], c, out["noise"], out["time"])
    with torch.no_grad():
        action = model.action_flow.generate(out["noise"], c, 8, "euler")
        out |= {"generate": action, "generate.refined": model.refine(action, c),
                "velocity": model.action_flow(out["input"], out["time"], c)}
    out |= {"condition": c, "loss": loss, "training_loss": loss + refiner}
    out |= digest(parameter_grads(model, loss), "grad") | digest(parameter_grads(model, loss + refiner), "grad_training")
    return nn.Module(), out, {"objective": "grad, grad_training: of loss and training_loss, by parameter the product "
                              "with pattern 1000 + k and the norm", "parameters": str(sum(p.numel() for p in model.parameters()))}


case("flow_vla_tutorial", "flow_vla", preset="tutorial", action_dim=7, horizon=1, height=20, width=13)(
    lambda d, **c: flow_vla(d, 2, 5, **c))
case("flow_vla_tiny", "flow_vla", preset="tiny", action_dim=2, horizon=3, height=14, width=11, cameras=2, robot_dim=2,
     auxiliary=0.5)(lambda d, **c: flow_vla(d, 3, 4, **c))


@case("hierarchical_a3", "hierarchical", condition_dim=4, action_dim=3, sequence_length=5, latent_dim=6,
      decoder_hidden=8, hidden=10, time_dim=8)
def _(draw, **config):
    model = draw.fill(ref.HierarchicalFlow(**config))
    rows, length, actions = 3, config["sequence_length"], config["action_dim"]
    out = {"input": draw.normal(rows, length, actions).requires_grad_(True),
           "condition": draw.normal(rows, config["condition_dim"]),
           "noise": draw.normal(rows, config["latent_dim"] + length * actions),
           "time": draw.times(rows * (1 + length)).view(rows, 1 + length)}
    loss = model.loss(out["input"], out["condition"], out["noise"], out["time"])
    out |= {"latent": model.latent(out["input"]), "loss": loss} | parameter_grads(model, loss)
    out["grad_input"], = torch.autograd.grad(loss, out["input"])
    with torch.no_grad():
        out["generate"] = model.generate(out["condition"], out["noise"], 8)
    return model, out, {"objective": "grad.*, grad_input: d of loss"}


if __name__ == "__main__":
    make_models.main()
