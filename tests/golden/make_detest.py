"""End points of DETEST problems (Hull et al. 1972) by torchdiffeq's dopri5 in float64, t from 0 to 20.

    python make_detest.py > detest.txt

Each line: problem, tolerance (rtol = atol), evaluations of the field, end point.
"""
import math

import torch
from torchdiffeq import odeint


def predator_prey(t, y):
    return torch.stack([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])])


def decay_chain(t, y):
    inflow = torch.cat([torch.zeros(1, dtype=y.dtype), y[:-1]])
    outflow = torch.cat([y[:-1], torch.zeros(1, dtype=y.dtype)])
    return inflow - outflow


def orbit(t, y):
    r3 = (y[0] ** 2 + y[1] ** 2) ** 1.5
    return torch.stack([y[2], y[3], -y[0] / r3, -y[1] / r3])


def bessel(t, y):
    return torch.stack([y[1], -(y[1] / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y[0])])


def orbit_start(e):
    return [1 - e, 0, 0, math.sqrt((1 + e) / (1 - e))]


PROBLEMS = {
    "A1": (lambda t, y: -y, [1]),
    "A2": (lambda t, y: -y**3 / 2, [1]),
    "A3": (lambda t, y: y * torch.cos(t), [1]),
    "A4": (lambda t, y: y / 4 * (1 - y / 20), [1]),
    "B1": (predator_prey, [1, 3]),
    "C1": (decay_chain, [1] + [0] * 9),
    "D1": (orbit, orbit_start(0.1)),
    "D5": (orbit, orbit_start(0.9)),
    "E1": (bessel, [0.671396707141803, 0.0954005144474744]),
}

for name, (field, start) in PROBLEMS.items():
    for tol in (1e-3, 1e-6, 1e-9):
        evaluations = 0

        def counted(t, y):
            global evaluations
            evaluations += 1
            return field(t, y)

        y0 = torch.tensor(start, dtype=torch.float64)
        times = torch.tensor([0.0, 20.0], dtype=torch.float64)
        end = odeint(counted, y0, times, rtol=tol, atol=tol, method="dopri5")[-1]
        print(name, f"{tol:g}", evaluations, *(f"{v:.17g}" for v in end.tolist()))
