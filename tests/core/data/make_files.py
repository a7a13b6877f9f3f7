"""Writes the files of this folder with NumPy and the safetensors package, for reading by the tests.

Made with numpy 2.4.6, safetensors 0.8.0, torch 2.13.0. Run: python3 make_files.py
"""
import io
import zipfile

import numpy as np
import torch
from safetensors.torch import save_file

x = np.arange(24).reshape(2, 3, 4)
np.save("numpy_f4.npy", (x / 8 - 1).astype("<f4"))
np.save("numpy_f8_fortran.npy", np.asfortranarray(x / 8 - 1))
np.save("numpy_i8.npy", x - 5)
np.save("numpy_i4_fortran.npy", np.asfortranarray((x - 5).astype("<i4")))
np.save("numpy_u1.npy", (x * 10).astype("u1"))
np.save("numpy_b1.npy", x % 3 == 0)
np.save("numpy_scalar.npy", np.float64(2.5))
np.save("numpy_empty.npy", np.zeros((0, 3), "<f4"))
for version in (2, 3):
    with open(f"numpy_version{version}.npy", "wb") as f:
        np.lib.format.write_array(f, (x / 8 - 1).astype("<f4"), version=(version, 0))
np.save("refused_big_endian.npy", x.astype(">f4"))
np.save("refused_f2.npy", x.astype("<f2"))
np.save("refused_structure.npy", np.zeros(2, [("a", "<f4"), ("b", "<i8")]))
np.save("refused_text.npy", np.array(["ab", "c"]))

save_file(
    {
        "layer.0.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4,
        "double": torch.tensor([1.5, -2.25], dtype=torch.float64),
        "half": torch.tensor([1.0, -0.5, 3.0], dtype=torch.bfloat16),
        "count": torch.tensor(-7, dtype=torch.int64),
        "mask": torch.tensor([True, False, True]),
        "none": torch.zeros(0, 4),
        "größe 😀": torch.tensor([2.0]),
    },
    "python.safetensors",
    metadata={"format": "pt", "note": 'a "quoted" line\nand another'},
)
save_file({"x": torch.zeros(2, dtype=torch.float16)}, "refused_f16.safetensors")

with zipfile.ZipFile("arrays.npz", "w") as archive:
    for name, array, method in [
        ("stored", np.arange(6, dtype="<f4").reshape(2, 3), zipfile.ZIP_STORED),
        ("deflated", np.arange(1000) // 10, zipfile.ZIP_DEFLATED),
        ("empty", np.zeros((0, 4)), zipfile.ZIP_DEFLATED),
    ]:
        member = io.BytesIO()
        np.save(member, array)
        archive.writestr(zipfile.ZipInfo(f"{name}.npy", (2024, 1, 1, 0, 0, 0)), member.getvalue(), method)
    archive.comment = b"a comment"
