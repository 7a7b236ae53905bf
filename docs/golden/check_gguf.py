"""Compares DIR/model.gguf, as the `gguf` package reads it, with DIR/model.safetensors: `check_gguf.py DIR`."""

import json
import pathlib
import sys

import numpy as np
from gguf import GGUFReader
from gguf.tensor_mapping import get_tensor_name_map
from gguf import MODEL_ARCH
from safetensors.numpy import load_file

folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())
weights = load_file(folder / "model.safetensors")
reader = GGUFReader(folder / "model.gguf")
names = get_tensor_name_map(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
found = {tensor.name: tensor.data for tensor in reader.tensors}
largest = 0.0
for name, expected in weights.items():
    got = found.pop(names.get_name(name, try_suffixes=(".weight",)))
    kind = name.split(".")[-2]
    if kind in heads:
        # What convert_hf_to_gguf.py of llama.cpp does to these rows.
        rows, columns = expected.shape
        expected = expected.reshape(heads[kind], 2, rows // heads[kind] // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    assert got.shape == expected.shape, name
    largest = max(largest, float(np.abs(got.astype(np.float32) - expected).max()))
print(f"{len(weights)} tensors, largest difference {largest:.1e}; beside them {sorted(found)}")
print({key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.ggml.to")})
