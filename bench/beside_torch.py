#!/usr/bin/env python3
"""Time kernels of the benchmark programs beside PyTorch's on the CPU, in turn.

    python3 bench/beside_torch.py --programs build/release/bin --rounds 5 --json docs/performance/MACHINE/kernels-1-thread.json

In each round every kernel is timed by its program, which checks it first, and then in PyTorch, as often and as long, into memory
that is there already where PyTorch takes an `out`. A kernel's figure is the median over the rounds of PyTorch's median time over ours
in the same round.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

from arguments import number


def memory_kernels(rows, columns):
    x, y, out = (torch.randn(rows, columns) for _ in range(3))
    row, side = torch.randn(1, columns), torch.randn(columns, rows)
    weight, bias = torch.randn(columns), torch.randn(columns)
    chosen = torch.randint(rows, (rows,))
    places = torch.randint(columns, (rows, columns))
    positions, factors = torch.empty(rows, columns, dtype=torch.int64), 1 + 0.01 * x
    soft = torch.softmax(x, 1)
    _, mean, scale = torch.native_layer_norm(x, (columns,), weight, bias, 1e-5)
    of_rows, of_columns, of_all = torch.empty(rows, 1), torch.empty(1, columns), torch.empty(1, 1)
    parameters = [torch.randn(rows * columns // 4, requires_grad=True) for _ in range(4)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    adam = torch.optim.Adam(parameters, fused=True)
    pieces = [torch.randn(n, requires_grad=True) for n in [rows * columns // 96] * 96 + [rows * columns % 96] if n > 0]
    for p in pieces:
        p.grad = torch.randn_like(p)
    adamw, fused_adamw = torch.optim.AdamW(pieces), torch.optim.AdamW(pieces, fused=True)

    def clipped(optimizer):
        torch.nn.utils.clip_grad_norm_(pieces, 1)
        optimizer.step()

    aten = torch.ops.aten
    return {
        "copy": lambda: out.copy_(x),
        "copy transposed": lambda: out.copy_(side.t()),
        "exp": lambda: torch.exp(x, out=out),
        "tanh": lambda: torch.tanh(x, out=out),
        "silu": lambda: aten.silu.out(x, out=out),
        "gelu": lambda: aten.gelu.out(x, out=out),
        "silu gradient": lambda: aten.silu_backward.grad_input(y, x, grad_input=out),
        "add": lambda: torch.add(x, y, out=out),
        "add a row": lambda: torch.add(x, row, out=out),
        "sum of rows": lambda: torch.sum(x, 1, keepdim=True, out=of_rows),
        "sum of columns": lambda: torch.sum(x, 0, keepdim=True, out=of_columns),
        "sum of all": lambda: torch.sum(x, (0, 1), keepdim=True, out=of_all),
        "argmax of rows": lambda: torch.argmax(x, 1, keepdim=True),
        "argmax of columns": lambda: torch.argmax(x, 0, keepdim=True),
        "softmax": lambda: aten._softmax.out(x, 1, False, out=out),
        "softmax of columns": lambda: aten._softmax.out(x, 0, False, out=out),
        "softmax gradient": lambda: aten._softmax_backward_data.out(y, soft, 1, torch.float32, grad_input=out),
        "layer norm": lambda: torch.native_layer_norm(x, (columns,), weight, bias, 1e-5),
        "layer norm gradient": lambda: aten.native_layer_norm_backward(y, x, (columns,), mean, scale, weight, bias, [True] * 3),
        "cumsum of rows": lambda: torch.cumsum(x, 1, out=out),
        "cumsum of columns": lambda: torch.cumsum(x, 0, out=out),
        "cumprod of rows": lambda: torch.cumprod(factors, 1, out=out),
        "cummax of rows": lambda: torch.cummax(x, 1, out=(out, positions)),
        "cummax of columns": lambda: torch.cummax(x, 0, out=(out, positions)),
        "sort of rows": lambda: torch.sort(x, dim=1, stable=True, out=(out, positions)),
        "index_select": lambda: torch.index_select(x, 0, chosen, out=out),
        "index_add": lambda: out.index_add_(0, chosen, x),
        "gather": lambda: torch.gather(x, 1, places, out=out),
        "scatter_add": lambda: out.scatter_add_(1, places, x),
        "uniform": lambda: out.uniform_(),
        "normal": lambda: out.normal_(),
        "Adam step": adam.step,
        "clip + AdamW": lambda: clipped(adamw),
        "clip + AdamW beside fused": lambda: clipped(fused_adamw),
    }


def convolutions(images, height, channels, outputs, kernel, stride):
    x, w, b = torch.randn(images, channels, height, height), torch.randn(outputs, channels, kernel, kernel), torch.randn(outputs)
    g = torch.randn_like(F.conv2d(x, w, b, stride, kernel // 2))

    def gradient(*wanted):
        return torch.ops.aten.convolution_backward(g, x, w, [outputs], [stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], 1,
                                                   list(wanted))
    return {
        "conv2d": lambda: F.conv2d(x, w, b, stride, kernel // 2),
        "conv2d + relu": lambda: F.relu(F.conv2d(x, w, b, stride, kernel // 2)),
        "conv2d grad of x": lambda: gradient(True, False, False),
        "conv2d grad of w": lambda: gradient(False, True, True),
    }


def linears(rows, inputs, outputs):
    x, w, b, g = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs), torch.randn(rows, outputs)
    g64, w64 = g.double(), w.double()
    return {
        "linear grad of x": lambda: g @ w,
        "linear grad of w": lambda: g.t() @ x,
        "product of transposes": lambda: w.t() @ g.t(),
        "product, float64": lambda: g64 @ w64,
        "linear": lambda: F.linear(x, w, b),
        "linear + silu": lambda: F.silu(F.linear(x, w, b)),
    }


def recurrent(rows, steps, hidden):
    layer, x = torch.nn.LSTM(hidden, hidden), torch.randn(steps, rows, hidden)
    start = torch.randn(1, rows, hidden), torch.randn(1, rows, hidden)
    return {"lstm layer": lambda: layer(x, start)}


def batches(items, rows, columns, depth):
    a, b = torch.randn(items, rows, depth), torch.randn(items, depth, columns)
    return {"batched product": lambda: torch.bmm(a, b)}


def pooling(images, height, channels, kernel, stride):
    x = torch.randn(images, channels, height, height)
    shape = [kernel] * 2, [stride] * 2, [kernel // 2] * 2
    g = torch.randn_like(F.avg_pool2d(x, *shape))
    index = F.max_pool2d(x, *shape, return_indices=True)[1]
    return {
        "avg_pool2d": lambda: F.avg_pool2d(x, *shape),
        "avg_pool2d grad": lambda: torch.ops.aten.avg_pool2d_backward(g, x, *shape, False, True, None),
        "max_pool2d": lambda: F.max_pool2d(x, *shape, return_indices=True),
        "max_pool2d grad": lambda: torch.ops.aten.max_pool2d_with_indices_backward(g, x, *shape, [1, 1], False, index),
    }


def adaptive_pooling(images, height, channels, places):
    x, g = torch.randn(images, channels, height, height), torch.randn(images, channels, places, places)
    return {
        "adaptive_avg_pool2d": lambda: F.adaptive_avg_pool2d(x, places),
        "adaptive_avg_pool2d grad": lambda: torch.ops.aten._adaptive_avg_pool2d_backward(g, x),
    }


def factorisations(n):
    a, right = torch.randn(n, n), torch.randn(n, n)
    square, triangle = a @ a.T / n + torch.eye(n), a + n * torch.eye(n)
    return {
        "lu": lambda: torch.linalg.lu_factor(a),
        "cholesky": lambda: torch.linalg.cholesky(square),
        "triangular solve": lambda: torch.linalg.solve_triangular(triangle, right, upper=True),
    }


# Program, the sizes it is given (none: its own), and the peers by the number of sizes.
PROGRAMS = {"bench_memory": (["--sizes", "4096x256,128x128"], {2: memory_kernels}),
            "bench_network": ([], {6: convolutions, 5: pooling, 4: lambda *size: adaptive_pooling(*size) | batches(*size),
                                   3: lambda *size: linears(*size) | recurrent(*size)}),
            "bench_linalg": ([], {1: factorisations})}


def median_time(run, budget):
    """As the programs measure: samples of about 20 ms, at least 5, until the budget is spent."""
    for _ in range(2):
        run()
    start = time.perf_counter()
    run()
    repeats = max(1, round(0.02 / max(1e-7, time.perf_counter() - start)))
    samples, end = [], time.perf_counter() + budget
    while len(samples) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        samples.append((time.perf_counter() - start) / repeats)
    return statistics.median(samples)


def run(command, accepted=(0,), **streams):
    """The exit code of a benchmark program; another than those accepted ends this script."""
    try:
        code = subprocess.run(command, **streams).returncode
    except OSError as e:
        sys.exit(f"beside_torch.py: --programs: {command[0]}: {e.strerror}")
    if code not in accepted:
        sys.exit(f"beside_torch.py: {command[0]} failed with exit code {code}")
    return code


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="the folder of the benchmark programs")
    parser.add_argument("--threads", type=number(int, 1), default=1)
    parser.add_argument("--rounds", type=number(int, 1), default=5)
    parser.add_argument("--budget", type=number(float, 0), default=0.1, help="seconds for a kernel, a side and a round")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--json", type=pathlib.Path, required=True)
    a = parser.parse_args()
    if a.json.is_dir() or not a.json.parent.is_dir():
        parser.error(f"--json: {a.json}: a file in a folder that is there is accepted")
    torch.set_num_threads(a.threads)
    torch.set_grad_enabled(False)
    # A program without such kernels calls that a wrong command line, 2.
    chosen = {program: peers for program, peers in PROGRAMS.items()
              if run([a.programs / program, *peers[0], "--only", a.only, "--list"], accepted=(0, 2), stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL) == 0}
    if not chosen:
        parser.error(f"--only: no kernel's name contains {a.only}")
    cases = {}
    for turn in range(a.rounds):
        for program, (sizes, peers) in chosen.items():
            with tempfile.NamedTemporaryFile(suffix=".json") as file:
                run([a.programs / program, *sizes, "--threads", str(a.threads), "--rounds", "1", "--budget", str(a.budget),
                     "--only", a.only, "--json", file.name], stdout=subprocess.DEVNULL)
                rows = json.loads(pathlib.Path(file.name).read_text())["rows"]
            runs, made_for = {}, None
            for row in rows:
                size = [int(n) for n in row["size"].split("x")]
                if len(size) not in peers:
                    continue
                if made_for != size:
                    runs, made_for = peers[len(size)](*size), size
                for name, peer in runs.items():
                    if name.split(" beside ")[0] != row["kernel"]:
                        continue
                    case = cases.setdefault(f"{name}, {row['size']}", {"ours_s": [], "torch_s": []})
                    case["ours_s"].append(row["median_s"])
                    case["torch_s"].append(median_time(peer, a.budget))
        if not cases:
            parser.error(f"--only: no kernel with a peer has a name that contains {a.only}")
        print(f"round {turn + 1} of {a.rounds}", flush=True)
    for name, case in cases.items():
        case["ratio"] = statistics.median(t / o for t, o in zip(case["torch_s"], case["ours_s"]))
        print(f"{name:45} {min(case['ours_s']) * 1e3:9.4f} ms  PyTorch / ours {case['ratio']:.2f}")
    a.json.write_text(json.dumps({"peer": f"torch {torch.__version__}", "threads": a.threads, "rounds": a.rounds, "cases": cases}, indent=1)
                      + "\n")


if __name__ == "__main__":
    main()
