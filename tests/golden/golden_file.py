"""Write safetensors whose bytes depend on their contents only."""
import json
import pathlib
import struct

import safetensors.torch


def write(path, tensors, metadata):
    """The package writes metadata in a random order; sort it, so that remaking a file changes no byte."""
    data = safetensors.torch.save(tensors, metadata)
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])
    assert safetensors.torch.load_file(path).keys() == tensors.keys()
