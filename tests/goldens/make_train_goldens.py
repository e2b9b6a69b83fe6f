#!/usr/bin/env python3
"""Makes the goldens of training: what PyTorch and transformers compute, for `tests/it/train.rs` to compare with.

    python3 tests/goldens/make_train_goldens.py        # writes tests/goldens/train-*.safetensors

For a tiny model of each architecture: weights, a batch, its mean loss and the gradient of every tensor. For the optimizer: gradients,
and the parameters that `torch.optim.AdamW` makes of them with clipping. Made with torch 2.15 and transformers 5, in f64 where the
reference should be exact, stored as f32. Needs: torch, transformers, safetensors.
"""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

HERE = Path(__file__).parent
SIZES = dict(vocab_size=30, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, attn_implementation="eager")
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16, rope_theta=10000.0)
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=False, use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, tie_word_embeddings=False, head_dim=6)),
}


def randomise(model):
    """Weights large enough that attention is not flat, norms and biases off their defaults."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(0, 1.0 / p.shape[1] ** 0.5)
            elif name.endswith("norm.weight"):
                p.uniform_(0.5, 1.5)
            else:
                p.normal_(0, 0.5)
            p.copy_(p.float())


def model_golden(name, kind, config):
    torch.manual_seed(len(name))
    model = kind(config).double()
    randomise(model)
    sequences = [torch.randint(0, config.vocab_size, (n,)) for n in (23, 1, 12)]
    losses = []
    for ids in sequences:  # one by one: what packing must equal
        logits = model(ids[None], use_cache=False).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none"))
    losses = torch.cat(losses)
    losses.mean().backward()
    tensors = {"tokens": torch.cat(sequences).int(), "lengths": torch.tensor([len(s) for s in sequences]).int(),
               "loss": losses.mean().detach().float()[None]}
    for key, p in model.named_parameters():
        tensors[f"weight.{key}"] = p.detach().float().contiguous()
        tensors[f"gradient.{key}"] = p.grad.float().contiguous()
    write(name, tensors, {"config": json.dumps(config.to_dict())})


def adamw_golden():
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=5, hidden_size=4, intermediate_size=6, num_hidden_layers=1, num_attention_heads=2, tie_word_embeddings=True)
    model = LlamaForCausalLM(config)
    randomise(model)
    named = list(model.named_parameters())
    options = dict(lr=0.02, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.1, clip=1.0)
    groups = [dict(params=[p for _, p in named if p.dim() > 1], weight_decay=options["weight_decay"]),
              dict(params=[p for _, p in named if p.dim() == 1], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=options["lr"], betas=options["betas"], eps=options["eps"])
    tensors = {f"weight.{key}": p.detach().clone() for key, p in named}
    norms = []
    for step in range(4):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = options["lr"] / (step + 1)
        for key, p in named:
            # Norms on both sides of the clip.
            p.grad = torch.randn_like(p) * (0.3, 0.01, 0.001, 1.0)[step]
            tensors[f"gradient.{step}.{key}"] = p.grad.clone()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), options["clip"]))
        optimizer.step()
        for key, p in named:
            tensors[f"weight.{step}.{key}"] = p.detach().clone()
    tensors["norms"] = torch.stack(norms)
    write("adamw", tensors, {"config": json.dumps(config.to_dict()), "options": json.dumps(options)})


def write(name, tensors, metadata):
    path = HERE / f"train-{name}.safetensors"
    save_file(tensors, path, metadata)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    for name, (kind, config) in MODELS.items():
        model_golden(name, kind, config)
    adamw_golden()
