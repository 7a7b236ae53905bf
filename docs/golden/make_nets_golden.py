"""Writes crates/cpu/tests/golden/nets.json with PyTorch: losses and outputs of networks for images and tables.

    python docs/golden/make_nets_golden.py

Weights, features and targets are made from a counter by an integer hash: the tests make the same ones.
"""

import json
import pathlib

import numpy as np
import torch
from torch import nn

from make_golden import OUT, hashed

BATCHES = 3
ADAMW = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "grad_clip": 1.0}


def uniform(seed: int, count: int) -> np.ndarray:
    """In [-1/2, 1/2), exact in f32."""
    return (hashed(seed, count) >> 8).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)


def conv(channels: int, outputs: int, kernel: int, stride: int, padding: int) -> tuple:
    definition = {"outputs": outputs, "kernel": kernel, "stride": stride, "padding": padding}
    return {"conv2d": definition}, nn.Conv2d(channels, outputs, kernel, stride, padding)


def linear(inputs: int, outputs: int) -> tuple:
    return {"linear": {"outputs": outputs}}, nn.Linear(inputs, outputs)


def norm(groups: int, channels: int) -> tuple:
    return {"group_norm": {"groups": groups, "eps": 1e-5}}, nn.GroupNorm(groups, channels)


RELU = ({"activation": "relu"}, nn.ReLU())
SILU = ({"activation": "silu"}, nn.SiLU())
GELU = ({"activation": "gelu"}, nn.GELU(approximate="tanh"))
TANH = ({"activation": "tanh"}, nn.Tanh())
FLATTEN = ("flatten", nn.Flatten())


def max_pool(size: int, stride: int) -> tuple:
    return {"max_pool2d": {"size": size, "stride": stride}}, nn.MaxPool2d(size, stride)


def avg_pool(size: int, stride: int) -> tuple:
    return {"avg_pool2d": {"size": size, "stride": stride}}, nn.AvgPool2d(size, stride)


LOSSES = {
    "cross_entropy": nn.functional.cross_entropy,
    "binary": nn.functional.binary_cross_entropy_with_logits,
    "mean_squared": nn.functional.mse_loss,
}


def load_weights(net: nn.Sequential) -> None:
    """Fills the parameters, sorted by name; vectors named `weight` are scales and lie around 1."""
    named = dict(sorted(net.named_parameters()))
    flat = uniform(1, sum(p.numel() for p in named.values()))
    offset = 0
    with torch.no_grad():
        for name, parameter in named.items():
            values = flat[offset : offset + parameter.numel()]
            if parameter.dim() == 1 and name.endswith("weight"):
                values = values + np.float32(1)
            parameter.copy_(torch.from_numpy(values).reshape(parameter.shape))
            offset += parameter.numel()


def golden(name: str, shape: dict, layers: list, loss: str, outputs: int, batch: int, steps: int) -> dict:
    net = nn.Sequential(*[layer for _, layer in layers])
    load_weights(net)
    axes = [shape["flat"]] if "flat" in shape else [shape["image"][side] for side in ("channels", "height", "width")]
    features = uniform(2, BATCHES * batch * int(np.prod(axes))).reshape(BATCHES, batch, *axes) * np.float32(4)
    features = torch.from_numpy(features)
    if loss == "cross_entropy":
        targets = torch.from_numpy((hashed(3, BATCHES * batch) % outputs).astype(np.int64)).reshape(BATCHES, batch)
    elif loss == "binary":
        targets = torch.from_numpy((hashed(3, BATCHES * batch * outputs) % 2).astype(np.float32))
        targets = targets.reshape(BATCHES, batch, outputs)
    else:
        targets = torch.from_numpy(uniform(3, BATCHES * batch * outputs)).reshape(BATCHES, batch, outputs)
    matrices = [p for p in net.parameters() if p.dim() >= 2]
    vectors = [p for p in net.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": ADAMW["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    betas = (ADAMW["beta1"], ADAMW["beta2"])
    optimizer = torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=betas, eps=ADAMW["eps"])
    with torch.no_grad():
        before = net(features[0]).flatten().tolist()
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        value = LOSSES[loss](net(features[step % BATCHES]), targets[step % BATCHES])
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), ADAMW["grad_clip"])
        optimizer.step()
        losses.append(value.item())
    print(f"{name}: loss {losses[0]:.4f} to {losses[-1]:.4f}")
    definition = {"input": shape, "layers": [layer for layer, _ in layers], "loss": loss}
    return {"name": name, "net": definition, "batch": batch, "adamw": ADAMW, "outputs": before, "losses": losses}


def main() -> None:
    image = {"image": {"channels": 2, "height": 9, "width": 8}}
    small = [conv(2, 6, 3, 1, 1), norm(3, 6), RELU, max_pool(2, 2), conv(6, 8, 3, 2, 1), GELU, avg_pool(2, 1), FLATTEN]
    goldens = [
        golden("images", image, [*small, linear(8, 7), TANH, linear(7, 5)], "cross_entropy", 5, 6, 50),
        golden("binary", {"flat": 7}, [linear(7, 9), SILU, norm(3, 9), linear(9, 1)], "binary", 1, 8, 50),
        golden("numbers", {"flat": 5}, [linear(5, 12), GELU, linear(12, 2)], "mean_squared", 2, 10, 50),
    ]
    (OUT / "nets.json").write_text(json.dumps(goldens) + "\n")


if __name__ == "__main__":
    main()
