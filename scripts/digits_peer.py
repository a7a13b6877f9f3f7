#!/usr/bin/env python3
"""Train the flows of zuko, and a Glow of nflows' parts, on the digits of export_digits.py: the peers of docs/training.md.

The recipe is that of the commands there: Adam under a cosine, batches of 128, the gradient's norm at most 10, a tenth of the
training rows held out, and the weights that did best on them every `--validate-every` steps.

    python3 scripts/digits_peer.py data/ --flow realnvp    # needs torch and zuko, or nflows for glow
"""
import argparse
import copy
import pathlib
import time

import numpy as np
import torch

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--flow", choices=("realnvp", "spline", "cnf", "glow"), default="realnvp")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--learning-rate", type=float, default=1e-3)
parser.add_argument("--validate-every", type=int, default=50)
parser.add_argument("--seed", type=int, default=0)
a = parser.parse_args()


def glow(levels=2, steps=4, hidden=64):
    """The architecture of flowgrad's model glow: 3x3, 1x1, 3x3 convolutions in every coupling, half split off after a level;
    here the half keeps a standard normal prior, where flowgrad learns one."""
    from nflows import distributions, flows, transforms

    class Net(torch.nn.Sequential):
        def __init__(self, inputs, outputs):
            super().__init__(torch.nn.Conv2d(inputs, hidden, 3, padding=1), torch.nn.ReLU(),
                             torch.nn.Conv2d(hidden, hidden, 1), torch.nn.ReLU(),
                             torch.nn.Conv2d(hidden, outputs, 3, padding=1))
            torch.nn.init.zeros_(self[-1].weight)
            torch.nn.init.zeros_(self[-1].bias)

        def forward(self, x, context=None):
            return super().forward(x)

    class Coupling(transforms.AffineCouplingTransform):
        def _scale_and_shift(self, parameters):  # the bound of flowgrad's log-scale; the library's own stops at 1.001
            shift, raw = parameters.chunk(2, 1)
            return torch.exp(3 * torch.tanh(raw / 3)), shift

    whole = transforms.MultiscaleCompositeTransform(levels)
    channels, size = 1, 8
    for level in range(levels):
        channels, size = 4 * channels, size // 2
        parts = [transforms.SqueezeTransform()]
        mask = torch.arange(channels) >= channels // 2
        for _ in range(steps):
            parts += [transforms.ActNorm(channels), transforms.OneByOneConvolution(channels), Coupling(mask.float(), Net)]
        shape = whole.add_transform(transforms.CompositeTransform(parts), (channels, size, size))
        channels = shape[0] if shape else channels
    flow = flows.Flow(whole, distributions.StandardNormal((64,)))
    return flow, lambda x: flow.log_prob(x.view(-1, 1, 8, 8))


def zuko_flow(name):
    import zuko

    flow = {
        "realnvp": lambda: zuko.flows.RealNVP(64, transforms=8, hidden_features=(128, 128)),
        "spline": lambda: zuko.flows.NSF(64, bins=8, transforms=4, passes=2, hidden_features=(128, 128)),
        "cnf": lambda: zuko.flows.CNF(64, hidden_features=(128, 128), exact=False),
    }[name]()
    return flow, lambda x: flow().log_prob(x)


torch.set_num_threads(1)
torch.manual_seed(a.seed)
rows = torch.from_numpy(np.load(a.folder / "digits_train.npy"))
rows = rows[torch.randperm(len(rows))]
held_out, train = rows[: len(rows) // 10], rows[len(rows) // 10 :]
test = torch.from_numpy(np.load(a.folder / "digits_test.npy"))
flow, log_prob = glow() if a.flow == "glow" else zuko_flow(a.flow)


def measure(x):
    flow.eval()
    with torch.no_grad():
        values = torch.cat([log_prob(part) for part in x.split(60)])
    flow.train()
    return values


if a.flow == "glow":
    log_prob(train[: a.batch_size])  # the first batch sets ActNorm
optimizer = torch.optim.Adam(flow.parameters(), lr=a.learning_rate)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, a.steps)
best, best_step, weights = -float("inf"), 0, None
start = time.process_time()
for step in range(1, a.steps + 1):
    loss = -log_prob(train[torch.randint(len(train), (a.batch_size,))]).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
    optimizer.step()
    schedule.step()
    if step % a.validate_every == 0:
        value = measure(held_out).mean().item()
        if value > best:
            best, best_step, weights = value, step, copy.deepcopy(flow.state_dict())
seconds = time.process_time() - start
flow.load_state_dict(weights)
if a.flow == "cnf":
    flow.transform.exact = True  # the test knows the trace
values = measure(test)
parameters = sum(p.numel() for p in flow.parameters())
print(f"{a.flow}: {values.mean():.2f} +- {values.std() / len(values) ** 0.5:.2f} nats on {len(test)} rows, weights of step "
      f"{best_step}, last batch {-loss:.2f}, {parameters} parameters, {seconds:.0f} s")
