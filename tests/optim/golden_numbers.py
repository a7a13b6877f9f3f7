"""Prints golden_numbers.h: what PyTorch's optimisers and schedules do. Usage:
python golden_numbers.py > golden_numbers.h"""
import torch

STEPS = 5


def gradient(offset, n, step):
    """Exact in any floating type, so that both sides start from the same bits."""
    return torch.tensor([((offset + i) * 7 + step * 5) % 11 - 5 for i in range(n)], dtype=torch.float64) / 8


def run(name, make):
    p = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.25, -0.125], dtype=torch.float64, requires_grad=True)
    optimizer = make([p], [q])
    rows = []
    for step in range(STEPS):
        p.grad = gradient(0, 3, step)
        # q goes without a gradient in the first and the third step.
        q.grad = None if step in (0, 2) else gradient(3, 2, step)
        optimizer.step()
        rows.append(torch.cat([p, q]).tolist())
    print(f"inline const std::vector<std::vector<double>> {name} = {{")
    for row in rows:
        print("    {" + ", ".join(f"{x:.17g}" for x in row) + "},")
    print("};")


def schedule(name, make, steps):
    p = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=0.4)
    scheduler = make(optimizer)
    values = []
    for step in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    print(f"inline const std::vector<double> {name} = {{" + ", ".join(f"{x:.17g}" for x in values) + "};")


print(f"// Made by golden_numbers.py with PyTorch {torch.__version__.split('+')[0]}.")
print("// clang-format off\n#pragma once\n\n#include <vector>\n\nnamespace pytorch {\n")
O = torch.optim
run("sgd_plain", lambda p, q: O.SGD(p + q, lr=0.1))
run("sgd_decay", lambda p, q: O.SGD([{"params": p, "weight_decay": 0.3}, {"params": q, "lr": 0.05}], lr=0.1))
run("sgd_momentum_dampened", lambda p, q: O.SGD(p + q, lr=0.1, momentum=0.9, dampening=0.25, weight_decay=0.1))
run("sgd_nesterov", lambda p, q: O.SGD(p + q, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1))
run("adam", lambda p, q: O.Adam(p + q, lr=0.01))
run("adam_l2", lambda p, q: O.Adam(p + q, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.5))
run("adamw", lambda p, q: O.AdamW([{"params": p, "weight_decay": 0.5}, {"params": q, "lr": 0.02, "weight_decay": 0.0}], lr=0.01))
schedule("one_cycle_10", lambda o: O.lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=10), 10)
schedule("one_cycle_7", lambda o: O.lr_scheduler.OneCycleLR(
    o, max_lr=2.0, total_steps=7, pct_start=0.5, div_factor=10, final_div_factor=100), 7)
schedule("one_cycle_2", lambda o: O.lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=2), 2)
schedule("cosine_10", lambda o: O.lr_scheduler.CosineAnnealingLR(o, T_max=10, eta_min=0.01), 11)
g = [torch.tensor([3.0, -4.0]), torch.tensor([[12.0]])]
ps = [torch.zeros(2, requires_grad=True), torch.zeros(1, 1, requires_grad=True)]
for p, x in zip(ps, g):
    p.grad = x.clone()
n = torch.nn.utils.clip_grad_norm_(ps, 2.0)
print(f"inline const std::vector<double> clipped_to_2 = {{" + ", ".join(
    f"{x:.9g}" for p in ps for x in p.grad.flatten().tolist()) + "};")
print("\n}  // namespace pytorch\n// clang-format on")
