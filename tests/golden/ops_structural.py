"""Op cases: shapes, indexing, sorting, linear algebra, layers."""
import torch
import torch.nn as nn
import torch.nn.functional as F

from op_cases import distinct, emit, integers, normal

# ---------------------------------------------------------------- shapes
x = normal("shape", 2, 3, 4)
emit("reshape", "base", lambda t: t.reshape(4, 6), [x], shape=[4, 6])
emit("reshape", "infer", lambda t: t.reshape(-1, 2), [x], shape=[-1, 2])
emit("view", "base", lambda t: t.view(6, 4), [x], shape=[6, 4])
emit("permute", "base", lambda t: t.permute(2, 0, 1), [x], axes=[2, 0, 1])
emit("transpose", "base", lambda t: t.transpose(0, 2), [x], axis0=0, axis1=2)
emit("transpose", "negative", lambda t: t.transpose(-1, -2), [x], axis0=-1, axis1=-2)
emit("expand", "base", lambda t: t.expand(2, 3, 4), [normal("expand", 3, 1)], shape=[2, 3, 4])
emit("expand", "keep", lambda t: t.expand(-1, 5), [normal("expand", 3, 1)], shape=[-1, 5])
ones = normal("ones", 1, 3, 1, 2)
emit("squeeze", "all", lambda t: t.squeeze(), [ones])
emit("squeeze", "axis2", lambda t: t.squeeze(2), [ones], axis=2)
emit("unsqueeze", "axis1", lambda t: t.unsqueeze(1), [x], axis=1)
emit("unsqueeze", "axis_last", lambda t: t.unsqueeze(-1), [x], axis=-1)
emit("slice", "step", lambda t: t[:, :, 0:4:2], [x], axis=2, start=0, stop=4, step=2)
emit("slice", "negative", lambda t: t[:, -2:], [x], axis=1, start=-2, stop=3, step=1)
emit("slice", "empty", lambda t: t[:, 1:1], [x], axis=1, start=1, stop=1, step=1)
emit("flip", "base", lambda t: t.flip(0, 2), [x], axes=[0, 2])
emit("roll", "axes", lambda t: t.roll((1, -2), (0, 2)), [x], shifts=[1, -2], axes=[0, 2])
emit("roll", "flat", lambda t: t.roll(5), [x], shifts=[5], axes=[])
emit("pad", "base", lambda t: F.pad(t, (1, 2, 0, 1), value=0.5), [x], before_after=[[0, 0], [0, 1], [1, 2]], value=0.5)
emit("pad", "one_axis", lambda t: F.pad(t, (0, 0, 2, 0)), [x], before_after=[[0, 0], [2, 0], [0, 0]], value=0.0)
parts = [normal("cat0", 2, 1, 3), normal("cat1", 2, 2, 3), normal("cat2", 2, 0, 3)]
emit("concat", "axis1", lambda *t: torch.cat(t, 1), parts, axis=1)
emit("concat", "axis_last", lambda *t: torch.cat(t, -1), [parts[0], parts[0] * 2], axis=-1)
emit("stack", "axis0", lambda *t: torch.stack(t, 0), [normal("st0", 2, 3), normal("st1", 2, 3)], axis=0)
emit("stack", "axis_last", lambda *t: torch.stack(t, -1), [normal("st0", 2, 3), normal("st1", 2, 3)], axis=-1)
wide = normal("wide", 2, 7)
emit("split", "sizes", lambda t: t.split([2, 4, 1], 1), [wide], axis=1, sizes=[2, 4, 1])
emit("split", "size3", lambda t: t.split(3, 1), [wide], axis=1, size=3)
emit("chunk", "three", lambda t: t.chunk(3, 1), [wide], axis=1, chunks=3)
emit("unbind", "axis1", lambda t: t.unbind(1), [x], axis=1)
for k in (-1, 0, 1):
    for name in ("tril", "triu"):
        emit(name, f"k{k}", lambda t, name=name, k=k: getattr(torch, name)(t, k), [x], k=k)
    emit("diag", f"vector_k{k}", lambda t, k=k: torch.diag(t, k), [normal("dv", 3)], k=k)
    emit("diag", f"matrix_k{k}", lambda t, k=k: torch.diag(t, k), [normal("dm", 3, 4)], k=k)
for case, shape, strides, offset in [("overlap", (3, 3), (1, 1), 1), ("transposed", (4, 2), (1, 4), 0), ("repeat", (3, 2), (0, 1), 2)]:
    emit("as_strided", case, lambda t, a=(shape, strides, offset): torch.as_strided(t, *a), [normal("as", 12)], shape=shape,
         strides=strides, offset=offset)

# ---------------------------------------------------------------- indexing and sorting
m = normal("index", 4, 3)
emit("gather", "axis0", lambda t, i: t.gather(0, i), [m, integers("g0", 4, 5, 2)], axis=0)
emit("gather", "axis1", lambda t, i: t.gather(1, i), [m, integers("g1", 3, 4, 6)], axis=1)
index = torch.tensor([[0, 1, 1], [0, 3, 1]])
emit("scatter_add", "axis0", lambda t, i, s: t.scatter_add(0, i, s), [m, index, normal("sa", 2, 3)], axis=0)
emit("scatter_add", "axis1", lambda t, i, s: t.scatter_add(1, i, s), [m, torch.tensor([[0, 0], [2, 1]]), normal("sb", 2, 2)], axis=1)
source = distinct("sm", 2, 3)
emit("scatter_max", "axis0", lambda t, i, s: t.scatter_reduce(0, i, s, "amax"), [distinct("smb", 4, 3) + 0.05, index, source], axis=0)
emit("index_select", "axis0", lambda t, i: t.index_select(0, i), [m, torch.tensor([2, 0, 2, 3, 2])], axis=0)
emit("index_select", "axis1", lambda t, i: t.index_select(1, i), [m, torch.tensor([1, 1, 0])], axis=1)
ids = torch.tensor([[0, 2, 2], [1, 3, 0]])
emit("embedding", "base", lambda t, i: F.embedding(i, t), [m, ids], names=["table", "ids"])
emit("embedding", "padding", lambda t, i: F.embedding(i, t, padding_idx=0), [m, ids], names=["table", "ids"], padding_idx=0)
emit("one_hot", "base", lambda i: F.one_hot(i, 5), [ids], classes=5)
d = distinct("sort", 3, 5)
emit("sort", "ascending", lambda t: torch.sort(t, -1), [d], axis=-1, descending=False)
emit("sort", "descending_axis0", lambda t: torch.sort(t, 0, True), [d], axis=0, descending=True)
emit("topk", "largest", lambda t: torch.topk(t, 3, -1), [d], axis=-1, k=3, largest=True)
emit("topk", "smallest_axis0", lambda t: torch.topk(t, 2, 0, False), [d], axis=0, k=2, largest=False)

# ---------------------------------------------------------------- linear algebra
a3, a4 = normal("la3", 3, 3), normal("la4", 2, 4, 4)
spd3, spd4 = a3 @ a3.T + torch.eye(3).double(), a4 @ a4.mT + torch.eye(4).double()
for case, a, spd in (("n3", a3, spd3), ("batch_n4", a4, spd4)):
    n = a.shape[-1]
    b = normal("rhs" + case, *a.shape[:-1], 2)
    emit("det", case, torch.linalg.det, [a])
    emit("slogdet", case, torch.linalg.slogdet, [a])
    emit("inverse", case, torch.linalg.inv, [a])
    emit("solve", case, torch.linalg.solve, [a, b])
    emit("cholesky", case, torch.linalg.cholesky, [spd])
    emit("lu", case, torch.linalg.lu, [a], names=["a"], outputs=["p", "l", "u"])
    diagonal = torch.eye(n).double() * 2
    emit("triangular_solve", "lower_" + case, lambda a, b: torch.linalg.solve_triangular(a, b, upper=False),
         [a.tril(-1) + diagonal, b], upper=False, unit=False)
    emit("triangular_solve", "upper_" + case, lambda a, b: torch.linalg.solve_triangular(a, b, upper=True),
         [a.triu(1) + diagonal, b], upper=True, unit=False)
    emit("triangular_solve", "unit_" + case, lambda a, b: torch.linalg.solve_triangular(a, b, upper=False, unitriangular=True),
         [a.tril(-1) + diagonal, b], upper=False, unit=True)
emit("det", "singular", torch.linalg.det, [torch.tensor([[1.0, 2], [2, 4]]).double()], grad=False)
emit("solve", "vector", torch.linalg.solve, [a3, normal("rhsv", 3)])
emit("det", "n1", torch.linalg.det, [normal("la1", 1, 1)])

# ---------------------------------------------------------------- layers and losses
h = normal("layer", 4, 6)
affine = [normal("lnw", 6), normal("lnb", 6)]
emit("layer_norm", "affine", lambda t, w, b: F.layer_norm(t, (6,), w, b, 1e-5), [h] + affine, normalized_shape=[6], eps=1e-5)
emit("layer_norm", "plain", lambda t: F.layer_norm(t, (6,), eps=1e-5), [h], normalized_shape=[6], eps=1e-5)
emit("layer_norm", "two_axes", lambda t, w, b: F.layer_norm(t, (3, 2), w, b, 1e-3),
     [h.reshape(4, 3, 2)] + [v.reshape(3, 2) for v in affine], normalized_shape=[3, 2], eps=1e-3)
labels = torch.tensor([0, 5, 2, 2])
for reduction in ("mean", "sum", "none"):
    emit("mse", reduction, lambda p, t, r=reduction: F.mse_loss(p, t, reduction=r), [h, normal("mse", 4, 6)], reduction=reduction)
    emit("cross_entropy", reduction, lambda p, t, r=reduction: F.cross_entropy(p, t, reduction=r), [h * 3, labels],
         reduction=reduction)
image, kernel = normal("image", 2, 4, 6, 5), normal("kernel", 6, 4, 3, 2, scale=0.4)
for case, w, with_bias, options in [
        ("base", kernel, True, {}), ("no_bias", kernel, False, {}), ("stride_padding", kernel, True, dict(stride=[2, 1], padding=[1, 2])),
        ("dilation", kernel, True, dict(dilation=[2, 3])), ("groups", normal("kg", 6, 2, 3, 3, scale=0.4), True, dict(groups=2, padding=[1, 1])),
        ("depthwise", normal("kd", 4, 1, 2, 2), False, dict(groups=4, stride=[2, 2])), ("pointwise", normal("k1", 3, 4, 1, 1), False, {})]:
    inputs = [image, w] + ([normal("kb" + case, w.shape[0])] if with_bias else [])
    options = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1} | options
    emit("conv2d", case, lambda *t, o=options: F.conv2d(*t, **o), inputs, **options)
for case, options in [("base", dict(kernel_size=[2, 2], stride=[2, 2], padding=[0, 0], count_include_pad=True)),
                      ("padding", dict(kernel_size=[3, 2], stride=[2, 1], padding=[1, 1], count_include_pad=True)),
                      ("exclude_padding", dict(kernel_size=[3, 3], stride=[2, 2], padding=[1, 1], count_include_pad=False))]:
    emit("avg_pool2d", case, lambda t, o=options: F.avg_pool2d(t, **o), [image], **options)
for case, options in [("base", dict(kernel_size=[2, 2], stride=[2, 2], padding=[0, 0])),
                      ("padding", dict(kernel_size=[3, 2], stride=[2, 1], padding=[1, 1]))]:
    emit("max_pool2d", case, lambda t, o=options: F.max_pool2d(t, **o, return_indices=True), [image], **options)
for size in ((1, 1), (2, 3), (6, 5), (4, 4)):
    emit("adaptive_max_pool2d", f"{size[0]}x{size[1]}", lambda t, s=size: F.adaptive_max_pool2d(t, s), [image], size=size)
    emit("adaptive_avg_pool2d", f"{size[0]}x{size[1]}", lambda t, s=size: F.adaptive_avg_pool2d(t, s), [image], size=size)


def lstm(case, layers, bidirectional, lengths=None, state=False):
    """x (N, L, I), optional h0 and c0 (layers * directions, N, H), then the weights in PyTorch's order."""
    n, length, inputs, hidden = 3, 4, 5, 3
    net = nn.LSTM(inputs, hidden, layers, batch_first=True, bidirectional=bidirectional).double()
    names = [name for name, _ in net.named_parameters()]
    weights = [normal(case + name, *p.shape, scale=0.7) for name, p in net.named_parameters()]
    rows = layers * (2 if bidirectional else 1)
    start = [normal(case + s, rows, n, hidden) for s in ("h0", "c0")] if state else []

    def call(x, *rest):
        initial, params = rest[:len(start)], dict(zip(names, rest[len(start):]))
        packed = x if lengths is None else nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, (hn, cn) = torch.func.functional_call(net, params, (packed,) + ((tuple(initial),) if start else ()))
        if lengths is not None:
            y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=length)
        return y, hn, cn

    emit("lstm", case, call, [normal(case + "x", n, length, inputs)] + start + weights,
         names=["x"] + (["h0", "c0"] if state else []) + names, outputs=["output", "h_n", "c_n"], layers=layers,
         bidirectional=bidirectional, lengths=lengths)


lstm("single", 1, False)
lstm("initial_state", 1, False, state=True)
lstm("bidirectional", 1, True)
lstm("two_layers", 2, False, lengths=[4, 1, 3])
lstm("two_layers_bidirectional", 2, True, lengths=[2, 4, 3], state=True)
