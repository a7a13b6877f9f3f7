"""Random programs: operations on shared tensors, checkpoints, and gradients that are taken on the way and used.

A program is a list of steps; a step appends one tensor to the list that begins with the inputs.  `in` names its operands by
their place there.  The step "grad" is the gradient of sum(value^2) of its first operand with respect to its second, on the
tape; "checkpoint" runs steps of its own on copies of the list of its operands and gives their last tensor.
"""
import math

import torch
import torch.nn.functional as F

# Gradients meet a kink, where float32 may fall on the other side, no nearer than this.
GAP = 0.02
LARGEST = 20.0

SMOOTH = {
    **{name: getattr(torch, name) for name in "neg sin cos tanh sigmoid erf atan asinh square expm1".split()},
    **{name: getattr(F, name) for name in "logsigmoid silu gelu".split()},
}
KINKED = {"relu": torch.relu, "abs": torch.abs}
PAIRS = {name: getattr(torch, name) for name in "add sub mul maximum minimum logaddexp".split()}
REDUCED = {name: getattr(torch, name) for name in "sum mean amax amin logsumexp".split()}
SCANS = {"softmax": F.softmax, "log_softmax": F.log_softmax, "cumsum": torch.cumsum,
         "logcumsumexp": torch.logcumsumexp}
OPS = {
    **{name: lambda p, x, f=f: f(x) for name, f in (SMOOTH | KINKED).items()},
    **{name: lambda p, x, y, f=f: f(x, y) for name, f in PAIRS.items()},
    **{name: lambda p, x, f=f: f(x, p["axes"], keepdim=p["keepdim"]) for name, f in REDUCED.items()},
    **{name: lambda p, x, f=f: f(x, p["axis"]) for name, f in SCANS.items()},
    "div": lambda p, x, y: x / y,
    "matmul": lambda p, x, y: x @ y,
    "linear": lambda p, x, w, *b: F.linear(x, w, *b),
    "addmm": lambda p, c, a, b: torch.addmm(c, a, b, beta=p["beta"], alpha=p["alpha"]),
    "var": lambda p, x: x.var(p["axes"], correction=0, keepdim=p["keepdim"]),
    "transpose": lambda p, x: x.transpose(p["axis0"], p["axis1"]),
    "permute": lambda p, x: x.permute(p["axes"]),
    "reshape": lambda p, x: x.reshape(p["shape"]),
    "expand": lambda p, x: x.expand(p["shape"]),
    "unsqueeze": lambda p, x: x.unsqueeze(p["axis"]),
    "flip": lambda p, x: x.flip(p["axes"]),
    "slice": lambda p, x: x.transpose(0, p["axis"])[p["start"]:p["stop"]:p["step"]].transpose(0, p["axis"]),
    "tril": lambda p, x: x.tril(p["k"]),
    "concat": lambda p, *x: torch.cat(x, p["axis"]),
    "stack": lambda p, *x: torch.stack(x, p["axis"]),
    "where": lambda p, c, x, y: torch.where(c > 0, x, y),
    "layer_norm": lambda p, x: F.layer_norm(x, p["normalized_shape"], eps=p["eps"]),
    "mse": lambda p, x, y: F.mse_loss(x, y, reduction=p["reduction"]),
    "detach": lambda p, x: x.detach(),
}


def gradient(of, at):
    if not of.requires_grad:
        return torch.zeros_like(at)
    g, = torch.autograd.grad((of * of).sum(), at, create_graph=True, allow_unused=True)
    return torch.zeros_like(at) if g is None else g


def run(steps, values):
    values = list(values)
    for step in steps:
        operands = [values[i] for i in step["in"]]
        if step["op"] == "grad":
            values.append(gradient(*operands))
        elif step["op"] == "checkpoint":
            values.append(run(step["steps"], operands)[-1])
        else:
            values.append(OPS[step["op"]](step, *operands))
    return values


def is_far_from_kinks(step, operands):
    op = step["op"]
    if op in KINKED or op == "where":
        return bool((operands[0].abs() > GAP).all())
    if op in ("maximum", "minimum"):
        return bool(((operands[0] - operands[1]).abs() > GAP).all())
    if op in ("amax", "amin"):
        x = operands[0] if op == "amax" else -operands[0]
        top = x.amax(step["axes"], keepdim=True)
        return bool(((top - x < GAP).sum(step["axes"]) == 1).all())
    if op == "div":
        return bool((operands[1].abs() > 0.3).all())
    if op in ("var", "layer_norm"):
        axes = step.get("axes", [-1])
        return bool((operands[0].var(axes, correction=0) > 0.05).all())
    return True


def draw_step(d, values):
    """One step whose operands fit, or None."""
    count = len(values)
    at = count - 1 - min(int(d.random.expovariate(0.35)), count - 1)
    x = values[at]
    rank, shape = x.dim(), list(x.shape)
    others = list(range(count))
    d.random.shuffle(others)
    kind = d.choice(["smooth"] * 4 + ["kinked", "pair", "pair", "pair", "pair", "pair", "div", "matmul", "matmul", "linear",
                    "addmm", "reduced", "scan", "view", "view", "view", "join", "where", "norm", "mse", "detach"])

    def step(op, *more, **options):
        return {"op": op, "in": [at, *more], **options}

    if kind == "smooth":
        return step(d.choice(SMOOTH))
    if kind == "kinked":
        return step(d.choice(KINKED))
    if kind in ("pair", "div", "where"):
        fitting = [i for i in others if can_broadcast(shape, values[i].shape)]
        if kind == "where":
            also = [i for i in fitting[1:] if can_broadcast(values[fitting[0]].shape, values[i].shape)]
            return step("where", fitting[0], also[0]) if also else None
        return step("div" if kind == "div" else d.choice(PAIRS), fitting[0])
    if kind == "matmul" and rank:
        fitting = [i for i in others if fits_product(x, values[i])]
        return step("matmul", fitting[0]) if fitting else None
    if kind == "linear" and rank:
        weights = [i for i in others if values[i].dim() == 2 and values[i].shape[1] == shape[-1]]
        if not weights:
            return None
        biases = [i for i in others if list(values[i].shape) == [values[weights[0]].shape[0]]]
        return step("linear", weights[0], *biases[:d.random.randint(0, 1)])
    if kind == "addmm" and rank == 2:
        pairs = [(i, j) for i in others for j in others if values[i].dim() == 2 and values[j].dim() == 2
                 and values[i].shape[1] == values[j].shape[0] and [values[i].shape[0], values[j].shape[1]] == shape]
        return step("addmm", *pairs[0], alpha=d.choice([1.0, 0.5]), beta=d.choice([1.0, -0.3])) if pairs else None
    if kind == "mse":
        fitting = [i for i in others if list(values[i].shape) == shape]
        return step("mse", fitting[0], reduction=d.reduction())
    if kind == "detach":
        return step("detach")
    if rank == 0:
        return step("unsqueeze", axis=0)
    if kind == "reduced":
        return step(d.choice([*REDUCED, "var"]), axes=d.axes(rank), keepdim=d.often(0.6), correction=0)
    if kind == "scan":
        return step(d.choice(SCANS), axis=d.axis(rank))
    if kind == "norm" and shape[-1] > 1:
        return step("layer_norm", normalized_shape=[shape[-1]], eps=1e-5)
    if kind == "join":
        fitting = [i for i in others if list(values[i].shape) == shape][:2]
        return step(d.choice(["concat", "stack"]), *fitting, axis=d.axis(rank))
    return draw_view(d, step, shape)


def draw_view(d, step, shape):
    rank = len(shape)
    op = d.choice("transpose permute reshape expand unsqueeze flip slice tril".split())
    if op == "transpose":
        return step(op, axis0=d.axis(rank), axis1=d.axis(rank))
    if op == "permute":
        return step(op, axes=d.random.sample(range(rank), rank))
    if op == "reshape":
        return step(op, shape=d.choice([[math.prod(shape)], [-1, shape[-1]], [*shape, 1], [1, *shape]]))
    if op == "expand":
        return step(op, shape=[d.choice([1, 2]), *(3 if n == 1 else n for n in shape)])
    if op == "unsqueeze":
        return step(op, axis=d.random.randrange(-rank - 1, rank + 1))
    if op == "flip":
        return step(op, axes=d.axes(rank))
    if op == "slice":
        axis = d.axis(rank)
        start = d.random.randrange(shape[axis])
        return step(op, axis=axis, start=start, stop=d.random.randint(start + 1, shape[axis]), step=d.choice([1, 1, 2]))
    return step(op, k=d.random.randint(-1, 1)) if rank >= 2 else None


def can_broadcast(a, b):
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(list(a)), reversed(list(b))))


def fits_product(a, b):
    if a.dim() == 0 or b.dim() == 0 or a.shape[-1] != (b.shape[-2] if b.dim() > 1 else b.shape[0]):
        return False
    return a.dim() < 3 or b.dim() < 3 or can_broadcast(a.shape[:-2], b.shape[:-2])


def draw_program(d):
    """Inputs, steps, and the places of the tensors that the program gives."""
    n, m = d.choice([1, 2, 3, 4, 5]), d.choice([2, 3, 4, 8, 9])
    shapes = [(n, m), (m, m), (m,), d.choice([(n, 1), (n, m), (m, n), ()]), d.choice([(2, n, m), (n, m), (1,)])]
    inputs = [torch.randn(s, dtype=torch.float64).requires_grad_() for s in shapes]
    values, steps = list(inputs), []
    wanted, checkpoints = d.random.randint(4, 14), d.often(0.3)
    for _ in range(8 * wanted):
        if len(steps) == wanted:
            break
        step = draw_step(d, values)
        if steps and d.often(0.12):
            of = d.random.randrange(len(inputs), len(values))
            step = {"op": "grad", "in": [of, d.random.randrange(of)]}
            if not values[step["in"][1]].requires_grad:
                continue
        elif step and checkpoints and step["op"] in SMOOTH and d.often(0.5):
            inner = [{"op": step["op"], "in": [0]}, {"op": "mul", "in": [1, 0]}, {"op": "tanh", "in": [2]}]
            step = {"op": "checkpoint", "in": step["in"], "steps": inner}
        if step is None:
            continue
        operands = [values[i] for i in step["in"]]
        if not is_far_from_kinks(step, operands):
            continue
        value = run([step], values)[-1]
        if value.numel() > 2000 or not bool((value.abs() < LARGEST).all()):
            continue
        steps.append(step)
        values.append(value)
    places = [len(values) - 1] + [d.random.randrange(len(values)) for _ in range(d.random.randint(0, 2))]
    return [t.detach() for t in inputs], steps, sorted(set(places))


def program(d):
    inputs, steps, places = draw_program(d)

    def fn(*x):
        values = run(steps, x)
        return tuple(values[i] for i in places)

    live = [t.clone().requires_grad_() for t in inputs]
    tracked = [t for t in fn(*live) if t.requires_grad]
    if not tracked:
        return
    gradients = torch.autograd.grad([(t * t).sum() for t in tracked], live, allow_unused=True)
    if all(g is None or bool((g.abs() < 100 * LARGEST).all()) for g in gradients):
        d.emit("program", fn, inputs, steps=steps, places=places, float32_tolerance=2e-3)
