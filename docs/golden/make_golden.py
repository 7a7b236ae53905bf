"""Writes the golden numbers of crates/cpu/tests/golden with PyTorch and transformers.

    python docs/golden/make_golden.py              # writes the golden files
    python docs/golden/make_golden.py check DIR    # prints how DIR's logits compare with `logits.json` in it

Weights and tokens are made from a counter by an integer hash, so that no weights need to be stored: the
tests make the same ones.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates" / "cpu" / "tests" / "golden"
BATCHES = 4


def hashed(seed: int, count: int) -> np.ndarray:
    """MurmurHash3's finaliser over a counter."""
    x = (np.arange(count, dtype=np.uint64) + seed * 0x9E3779B9) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> shift
        x = (x * factor) & 0xFFFFFFFF
    return (x ^ (x >> 16)).astype(np.uint32)


def flat_weights(seed: int, count: int) -> np.ndarray:
    """Uniform in [-1/4, 1/4), exact in f32."""
    return ((hashed(seed, count) >> 8).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)) / np.float32(2)


def load_weights(model: LlamaForCausalLM, seed: int) -> None:
    """Fills the parameters, sorted by name, from one flat vector; norms are shifted to lie around 1."""
    named = dict(sorted(model.named_parameters()))
    flat = flat_weights(seed, sum(p.numel() for p in named.values()))
    offset = 0
    with torch.no_grad():
        for parameter in named.values():
            values = flat[offset : offset + parameter.numel()]
            values = values + np.float32(1) if parameter.dim() == 1 else values
            parameter.copy_(torch.from_numpy(values).reshape(parameter.shape))
            offset += parameter.numel()


def golden(name: str, model: dict, batch: int, context: int, steps: int, adamw: dict) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    theta = model["rope_theta"]
    config = LlamaConfig(
        **{k: v for k, v in model.items() if k != "rope_theta"},
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        attn_implementation="eager",
    )
    net = LlamaForCausalLM(config)
    load_weights(net, 1)
    rows = hashed(2, BATCHES * batch * (context + 1)) % model["vocab_size"]
    tokens = torch.from_numpy(rows.astype(np.int64)).reshape(BATCHES, batch, context + 1)

    def loss_of(index: int) -> torch.Tensor:
        rows = tokens[index % BATCHES]
        logits = net(rows[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    def last_logits() -> list:
        with torch.no_grad():
            return net(tokens[0, :1, :-1]).logits[0, -1].tolist()

    matrices = [p for p in net.parameters() if p.dim() == 2]
    vectors = [p for p in net.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": adamw["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}],
        lr=adamw["lr"],
        betas=(adamw["beta1"], adamw["beta2"]),
        eps=adamw["eps"],
    )
    logits_before, losses, norms = last_logits(), [], []
    first_gradient = {}
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(step)
        loss.backward()
        if step == 0:
            first_gradient = {n: p.grad.norm().item() for n, p in sorted(net.named_parameters())}
        norms.append(torch.nn.utils.clip_grad_norm_(net.parameters(), adamw["grad_clip"]).item())
        optimizer.step()
        losses.append(loss.item())
    print(f"{name}: loss {losses[0]:.4f} to {losses[-1]:.4f}, gradient norms {max(norms):.3f} to {min(norms):.3f}")
    text = json.dumps(
        {
            "model": model,
            "batch": batch,
            "context": context,
            "adamw": adamw,
            "logits_before": logits_before,
            "first_gradient_norms": first_gradient,
            "losses": losses,
            "logits_after": last_logits(),
        },
        indent=1,
    )
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(text + "\n")


def check(folder: str) -> None:
    """Compares a folder that `shoal train --out` wrote with logits that the CPU engine printed."""
    path = pathlib.Path(folder)
    net, report = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    expected = json.loads((path / "logits.json").read_text())
    with torch.no_grad():
        got = net(torch.tensor([expected["tokens"]])).logits[0, -1]
    want = torch.tensor(expected["logits"])
    print({k: v for k, v in report.items() if v}, f"largest difference {(got - want).abs().max().item():.2e}",
          f"of logits up to {want.abs().max().item():.3f}")


BASE = {
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
ADAMW = {"lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "grad_clip": 1.0}

if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(sys.argv[2])
    else:
        untied = BASE | {"num_key_value_heads": 2, "rope_theta": 10000.0, "tie_word_embeddings": False}
        tied = BASE | {"num_key_value_heads": 4, "rope_theta": 500.0, "tie_word_embeddings": True}
        golden("grouped_untied", untied, 3, 17, 50, ADAMW)
        golden("tied", tied, 2, 24, 50, ADAMW)
