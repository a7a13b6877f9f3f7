#!/usr/bin/env python3
"""Write models/{spline,realnvp,glow}_<case>.safetensors of the richer discrete flows, as make_models.py does."""
import torch

import make_models
import reference_flows as flows
import reference_models as ref
from make_models import KL, NLL, case, density_case, parameter_grads

make_models.CASES.clear()
# zuko's root of the quadratic cancels in float32.
make_models.FLOAT32_TOLERANCE = {"spline_knots": 1e-4, "spline_d2": 1e-4, "spline_d3_all": 1e-4, "spline_d7_one": 1e-4}


# ---------------------------------------------------------------- one spline at given knots
@case("spline_knots", "spline_knots", bins=6)
def _(draw, bins):
    """Splines of very unequal bins, slopes from 0.02 to 20; (7, 3) elements for (3, K + 1) knots."""
    shares = draw.normal(2, 3, bins, scale=1.2).double().softmax(-1).cumsum(-1)[..., :-1]
    ends = torch.full((2, 3, 1), 2.5, dtype=torch.float64)
    x, y = torch.cat([-ends, 5 * shares - 2.5, ends], -1).float().to(draw.dtype)
    slope = draw.normal(3, bins + 1, scale=1.5).exp()
    slope[:, [0, -1]] = 1  # as the tails have
    x, y, slope = (t.float().to(draw.dtype).requires_grad_() for t in (x, y, slope))
    at = draw.normal(7, 3, scale=1.5).requires_grad_()
    cotangent, log_cotangent = draw.normal(7, 3), draw.normal(7, 3)
    transform = flows.zuko_spline(x, y, slope)
    out = {"input": at, "x": x, "y": y, "slope": slope, "cotangent": cotangent, "log_cotangent": log_cotangent}
    for name in ("forward", "inverse"):
        if name == "forward":
            value, log_slope = transform.call_and_ladj(at)
        else:
            value = transform.inv(at)
            log_slope = -transform.call_and_ladj(value)[1]
        objective = (value * cotangent + log_slope * log_cotangent).sum()
        grads = torch.autograd.grad(objective, (at, x, y, slope))
        out |= {name: value, f"{name}.log_slope": log_slope}
        out |= {f"{name}.grad_{k}": g for k, g in zip(("input", "x", "y", "slope"), grads)}
    with torch.no_grad():
        out["at_knots"], out["at_knots.log_slope"] = transform.call_and_ladj(x.T)
        out["at_knots.inverse"] = transform.inv(y.T)
    return torch.nn.Module(), out, {"objective": "of sum(value * cotangent + log_slope * log_cotangent)"}


# ---------------------------------------------------------------- stacks of couplings
def stack(draw, n, model, **config):
    draw.fill(model, gain=0.8)
    x = draw.normal(n, config["dim"], scale=1.5)
    condition = draw.normal(n, config["condition_dim"]) if config.get("condition_dim") else None
    result = density_case(model, x, condition)
    if condition is not None:
        result["condition"] = condition
    return model, result, {"objective": f"{NLL}; {KL}"}


def spline(draw, n, **c):
    def coupling(i):
        return flows.SplineCoupling(c["dim"], c["bins"], c["tail"], c["hidden"], i % 2 == 0, c["condition_dim"])
    model = flows.Stack([coupling(i) for i in range(c["n_flows"])], c["dim"], c["actnorm"], c["base_components"])
    return stack(draw, n, model, **c)


for name, n, config in [
        ("spline_d2", 6, dict(dim=2, n_flows=3, bins=8, tail=3.0, condition_dim=0, actnorm=False, base_components=0)),
        ("spline_d3_all", 5, dict(dim=3, n_flows=3, bins=5, tail=2.5, condition_dim=2, actnorm=True, base_components=3)),
        ("spline_d7_one", 1, dict(dim=7, n_flows=2, bins=3, tail=2.0, condition_dim=0, actnorm=False, base_components=0))]:
    case(name, "spline", **config, hidden=8)(lambda d, n=n, **c: spline(d, n, **c))


@case("realnvp_d3_mixture", "realnvp", dim=3, n_flows=3, hidden=8, log_scale_bound=2.0, actnorm=True, base_components=4)
def _(draw, **c):
    masks = [torch.tensor([(i + k) % 2 for k in range(c["dim"])]).double() for i in (1, 0, 1)]
    couplings = [ref.CouplingLayer(c["dim"], c["hidden"], c["log_scale_bound"], mask) for mask in masks]
    return stack(draw, 5, flows.Stack(couplings, c["dim"], True, c["base_components"]), **c)


# ---------------------------------------------------------------- images
def glow(draw, n, **c):
    model = draw.fill(flows.Glow(**c), gain=0.2, bias=0.2)
    for buffers in model.modules():
        for name, buffer in buffers.named_buffers(recurse=False):
            if name in ("permutation", "sign"):
                setattr(buffers, name, buffer.to(draw.dtype))
    x = draw.normal(n, c["height"] * c["width"] * c["channels"])
    condition = {"condition": draw.normal(n, c["condition_dim"])} if "condition_dim" in c else {}
    return model, density_case(model, x, condition.get("condition")) | condition, {"objective": f"{NLL}; {KL}"}


for name, n, config in [("glow_1x4x4", 3, dict(height=4, width=4, channels=1, levels=2, steps=2, hidden=5)),
                        ("glow_3x4x8", 1, dict(height=4, width=8, channels=3, levels=1, steps=1, hidden=4)),
                        ("glow_2x4x4_conditional", 3, dict(height=4, width=4, channels=2, levels=2, steps=1, hidden=4,
                                                           condition_dim=3))]:
    case(name, "glow", **config)(lambda d, n=n, **c: glow(d, n, **c))


if __name__ == "__main__":
    make_models.main()
