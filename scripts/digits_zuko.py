#!/usr/bin/env python3
"""Train zuko's flows on the digits of export_digits.py, by the recipe of the table in docs/training.md.

    python3 scripts/digits_zuko.py data/ --flow realnvp    # needs torch and zuko
"""
import argparse
import pathlib
import time

import numpy as np
import torch
import zuko

FLOWS = {
    "realnvp": lambda: zuko.flows.RealNVP(64, transforms=8, hidden_features=(128, 128)),
    "spline": lambda: zuko.flows.NSF(64, bins=8, transforms=4, passes=2, hidden_features=(128, 128)),
    "cnf": lambda: zuko.flows.CNF(64, hidden_features=(128, 128), exact=False),
}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--flow", choices=FLOWS, default="realnvp")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--learning-rate", type=float, default=1e-3)
parser.add_argument("--seed", type=int, default=0)
a = parser.parse_args()

torch.set_num_threads(1)
torch.manual_seed(a.seed)
train = torch.from_numpy(np.load(a.folder / "digits_train.npy"))
test = torch.from_numpy(np.load(a.folder / "digits_test.npy"))
flow = FLOWS[a.flow]()
optimizer = torch.optim.Adam(flow.parameters(), lr=a.learning_rate)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, a.steps)
start = time.process_time()
for _ in range(a.steps):
    rows = train[torch.randint(len(train), (a.batch_size,))]
    loss = -flow().log_prob(rows).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
    optimizer.step()
    schedule.step()
seconds = time.process_time() - start
with torch.no_grad():
    log_prob = torch.cat([flow().log_prob(part) for part in test.split(60)])
parameters = sum(p.numel() for p in flow.parameters())
print(f"{a.flow}: {log_prob.mean():.2f} +- {log_prob.std() / len(log_prob) ** 0.5:.2f} nats on {len(test)} rows, "
      f"training {-loss:.2f}, {parameters} parameters, {seconds:.0f} s")
