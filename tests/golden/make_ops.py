#!/usr/bin/env python3
"""Write ops.safetensors: float64 cases of every op with PyTorch's values and vector-Jacobian products.

Per case: <op>.<case>.in0.., .out (or .out0..), .cot (or .cot0..; one for each floating output) and .grad<i>, the product
for each floating input i.  The parameters are JSON in the metadata under the key <op>.<case>.
"""
import pathlib

import torch

import ops_arithmetic  # noqa: F401  importing adds the cases
import ops_structural  # noqa: F401
from golden_file import write
from op_cases import META, TENSORS

if __name__ == "__main__":
    path = pathlib.Path(__file__).parent / "ops.safetensors"
    write(path, TENSORS, META | {"torch": torch.__version__})
    ops = {key.split(".")[0] for key in META}
    print(len(ops), "ops,", len(META), "cases,", len(TENSORS), "tensors,", path.stat().st_size, "bytes")
