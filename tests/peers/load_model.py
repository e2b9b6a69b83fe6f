"""Loads a model folder with transformers as it is, and prints what it says of some tokens as JSON.

    python3 load_model.py FOLDER "a text"
"""
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

folder, text = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer(text, add_special_tokens=False).input_ids
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0, -1]
print(json.dumps({
    "class": type(model).__name__,
    "dtype": str(model.dtype),
    "eos": tokenizer.eos_token_id,
    "generation_eos": GenerationConfig.from_pretrained(folder).eos_token_id,
    "ids": ids,
    "decoded": tokenizer.decode(ids),
    "logits": logits.tolist(),
}))
