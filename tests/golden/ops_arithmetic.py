"""Op cases: elementwise, reductions, scans, products."""
import itertools
import math

import torch
import torch.nn.functional as F

from op_cases import TENSORS, apart, distinct, emit, integers, normal, uniform

INF, NAN = math.inf, math.nan

# ---------------------------------------------------------------- elementwise
SPECIAL = torch.tensor([NAN, INF, -INF, -0.0, 0.0], dtype=torch.float64)
STEPS = torch.tensor([-2.6, -1.7, -0.3, 0.2, 0.9, 1.4, 2.6, 3.2], dtype=torch.float64)


def unary(op, fn, x=None, special=True, **params):
    x = apart(normal(op, 3, 5, scale=1.5), 0.0) if x is None else x
    emit(op, "base", fn, [x], **params)
    if special:
        emit(op, "special", fn, [SPECIAL], grad=False, **params)
        x = SPECIAL.clone().requires_grad_(True)
        y = fn(x)
        if y.requires_grad:
            TENSORS[f"{op}.special.torch_grad0"], = torch.autograd.grad(y.sum(), x)


positive = uniform("positive", 0.1, 4.0, 3, 5)
for name, fn in {
        "neg": torch.neg, "abs": torch.abs, "sign": torch.sign, "exp": torch.exp, "expm1": torch.expm1, "square": torch.square,
        "reciprocal": torch.reciprocal, "sin": torch.sin, "cos": torch.cos, "tanh": torch.tanh, "sinh": torch.sinh,
        "cosh": torch.cosh, "sigmoid": torch.sigmoid, "relu": torch.relu, "silu": F.silu, "gelu": F.gelu, "erf": torch.erf,
        "softplus": F.softplus, "logsigmoid": F.logsigmoid, "mish": F.mish}.items():
    unary(name, fn)
for name in ("log", "sqrt", "rsqrt"):
    unary(name, getattr(torch, name), positive)
unary("log1p", torch.log1p, uniform("log1p", -0.9, 3.0, 3, 5))
unary("tan", torch.tan, uniform("tan", -1.4, 1.4, 3, 5))
for name in ("asin", "acos", "atanh"):
    unary(name, getattr(torch, name), uniform(name, -0.95, 0.95, 3, 5))
for name in ("atan", "asinh"):
    unary(name, getattr(torch, name))
unary("acosh", torch.acosh, uniform("acosh", 1.05, 4.0, 3, 5))
unary("leaky_relu", F.leaky_relu, slope=0.01)
emit("leaky_relu", "slope", lambda x: F.leaky_relu(x, 0.2), [apart(normal("lr", 7), 0.0)], slope=0.2)
unary("elu", F.elu, alpha=1.0)
emit("elu", "alpha", lambda x: F.elu(x, 1.7), [apart(normal("elu2", 7), 0.0)], alpha=1.7)
emit("softplus", "beta", lambda x: F.softplus(x, beta=2.5), [normal("sp2", 7)], beta=2.5)
unary("hardtanh", F.hardtanh, apart(normal("ht", 3, 5, scale=1.5), -1.0, 1.0), min=-1.0, max=1.0)
unary("clamp", lambda x: x.clamp(-0.5, 0.8), apart(normal("clamp", 3, 5), -0.5, 0.8), min=-0.5, max=0.8)
emit("clamp", "min_only", lambda x: x.clamp(min=0.3), [apart(normal("clamp1", 7), 0.3)], min=0.3)
emit("clamp", "max_only", lambda x: x.clamp(max=-0.2), [apart(normal("clamp2", 7), -0.2)], max=-0.2)
unary("floor", torch.floor, STEPS)
unary("round", torch.round, STEPS)
emit("round", "half_to_even", torch.round, [torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]).double()], grad=False)
unary("isfinite", torch.isfinite)
TAILS = torch.tensor([-1e4, -300.0, -40.0, -13.0, -8.0, -5.5, 5.5, 8.0, 13.0, 40.0, 300.0, 1e4], dtype=torch.float64)
for name, fn in {"sigmoid": torch.sigmoid, "softplus": F.softplus, "logsigmoid": F.logsigmoid, "silu": F.silu, "erf": torch.erf,
                 "tanh": torch.tanh, "mish": F.mish, "elu": F.elu}.items():
    emit(name, "tails", fn, [TAILS])


def grid(values):
    pairs = torch.tensor(list(itertools.product(values, values)), dtype=torch.float64)
    return [pairs[:, 0].contiguous(), pairs[:, 1].contiguous()]


def binary(op, fn, second=lambda t: t, first=lambda t: t, special=True, grad=True):
    a, b = first(normal(op + "a", 3, 4)), second(normal(op + "b", 3, 4))
    emit(op, "same", fn, [a, b], grad=grad)
    emit(op, "broadcast", fn, [first(normal(op + "c", 2, 1, 4)), second(normal(op + "d", 3, 1))], grad=grad)
    if special:
        emit(op, "special", fn, grid([NAN, INF, -INF, -0.0, 0.0, 1.0, -2.0, 0.5]), grad=False)


def away(t):
    return apart(t, 0.0, gap=0.2)


def off_integer(t):
    """Quotients a / b that stay clear of the jumps of remainder: b is given, a = b * (n + fraction)."""
    return torch.floor(t * 3) + 0.2 + 0.6 * torch.sigmoid(t)


for name, fn in {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "atan2": torch.atan2, "logaddexp": torch.logaddexp}.items():
    binary(name, fn)
binary("div", torch.div, second=away)
binary("pow", torch.pow, first=lambda t: t.abs() + 0.2)
emit("pow", "integer_exponent", lambda x: x**3, [normal("p3", 7)], exponent=3.0)
emit("pow", "scalar_exponent", lambda x: x**-1.5, [positive], exponent=-1.5)
emit("pow", "scalar_base", lambda x: 2.5**x, [normal("pb", 7)], base=2.5)
binary("maximum", torch.maximum, second=lambda t: t + 0.01)
binary("minimum", torch.minimum, second=lambda t: t + 0.01)
for case, shape in (("same", (3, 4)), ("broadcast", (2, 1, 4))):
    quotient, divisor = off_integer(normal("rq" + case, 3, 4)), away(normal("rd" + case, *shape[-1:]) * 1.5)
    emit("remainder", case, torch.remainder, [quotient * divisor, divisor.expand(*shape).contiguous()])
emit("remainder", "special", torch.remainder, grid([NAN, INF, -INF, -0.0, 0.0, 1.0, -2.0, 3.5]), grad=False)
ties = [torch.tensor([1.0, 2.0, 3.0, NAN, 0.0]), torch.tensor([[1.0], [3.0]])]
for name in ("eq", "ne", "lt", "le", "gt", "ge"):
    emit(name, "base", getattr(torch, name), [t.double() for t in ties], grad=False)
bits = [torch.tensor([True, False, True, False]), torch.tensor([[True], [False]])]
for name in ("logical_and", "logical_or", "logical_xor"):
    emit(name, "base", getattr(torch, name), bits)
emit("logical_not", "base", torch.logical_not, bits[:1])
mask = integers("where", 2, 3, 4).bool()
emit("where", "same", torch.where, [mask, normal("wa", 3, 4), normal("wb", 3, 4)])
emit("where", "broadcast", torch.where, [mask[:1], normal("wc", 2, 1, 4), normal("wd", 3, 1)])

# ---------------------------------------------------------------- reductions and scans
x3 = apart(normal("reduce", 2, 3, 4), 0.0, gap=0.1)
AXES = {"all": None, "axis1": [1], "axis_last_keep": [-1], "axes02": [0, 2]}
for name, fn in {"sum": torch.sum, "mean": torch.mean, "var": torch.var, "std": torch.std, "logsumexp": torch.logsumexp,
                 "amax": torch.amax, "amin": torch.amin, "norm": torch.linalg.vector_norm}.items():
    for case, axes in AXES.items():
        keep = case.endswith("keep")
        dims = list(range(3)) if axes is None else axes
        emit(name, case, lambda x, fn=fn, dims=dims, keep=keep: fn(x, dim=dims, keepdim=keep), [x3], axes=axes, keepdim=keep)
for name in ("var", "std"):
    emit(name, "correction0", lambda x, name=name: getattr(torch, name)(x, dim=1, correction=0), [x3], axes=[1], keepdim=False,
         correction=0)
for p in (1.0, 3.0, INF):
    emit("norm", f"p{p:g}", lambda x, p=p: torch.linalg.vector_norm(x, p, dim=1), [x3], axes=[1], keepdim=False, p=str(p))
emit("prod", "all", torch.prod, [x3], axes=None, keepdim=False)
emit("prod", "axis1", lambda x: x.prod(1), [x3], axes=[1], keepdim=False)
zeros = torch.tensor([[3.0, 0, 2, 5], [3, 0, 0, 5], [1, 2, 3, 4]]).double()
emit("prod", "zeros", lambda x: x.prod(1), [zeros], axes=[1], keepdim=False)
d3 = distinct("distinct", 2, 3, 5)
for name in ("max", "min", "median"):
    emit(name, "all", getattr(torch, name), [d3])
    emit(name, "axis1", lambda x, name=name: getattr(torch, name)(x, 1), [d3], axis=1, keepdim=False)
    emit(name, "axis_last_keep", lambda x, name=name: getattr(torch, name)(x, -1, True), [d3], axis=-1, keepdim=True)
emit("median", "even", lambda x: torch.median(x, 1), [distinct("even", 3, 4)], axis=1, keepdim=False)
for name in ("argmin", "argmax"):
    emit(name, "all", getattr(torch, name), [d3], grad=False)
    emit(name, "axis1", lambda x, name=name: getattr(torch, name)(x, 1), [d3], grad=False, axis=1, keepdim=False)
flags = integers("flags", 4, 3, 4).bool()
for name in ("any", "all"):
    emit(name, "all", getattr(torch, name), [flags])
    emit(name, "axis1", lambda x, name=name: getattr(torch, name)(x, 1), [flags], axis=1, keepdim=False)
for name in ("cumsum", "cumprod", "logcumsumexp"):
    for axis in (0, 1, -1):
        emit(name, f"axis{axis}", lambda x, name=name, axis=axis: getattr(torch, name)(x, axis), [x3], axis=axis)
emit("cumprod", "zeros", lambda x: x.cumprod(1), [zeros], axis=1)
for name in ("cummax", "cummin"):
    for axis in (1, -1):
        emit(name, f"axis{axis}", lambda x, name=name, axis=axis: getattr(torch, name)(x, axis), [d3], axis=axis)
for name in ("softmax", "log_softmax"):
    for axis in (0, -1):
        emit(name, f"axis{axis}", lambda x, name=name, axis=axis: getattr(torch, name)(x, axis), [x3 * 2], axis=axis)

ROWS = torch.tensor([[NAN, 1, 2], [1, NAN, INF], [INF, 1, -INF], [-INF, -INF, -INF], [-0.0, -0.0, -0.0], [INF, INF, 1], [-INF, 2, 3]],
                    dtype=torch.float64)
for name, fn in {"sum": torch.sum, "mean": torch.mean, "prod": torch.prod, "var": torch.var, "std": torch.std, "amax": torch.amax,
                 "amin": torch.amin, "logsumexp": torch.logsumexp, "norm": lambda t, a: torch.linalg.vector_norm(t, dim=a)}.items():
    emit(name, "special", lambda t, fn=fn: fn(t, -1), [ROWS], grad=False, axes=[-1], keepdim=False)
for name in ("max", "min", "median", "cummax", "cummin", "sort"):
    emit(name, "special", lambda t, name=name: (getattr(torch, name)(t, -1)[0],), [ROWS], grad=False, axis=-1)
for name in ("cumsum", "cumprod", "logcumsumexp", "softmax", "log_softmax"):
    emit(name, "special", lambda t, name=name: getattr(torch, name)(t, -1), [ROWS], grad=False, axis=-1)
for name in ("argmax", "argmin"):
    emit(name, "special", lambda t, name=name: getattr(torch, name)(t, -1), [ROWS[:3]], grad=False, axis=-1)

# ---------------------------------------------------------------- products
for case, sa, sb in [("vector_vector", (4,), (4,)), ("matrix_vector", (3, 4), (4,)), ("vector_matrix", (3,), (3, 4)),
                     ("matrix_matrix", (3, 4), (4, 5)), ("batched", (2, 3, 4), (2, 4, 5)), ("broadcast", (2, 1, 3, 4), (5, 4, 2)),
                     ("batched_vector", (2, 3, 4), (4,)), ("vector_batched", (3,), (2, 3, 4)), ("inner_one", (3, 1), (1, 4))]:
    emit("matmul", case, torch.matmul, [normal("ma" + case, *sa), normal("mb" + case, *sb)])
abc = [normal("addmm0", 3, 5), normal("addmm1", 3, 4), normal("addmm2", 4, 5)]
emit("addmm", "base", torch.addmm, abc, beta=1.0, alpha=1.0)
emit("addmm", "row", torch.addmm, [abc[0][0]] + abc[1:], beta=1.0, alpha=1.0)
emit("addmm", "scaled", lambda a, b, c: torch.addmm(a, b, c, beta=0.5, alpha=-2.0), abc, beta=0.5, alpha=-2.0)
wb = [normal("linw", 5, 4), normal("linb", 5)]
emit("linear", "bias", F.linear, [normal("lin2", 3, 4)] + wb)
emit("linear", "no_bias", F.linear, [normal("lin2", 3, 4)] + wb[:1])
emit("linear", "rank3", F.linear, [normal("lin3", 2, 3, 4)] + wb)
for i, (spec, *shapes) in enumerate([
        ("ij,jk->ik", (2, 3), (3, 4)), ("ij->ji", (2, 3)), ("ba", (2, 3)), ("ii->i", (3, 3)), ("ii->", (3, 3)), ("ij->", (2, 3)),
        ("ijk->ik", (2, 3, 4)), ("i,i->", (4,), (4,)), ("i,j->ij", (3,), (4,)), ("ij,j->i", (2, 3), (3,)), ("ij,jk", (2, 3), (3, 4)),
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)), ("...ij,...jk->...ik", (2, 3, 4), (4, 2)), ("i...->...", (3, 2, 2)),
        ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)), ("ij,ik,il->jkl", (2, 3), (2, 2), (2, 4)), ("ijj->i", (2, 3, 3)),
        ("i,ij,j->", (3,), (3, 4), (4,)), ("ij,kl->", (2, 2), (2, 3)), (",i->i", (), (3,))]):
    emit("einsum", f"{i:02d}", lambda *t, s=spec: torch.einsum(s, *t), [normal(f"ein{i}{k}", *s) for k, s in enumerate(shapes)],
         equation=spec)
tensors = [normal("td0", 2, 3, 4), normal("td1", 3, 4, 5)]
emit("tensordot", "last2", lambda a, b: torch.tensordot(a, b, 2), tensors, axes=2)
emit("tensordot", "outer", lambda a, b: torch.tensordot(a, b, 0), [tensors[0][0, 0], tensors[1][0, 0]], axes=0)
emit("tensordot", "pairs", lambda a, b: torch.tensordot(a, b, ([2, 1], [1, 0])), tensors, axes=[[2, 1], [1, 0]])
emit("cdist", "matrix", torch.cdist, [normal("cd0", 4, 3), normal("cd1", 5, 3)])
emit("cdist", "batched", torch.cdist, [normal("cd2", 2, 3, 2), normal("cd3", 2, 4, 2)])
