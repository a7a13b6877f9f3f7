"""Conformance cases C01 to C47: graph and engine."""
import math

import torch
from torch.utils.checkpoint import checkpoint

from conformance_reference import derivatives, fill, grad, leaf, note, pin, raises, weigh

ONES = torch.ones


def expressions():
    x = leaf(-4.0)
    z = 2 * x + 2 + x
    q = z.relu() + z * x
    y = (z * z).relu() + q + q * x
    pin("C01", dict(y=-20, dx=46), y=y, dx=grad(y, x))
    a, b = leaf(-4.0), leaf(2.0)
    c = a + b
    d = a * b + b**3
    c = c + c + 1
    c = c + 1 + c - a
    d = d + d * 2 + (b + a).relu()
    d = d + 3 * d + (b - a).relu()
    f = (c - d) ** 2
    g = f / 2 + 10 / f
    da, db = grad(g, [a, b])
    pin("C02", dict(g=24.70408163265306, da=138.83381924198252, db=645.5772594752186), g=g, da=da, db=db)
    x = leaf(1.3)
    y = (x + torch.sin(x**2)) * x
    pin("C03", dict(dx=3.1909487468715687), x=1.3, y=y, dx=grad(y, x))
    pin("C04", dict(orders=[0.4262065991457747, -2.606262451288969, 4.255055252163501, 14.863635035426968]), x=0.7,
        orders=derivatives(lambda x: torch.sin(torch.sin(x) + torch.sin(x)), 0.7, 4))
    pin("C05", dict(orders=[-.0625, .03125, -.0234375, .0234375, -.029296875, .0439453125]), x=4.0,
        orders=derivatives(lambda x: 1 / x, 4.0, 6))
    pin("C06", dict(orders=[math.e] * 3), x=1.0, orders=derivatives(torch.exp, 1.0, 3))
    pin("C07", dict(first=1, second=0), x=2.0, first=1.0, second=0.0)
    note("C07", "f(x) = x at 2: first derivative 1, second 0 (or absent); f(x) = 1: gradient zero or absent, no error")
    a = leaf([0.1, -0.2, 0.3, 0.4, -0.5])
    b = a + 1
    d = a + b
    pin("C08", dict(da=3), a=a, da=grad((d + (b + 1.5)).sum(), a))
    b = a + 1
    pin("C09", dict(da=[7, 2, 2, 2, 2]), a=a, da=grad((a + b + (b[0] + 1.5)).sum(), a))
    x, y = ONES(5, 5).requires_grad_(), ONES(5, 5).requires_grad_()
    a, b, c = x + 2, y + 2, x + 2
    add = a + b + c
    for _ in range(4):
        a, b, c = a * 2, b * 2, c * 2
    dx, dy = grad(add + (a + b + c), [x, y], ONES(5, 5))
    pin("C10", dict(dx=34, dy=17), dx=dx[0, 0], dy=dy[0, 0])
    note("C10", "all of x, y are ones (5, 5): a=x+2 b=y+2 c=x+2; s=a+b+c; four times a,b,c = 2a,2b,2c; out = s+a+b+c")


def roots_and_leaves():
    x = leaf(2.0)
    inner = leaf(2.0)
    y = x * grad(x * inner, inner, create_graph=True)
    pin("C11", dict(dx=4), x=2.0, dx=grad(y, x))
    pin("C12", dict(first=[0, 1, 2], second=0), a=5.0, first=[0.0, 1.0, 2.0], second=[0.0, 0.0, 0.0])
    note("C12", "x = 5, a = the same value captured: a + a -> 0, a + x -> 1, x + x -> 2; second derivatives 0")
    x, q, a, b = (fill((2, 2), k).requires_grad_() for k in range(4))
    q2 = q * 2
    gz, gc = fill((2, 2), 4), fill((2, 2), 5)
    g = grad([x + q2, a * b + q2], [x, q, a, b], [gz, gc])
    pin("C13", dict(dx=gz, dq=2 * (gz + gc), da=gc * b, db=gc * a), dx=g[0], dq=g[1], da=g[2], db=g[3])
    note("C13", "x q a b = fill((2,2), 0..3); z = x + 2q with cotangent fill(4); c = a b + 2q with cotangent fill(5)")
    y = a * b
    g = grad([y, y], [a, b], [gz, gz])
    pin("C13", dict(da_twice=2 * gz * b), da_twice=g[0], db_twice=g[1])
    x = leaf(1.0, 2.0)
    y = x**2
    pin("C14", dict(dx=[5, 100]), x=x, dx=grad([y, y**3], x, [torch.tensor([1.0, 1.0]), torch.tensor([.5, .5])]))
    x, go = fill((4, 2)).requires_grad_(), fill((2, 2), 1)
    a, b = x.chunk(2)
    ga, gb = grad(a + 2 * b, [a, b], go)
    pin("C15", dict(ga=go, gb=2 * go), ga=ga, gb=gb, leaf_grad=x.grad)
    for start in (0.0, 0.5):
        leaves = [torch.full((5, 5), start).requires_grad_() for _ in range(10)]
        values = [v * i + v * v for i, v in enumerate(leaves)]
        loss = sum(v * i for i, v in enumerate(values)).sum()
        shards = [g for i in range(0, 10, 2) for g in torch.autograd.grad(loss, values[i:i + 2], retain_graph=True)]
        torch.autograd.backward(values, shards)
        pin("C16", dict(leaf_grads=[i * i + 2 * i * start for i in range(10)]), l=start, leaf_grads=[v.grad[0, 0].item() for v in leaves])
    note("C16", "10 leaves (5, 5) filled with l; v_i = i l_i + l_i^2; loss = sum_i i sum(v_i); gradients of loss with respect to "
         "v_i two at a time (the graph retained); then backward from all v_i with those as cotangents")
    x, y = leaf([3.0]), leaf([1.0])
    gx, gy = grad(x * 2, [x, y], allow_unused=True)
    pin("C17", dict(dx=2), dx=gx, dy=gy)
    raises("C17", lambda: grad(x * 2, [x, y]), "allow_unused")
    x = fill((5, 5)).requires_grad_()
    y = x + 2
    y.backward(ONES(5, 5), retain_graph=True)
    first, kept = x.grad, x.grad.clone()
    y.backward(ONES(5, 5))
    pin("C18", dict(once=1, twice=2), once=kept[0, 0], twice=x.grad[0, 0], same_buffer=first is x.grad)
    note("C18", "with create_graph the second gradient goes to a new buffer and the first keeps 1")
    x, y = fill((2, 2)).requires_grad_(), fill((2, 2), 1).requires_grad_()
    gx, gy = grad((x**2 + y * x + y**2).sum(), [x, y], create_graph=True)
    hx, hy = grad((2 * gx + gy).sum(), [x, y])
    pin("C19", dict(dx=5, dy=4), dx=hx, dy=hy)
    h = torch.tensor([[1.0, 2], [3, 4]])
    pin("C20", dict(hessian=h + h.T), H=h, x=[0.5, -1.0],
        hessian=torch.autograd.functional.hessian(lambda x: x @ h @ x, torch.tensor([0.5, -1.0])))
    pin("C21", dict(jacobian=[[4, 1, 1], [1, 13, 1], [1, 1, 28]]), x=[1.0, 2.0, 3.0],
        jacobian=torch.autograd.functional.jacobian(lambda x: x**3 + x.sum(), torch.tensor([1.0, 2, 3])))
    hessian = torch.autograd.functional.hessian(lambda x: 3 * x[:3].exp().sum(), torch.tensor([.1, .2, .3, .4]))
    pin("C22", dict(diagonal=[3.315512754226943, 3.66420827448051, 4.049576422728009, 0]), x=[.1, .2, .3, .4],
        diagonal=hessian.diag(), off_diagonal=(hessian - hessian.diag().diag()).abs().max())

    def outer(x):
        return torch.sin(torch.outer(x, x)) + torch.cos(x @ x)

    def jacobian(f):
        return lambda x: torch.autograd.functional.jacobian(f, x, create_graph=True)
    x = leaf(0.3, -0.7)
    j, jj = jacobian(outer)(x), jacobian(jacobian(outer))(x)
    assert j.shape == (2, 2, 2) and jj.shape == (2, 2, 2, 2)
    pin("C23", x=x, f=outer(x), jacobian=j, second=jj, grad_sum_sin_jacobian=grad(torch.sin(j).sum(), x),
        grad_sum_sin_second=grad(torch.sin(jj).sum(), x))
    note("C23", "f(x) = sin(outer(x, x)) + cos(x . x), the scalar added to each entry; jacobian[i][j][k] = d f[i][j] / d x[k]")


def hooks_and_memory():
    x = leaf([[.1, .2, .3]])
    h = x * 3
    h.retain_grad()
    h.retain_grad()
    out = (h * h).sum()
    out.backward(retain_graph=True)
    once = h.grad.clone()
    out.backward(retain_graph=True)
    twice = h.grad.clone()
    x.grad = None
    out.backward()
    pin("C24", dict(once=2 * h, twice=4 * h, leaf=18 * x), x=x, once=once, twice=twice, leaf=x.grad)
    x, y = ONES(5, 5).requires_grad_(), torch.full((5, 5), 4.0).requires_grad_()
    calls, seen = [0], []

    def hook(n):
        def count(g):
            calls[0] += n
        return count
    z = x**2 + x * 2 + x * y + y
    one = z.register_hook(hook(1))
    z.backward(ONES(5, 5), retain_graph=True)
    seen.append(calls[0])
    two = z.register_hook(hook(2))
    z.backward(ONES(5, 5), retain_graph=True)
    seen.append(calls[0])
    two.remove()
    z.backward(ONES(5, 5), retain_graph=True)
    seen.append(calls[0])
    one.remove()
    z.register_hook(lambda g: g * 2)
    y.grad = None
    z.backward(ONES(5, 5), retain_graph=True)
    scaled2 = y.grad[0, 0].item()
    y.register_hook(lambda g: g * 2)
    y.grad = None
    z.backward(ONES(5, 5))
    pin("C25", dict(calls=[1, 4, 5], dy_hook_on_z=4, dy_hook_on_z_and_y=8), calls=seen, dy_hook_on_z=scaled2,
        dy_hook_on_z_and_y=y.grad[0, 0])
    note("C25", "x ones, y fours (5, 5), z = x^2 + 2x + xy + y, cotangent ones. Hook on z adds 1 per call: total 1; a second hook adds "
         "2: total 4; second removed: total 5; then a hook doubling z's gradient: dy = 2(x + 1) = 4; and one doubling y's: 8")
    x = fill((10, 10)).requires_grad_()
    g = grad((x.chunk(5)[2] * 4 + 2).sum(), x)
    pin("C26", dict(rows4_6=4, rest=0), rows4_6=g[4:6].unique(), rest=torch.cat([g[:4], g[6:]]).unique())
    x = fill((5,)).requires_grad_()
    pin("C26", dict(unbind2=[0, 0, 1, 0, 0]), unbind2=grad(x.unbind()[2], x))
    x = leaf(1.0, 2.0, 3.0)
    y = (x * x).sum()
    y.backward()
    raises("C27", y.backward, "retain_graph=True")
    x.grad = None
    y = x + 1
    y.backward(ONES(3))
    y.backward(ONES(3))
    z = (x * x).sum()
    z.backward(retain_graph=True)
    z.backward()
    pin("C27", dict(nothing_saved_twice_then_retained_twice=[6, 10, 14]), x=x, nothing_saved_twice_then_retained_twice=x.grad)
    note("C28", "inside no_grad results do not require a gradient and have no node; nested blocks restore the outer mode, also when "
         "an exception leaves them; backward of such a result is an error")
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    z = (x * y).sum()
    with torch.no_grad():
        x *= 2
    raises("C29", z.backward, "modified by an inplace operation")
    x, y = ONES(5, 5).requires_grad_(), torch.full((5, 5), 4.0).requires_grad_()
    z = x * y
    q, w = z + y, z * y
    z.add_(2)
    q.backward(ONES(5, 5), retain_graph=True)
    pin("C30", dict(dx=4, dy=2), dx=x.grad[0, 0], dy=y.grad[0, 0])
    raises("C30", lambda: w.backward(ONES(5, 5)), "modified by an inplace operation")
    note("C30", "x ones, y fours; z = xy; q = z + y (saves nothing), w = z y (saves z); z is then written: q's backward gives dx = y = 4, "
         "dy = x + 1 = 2; w's must be refused. The version counter is the storage's, so a write through a view counts too")
    x = leaf(3.0)
    y = x + (2 * x).detach()
    pin("C31", dict(dx=1), y=y, dx=grad(y, x))
    orders = derivatives(lambda x: torch.sin(x) * torch.cos(x.detach()), 3.14, 2)
    pin("C32", dict(orders=[math.cos(3.14) ** 2, -math.sin(3.14) * math.cos(3.14)]), x=3.14, orders=orders)
    note("C32", "sin(x) cos(detach(x))")


def views_and_writes():
    for name, root, narrow in (("base_2x2", fill((2, 2)), False), ("view_of_view_2x2", fill((2, 2)), True),
                               ("non_contiguous_3x2", fill((2, 3)).T, True)):
        root = root.requires_grad_()
        x = root.clone()
        view = x.narrow(0, 0, 1)
        view = view.narrow(1, 1, 1) if narrow else view
        view.mul_(2)
        pin("C33", dict(dx=[2, 2, 1, 1] if not narrow else [1, 2] + [1] * (root.numel() - 2)), case=name, dx=grad(x.sum(), root))
    note("C33", "x = copy of root; the view x[0:1] (or x[0:1, 1:2]) is doubled in place; gradient of sum(x). Out of place: "
         "slice_scatter(x, 2 * slice) has the same gradient")
    x = fill((2, 3)).requires_grad_()
    raises("C34", lambda: x.add_(5), "leaf Variable")
    raises("C34", lambda: (x * 1).unbind()[0].mul_(2), "multiple views")
    for name, shape, index in (("row", (5, 5), 1), ("element", (1,), 0), ("list", (10,), [0, 4, 2]), ("pairs", (5, 5), ([0, 4], [2, 2]))):
        x = fill(shape).requires_grad_()
        y = x + 2
        y[index] = 2
        gx = grad(y.sum(), x)
        value = torch.full(x[index].shape, 7.0).requires_grad_()
        y = x + 2
        y[index] = value
        gx2, gv = grad(y.sum(), [x, value])
        assert torch.equal(gx, gx2)
        pin("C35", dict(dvalue=1), case=name, dx=gx, dvalue=gv)
    x = fill((4,)).requires_grad_()
    y = torch.zeros(2, 3, 4)
    y[1] = x
    pin("C35", case="broadcast_row", dx=grad(y, x, fill((2, 3, 4), 1)))
    note("C35", "y = x + 2 (or zeros (2, 3, 4)); y[index] = 2, or = a tensor of sevens; gradient of sum(y). broadcast_row: x = fill(4) "
         "written to y[1], cotangent fill((2, 3, 4), 1): dx = its rows of y[1] added")
    y, z = fill((5,)).requires_grad_(), fill((5,), 1).requires_grad_()
    x = fill((5, 5), 2)
    x[0] = y
    x[1] = 2 * z
    gy, gz = grad(x.sum(), [y, z])
    pin("C36", dict(dy=1, dz=2), dy=gy, dz=gz)
    x = leaf(1.0)
    y = x.clone()
    for _ in range(1000):
        y = y + y * 0.000001
    pin("C37", depth=1000, y=y, dx=grad(y, x))
    note("C37", "150,000 (ours 1,000,000) times y = y + y * 1e-6, released without a stack overflow")


class Broken(torch.autograd.Function):
    """x * 2 whose rule misbehaves as asked."""

    @staticmethod
    def forward(ctx, x, kind):
        ctx.kind = kind
        return x * 2

    @staticmethod
    def backward(ctx, g):
        if ctx.kind == "raise":
            raise RuntimeError("Simulate error on backward pass")
        return (g * math.nan if ctx.kind == "nan" else torch.ones(10)), None


def errors_and_rest():
    x = ONES(5, 5).requires_grad_()

    def anomaly():
        with torch.autograd.detect_anomaly(check_nan=True):
            Broken.apply(x, "nan").sum().backward()
    raises("C38", anomaly, "returned nan values in its 0th output")
    raises("C39", lambda: Broken.apply(x, "raise").sum().backward(), "Simulate error on backward pass")
    raises("C39", lambda: Broken.apply(x, "shape").sum().backward(), "expected shape")
    note("C40", "x > 0, argmax(x), cast to int64 and floor_divide results do not require a gradient; an int64 tensor cannot require one; "
         "where(x > 0, x, 0) has gradient 0 with respect to the comparison")
    note("C41", "a rule declared first-order only: the second derivative raises by grad(grad), hessian and hvp alike")

    def layer(x):
        return torch.sin(x)
    x = fill((8,)).requires_grad_()
    y, z = x, x
    for _ in range(50):
        y, z = layer(y), checkpoint(layer, z, use_reentrant=False)
    gy, gz = grad(y.sum(), x), grad(z.sum(), x)
    assert torch.equal(gy, gz)
    pin("C42", x=x, y=y, dx=gy)
    note("C42", "50 sin layers, plain and checkpointed in blocks: gradients equal bit for bit, dropout masks replayed, peak bytes < half")
    note("C43", "gradcheck must reject: first order times 2.001; right first order with second order times 1.001; a rule that adds 1e-6 noise")
    note("C44", "live bytes and live nodes return to the baseline when a saved output, or a value whose gradient is retained, is dropped")
    x = ONES(5, 5).requires_grad_()
    for _ in range(10):
        ((x + 3) * (x + 4) * 0.5).sum().backward()
    pin("C45", dict(dx=45), dx=x.grad[0, 0])
    note("C45", "x ones (5, 5) shared by 10 threads, each running backward of sum((x + 3)(x + 4) / 2): gradient 10 (x + 3.5) = 45; a private x: 4.5")
    a, b, c = fill((3, 2)), fill((3, 2), 1), 1.5
    pin("C46", inner=(a * b).sum(), inner_scaled=(c * a * b).sum(), flat_size=20, flat_weigh=weigh(torch.cat([a.flatten(), b.flatten()])))
    note("C46", "tree (1.0, (2,3), [(1,4), {x: 2.0, y: (4,2)}]) flattens to 20 numbers in that order, unflatten gives it back; the same with "
         "an empty branch; x + (y + z) = (x + y) + z, a(x + y) = ax + ay, <ax, y> = a<x, y>, <x, y> = <y, x>, <e_i, e_j> = (i == j)")
    note("C47", "gradient of sum_i x[i] picked one by one for 200 N elements: time(10 N) / time(N) in 5..20, gradient all ones")


def run():
    expressions()
    roots_and_leaves()
    hooks_and_memory()
    views_and_writes()
    errors_and_rest()
