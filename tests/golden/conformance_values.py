"""Conformance cases C48 to C80: values at edges; shapes, indexing, dtype, layers."""
import itertools
import math

import torch
import torch.nn.functional as F

from conformance_reference import fill, grad, leaf, note, pin, raises, weigh

INF, NAN = math.inf, math.nan


def slope(f, *at):
    """Gradients of f at scalar arguments."""
    xs = [leaf(a) for a in at]
    return [g.item() for g in grad(f(*xs), xs)]


def hessian_row_sums(f, x):
    x = leaf(x)
    return grad(grad(f(x), x, create_graph=True).sum(), x)


def powers():
    cases = {"x^2 at 0": (2.0, 0.0), "x^1.5 at 0": (1.5, 0.0), "x^0 at 0": (0.0, 0.0), "x^-1 at 0": (-1.0, 0.0),
             "x^3 at -2": (3.0, -2.0), "x^0.5 at -1": (0.5, -1.0)}
    known = [0, 0, 0, -INF, 12, NAN]
    got = [slope(lambda x, p=p: x**p, x)[0] for p, x in cases.values()]
    pin("C48", dict(dx=known), dx=got, tensor_0_to_0=slope(lambda x, y: x**y, 0.0, 0.0)[0])
    note("C48", "dx of " + ", ".join(cases) + "; then d/dx of 0^0 with a tensor exponent")
    pin("C49", dict(dy=[0, 0, -INF]), y=[2.0, 0.0, -1.0], dy=[slope(lambda x, y: x**y, 0.0, y)[1] for y in (2.0, 0.0, -1.0)])
    x, y = leaf(4.0), leaf(0.0)
    gx, gy = grad(x**y, [x, y], create_graph=True)
    rows = [torch.autograd.grad(g, [x, y], retain_graph=True, allow_unused=True) for g in (gx, gy)]
    pin("C50", dict(g=[0, math.log(4)]), g=[gx, gy], torch_H=[[0.0 if h is None else h.item() for h in r] for r in rows],
        ours_H=[[0.0, 0.25], [0.25, math.log(4) ** 2]])
    note("C50", "x^y at (4, 0). ours_H is the exact Hessian; PyTorch has 0 for one mixed entry")
    pin("C51", dict(g=[1, -1]), g=slope(lambda x, y: (x - y) ** x, 1.0, 1.0))


def ties():
    t = [1.0, 0, 1, 0, 1, 0]
    third = 1 / 3
    known = {"max": [third, 0] * 3, "min": [0, third] * 3, "median": [0, third] * 3, "amax": [third, 0] * 3}
    for name, want in known.items():
        x = leaf(t)
        pin("C52", {name: want}, **{name: grad(getattr(torch, name)(x), x)})
    x = leaf(t)
    pin("C52", dict(max_along_axis=[1, 0, 0, 0, 0, 0]), max_along_axis=grad(torch.max(x, 0)[0], x))
    x = leaf([1.0, 0, 0, 1, -1, -1, 1, 0])
    y = x.reshape(2, 2, 2)
    pin("C53", dict(dx=[0, 0, 3.5, 0, 1.5, 1.5, 0, 3.5]), x=y, cot=[3.0, 7.0], dx=grad(y.amin((0, 2)), x, torch.tensor([3.0, 7.0])))
    x, y = leaf(2.0), leaf(2.0)
    pin("C54", dict(minimum_x_x=1, maximum_2_2=[.5, .5]), minimum_x_x=grad(torch.minimum(x, x), x),
        maximum_2_2=list(grad(torch.maximum(x, y), [x, y])))
    at = [-1.0, 0.0, 1.0]
    kinks = {"abs": torch.abs, "sign": torch.sign, "relu": torch.relu, "clamp": lambda x: x.clamp(-1, 1), "hardtanh": F.hardtanh,
             "leaky_0.1": lambda x: F.leaky_relu(x, .1)}
    known = [[-1, 0, 1], [0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [.1, .1, 1]]
    pin("C55", {k: v for k, v in zip(kinks, known)}, x=at, **{k: [slope(f, a)[0] for a in at] for k, f in kinks.items()})
    at = [-1.0, 0.0, -2.0, 3.0]
    pin("C56", dict(dx=[.7357588823428847, 2, .2706705664732254, 1]), alpha=2.0, x=at, dx=[slope(lambda x: F.elu(x, 2.0), a)[0] for a in at])
    x = leaf(0.0, 1.0)
    w = torch.where(x > 0, x.sqrt(), torch.zeros(()))
    n = leaf(0.0, 0.0, 0.0)
    pin("C57", dict(norm_at_0=0, sqrt_at_0=INF, torch_where=[NAN, .5]), norm_at_0=grad(torch.linalg.vector_norm(n), n),
        sqrt_at_0=slope(torch.sqrt, 0.0), torch_where=grad(w.sum(), x), ours_where=[0.0, 0.5])
    x = leaf([[0.0, 0], [1, 1]])
    y = x.detach().clone().requires_grad_()
    d = torch.cdist(x, y)
    gx, gy = grad(d.sum(), [x, y])
    pin("C58", x=x, d=d, dx=gx, dy=gy)
    for pair, known in (((2.0, 2.0), [.5, .5]), ((INF, 2.0), [1, 0]), ((-INF, 2.0), [0, 1]), ((-10.0, -INF), [1, 0]),
                        ((-INF, -INF), [NAN, NAN])):
        pin("C59", at=list(pair), y=torch.logaddexp(*map(torch.tensor, pair)), g=known, torch_g=slope(torch.logaddexp, *pair))


def exponentials():
    for at, value, known in (([-INF, 1.0], 1, [0, 1]), ([-INF, -INF], -INF, [NAN, NAN])):
        x = leaf(at)
        y = torch.logsumexp(x, 0)
        pin("C60", dict(logsumexp=value), at=at, logsumexp=y, dx=known, torch_dx=grad(y, x))
    pin("C60", dict(softmax=[NAN, NAN]), softmax=torch.softmax(torch.tensor([-INF, -INF]), 0))
    note("C60", "an attention row whose keys are all masked gives 0, with gradient 0, through the masked softmax of the attention op")
    x = leaf(1e4, 0.0, -1e4)
    y = torch.log_softmax(x, 0)
    pin("C61", dict(y=[0, -1e4, -2e4], dx_of_item1=[-1, 1, 0]), x=x, y=y, dx_of_item1=grad(y[1], x))
    x, big = leaf(2.0, 3.0), leaf(1e4, 1e4)
    pin("C62", dict(dx=[1.2689414213699952, .7310585786300048]), y=torch.logcumsumexp(x, 0), dx=grad(torch.logcumsumexp(x, 0).sum(), x),
        y_1e4=torch.logcumsumexp(big, 0), torch_dx_1e4=grad(torch.logcumsumexp(big, 0).sum(), big), exact_dx_1e4=[1.5, .5])
    at = [-1e4, -300.0, 300.0, 1e4]
    for name, f in {"sigmoid": torch.sigmoid, "softplus": F.softplus, "logsigmoid": F.logsigmoid, "silu": F.silu, "gelu": F.gelu,
                    "tanh": torch.tanh, "mish": F.mish, "erf": torch.erf}.items():
        pin("C63", name=name, at=at, value=[f(torch.tensor(a)) for a in at], slope=[slope(f, a)[0] for a in at])
    pin("C63", dict(sigmoid=5.148200222412014e-131, silu_slope=-1.5393118665011924e-128), sigmoid=torch.sigmoid(torch.tensor(-300.0)),
        silu_slope=slope(F.silu, -300.0))
    x, y = leaf(3.0, 0.0, 2.0), leaf(3.0, 0.0, 0.0)
    pin("C64", dict(dx_302=[0, 6, 0], second_row_sums_302=[2, 5, 3], dx_300=0), dx_302=grad(x.prod(), x),
        second_row_sums_302=hessian_row_sums(torch.prod, [3.0, 0, 2]), dx_300=grad(y.prod(), y))
    for at, known in (([2.0, 1, 2, 2, 3], [20, 38, 18, 16, 8]), ([2.0, 0, 2, 2, 3], [1, 38, 0, 0, 0]), ([2.0, 0, 2, 0, 3], [1, 6, 0, 0, 0])):
        x = leaf(at)
        pin("C65", dict(dx=known), x=at, dx=grad(x.cumprod(0).sum(), x), second_row_sums=hessian_row_sums(lambda t: t.cumprod(0).sum(), at))
    x, w = leaf(1.0, 2, 3, 4), torch.tensor([1.0, 2, 3, 4])
    pin("C65", dict(dx_weighted=[119, 59, 38, 24]), x=x, weights=w, dx_weighted=grad((x.cumprod(0) * w).sum(), x))
    x = leaf(2.0, 2.0, 2.0)
    pin("C66", dict(std=0, dx=0), std=x.std(), dx=grad(x.std(), x), var_of_one=torch.tensor([1.0]).var().item())
    empty = torch.zeros(0)
    pin("C67", dict(sum=0, prod=1, mean=NAN, logsumexp=-INF), sum=empty.sum(), prod=empty.prod(), mean=empty.mean(),
        logsumexp=empty.logsumexp(0))
    note("C67", "amax and argmax over an empty axis are errors")
    a, b = fill((4, 0)).requires_grad_(), fill((4, 1)).requires_grad_()
    ga, gb = grad((a + b).sum(), [a, b])
    pin("C68", dict(db=0), shapes=[list((a + b).shape), list(ga.shape), list(gb.shape)], db=gb)
    for sa, sb in (((0, 3), (3, 4)), ((2, 0), (0, 4)), ((2, 3), (3, 0)), ((0, 0), (0, 0)), ((2, 0, 3), (2, 3, 4))):
        a, b = fill(sa).requires_grad_(), fill(sb).requires_grad_()
        y = a @ b
        ga, gb = grad(y.sum(), [a, b])
        pin("C69", dict(sums=[0, 0, 0]), a=list(sa), b=list(sb), y=list(y.shape), sums=[y.sum(), ga.sum(), gb.sum()])


def shapes():
    ops = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "remainder": torch.remainder, "pow": torch.pow,
           "atan2": torch.atan2, "maximum": torch.maximum}
    sizes = [(), (4,), (3, 4), (1, 4)]
    for name, op in ops.items():
        for sa, sb in itertools.product(sizes, sizes):
            a = (1.35 + 0.37 * torch.arange(math.prod(sa))).reshape(sa).requires_grad_()
            b = (0.8 + 0.11 * torch.arange(math.prod(sb))).reshape(sb).requires_grad_()
            y = op(a, b)
            ga, gb = grad(y, [a, b], fill(y.shape))
            pin("C70", op=name, a=list(sa), b=list(sb), y=weigh(y), da=weigh(ga), db=weigh(gb))
    note("C70", "a[i] = 1.35 + 0.37 i, b[i] = 0.8 + 0.11 i, cotangent fill(shape of y); y, da, db are weigh() of the whole tensors: "
         "sum t[i] (1 + i mod 5)")
    a, b = fill((3, 1)).requires_grad_(), fill((1, 4), 1).requires_grad_()
    ga, gb = grad((a + b).sum(), [a, b])
    pin("C71", dict(da=4, db=3), da=ga, db=gb)
    x, y = torch.eye(3).requires_grad_(), leaf([[2.0, 0, -2]])
    gx, gy = grad((y @ x).sum(), [x, y])
    pin("C71", dict(dx=[2, 2, 2, 0, 0, 0, -2, -2, -2], dy=1), dx=gx, dy=gy)
    x = fill((4, 4)).requires_grad_()
    rows = grad(x[[1, 1, 3, 2, 1, 2]].sum(), x)
    pin("C72", dict(row_counts=[0, 3, 2, 1]), row_counts=rows[:, 0], same_in_row=bool((rows == rows[:, :1]).all()))
    pairs = grad(x[[[1, 2], [0, 0]], [[0, 1], [1, 1]]].sum(), x)
    pin("C72", dict(pairs=[0, 2, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), pairs=pairs)
    table = fill((3, 2)).requires_grad_()
    pin("C72", dict(embedding=[0, 0, 0, 0, 2, 2]), embedding=grad(F.embedding(torch.tensor([0, 2, 2]), table, padding_idx=0).sum(), table))
    many = torch.full((65536,), 2)
    pin("C72", dict(hits=65536), hits=grad(F.embedding(many, table.float()).sum(), table)[2])
    x, c = leaf(3.0, 1, 2, 5, 4), torch.tensor([10.0, 20, 30, 40, 50])
    y = x.sort()[0]
    second = grad(grad((c * y**3).sum() / 3, x, create_graph=True).sum(), x)
    pin("C73", dict(sort_dx=[30, 10, 20, 50, 40]), sort_dx=grad(y, x, c), sort_second=second)
    note("C73", "sort_second: row sums of the Hessian of sum(c sort(x)^3) / 3 = 2 x sort_dx")
    for name, known in (("cummax", [1, 2, 0, 1, 1]), ("cummin", [1, 1, 3, 0, 0])):
        x = leaf(3.0, 3, 1, 5, 5)
        y = getattr(torch, name)(x, 0)[0]
        pin("C73", {name: known}, **{name: grad(y.sum(), x), "indices": getattr(torch, name)(x, 0)[1].double(),
                                     "second": grad(grad((y**3).sum() / 3, x, create_graph=True).sum(), x)})
    x = leaf([[1.0, 2, 6, 4, 5], [9, 5, 6, 7, 8]])
    pin("C73", dict(topk2=[0, 0, 1, 0, 1, 1, 0, 0, 0, 1]), topk2=grad(x.topk(2)[0].sum(), x),
        second=grad(grad((x.topk(2)[0] ** 3).sum() / 3, x, create_graph=True).sum(), x))
    note("C73", "second: row sums of the Hessian of sum(f(x)^3) / 3")
    base, index, cot = leaf(1.0, 2, 3, 4), torch.tensor([1, 3]), torch.tensor([4.0, 5, 6, 7])
    for kind, at, known in (("add", [1.0, 2], ([4, 5, 6, 7], [5, 7])), ("max", [1.0, 2], ([4, 5, 6, 7], [0, 0])),
                            ("max", [5.0, 6], ([4, 0, 6, 0], [5, 7]))):
        u = leaf(at)
        y = base.scatter_add(0, index, u) if kind == "add" else base.scatter_reduce(0, index, u, "amax")
        gb, gu = grad(y, [base, u], cot)
        pin("C74", dict(dbase=known[0], dupdate=known[1]), op=kind, update=u, y=y, dbase=gb, dupdate=gu)
    strided = [((5, 5), (1, 1), 0, torch.ones(5, 5), [1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 0]),
               ((5, 5), (1, 1), 1, torch.ones(5, 5), [0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0]),
               ((3, 3), (0, 1), 3, torch.arange(9.0).reshape(3, 3), [0, 0, 0, 9, 12, 15, 0, 0, 0, 0, 0])]
    for shape, strides, offset, cot, known in strided:
        x = torch.ones(11).requires_grad_()
        dx = grad(torch.as_strided(x, shape, strides, offset), x, cot)
        pin("C75", dict(dx=known), shape=list(shape), strides=list(strides), offset=offset, dx=dx)
    v = leaf([1.0])
    pin("C75", dict(dv=10), dv=grad((torch.tensor([[1.0, 2], [3, 4]]) @ v.expand(2)).sum(), v))


EINSUMS = [("ij->ji", (1, 1)), ("ij->ji", (4, 4)), ("ij->ji", (3, 4)), ("ij,jk->ik", (2, 3), (3, 4)), ("...ij,...jk->...ik", (2, 3), (3, 4)),
           ("...ij,...jk->...ik", (2, 2, 3), (3, 4)), ("...ij,...jk->...ik", (2, 3), (2, 3, 4)), ("...ij,...jk->...ik", (2, 2, 3), (2, 3, 4)),
           ("...ij,...jk->...ik", (0, 2, 3), (0, 3, 4)), ("ijk,lji->lki", (3, 4, 4), (4, 4, 3)), ("...jk,...lj->...lk", (4, 4), (3, 4, 4)),
           ("...,...->...", (4, 4), (3, 4, 4)), ("jk...,lj...->lk...", (3, 2, 4), (2, 3, 4)), ("j...k,lj...->lk...", (2, 2, 2), (2, 2, 2)),
           ("ijk,lji,lli->lki", (3, 4, 4), (4, 4, 3), (4, 4, 3)), ("k,nk->", (5,), (10, 5)), ("abcd->bd", (3, 2, 3, 2)),
           ("...k,...nk->...", (3, 5), (3, 10, 5)), ("ij,k", (3, 4), (3,)), ("ii->i", (3, 3))]
DOTS = [((1, 3), (3,), [[1], [0]]), ((2, 3, 2), (3, 4, 2), [[1], [0]]), ((3, 4, 2), (2, 3, 2), [[0], [1]]),
        ((2, 3, 4), (2, 2, 3, 4), [[0, 1], [1, 2]]), ((2, 3, 4), (2, 2, 3, 4), [[1, 0], [2, 1]]), ((2, 2), (2, 2), 1), ((4, 2, 2), (2, 2, 4), 2), ((4,), (), 0), ((2, 6), (6, 3), [[-1], [0]]),
        ((2,), (2, 2), 1)]


def digest(case, f, sizes, **names):
    xs = [fill(s, k).requires_grad_() for k, s in enumerate(sizes)]
    y = f(*xs)
    ys = list(y) if isinstance(y, (tuple, list)) else [y]
    gs = grad(ys, xs, [fill(t.shape, 9 + k) for k, t in enumerate(ys)])
    names |= {"in": [list(s) for s in sizes], "out": [list(t.shape) for t in ys], "y": [weigh(t) for t in ys], "g": [weigh(g) for g in gs]}
    pin(case, **names)


def systematic():
    for spec, *sizes in EINSUMS:
        digest("C76", lambda *t, s=spec: torch.einsum(s, *t), sizes, einsum=spec)
    for sa, sb, axes in DOTS:
        digest("C76", lambda a, b, d=axes: torch.tensordot(a, b, d), [sa, sb], tensordot=axes)
    for axes in itertools.permutations(range(3)):
        digest("C76", lambda t, a=axes: t.permute(a), [(2, 3, 4)], permute=list(axes))
    for k in (-1, 0, 1):
        for size in ((5, 5), (5, 5, 4)):
            digest("C76", lambda t, k=k: t.tril(k), [size], tril=k)
            digest("C76", lambda t, k=k: t.triu(k), [size], triu=k)
        digest("C76", lambda t, k=k: torch.diag(t, k), [(5,)], diag=k)
        digest("C76", lambda t, k=k: torch.diag(t, k), [(5, 5)], diag=k)
    for axis0, per_axis in (((0, 0), (0, 0)), ((3, 3), (3, 3)), ((3, 2), (3, 2)), ((1, 2), (3, 4))):
        digest("C76", lambda t, a=axis0, b=per_axis: F.pad(t, b + a), [(2, 2)], pad=[list(axis0), list(per_axis)])
    for axis in (0, 1):
        digest("C76", lambda t, a=axis: t.roll(2, a), [(3, 4)], roll=[2, axis])
        digest("C76", lambda t, a=axis: t.repeat_interleave(2, a), [(2, 3, 4)], repeat_each_twice_axis=axis)
        digest("C76", lambda a, b, d=axis: torch.cat([a, b], d), [(2, 2), (2, 2)], concat=axis)
        digest("C76", lambda a, b, d=axis: torch.stack([a, b], d), [(2,), (2,)], stack=axis)
        digest("C76", lambda t, a=axis: t.tensor_split([1, 2], a), [(4, 8)], split_at_1_2=axis)
        digest("C76", lambda t, a=axis: t.tensor_split(4, a), [(4, 8)], split_in_4=axis)
    note("C76", "inputs fill(shape, 0), fill(shape, 1), ..; cotangents fill(shape, 9), fill(shape, 10), .. for outputs 0, 1, ..; "
         "y and g are weigh(). pad: (before, after) of axis 0, then of axis 1")
    x = torch.arange(6.0).requires_grad_()
    a, b, c = x.split(2)
    pin("C76", dict(split_dx=[2, 3, 0, 1, 1, 1]), split_dx=grad((a * b + c).sum(), x))


def layers():
    x = torch.tensor([1.5, 2.5], dtype=torch.float32).requires_grad_()
    g = grad((x.double() * 3).sum(), x)
    pin("C77", dict(dx=3), dx=g, dtype=str(g.dtype))
    x = fill((2, 3)).T.requires_grad_()
    (x * 2).sum().backward()
    pin("C77", dict(strides=[1, 3]), x=list(x.shape), x_strides=list(x.stride()), dx=x.grad, strides=list(x.grad.stride()))
    note("C77", "a leaf (3, 2) that is a transposed (2, 3): torch's accumulated gradient has the leaf's strides")
    x = torch.tensor([1.0, 2, 3])
    jacobian = torch.autograd.functional.jacobian(lambda t: torch.softmax(t, 0), x)
    p = [math.exp(i) / sum(math.exp(j) for j in (1, 2, 3)) for i in (1, 2, 3)]
    pin("C78", dict(softmax_jacobian=[[p[i] * ((i == j) - p[j]) for j in range(3)] for i in range(3)]), softmax_jacobian=jacobian)
    note("C78", "the first entry is often quoted as .08192506899499322, which is off by 7e-11: each row must sum to zero")

    def orders(f, *inputs):
        """Value, gradients of the dot with the cotangent, and the gradients of weigh-like sums of those."""
        xs = [t.clone().requires_grad_() for t in inputs]
        y = f(*xs)
        gs = torch.autograd.grad(y, xs, fill(y.shape, 9), create_graph=True)
        total = sum((g * fill(g.shape, 5 + k)).sum() for k, g in enumerate(gs))
        second = torch.autograd.grad(total, xs, allow_unused=True)
        return dict(y=y, g=list(gs), second=[torch.zeros_like(t) if h is None else h for t, h in zip(xs, second)])
    pin("C78", fused="layer_norm", **orders(lambda x, w, b: F.layer_norm(x, (3,), w, b), fill((2, 3)), fill((3,), 1), fill((3,), 2)))
    pin("C78", fused="attention", **orders(lambda q, k, v: torch.softmax(q @ k.T / math.sqrt(2), -1) @ v, fill((2, 2)),
                                           fill((3, 2), 1), fill((3, 2), 2)))
    pin("C78", fused="cross_entropy", **orders(lambda x: F.cross_entropy(x, torch.tensor([2, 0])), fill((2, 3))))
    note("C78", "inputs fill(shape, 0), fill(shape, 1), ..; g: gradients with cotangent fill(shape of y, 9); second: gradients of "
         "sum_k sum(g_k * fill(shape, 5 + k)). cross_entropy: mean, labels (2, 0). layer_norm eps 1e-5. attention: softmax(q k^T / sqrt 2) v")
    w, x = leaf([[1.0, 2], [3, 4]]), leaf(.5, -.25)
    y = (torch.linalg.vector_norm(grad(torch.tanh(w @ x).sum(), x, create_graph=True)) - 1) ** 2
    pin("C79", dict(y=26.473809794393453, dW=[5.62537630474038, 8.616866054873968, -14.23578847631983, 16.106641233258262]), y=y, dW=grad(y, w))

    def f(x):
        return torch.stack([x[0] * x[1], torch.sin(x[1]) + x[0]])

    def divergence(at, probes):
        x = leaf(at)
        out = 0
        for p in probes:
            p = torch.tensor(p)
            out = out + p @ grad(f(x), x, p)
        return out / len(probes)
    exact = sum(torch.autograd.functional.jacobian(f, torch.tensor([.3, .7])).diag())
    pin("C80", dict(exact=1.4648421872844883, mean_of_4_probes=1.1800665778412416), exact=exact,
        mean_of_4_probes=divergence([.1, .2], list(itertools.product((-1.0, 1.0), repeat=2))))
    note("C80", "f(x) = (x0 x1, sin x1 + x0); exact at (.3, .7), probes at (.1, .2)")


def run():
    powers()
    ties()
    exponentials()
    shapes()
    systematic()
    layers()
