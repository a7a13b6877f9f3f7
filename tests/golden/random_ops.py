#!/usr/bin/env python3
"""Random cases of the operations: values and vector-Jacobian products by PyTorch, held against ours.

usage: random_ops.py TEST_AUTOGRAD [--seeds 0,1,2] [--cases 2000]

Shapes, axes, strides and options are drawn; a draw that PyTorch itself refuses is dropped. The cases of a seed go to a
safetensors file laid out as ops.safetensors is, and TEST_AUTOGRAD (build/release/tests/test_autograd) runs its case
[random_ops] on it in float32 and float64, on the device that FLOWGRAD_TEST_DEVICE names. The exit code is 1 where one
disagrees, and 77 without PyTorch.
"""
import collections
import functools
import math
import pathlib
import random
import sys
import tempfile

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("random_ops.py: PyTorch is missing")
    sys.exit(77)

import op_cases
import random_programs
from golden_file import write
from random_cases import agrees, main

SIZES = [1, 1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17]
MATRIX_SIZES = [1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 40]
UNARY = random_programs.SMOOTH | random_programs.KINKED | {
    "exp": torch.exp, "sinh": torch.sinh, "cosh": torch.cosh, "mish": F.mish}
UNARY_OF_POSITIVE = {name: getattr(torch, name) for name in "log log1p sqrt rsqrt reciprocal".split()}
BINARY = random_programs.PAIRS | {"div": torch.div, "atan2": torch.atan2}
COMPARE = {name: getattr(torch, name) for name in "eq ne lt le gt ge".split()}
SCANS = random_programs.SCANS | {"cumprod": torch.cumprod, "cummax": torch.cummax, "cummin": torch.cummin}


class Draws:
    """Random shapes and inputs, and the cases that they make."""

    def __init__(self, seed):
        self.seed = seed
        self.random = random.Random(seed)
        self.counts = collections.Counter()
        self.dropped = 0
        torch.manual_seed(seed)

    def emit(self, op, fn, inputs, grad=True, **options):
        case = f"seed{self.seed}_{self.counts[op]}"
        self.counts[op] += 1
        try:
            op_cases.emit(op, case, fn, inputs, grad=grad, **options)
        except (RuntimeError, IndexError, ValueError, TypeError, AssertionError):
            self.dropped += 1

    def choice(self, values):
        return self.random.choice(list(values))

    def often(self, probability):
        return self.random.random() < probability

    def size(self, large=False):
        return self.choice(SIZES + [0] * self.often(0.15) + [31, 33, 64, 65] * large)

    def shape(self, low=0, high=4, large=False):
        s = [self.size(large) for _ in range(self.random.randint(low, high))]
        while math.prod(s) > 6000:
            s[self.random.randrange(len(s))] = 2
        return tuple(s)

    def axis(self, rank):
        return self.random.randrange(-rank, rank)

    def axes(self, rank):
        chosen = self.random.sample(range(rank), self.random.randint(1, rank))
        return [a - rank if self.often(0.3) else a for a in chosen]

    def broadcast_shapes(self):
        s = self.shape()

        def part():
            p = [1 if self.often(0.3) else d for d in s]
            return tuple(p[self.random.randint(0, len(p)) if self.often(0.4) else 0:])
        return part(), part()

    def reduction(self):
        return self.choice(["mean", "sum", "none"])


normal, uniform, distinct = (functools.partial(f, None) for f in (op_cases.normal, op_cases.uniform, op_cases.distinct))


def conditioned(batch, n):
    """Matrices with singular values from 1 to 2."""
    u, v = (torch.linalg.qr(normal(*batch, n, n)).Q for _ in range(2))
    return u * torch.linspace(1, 2, n, dtype=torch.float64) @ v


def elementwise(d):
    kind = d.choice(["unary", "unary", "positive", "binary", "binary", "compare", "remainder", "pow", "where"])
    a, b = d.broadcast_shapes()
    if kind == "unary":
        op = d.choice(UNARY)
        x = normal(*d.shape(large=True), scale=d.choice([0.5, 1, 3]))
        d.emit(op, UNARY[op], [op_cases.apart(x, 0.0)])
    elif kind == "positive":
        op = d.choice(UNARY_OF_POSITIVE)
        d.emit(op, UNARY_OF_POSITIVE[op], [uniform(0.1, 5, *d.shape(large=True))])
    elif kind == "binary":
        op = d.choice(BINARY)
        d.emit(op, BINARY[op], [op_cases.apart(normal(*a), 0.0), op_cases.apart(normal(*b), 0.0) + 0.001])
    elif kind == "compare":
        op = d.choice(COMPARE)
        d.emit(op, COMPARE[op], [torch.randint(-2, 3, s).double() for s in (a, b)], grad=False)
    elif kind == "remainder":
        d.emit(kind, torch.remainder, [normal(*a, scale=3), d.choice([-1, 1]) * uniform(0.5, 2, *b)])
    elif kind == "pow":
        d.emit(kind, torch.pow, [uniform(0.2, 3, *a), normal(*b)])
    else:
        condition = torch.rand(d.choice([a, b, ()])) < 0.5
        d.emit(kind, torch.where, [condition, normal(*a), normal(*b)])


def reductions(d):
    op = d.choice("sum mean amax amin logsumexp var std norm any all prod".split())
    s = d.shape(1, 4, large=True)
    axes, keepdim = d.axes(len(s)), d.often(0.5)
    x = distinct(*s) if op in ("amax", "amin") else normal(*s)
    if op in ("sum", "mean", "amax", "amin", "logsumexp"):
        if 0 in s and op != "sum":
            return
        d.emit(op, lambda t: getattr(t, op)(axes, keepdim=keepdim), [x], axes=axes, keepdim=keepdim)
    elif op in ("var", "std"):
        n, correction = math.prod(s[a] for a in axes), d.choice([0, 1, 2])
        if 0 not in s and n > max(correction, 1):
            d.emit(op, lambda t: getattr(t, op)(axes, correction=correction, keepdim=keepdim), [x],
                   axes=axes, keepdim=keepdim, correction=correction)
    elif op == "norm" and 0 not in s:
        p = d.choice(["1", "2", "3", "inf"])
        d.emit(op, lambda t: torch.linalg.vector_norm(t, float(p), axes, keepdim=keepdim),
               [op_cases.apart(distinct(*s), 0.0)], axes=axes, keepdim=keepdim, p=p)
    elif op in ("any", "all"):
        d.emit(op, lambda t: getattr(t, op)(axes[0], keepdim=keepdim), [torch.rand(s) < d.choice([0.05, 0.5, 0.95])],
               grad=False, axis=axes[0], keepdim=keepdim)
    elif op == "prod":
        x = uniform(0.5, 1.5, *s)
        if x.numel() and d.often(0.3):
            x.view(-1)[d.random.randrange(x.numel())] = 0
        d.emit(op, lambda t: t.prod(axes[0], keepdim=keepdim), [x], axis=axes[0], keepdim=keepdim)


def along_an_axis(d):
    s = d.shape(1, 4, large=True)
    axis, keepdim = d.axis(len(s)), d.often(0.5)
    op = d.choice([*SCANS, "max", "min", "argmax", "argmin", "median", "sort", "topk"])
    if 0 in s and op not in ("cumsum", "softmax", "log_softmax", "logcumsumexp", "cumprod"):
        return
    x = distinct(*s)
    if op in SCANS:
        x = x if op in ("cummax", "cummin") else uniform(0.5, 1.4, *s) if op == "cumprod" else normal(*s)
        d.emit(op, lambda t: SCANS[op](t, axis), [x], axis=axis)
    elif op == "sort":
        descending = d.often(0.5)
        d.emit(op, lambda t: torch.sort(t, axis, descending), [x], axis=axis, descending=descending)
    elif op == "topk":
        k, largest = d.random.randint(0 if d.often(0.1) else 1, s[axis]), d.often(0.5)
        d.emit(op, lambda t: torch.topk(t, k, axis, largest), [x], axis=axis, k=k, largest=largest)
    else:
        d.emit(op, lambda t: getattr(torch, op)(t, axis, keepdim), [x], grad=not op.startswith("arg"),
               axis=axis, keepdim=keepdim)


def views(d):
    op = d.choice("permute transpose expand unsqueeze squeeze slice flip roll diag tril triu".split())
    s = d.shape(1, 4)
    rank, x = len(s), normal(*s)
    axis, other, k = d.axis(rank), d.axis(rank), d.random.randint(-4, 4)
    if op == "permute":
        order = d.random.sample(range(rank), rank)
        d.emit(op, lambda t: t.permute(order), [x], axes=order)
    elif op == "transpose":
        d.emit(op, lambda t: t.transpose(axis, other), [x], axis0=axis, axis1=other)
    elif op == "expand":
        wide = [d.size() for _ in range(d.random.randint(0, 2))] + list(s)
        if math.prod(wide) < 8000:
            d.emit(op, lambda t: t.expand(wide), [normal(*(1 if d.often(0.4) else n for n in s))], shape=wide)
    elif op == "unsqueeze":
        at = d.random.randrange(-rank - 1, rank + 1)
        d.emit(op, lambda t: t.unsqueeze(at), [x], axis=at)
    elif op == "squeeze" and s[axis] == 1:
        d.emit(op, lambda t: t.squeeze(axis), [x], axis=axis)
    elif op == "slice":
        n, step = s[axis], d.random.randint(1, 3)
        start, stop = d.random.randint(-n - 1, n + 1), d.random.randint(-n - 1, n + 2)
        d.emit(op, lambda t: t.transpose(0, axis)[start:stop:step].transpose(0, axis), [x],
               axis=axis, start=start, stop=stop, step=step)
    elif op == "flip":
        axes = d.axes(rank)
        d.emit(op, lambda t: t.flip(axes), [x], axes=axes)
    elif op == "roll":
        axes = d.random.sample(range(rank), d.random.randint(1, rank))
        shifts = [d.random.randint(-5, 5) for _ in axes]
        d.emit(op, lambda t: t.roll(shifts, axes), [x], shifts=shifts, axes=axes)
    elif op == "diag":
        d.emit(op, lambda t: torch.diag(t, k), [normal(*d.shape(1, 2))], k=k)
    elif rank >= 2 and op in ("tril", "triu"):
        d.emit(op, lambda t: getattr(t, op)(k), [x], k=k)


def joins(d):
    op = d.choice("pad concat stack split unbind".split())
    s = d.shape(1, 4)
    rank, x = len(s), normal(*s)
    axis = d.axis(rank)
    if op == "pad":
        widths = [[d.random.randint(0, 3), d.random.randint(0, 3)] for _ in s]
        value = d.choice([0.0, 0.5, -2.0])
        d.emit(op, lambda t: F.pad(t, [w for pair in reversed(widths) for w in pair], value=value), [x],
               before_after=widths, value=value)
    elif op == "concat":
        parts = []
        for _ in range(d.random.randint(1, 4)):
            part = list(s)
            part[axis] = d.size()
            parts.append(normal(*part))
        d.emit(op, lambda *t: torch.cat(t, axis), parts, axis=axis)
    elif op == "stack":
        at = d.random.randrange(-rank - 1, rank + 1)
        d.emit(op, lambda *t: torch.stack(t, at), [normal(*s) for _ in range(d.random.randint(1, 4))], axis=at)
    elif s[axis] > 0 and op == "split":
        size = d.random.randint(1, s[axis])
        d.emit(op, lambda t: t.split(size, axis), [x], axis=axis, size=size)
    elif s[axis] > 0 and op == "unbind":
        d.emit(op, lambda t: t.unbind(axis), [x], axis=axis)


def indexing(d):
    op = d.choice("gather scatter_add scatter_max index_select embedding".split())
    s = d.shape(1, 3)
    if 0 in s:
        return
    axis = d.axis(len(s))
    among = [d.random.randint(1, n) for n in s]
    among[axis] = d.choice([1, 2, 5, 40])
    index = torch.randint(0, s[axis], among)
    if op == "gather":
        d.emit(op, lambda t, i: t.gather(axis, i), [normal(*s), index], axis=axis)
    elif op == "scatter_add":
        d.emit(op, lambda t, i, v: t.scatter_add(axis, i, v), [normal(*s), index, normal(*among)], axis=axis)
    elif op == "scatter_max":
        d.emit(op, lambda t, i, v: t.scatter_reduce(axis, i, v, "amax"),
               [distinct(*s) + 0.05, index, distinct(*among)], axis=axis)
    elif op == "index_select":
        chosen = torch.randint(0, s[axis], (d.random.randint(0, 20),))
        d.emit(op, lambda t, i: t.index_select(axis, i), [normal(*s), chosen], axis=axis)
    elif len(s) == 2:
        ids = torch.randint(0, s[0], d.shape(0, 3))
        d.emit(op, lambda t, i: F.embedding(i, t), [normal(*s), ids], names=["table", "ids"])


def products(d):
    op = d.choice(["matmul"] * 4 + ["linear", "addmm", "cdist", "einsum", "tensordot"])
    m, k, n = (d.choice(MATRIX_SIZES + [0, 64, 100] * d.often(0.2)) for _ in range(3))
    if op == "matmul":
        batches = d.choice([((), ()), ((2,), ()), ((), (3,)), ((2, 1), (3,)), ((2,), (2,)), ((1,), (4,))])
        a, b = ((k,) if d.often(0.15) else batch + tail for batch, tail in zip(batches, [(m, k), (k, n)]))
        d.emit(op, torch.matmul, [normal(*a), normal(*b)])
    elif op == "linear":
        rows = d.choice([(m,), (2, m), (), (2, 0)])
        d.emit(op, F.linear, [normal(*rows, k), normal(n, k)] + [normal(n)] * d.often(0.6))
    elif op == "addmm":
        alpha, beta = d.choice([1.0, 0.5, -2.0]), d.choice([1.0, 0.3])
        c = d.choice([(m, n), (n,), (1, n), (m, 1), ()])
        d.emit(op, lambda c, a, b: torch.addmm(c, a, b, beta=beta, alpha=alpha),
               [normal(*c), normal(m, k), normal(k, n)], alpha=alpha, beta=beta)
    elif op == "cdist" and k > 0:
        d.emit(op, torch.cdist, [normal(m, k), normal(n, k)])
    elif op == "tensordot":
        d.emit(op, lambda a, b: torch.tensordot(a, b, 2), [normal(n, m, k), normal(m, k, 3)], axes=2)
    elif op == "einsum":
        sizes = {c: d.choice([1, 2, 3, 4, 5]) for c in "abcde"}
        terms = ["".join(d.random.sample("abcde", d.random.randint(0, 4))) for _ in range(d.random.randint(1, 3))]
        if terms[0] and d.often(0.2):
            terms[0] += terms[0][0]
        labels = sorted(set("".join(terms)))
        kept = "".join(d.random.sample(labels, d.random.randint(0, min(4, len(labels)))))
        equation = ",".join(terms) + "->" + kept
        d.emit(op, lambda *t: torch.einsum(equation, *t), [normal(*(sizes[c] for c in term)) for term in terms],
               equation=equation)


def linear_algebra(d):
    op = d.choice("det slogdet inverse solve cholesky triangular_solve lu".split())
    batch, n, columns = d.choice([(), (2,), (2, 3), (0,)]), d.choice([1, 2, 3, 4, 5, 8, 17, 33]), d.choice([1, 2, 9])
    a = conditioned(batch, n)
    if op in ("det", "slogdet"):
        d.emit(op, getattr(torch.linalg, op), [a / math.sqrt(2)])
    elif op == "inverse":
        d.emit(op, torch.linalg.inv, [a])
    elif op == "solve":
        d.emit(op, torch.linalg.solve, [a, normal(*batch, n, columns)])
    elif op == "cholesky":
        d.emit(op, torch.linalg.cholesky, [a @ a.mT])
    elif op == "lu":
        d.emit(op, torch.linalg.lu, [a], names=["a"], outputs=["p", "l", "u"])
    else:
        upper, unit = d.often(0.5), d.often(0.5)
        triangle = (normal(*batch, n, n).triu(1) if upper else normal(*batch, n, n).tril(-1)) / (n + 1)
        d.emit(op, lambda a, b: torch.linalg.solve_triangular(a, b, upper=upper, unitriangular=unit),
               [triangle + 2 * torch.eye(n, dtype=torch.float64), normal(*batch, n, columns)], upper=upper, unit=unit)


def convolution(d):
    groups = d.choice([1, 1, 1, 2, 3])
    inputs, outputs = groups * d.random.randint(1, 4), groups * d.random.randint(1, 5)
    kernel = [d.random.randint(1, 4) for _ in range(2)]
    options = {"stride": [d.random.randint(1, 4), d.random.randint(1, 3)],
               "padding": [d.random.randint(0, 3), d.random.randint(0, 2)],
               "dilation": [d.random.randint(1, 2), d.random.randint(1, 2)]}
    image = []
    for k, dilation, padding in zip(kernel, options["dilation"], options["padding"]):
        span = (k - 1) * dilation
        image.append(d.random.randint(max(1, span + 1 - 2 * padding), span + 15))
    operands = [normal(d.choice([1, 2, 3]), inputs, *image), normal(outputs, inputs // groups, *kernel, scale=0.4)]
    options["groups"] = groups
    d.emit("conv2d", lambda *t: F.conv2d(*t, **options), operands + [normal(outputs)] * d.often(0.5), **options)


def pooling(d):
    op = d.choice("avg_pool2d max_pool2d adaptive_avg_pool2d adaptive_max_pool2d".split())
    image = [d.random.randint(1, 16), d.random.randint(1, 20)]
    shape = (d.choice([1, 2]), d.choice([1, 3]), *image)
    if op.startswith("adaptive"):
        size = [d.random.randint(1, 9), d.random.randint(1, 9)]
        d.emit(op, lambda t: getattr(F, op)(t, size), [distinct(*shape)], size=size)
        return
    kernel = [d.random.randint(1, 5) for _ in range(2)]
    options = {"kernel_size": kernel, "stride": [d.random.randint(1, 5) for _ in range(2)],
               "padding": [d.random.randint(0, k // 2) for k in kernel]}
    if op == "avg_pool2d":
        options["count_include_pad"] = d.often(0.5)
        d.emit(op, lambda t: F.avg_pool2d(t, **options), [normal(*shape)], **options)
    else:
        d.emit(op, lambda t: F.max_pool2d(t, **options, return_indices=True), [distinct(*shape)], **options)


def networks(d):
    op = d.choice("layer_norm mse cross_entropy lstm".split())
    if op == "layer_norm":
        s = d.shape(1, 3, large=True)
        last = s[-d.random.randint(1, len(s)):]
        if 0 not in s and math.prod(last) > 1:
            affine = [normal(*last), normal(*last)][:d.choice([0, 1, 2])]
            d.emit(op, lambda t, *w: F.layer_norm(t, last, *w, eps=1e-5), [normal(*s), *affine],
                   normalized_shape=list(last), eps=1e-5)
    elif op == "mse":
        s, reduction = d.shape(0, 3), d.reduction()
        if 0 not in s:
            d.emit(op, lambda p, t: F.mse_loss(p, t, reduction=reduction), [normal(*s), normal(*s)],
                   reduction=reduction)
    elif op == "cross_entropy":
        rows, classes, reduction = d.choice([1, 2, 5, 9, 33]), d.choice([1, 2, 5, 17, 40]), d.reduction()
        d.emit(op, lambda p, t: F.cross_entropy(p, t, reduction=reduction),
               [normal(rows, classes, scale=3), torch.randint(0, classes, (rows,))], reduction=reduction)
    else:
        recurrence(d)


def recurrence(d):
    layers, both = d.random.randint(1, 3), d.often(0.5)
    n, steps, inputs, hidden = (d.choice([1, 2, 3, 5, 8, 17]) for _ in range(4))
    lengths = [d.random.randint(1, steps) for _ in range(n)] if d.often(0.5) else None
    if lengths:
        lengths[d.random.randrange(n)] = steps
    net = torch.nn.LSTM(inputs, hidden, layers, batch_first=True, bidirectional=both).double()
    names = [name for name, _ in net.named_parameters()]
    weights = [normal(*p.shape, scale=0.7) for p in net.parameters()]
    state = [normal(layers * (1 + both), n, hidden) for _ in range(2)] if d.often(0.5) else []

    def run(x, *rest):
        start, weights = rest[:len(state)], dict(zip(names, rest[len(state):]))
        if lengths:
            x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, (h, c) = torch.func.functional_call(net, weights, (x, tuple(start)) if start else (x,))
        if lengths:
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=steps)
        return y, h, c

    d.emit("lstm", run, [normal(n, steps, inputs), *state, *weights],
           names=["x"] + ["h0", "c0"] * bool(state) + names, outputs=["output", "h_n", "c_n"], layers=layers,
           bidirectional=both, lengths=lengths)


FAMILIES = [elementwise, elementwise, reductions, reductions, along_an_axis, along_an_axis, views, views, joins, indexing,
            products, products, linear_algebra, convolution, pooling, networks, *[random_programs.program] * 3]


def run(program, seed, cases):
    draws = Draws(seed)
    op_cases.TENSORS.clear()
    op_cases.META.clear()
    while sum(draws.counts.values()) < cases:
        draws.choice(FAMILIES)(draws)
    with tempfile.TemporaryDirectory() as work:
        path = pathlib.Path(work) / "ops.safetensors"
        write(path, op_cases.TENSORS, op_cases.META | {"torch": torch.__version__})
        agree = agrees(program, "[random_ops]", "FLOWGRAD_OP_CASES", path)
    print(f"seed {seed}: {len(op_cases.META)} cases of {len(draws.counts)} operations, "
          f"{draws.dropped} draws that PyTorch refuses: {'agree' if agree else 'disagree'}", flush=True)
    return agree


if __name__ == "__main__":
    main(__doc__, "TEST_AUTOGRAD", "0,1,2", 2000, run)
