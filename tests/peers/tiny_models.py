#!/usr/bin/env python3
"""Makes `tests/golden/{gemma3,phi3,mistral}`: tiny models with random weights, and what transformers says of them.

    python tests/peers/tiny_models.py        # needs torch and transformers 5
"""
import json
import os

import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, Phi3Config

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")
SIZES = dict(vocab_size=96, hidden_size=16, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=0)
CONFIGS = {
    "gemma3": Gemma3TextConfig(**{**SIZES, "num_key_value_heads": 1}, num_hidden_layers=3, head_dim=8, query_pre_attn_scalar=8, sliding_window=8,
                               layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                               rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                                                "full_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
    "phi3": Phi3Config(**SIZES, num_hidden_layers=2, sliding_window=None),
    "mistral": MistralConfig(**SIZES, num_hidden_layers=2, head_dim=8, sliding_window=8),
}

for name, config in CONFIGS.items():
    torch.manual_seed(7)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms too, so that none of them is the identity; and exact in bf16, in which the weights are stored.
            parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).bfloat16().float())
        tokens = torch.randint(3, 96, (1, 40))
        logits = model(tokens).logits[0]
    folder = os.path.join(GOLDEN, name)
    model.to(torch.bfloat16).save_pretrained(folder)
    if os.path.exists(os.path.join(folder, "generation_config.json")):
        os.remove(os.path.join(folder, "generation_config.json"))
    rows = {str(row): [round(x, 5) for x in logits[row].tolist()] for row in (5, 39)}
    with open(os.path.join(folder, "logits.json"), "w") as out:
        json.dump({"tokens": tokens[0].tolist(), "logits": rows}, out)
        out.write("\n")
