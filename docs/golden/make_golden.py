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


def orthogonal(gradient, coefficients, steps, eps):
    """Muon's Newton-Schulz steps in f32; torch's own are in bfloat16, too coarse to compare with."""
    a, b, c = coefficients
    x = gradient.T if gradient.size(0) > gradient.size(1) else gradient
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if gradient.size(0) > gradient.size(1) else x


def optimizers_of(net: LlamaForCausalLM, optimizer: dict) -> list:
    """torch's optimisers with the numbers of a manifest's `inner`."""
    (kind, numbers), = optimizer.items()
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    decays = lambda chosen, **more: [
        {"params": [p for _, p in chosen if p.dim() == 2], "weight_decay": numbers["weight_decay"], **more},
        {"params": [p for _, p in chosen if p.dim() != 2], "weight_decay": 0.0, **more},
    ]
    adamw = lambda chosen, lr: torch.optim.AdamW(
        decays(chosen), lr=lr, betas=(numbers["beta1"], numbers["beta2"]), eps=numbers["eps"]
    )
    if kind == "adamw":
        return [adamw(named, numbers["lr"])]
    if kind == "sgd":
        return [torch.optim.SGD(decays(named), numbers["lr"], numbers["momentum"], nesterov=numbers["nesterov"])]
    hidden = lambda name, p: p.dim() == 2 and not name.endswith(("embed_tokens.weight", "lm_head.weight"))
    torch.optim._muon._zeropower_via_newtonschulz = orthogonal
    muon = torch.optim.Muon(
        [p for name, p in named if hidden(name, p)],
        lr=numbers["lr"],
        weight_decay=numbers["weight_decay"],
        momentum=numbers["momentum"],
        nesterov=numbers["nesterov"],
        adjust_lr_fn=numbers["scale"],
    )
    return [muon, adamw([(name, p) for name, p in named if not hidden(name, p)], numbers["adamw_lr"])]


def adapted(net: LlamaForCausalLM, lora: dict):
    """The model under a PEFT adapter whose factors, sorted by name, come from one flat vector."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora["targets"], task_type="CAUSAL_LM")
    net = get_peft_model(net, config)
    named = sorted((name, p) for name, p in net.named_parameters() if p.requires_grad)
    flat, offset = flat_weights(3, sum(p.numel() for _, p in named)), 0
    with torch.no_grad():
        for _, parameter in named:
            parameter.copy_(torch.from_numpy(flat[offset : offset + parameter.numel()]).reshape(parameter.shape))
            offset += parameter.numel()
    return net


def golden(name: str, config: dict, batch: int, context: int, steps: int, optimizer: dict, lora=None) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    net = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager"))
    load_weights(net, 1)
    if lora:
        net = adapted(net, lora)
    rows = hashed(2, BATCHES * batch * (context + 1)) % config["vocab_size"]
    tokens = torch.from_numpy(rows.astype(np.int64)).reshape(BATCHES, batch, context + 1)

    def loss_of(index: int) -> torch.Tensor:
        rows = tokens[index % BATCHES]
        logits = net(rows[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    def last_logits() -> list:
        with torch.no_grad():
            return net(tokens[0, :1, :-1]).logits[0, -1].tolist()

    optimizers = optimizers_of(net, optimizer)
    grad_clip = next(iter(optimizer.values()))["grad_clip"]
    logits_before, losses, norms = last_logits(), [], []
    first_gradient = {}
    for step in range(steps):
        net.zero_grad()
        loss = loss_of(step)
        loss.backward()
        if step == 0:
            first_gradient = {n: p.grad.norm().item() for n, p in sorted(net.named_parameters()) if p.requires_grad}
        norms.append(torch.nn.utils.clip_grad_norm_(net.parameters(), grad_clip or float("inf")).item())
        for each in optimizers:
            each.step()
        losses.append(loss.item())
    print(f"{name}: loss {losses[0]:.4f} to {losses[-1]:.4f}, gradient norms {max(norms):.3f} to {min(norms):.3f}")
    text = json.dumps(
        {
            "config": config,
            "batch": batch,
            "context": context,
            "optimizer": optimizer,
            "logits_before": logits_before,
            "first_gradient_norms": first_gradient,
            "losses": losses,
            "logits_after": last_logits(),
        }
        | ({"lora": lora} if lora else {}),
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
    "model_type": "llama",
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
ADAM = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "grad_clip": 1.0}
ADAMW = {"adamw": {"lr": 3e-3} | ADAM}
SGD = {"lr": 0.03, "momentum": 0.9, "weight_decay": 1e-3, "grad_clip": 1.0}
MUON = {"momentum": 0.95, "nesterov": True, "adamw_lr": 3e-3} | ADAM

if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(sys.argv[2])
    else:
        default = {"rope_type": "default"}
        grouped = BASE | {"num_key_value_heads": 2, "tie_word_embeddings": False}
        shared = BASE | {"num_key_value_heads": 4, "tie_word_embeddings": True}
        untied = grouped | {"rope_parameters": default | {"rope_theta": 10000.0}}
        tied = shared | {"rope_parameters": default | {"rope_theta": 500.0}}
        golden("grouped_untied", untied, 3, 17, 50, ADAMW)
        golden("tied", tied, 2, 24, 50, ADAMW)
        golden("grouped_untied_sgd", untied, 3, 17, 50, {"sgd": SGD | {"nesterov": True}})
        golden("tied_sgd", tied, 2, 24, 50, {"sgd": SGD | {"nesterov": False, "grad_clip": None}})
        golden("grouped_untied_muon", untied, 3, 17, 50, {"muon": MUON | {"lr": 0.01, "scale": "original"}})
        golden("tied_muon", tied, 2, 24, 50, {"muon": MUON | {"lr": 1e-2, "scale": "match_rms_adamw"}})
        # The older way to write it, and the newer one. Of llama3's four frequencies one stays, one is blended, two divided.
        linear = {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 500.0}
        golden("linear", grouped | linear, 2, 24, 50, ADAMW)
        llama3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
                  "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
        golden("llama3", shared | {"rope_parameters": llama3}, 2, 48, 50, ADAMW)
        lora = {"rank": 3, "alpha": 6.0, "targets": ["q_proj", "v_proj", "down_proj"]}
        golden("lora", untied, 3, 17, 50, ADAMW, lora)
