#!/usr/bin/env python3
"""The independent rows of torchcfm's table in plain PyTorch: its data, net, optimiser and steps, several seeds in one batch.

Three layers of 64 with SELU on (x, t), Adam at 1e-3, batches of 256, sigma 0.1, 20,000 steps, the last weights; W2 of 100 Euler
steps from 2,000 points, exact by POT, and the normalised path energy.

    python3 scripts/matching_torch.py --task 'N->moons' --runs 8    # needs torch and POT
"""
import argparse
import math

import ot
import torch

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--task", choices=("N->8gaussians", "moons->8gaussians", "N->moons"), default="N->moons")
parser.add_argument("--runs", type=int, default=8)
parser.add_argument("--steps", type=int, default=20000)
parser.add_argument("--batch-size", type=int, default=256)
parser.add_argument("--points", type=int, default=2000)
parser.add_argument("--seed", type=int, default=0)
a = parser.parse_args()
torch.set_num_threads(1)
torch.manual_seed(a.seed)


def moons(n):
    outer, inner = torch.linspace(0, math.pi, n // 2), torch.linspace(0, math.pi, n - n // 2)
    x = torch.stack((torch.cat((outer.cos(), 1 - inner.cos())), torch.cat((outer.sin(), 0.5 - inner.sin()))), 1)
    return 3 * (x + 0.2 * torch.rand(a.runs, n, 1)) - 1


def gaussians(n):
    angle = torch.randint(8, (a.runs, n)) * (math.pi / 4)
    return 5 * torch.stack((angle.cos(), angle.sin()), 2) + 0.1**0.25 * torch.randn(a.runs, n, 2)


DATA = {"N": lambda n: torch.randn(a.runs, n, 2), "moons": moons, "8gaussians": gaussians}
source, target = (DATA[name] for name in a.task.split("->"))
layers = []
for fan_in, fan_out in ((3, 64), (64, 64), (64, 64), (64, 2)):
    bound = fan_in**-0.5  # as torch.nn.Linear
    layers += [torch.empty(a.runs, fan_in, fan_out).uniform_(-bound, bound).requires_grad_(),
               torch.empty(a.runs, 1, fan_out).uniform_(-bound, bound).requires_grad_()]


def velocity(x, t):
    h = torch.cat((x, t), 2)
    for i in range(0, 8, 2):
        h = torch.baddbmm(layers[i + 1], h, layers[i])
        if i < 6:
            h = torch.selu(h)
    return h


optimizer = torch.optim.Adam(layers, lr=1e-3)
for step in range(a.steps):
    x0, x1 = source(a.batch_size), target(a.batch_size)
    t = torch.rand(a.runs, a.batch_size, 1)
    x = (1 - t) * x0 + t * x1 + 0.1 * torch.randn_like(x0)
    # The sum over the runs of each one's mean: every run has its own gradient.
    loss = (velocity(x, t) - (x1 - x0)).square().mean((1, 2)).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    x0, x1 = source(a.points), target(a.points)
    x, energy = x0, torch.zeros(a.runs)
    for step in range(100):
        v = velocity(x, torch.full((a.runs, a.points, 1), step / 100))
        energy += v.square().sum(2).mean(1) / 100
        x = x + v / 100


def w2_squared(p, q):
    weights = torch.full((a.points,), 1 / a.points, dtype=torch.float64).numpy()
    return ot.emd2(weights, weights, ot.dist(p.double().numpy(), q.double().numpy()), numItermax=10**7)


def told(values):
    values = torch.tensor(values)
    return f"{values.mean():.3f} +- {values.std() / len(values) ** 0.5:.3f} ({', '.join(f'{v:.2f}' for v in values)})"


w2 = [w2_squared(p, q) ** 0.5 for p, q in zip(x, x1)]
least = [w2_squared(p, q) for p, q in zip(x0, x1)]
npe = [abs(e.item() - w) / w for e, w in zip(energy, least)]
print(f"{a.task}, independent: W2 {told(w2)}; NPE {told(npe)}")
