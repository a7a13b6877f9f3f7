#!/usr/bin/env python3
"""Write models/{consistency,score,likelihood}_<case>.safetensors, as make_models.py does."""
import torch

import make_models
import reference_generators as ref
import reference_models
from make_models import NLL, case, parameter_grads

make_models.CASES.clear()

NET = dict(time_dim=8, hidden=12)
PLAIN = dict(condition_dim=0, action_dim=2, time_scale=10.0, **NET)
CONDITIONAL = dict(condition_dim=3, action_dim=5, time_scale=1000.0, **NET)


def draws(draw, n, action_dim, condition_dim):
    """Data, noise and, where the model has one, the condition."""
    out = {"input": draw.normal(n, action_dim).requires_grad_(True), "noise": draw.normal(n, action_dim)}
    if condition_dim:
        out["condition"] = draw.normal(n, condition_dim)
    return out, out["input"], out["noise"], out.get("condition")


@torch.no_grad()
def quiet(value):
    return value()


def consistency(draw, n, scales, **net):
    model = draw.fill(ref.Consistency(**net))
    teacher = draw.fill(reference_models.FlowMatching(**net))
    out, x1, x0, condition = draws(draw, n, net["action_dim"], net["condition_dim"])
    s = draw.steps(n, scales).to(draw.dtype) / scales
    s[0] = 1 - 1 / scales
    loss = model.loss(x1, x0, s, scales, condition)
    distilled = model.loss(x1, x0, s, scales, condition, teacher)
    out |= {"time": s, "end_point": model.end_point(x1, s, condition), "loss": loss, "loss.distilled": distilled,
            "generate": quiet(lambda: model.end_point(x0, torch.zeros_like(s), condition))}
    out |= {f"teacher.{k}": v for k, v in teacher.state_dict().items()}
    out |= parameter_grads(model, loss) | parameter_grads(model, distilled, "grad_distilled.")
    out["grad_input"], = torch.autograd.grad(loss, x1)
    return model, out, {"objective": "grad.*, grad_input: d of loss; grad_distilled.*: d of loss.distilled, along the "
                        "flow-matching model teacher.*"}


def score(draw, n, **config):
    model = draw.fill(ref.ScoreModel(**config))
    out, x1, noise, condition = draws(draw, n, config["action_dim"], config["condition_dim"])
    t = draw.times(n)
    loss = model.loss(x1, noise, t, condition)
    out |= {"time": t, "noise_prediction": model(x1, t, condition), "velocity": model.velocity(x1, t, condition),
            "loss": loss}
    for solver in ("euler", "midpoint"):
        out[f"generate.{solver}"] = quiet(lambda: model.generate(noise, condition, 8, solver, 0.999))
    out |= parameter_grads(model, loss)
    out["grad_input"], = torch.autograd.grad(loss, x1)
    return model, out, {"objective": "grad.*, grad_input: d of loss(x1 = input, noise, time, condition)",
                        "generate": "from noise to time 0.999, 8 steps"}


def likelihood(draw, n, **net):
    model = draw.fill(reference_models.FlowMatching(**net))
    out, x, _, condition = draws(draw, n, net["action_dim"], net["condition_dim"])
    out["probe"] = draw.signs(n, net["action_dim"])
    for name, probe in (("exact", None), ("hutchinson", out["probe"])):
        log_prob = ref.log_prob(model, x, condition, probe, 2, "midpoint")
        out[f"log_prob.{name}"] = log_prob
        out |= parameter_grads(model, -log_prob.mean(), f"grad_{name}.")
        out[f"grad_input.{name}"], = torch.autograd.grad(log_prob.mean(), x)
    return model, out, {"objective": NLL.replace("grad.", "grad_exact.*, grad_hutchinson.") + "; midpoint, 2 steps"}


case("consistency_a2", "consistency", **PLAIN, scales=8)(lambda d, **c: consistency(d, 5, **c))
case("consistency_a5_conditional", "consistency", **CONDITIONAL, scales=4)(lambda d, **c: consistency(d, 3, **c))
case("score_a2", "score", **PLAIN, beta_min=0.1, beta_max=3.0)(lambda d, **c: score(d, 5, **c))
case("score_a5_conditional", "score", **CONDITIONAL, beta_min=0.2, beta_max=8.0)(lambda d, **c: score(d, 3, **c))
case("likelihood_a2", "flow_matching", **PLAIN)(lambda d, **c: likelihood(d, 5, **c))
case("likelihood_a3_conditional", "flow_matching", **CONDITIONAL | {"action_dim": 3})(lambda d, **c: likelihood(d, 3, **c))


if __name__ == "__main__":
    make_models.main()
