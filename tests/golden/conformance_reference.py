#!/usr/bin/env python3
"""Recompute the external conformance cases in PyTorch (float64) and print one line per pinned result.

A line is `C01 y -20 dx 46`: the case, then name and value pairs; vectors and matrices are printed row by row in brackets.
`pin` refuses a number that differs from the one the case is known by.  A line starting with `#` says what to check where
there is no number.  Where a case leaves its inputs open, fill(n, k) names them: element i is ((7 i + 3 k + 3) mod 11 - 5) / 4.
"""
import math
import sys
import warnings

import torch

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
warnings.simplefilter("ignore")


def leaf(*values):
    """A tensor that requires a gradient: leaf(1, 2), leaf([[1, 2], [3, 4]]) or leaf(1.5)."""
    data = values[0] if len(values) == 1 else list(values)
    return torch.tensor(data, dtype=torch.float64).requires_grad_(True)


def fill(shape, k=0):
    n = math.prod(shape)
    return (((7 * torch.arange(n) + 3 * k + 3) % 11 - 5) / 4).reshape(shape)


def weigh(t):
    """sum t[i] * (1 + i mod 5) over the elements in row-major order: one number that pins a whole tensor."""
    t = t.detach().reshape(-1)
    return (t * (1 + torch.arange(t.numel()) % 5)).sum()


def grad(y, x, cotangent=None, **options):
    one = not isinstance(x, (list, tuple))
    out = torch.autograd.grad(y, [x] if one else x, cotangent, retain_graph=True, **options)
    return out[0] if one else out


def derivatives(f, x, order):
    x = leaf(x)
    y, out = f(x), []
    for _ in range(order):
        y = grad(y, x, create_graph=True)
        out.append(y.item())
    return out


def int_or_none(value):
    return int(value) if math.isfinite(value) and abs(value) < 1e15 else None


def text(value):
    if isinstance(value, str):
        return value
    if isinstance(value, torch.Tensor):
        value = value.detach().tolist()
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(text(v) for v in value) + "]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.0f}" if value == int_or_none(value) else repr(float(value))


def pin(case, expected=None, /, **pairs):
    """Print the pairs; `expected` maps some names to the known numbers (to 1e-12 relative; NaN equals NaN)."""
    print(case, *(f"{name} {text(value)}" for name, value in pairs.items()))
    for name, known in (expected or {}).items():
        got = pairs[name]
        if isinstance(got, (list, tuple)):
            got = [v.item() if isinstance(v, torch.Tensor) and v.numel() == 1 else v for v in got]
        got = torch.as_tensor(got).detach().double().reshape(-1)
        want = torch.as_tensor(known).double().reshape(-1)
        torch.testing.assert_close(got, want.expand_as(got), rtol=1e-12, atol=1e-14, equal_nan=True,
                                   msg=f"{case} {name}: {got} {want}")


def note(case, words):
    print(f"# {case} {words}")


def raises(case, fn, words):
    """The peer refuses this; ours must too, with its own typed error."""
    try:
        fn()
    except RuntimeError as error:
        assert words in str(error), error
        note(case, f"raises: {' '.join(str(error).split())[:110]}")
        return
    raise AssertionError(f"{case}: no error")


if __name__ == "__main__":
    import conformance_engine
    import conformance_values
    conformance_engine.run()
    conformance_values.run()
    sys.stdout.flush()
