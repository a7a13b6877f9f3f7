#!/usr/bin/env python3
"""Write models/<case>.safetensors and models/<case>_f32.safetensors with PyTorch.

All random numbers are float32 values (times are multiples of 1/64), so both files of a case hold the same weights and
inputs; the float32 file's results were computed in float32 by PyTorch, and its metadata gives their largest distance
from the float64 ones.
"""
import argparse
import json
import pathlib
import zlib

import torch
import torch.nn as nn

import reference_models as ref
from golden_file import write

CASES = {}
NLL = "grad.*: d of -mean(log_prob(input)); grad_input: d of +mean(log_prob(input)) / d input"
DOT = "grad.*, grad_input: d of sum(forward * cotangent)"
KL = "grad_forward.*: d of mean(0.5 * sum(forward^2, -1) - log_det) over the batch"


def case(name, model, **config):
    def add(fn):
        CASES[name] = (model, config, fn)
        return fn
    return add


class Draw:
    """Seeded draws, rounded to float32 and then cast to the wanted dtype."""

    def __init__(self, name, dtype):
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        self.dtype = dtype

    def normal(self, *shape, scale=1.0):
        values = torch.randn(*shape, generator=self.generator, dtype=torch.float64) * scale
        return values.float().to(self.dtype)

    def times(self, n):
        return (torch.randint(1, 64, (n,), generator=self.generator).double() / 64).to(self.dtype)

    def steps(self, n, high):
        return torch.randint(0, high, (n,), generator=self.generator)

    def signs(self, *shape):
        return (torch.randint(0, 2, shape, generator=self.generator) * 2 - 1).to(self.dtype)

    def fill(self, model, gain=1.0, bias=0.3):
        """Every parameter non-zero: matrices scaled by 1/sqrt(fan_in), vectors by `bias`."""
        with torch.no_grad():
            for p in model.parameters():
                value = self.normal(*p.shape, scale=gain / p.shape[-1] ** 0.5 if p.dim() > 1 else bias).double()
                p.copy_(value)
        return model.to(self.dtype)


def parameter_grads(model, objective, prefix="grad."):
    names, params = zip(*model.named_parameters())
    grads = torch.autograd.grad(objective, params, retain_graph=True, allow_unused=True)
    return {prefix + n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, params, grads)}


def layer_case(model, x, draw, call=None):
    """forward, and the gradients of sum(forward * cotangent)."""
    x = x.clone().requires_grad_(True)
    y = model(x)
    cotangent = draw.normal(*y.shape)
    objective = (y * cotangent).sum()
    grads = parameter_grads(model, objective) if list(model.parameters()) else {}
    return {"cotangent": cotangent, "forward": y, **grads, "grad_input": torch.autograd.grad(objective, x)[0]}


def density_case(model, x, context=None):
    """forward and inverse of the same input, log_prob, and the gradients of the likelihood and of a reverse KL."""
    x = x.clone().requires_grad_(True)
    y, log_det = model(x, context)
    z, inverse_log_det = model.inverse(x, context)
    log_prob = getattr(model, "base_log_prob", ref.standard_normal_log_prob)(z) + inverse_log_det
    back, _ = model(z, context)
    tolerance = 1e-4 if x.dtype == torch.float32 else 1e-12
    round_trip = (back - x).abs().max().item()
    if not isinstance(model, ref.ContinuousNormalizingFlow):
        assert round_trip < tolerance * (1 + z.abs().max().item()), round_trip
    out = {"input": x, "forward": y, "log_det": log_det, "inverse": z, "inverse_log_det": inverse_log_det,
           "log_prob": log_prob}
    out |= parameter_grads(model, -log_prob.mean())
    out |= parameter_grads(model, (0.5 * (y**2).sum(-1) - log_det).mean(), "grad_forward.")
    out["grad_input"], = torch.autograd.grad(log_prob.mean(), x)
    return out


# ---------------------------------------------------------------- layers
def linear(draw, n, in_features, out_features, bias):
    model = draw.fill(nn.Linear(in_features, out_features, bias=bias))
    x = draw.normal(n, in_features)
    return model, {"input": x, **layer_case(model, x, draw)}, {"objective": DOT}


case("linear_5_3", "linear", in_features=5, out_features=3, bias=True)(lambda d, **c: linear(d, 4, **c))
case("linear_1_2_nobias", "linear", in_features=1, out_features=2, bias=False)(lambda d, **c: linear(d, 3, **c))


def mlp(draw, n, widths, activation):
    act = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}[activation]
    model = draw.fill(ref.mlp(widths, act))
    x = draw.normal(n, widths[0])
    return model, {"input": x, **layer_case(model, x, draw)}, {"objective": DOT}


case("mlp_relu", "mlp", widths=[3, 8, 8, 2], activation="relu")(lambda d, **c: mlp(d, 5, **c))
case("mlp_tanh", "mlp", widths=[2, 7, 5, 3], activation="tanh")(lambda d, **c: mlp(d, 5, **c))
case("mlp_silu", "mlp", widths=[7, 16, 1], activation="silu")(lambda d, **c: mlp(d, 1, **c))


def residual_block(draw, n, dim):
    model = draw.fill(ref.ResidualBlock(dim))
    x = draw.normal(n, dim)
    return model, {"input": x, **layer_case(model, x, draw)}, {"objective": DOT}


case("residual_block_7", "residual_block", dim=7)(lambda d, **c: residual_block(d, 5, **c))
case("residual_block_16", "residual_block", dim=16)(lambda d, **c: residual_block(d, 3, **c))


def time_embedding(draw, n, dim, scale):
    model = ref.TimeEmbedding(dim, scale)
    t = draw.times(n)
    t[0] = 0
    result = layer_case(model, t, draw)
    result["grad_time"] = result.pop("grad_input")
    return model, {"time": t, **result}, {"objective": "grad_time: d of sum(forward * cotangent) / d time"}


case("time_embedding_8", "time_embedding", dim=8, scale=1.0)(lambda d, **c: time_embedding(d, 5, **c))
case("time_embedding_8_scaled", "time_embedding", dim=8, scale=1000.0)(lambda d, **c: time_embedding(d, 5, **c))
case("time_embedding_128", "time_embedding", dim=128, scale=1000.0)(lambda d, **c: time_embedding(d, 3, **c))
# Angles up to 1000 rad: rounding the frequencies to float32 alone moves the sines by up to 3e-5.
FLOAT32_TOLERANCE = {"time_embedding_128": 1e-4}


# ---------------------------------------------------------------- discrete flows
def planar(draw, n, model, **config):
    draw.fill(model, bias=1.0)
    layers = getattr(model, "flows", [model])
    with torch.no_grad():
        # Make one layer lean on the constraint: w.u = -2.5 before, w.u_hat = softplus(-2.5) - 1 = -0.92 after.
        w = layers[0].weight
        layers[0].scale.copy_((-2.5 * w / (w @ w)).float().to(draw.dtype))
    return model, density_case(model, draw.normal(n, config["dim"], scale=1.5)), {"objective": f"{NLL}; {KL}"}


case("planar_layer_d3", "planar_layer", dim=3)(lambda d, **c: planar(d, 5, ref.PlanarFlow(**c), **c))
for name, n, config in [("planar_d2", 5, dict(dim=2, n_flows=10)), ("planar_d3", 1, dict(dim=3, n_flows=4)),
                        ("planar_d7", 4, dict(dim=7, n_flows=3))]:
    case(name, "planar", **config)(lambda d, n=n, **c: planar(d, n, ref.normalizing_flow(**c), **c))


def coupling(draw, n, dim, hidden, log_scale_bound, mask):
    model = draw.fill(ref.CouplingLayer(dim, hidden, log_scale_bound, torch.tensor(mask).double()))
    return model, density_case(model, draw.normal(n, dim)), {"objective": f"{NLL}; {KL}"}


case("coupling_d3", "coupling", dim=3, hidden=16, log_scale_bound=3.0, mask=[1, 0, 1])(lambda d, **c: coupling(d, 5, **c))
case("coupling_d2_unbounded", "coupling", dim=2, hidden=16, log_scale_bound=0.0, mask=[0, 1])(
    lambda d, **c: coupling(d, 5, **c))


def realnvp(draw, n, **config):
    model = draw.fill(ref.real_nvp(**config), gain=0.8)
    x = draw.normal(n, config["dim"])
    condition = draw.normal(n, config["condition_dim"]) if config.get("condition_dim") else None
    result = density_case(model, x, condition)
    if condition is not None:
        result["condition"] = condition
    return model, result, {"objective": f"{NLL}; {KL}"}


for name, n, config in [("realnvp_d2", 5, dict(dim=2, n_flows=8, hidden=16, log_scale_bound=3.0)),
                        ("realnvp_d3_unbounded", 5, dict(dim=3, n_flows=3, hidden=16, log_scale_bound=0.0)),
                        ("realnvp_d7_conditional", 4, dict(dim=7, n_flows=3, hidden=16, log_scale_bound=2.0, condition_dim=3))]:
    case(name, "realnvp", **config)(lambda d, n=n, **c: realnvp(d, n, **c))


# ---------------------------------------------------------------- continuous flows
class Field(nn.Module):
    """dy/dt = tanh(y W^T + b t): smooth, non-symmetric, time dependent."""

    def __init__(self, dim):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(dim, dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, t, state):
        return (torch.tanh(state[0] @ self.weight.T + self.bias * t),)


@case("odeint_d3", "odeint", dim=3, n_steps=8, field="tanh(y W^T + b t)")
def _(draw, dim, n_steps, **_):
    model = draw.fill(Field(dim), gain=1.5, bias=1.0)
    y0, cotangent = draw.normal(5, dim).requires_grad_(True), draw.normal(5, dim)
    out = {"input": y0, "cotangent": cotangent}
    for method in ("euler", "midpoint", "heun", "rk4"):
        for suffix, t0, t1 in (("", 0.0, 1.0), ("_reverse", 1.0, 0.0)):
            y, = ref.odeint(model, (y0,), t0, t1, n_steps, method)
            out[f"forward.{method}{suffix}"] = y
            objective = (y * cotangent).sum()
            out |= parameter_grads(model, objective, f"grad.{method}{suffix}.")
            out[f"grad_input.{method}{suffix}"], = torch.autograd.grad(objective, y0)
    return model, out, {"objective": "per method: grad.<method>.*, grad_input.<method>: d of sum(forward.<method> * "
                        "cotangent); time 0 -> 1, and 1 -> 0 for <method>_reverse"}


def cnf(draw, n, dim, hidden, trace, solver, n_steps, probe="rademacher"):
    model = draw.fill(ref.ContinuousNormalizingFlow(dim, hidden, solver, n_steps), gain=1.2)
    eps = None
    if trace == "hutchinson":
        eps = draw.signs(n, dim) if probe == "rademacher" else draw.normal(n, dim)
    result = density_case(model, draw.normal(n, dim), eps)
    if eps is not None:
        result["probe"] = eps
    return model, result, {"objective": f"{NLL}; {KL}"}


for name, n, config in [
        ("cnf_exact_d2", 5, dict(dim=2, hidden=16, trace="exact", solver="rk4", n_steps=8)),
        ("cnf_exact_d7", 3, dict(dim=7, hidden=16, trace="exact", solver="rk4", n_steps=2)),
        ("cnf_exact_d3_midpoint", 5, dict(dim=3, hidden=16, trace="exact", solver="midpoint", n_steps=4)),
        ("cnf_exact_d3_euler", 5, dict(dim=3, hidden=16, trace="exact", solver="euler", n_steps=4)),
        ("cnf_hutchinson_d3", 5, dict(dim=3, hidden=16, trace="hutchinson", probe="rademacher", solver="rk4", n_steps=4)),
        ("cnf_hutchinson_d2_gaussian", 5, dict(dim=2, hidden=16, trace="hutchinson", probe="gaussian", solver="rk4",
                                               n_steps=8))]:
    case(name, "cnf", **config)(lambda d, n=n, **c: cnf(d, n, **c))


# ---------------------------------------------------------------- generators
def flow_matching(draw, n, **config):
    model = draw.fill(ref.FlowMatching(**config))
    action_dim, condition_dim = config["action_dim"], config["condition_dim"]
    x1, x0 = draw.normal(n, action_dim).requires_grad_(True), draw.normal(n, action_dim)
    t = draw.times(n)
    condition = draw.normal(n, condition_dim) if condition_dim else None
    loss = model.loss(x1, x0, t, condition)
    out = {"input": x1, "noise": x0, "time": t, "velocity": model(x1, t, condition), "loss": loss}
    if condition is not None:
        out["condition"] = condition
    out |= parameter_grads(model, loss)
    out["grad_input"], = torch.autograd.grad(loss, x1)
    with torch.no_grad():
        for solver in ("euler", "midpoint", "rk4"):
            out["generate" if solver == "euler" else f"generate.{solver}"] = model.generate(x0, condition, 8, solver)
    return model, out, {"objective": "grad.*, grad_input: d of loss(x1 = input, x0 = noise, time, condition)",
                        "generate": "from noise, 8 steps: generate (euler), generate.midpoint, generate.rk4"}


for name, n, config in [
        ("flow_matching_a2", 5, dict(condition_dim=0, action_dim=2, time_dim=8, hidden=16, time_scale=1000.0)),
        ("flow_matching_a7_conditional", 4, dict(condition_dim=5, action_dim=7, time_dim=12, hidden=24, time_scale=1000.0)),
        ("flow_matching_a3_scale1", 1, dict(condition_dim=3, action_dim=3, time_dim=16, hidden=16, time_scale=1.0))]:
    case(name, "flow_matching", **config)(lambda d, n=n, **c: flow_matching(d, n, **c))


def diffusion(draw, n, state_dim, action_dim, n_timesteps, schedule, variance, hidden):
    model = draw.fill(ref.DiffusionPolicy(state_dim, action_dim, n_timesteps, schedule, hidden), gain=0.4, bias=0.1)
    with torch.no_grad():
        # noise_prediction near x, through relu(x) - relu(-x): a sampler whose net is unrelated to x blows up.
        for i in range(action_dim):
            for j, sign in ((2 * i, 1), (2 * i + 1, -1)):
                model.denoiser[0].weight[j, i] += sign
                model.denoiser[4].weight[i, j] += sign
        for p in model.parameters():
            p.copy_(p.float())
    x0, noise = draw.normal(n, action_dim, scale=0.5).requires_grad_(True), draw.normal(n, action_dim)
    t = draw.steps(n, n_timesteps)
    state = draw.normal(n, state_dim) if state_dim else None
    step_noise = draw.normal(n_timesteps, n, action_dim)
    loss = model.loss(x0, noise, t, state)
    out = {"input": x0, "noise": noise, "time": t, "step_noise": step_noise,
           "noise_prediction": model(x0, t, state), "loss": loss}
    if state is not None:
        out["condition"] = state
    out |= parameter_grads(model, loss)
    out["grad_input"], = torch.autograd.grad(loss, x0)
    every = list(reversed(range(n_timesteps)))
    some = list(reversed(range(0, n_timesteps, 2)))
    out["ddim_timesteps"] = torch.tensor(some)
    with torch.no_grad():
        out["generate"] = model.ddpm(noise, step_noise, state, variance)
        out["generate.ddpm_beta"] = model.ddpm(noise, step_noise, state, "beta")
        out["generate.ddpm_posterior"] = model.ddpm(noise, step_noise, state, "posterior")
        out["generate.ddpm_clip1"] = model.ddpm(noise, step_noise, state, variance, clip=1.0)
        out["generate.ddim"] = model.ddim(noise, state, every)
        out["generate.ddim_half"] = model.ddim(noise, state, some)
        out["generate.ddim_half_eta0.5"] = model.ddim(noise, state, some, 0.5, step_noise)
        if state is not None:
            out["generate.one_state"] = model.ddpm(noise, step_noise, state[:1], variance)
    return model, out, {
        "objective": "grad.*, grad_input: d of loss(x0 = input, noise, time, condition)",
        "generate": "all from noise. generate: DDPM with the configured variance; .ddpm_beta, .ddpm_posterior: with that "
        "variance; .ddpm_clip1: predicted x0 clamped to [-1, 1]; .ddim: eta 0, all steps; .ddim_half: the steps "
        "ddim_timesteps (descending, then alpha_bar = 1); .ddim_half_eta0.5: with eta 0.5; .one_state: DDPM with "
        "condition[:1] for every row. step_noise[t] is scaled by sigma_t and added after step t; step_noise[0] is not used"}


for name, n, config in [
        ("diffusion_a2", 5, dict(state_dim=0, action_dim=2, n_timesteps=10, schedule="squared_cosine", variance="beta")),
        ("diffusion_a7_state", 4, dict(state_dim=5, action_dim=7, n_timesteps=10, schedule="linear", variance="posterior")),
        ("diffusion_a3_posterior", 5, dict(state_dim=2, action_dim=3, n_timesteps=16, schedule="squared_cosine",
                                           variance="posterior"))]:
    case(name, "diffusion", **config, hidden=16)(lambda d, n=n, **c: diffusion(d, n, **c))


# ---------------------------------------------------------------- writing
def build(name, dtype):
    model_name, config, fn = CASES[name]
    model, tensors, notes = fn(Draw(name, dtype), **config)
    weights = {"weights." + k: v for k, v in model.state_dict().items()}
    tensors = {k: v.detach().clone().contiguous() for k, v in (weights | tensors).items()}
    for key, value in tensors.items():
        assert value.dtype in (dtype, torch.int64), key
        assert torch.isfinite(value).all(), f"{name}: {key}"
    return tensors, {"model": model_name, "config": json.dumps(config), "torch": torch.__version__, "case": name, **notes}


def distance(a, b):
    """max |a - b| relative to the larger of 1 and max |b|."""
    return ((a.double() - b).abs().max() / b.abs().max().clamp(min=1)).item()


def write_case(name, folder):
    """Both files of a case; the largest distance of float32's results from float64's, what the comparison allows, and a line
    that says so."""
    double, meta = build(name, torch.float64)
    single, _ = build(name, torch.float32)
    error = {k: distance(single[k], v) for k, v in double.items() if v.is_floating_point()}
    worst = max(error, key=error.get)
    largest = max(v.abs().max().item() for v in double.values())
    limit = FLOAT32_TOLERANCE.get(name, 1e-5)
    meta |= {"dtype": "float64", "tolerance": "1e-10"}
    write(folder / f"{name}.safetensors", double, meta)
    write(folder / f"{name}_f32.safetensors", single,
          meta | {"dtype": "float32", "tolerance": str(limit), "float32_error": f"{error[worst]:.1e} ({worst})"})
    return error[worst], limit, (f"{name:32s} {len(double):4d} tensors  largest {largest:9.3g}  "
                                 f"float32 error {error[worst]:.1e} ({worst})")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=pathlib.Path(__file__).parent / "models", type=pathlib.Path)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(exist_ok=True)
    for name in CASES:
        if args.only not in name:
            continue
        error, limit, line = write_case(name, args.out)
        print(line)
        assert error < 0.5 * limit, "too ill-conditioned for the comparison in float32"


if __name__ == "__main__":
    main()
