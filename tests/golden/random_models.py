#!/usr/bin/env python3
"""Models of random sizes, computed by PyTorch, held against ours.

usage: random_models.py TEST_MODELS [--seeds 0,1] [--cases 100]

Dimensions, widths, depths, rows, solvers and options are drawn; values, likelihoods, samples and all gradients come from the
reference models. The cases go to a temporary folder laid out as models/ is, and TEST_MODELS (build/release/tests/test_models)
runs its cases [golden_models_test] on them, on the device that FLOWGRAD_TEST_DEVICE names. Where float32 loses more than half
of what the comparison allows, the case is kept in float64 alone. The exit code is 1 where one disagrees, and 77 without
PyTorch or zuko.
"""
import pathlib
import random
import sys
import tempfile

try:
    import torch

    import make_flows
    import make_generators
except ImportError as e:
    print(f"random_models.py: {e.name} is missing")
    sys.exit(77)

import make_models
import reference_models as ref
from make_models import case
from random_cases import agrees, main


class Draws:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def choice(self, *values):
        return self.random.choice(values)

    def upto(self, most, least=1):
        return self.random.randint(least, most)

    def rows(self):
        return self.choice(1, 2, 3, 5, 8, 17, 33, 70, 300)

    def width(self, least=1):
        return self.upto(200, 64) if self.upto(4) == 1 else self.upto(40, least)

    def net(self):
        """Of a network that reads a time and, half the time, a condition."""
        return {"condition_dim": self.choice(0, self.upto(6)), "action_dim": self.upto(9), "time_dim": 2 * self.upto(9, 2),
                "hidden": self.width(2), "time_scale": self.choice(1.0, 10.0, 1000.0)}


def planar(d):
    config = {"dim": d.upto(9), "n_flows": d.upto(6)}
    return "density", "planar", config, lambda draw, n, **c: make_models.planar(draw, n, ref.normalizing_flow(**c), **c)


def realnvp(d):
    config = {"dim": d.upto(9, 2), "n_flows": d.upto(4), "hidden": d.width(), "log_scale_bound": d.choice(0.0, 2.0, 3.0)}
    if d.choice(True, False):
        config["condition_dim"] = d.upto(5)
    return "density", "realnvp", config, make_models.realnvp


def cnf(d):
    config = {"dim": d.upto(9), "hidden": d.width(), "trace": d.choice("exact", "hutchinson"), "n_steps": d.upto(6),
              "solver": d.choice("euler", "midpoint", "rk4")}
    if config["trace"] == "hutchinson":
        config["probe"] = d.choice("rademacher", "gaussian")
    return "density", "cnf", config, make_models.cnf


def spline(d):
    config = {"dim": d.upto(7, 2), "n_flows": d.upto(3), "bins": d.upto(8, 2), "tail": d.choice(2.0, 3.0),
              "condition_dim": d.choice(0, d.upto(4)), "actnorm": d.choice(True, False),
              "base_components": d.choice(0, d.upto(4, 2)), "hidden": d.upto(20)}
    return "density", "spline", config, make_flows.spline


def glow(d):
    levels = d.upto(2)
    side = [2**levels * d.upto(2) for _ in range(2)]
    config = {"height": side[0], "width": side[1], "channels": d.upto(3), "levels": levels, "steps": d.upto(2),
              "hidden": d.upto(6)}
    if d.choice(True, False):
        config["condition_dim"] = d.upto(4)
    return "density", "glow", config, make_flows.glow


def flow_matching(d):
    return "matching", "flow_matching", d.net(), make_models.flow_matching


def likelihood(d):
    return "likelihood", "flow_matching", d.net(), make_generators.likelihood


def consistency(d):
    return "consistency", "consistency", d.net() | {"scales": d.upto(16, 2)}, make_generators.consistency


def score(d):
    return "score", "score", d.net() | {"beta_min": 0.1, "beta_max": d.choice(3.0, 8.0)}, make_generators.score


def diffusion(d):
    actions = d.upto(7)
    config = {"state_dim": d.choice(0, d.upto(5)), "action_dim": actions, "n_timesteps": d.upto(20, 2),
              "schedule": d.choice("linear", "squared_cosine"), "variance": d.choice("beta", "posterior"),
              "hidden": d.width(2 * actions)}
    return "diffusion", "diffusion", config, make_models.diffusion


FAMILIES = [planar, realnvp, realnvp, cnf, cnf, spline, glow, flow_matching, likelihood, consistency, score, diffusion]


def draw_case(d, number, folder):
    """Writes a case in both types; 1 where float32 is left out, 2 where the reference itself refuses the draw."""
    kind, model, config, fn = d.choice(*FAMILIES)(d)
    rows, name = d.rows(), f"{kind}_{number}"
    case(name, model, **config)(lambda draw, **c: fn(draw, rows, **c))
    try:
        error, limit, _ = make_models.write_case(name, folder)
    except (AssertionError, RuntimeError):
        return 2
    if error < 0.5 * limit:
        return 0
    (folder / f"{name}_f32.safetensors").unlink()
    return 1


def run(program, seed, cases):
    d = Draws(seed)
    with tempfile.TemporaryDirectory() as work:
        outcomes = [draw_case(d, k, pathlib.Path(work)) for k in range(cases)]
        agree = agrees(program, "[golden_models_test]", "FLOWGRAD_MODEL_CASES", work)
    print(f"seed {seed}: {outcomes.count(0)} cases in both types, {outcomes.count(1)} in float64 alone, {outcomes.count(2)} "
          f"that the reference refuses: {'agree' if agree else 'disagree'}", flush=True)
    return agree


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(__doc__, "TEST_MODELS", "0,1", 100, run)
