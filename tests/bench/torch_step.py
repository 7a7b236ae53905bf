"""PyTorch's training step, eager, fp32 with TF32 off: the peer of `cargo xtask bench train` for native engines.

Takes one JSON object as its argument, as the example `train_bench` of shoal-gpu does, and prints one as its last line.
"""

import json
import math
import os
import struct
import sys
import time

import torch
from torch.nn import functional as F

TYPES = {"F32": torch.float32, "I32": torch.int32}


def read_safetensors(path):
    with open(path, "rb") as file:
        data = bytearray(file.read())
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            part = torch.frombuffer(data, dtype=TYPES[entry["dtype"]], offset=8 + length + start, count=(end - start) // 4)
            tensors[name] = part.reshape(entry["shape"]).clone()
    return tensors


def settle(device):
    if device == "cuda":
        torch.cuda.synchronize()


class Decoder:
    """A Llama decoder over tensors by Hugging Face's names."""

    def __init__(self, config, weights, context, device):
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.key_heads, self.hidden = config["num_key_value_heads"], config["hidden_size"]
        self.width, self.eps = self.hidden // self.heads, config["rms_norm_eps"]
        self.weights = {name: weight.to(device).requires_grad_() for name, weight in weights.items()}
        half = torch.arange(self.width // 2, dtype=torch.float64) * 2 / self.width
        angles = torch.outer(torch.arange(context, dtype=torch.float64), config["rope_theta"] ** -half)
        self.cos, self.sin = (turn.float().repeat(1, 2).to(device) for turn in (angles.cos(), angles.sin()))

    def turn(self, x):
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin

    def split(self, x, heads):
        return x.view(x.shape[0], x.shape[1], heads, self.width).transpose(1, 2)

    def loss(self, inputs, targets):
        weights = self.weights
        x = F.embedding(inputs, weights["model.embed_tokens.weight"])
        for layer in range(self.layers):
            at = lambda part: weights[f"model.layers.{layer}.{part}.weight"]
            normed = F.rms_norm(x, (self.hidden,), at("input_layernorm"), self.eps)
            query = self.turn(self.split(F.linear(normed, at("self_attn.q_proj")), self.heads))
            key = self.turn(self.split(F.linear(normed, at("self_attn.k_proj")), self.key_heads))
            value = self.split(F.linear(normed, at("self_attn.v_proj")), self.key_heads)
            grouped = {"enable_gqa": True} if self.heads != self.key_heads else {}
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, **grouped)
            x = x + F.linear(mixed.transpose(1, 2).flatten(2), at("self_attn.o_proj"))
            normed = F.rms_norm(x, (self.hidden,), at("post_attention_layernorm"), self.eps)
            gate = F.silu(F.linear(normed, at("mlp.gate_proj")))
            x = x + F.linear(gate * F.linear(normed, at("mlp.up_proj")), at("mlp.down_proj"))
        x = F.rms_norm(x, (self.hidden,), weights["model.norm.weight"], self.eps)
        logits = F.linear(x, weights.get("lm_head.weight", weights["model.embed_tokens.weight"]))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def train(order):
    device, folder = order["engine"], order["folder"]
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    with open(os.path.join(folder, "recipe.json")) as file:
        recipe = json.load(file)["optimizer"]
    weights = read_safetensors(os.path.join(folder, "weights.safetensors"))
    batches = read_safetensors(os.path.join(folder, "batches.safetensors"))["tokens"].long()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    decoder = Decoder(config, weights, batches.shape[2] - 1, device)
    matrices = [weight for weight in decoder.weights.values() if weight.ndim == 2]
    vectors = [weight for weight in decoder.weights.values() if weight.ndim != 2]
    groups = [
        {"params": matrices, "weight_decay": recipe["weightDecay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (recipe["beta1"], recipe["beta2"])
    # The fused form is the fastest, on processors too.
    optimizer = torch.optim.AdamW(groups, lr=recipe["lr"], betas=betas, eps=recipe["eps"], fused=True)

    def step(number):
        tokens = batches[number % len(batches)].to(device)
        optimizer.zero_grad(set_to_none=True)
        loss = decoder.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()
        return loss.detach()

    first_step_ms, warmup_losses = 0.0, []
    for number in range(order["warmup"]):
        warmup_losses.append(step(number).item())
        if number == 0:
            first_step_ms = (time.perf_counter() - started) * 1e3
    settle(device)
    losses = []
    counted = time.perf_counter()
    for number in range(1, order["steps"] + 1):
        loss = step(order["warmup"] + number - 1)
        read = number % order["syncEvery"] == 0 or number == order["steps"]
        losses.append(loss.item() if read else None)
    settle(device)
    ms = (time.perf_counter() - counted) * 1e3 / order["steps"]
    counts = {"peak_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {}
    extra = {"engine": f"PyTorch {torch.__version__}", "firstStepMs": first_step_ms, "warmupLosses": warmup_losses}
    return {"msPerStep": ms, "losses": losses, "extra": extra, "counts": counts}


def gemm(order):
    """GFLOP/s of a plain product."""
    rates, device = [], order["engine"]
    for size in order["sizes"]:
        a, b = (torch.randn(size, size, device=device) for _ in range(2))

        def run(times):
            started = time.perf_counter()
            for _ in range(times):
                a @ b
            settle(device)
            return (time.perf_counter() - started) * 1e3

        run(3)
        times = max(3, math.ceil(order["ms"] / max(run(3) / 3, 1e-3)))
        rates.append({"size": size, "gflops": 2 * size**3 * times / run(times) / 1e6})
    return {"rates": rates}


def main():
    order = json.loads(sys.argv[1])
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if order["task"] == "devices":
        answer = {"devices": ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]}
    else:
        answer = {"train": train, "gemm": gemm}[order["task"]](order)
    print(json.dumps(answer))


main()
