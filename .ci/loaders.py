"""The loaders of those who train on our files, on our files: `loaders.py RUN PRIMED EXPORT`, runs of `smoke.toml` and
`prime.toml` and an exported dataset. Fails at the first loader that refuses or reads something else than was written."""

import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import tempfile
import types

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")
run, primed, export = map(pathlib.Path, sys.argv[1:])
scratch = tempfile.TemporaryDirectory()
os.environ["HF_DATASETS_CACHE"] = scratch.name

import datasets
import pyarrow.parquet
import torch
import transformers

# Our models have no chat template: the turns of a trace are one text.
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def check_datasets():
    """Every Parquet file of the run, row by row, and the exported folder by its card."""
    files = sorted([*run.rglob("*.parquet"), *primed.rglob("*.parquet")])
    for file in files:
        rows = pyarrow.parquet.read_metadata(file).num_rows
        if rows:
            read = datasets.load_dataset("parquet", data_files=str(file), split="train")
            assert sum(1 for _ in read) == rows, file
    for corpus in datasets.get_dataset_config_names(str(export)):
        splits = datasets.load_dataset(str(export), corpus)
        assert set(splits) == {"train", "test"}, (corpus, splits)
    print(f"datasets {datasets.__version__}: {len(files)} files and the export {export}")


def check_trl():
    """TRL's trainer prepares our traces, and takes steps on our checkpoint with them, as prompt and completion and as chats."""
    import trl

    model = str(run / "pretrain/model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template, tokenizer.pad_token = TEMPLATE, tokenizer.eos_token
    traces = datasets.load_dataset("parquet", data_files=str(run / "prime/all-strategies/train.parquet"), split="train")
    pairs = traces.select_columns(["query", "completion"]).rename_column("query", "prompt")
    chats = traces.select_columns(["messages"])
    for name, data in (("pairs", pairs), ("chats", chats)):
        arguments = trl.SFTConfig(
            output_dir=scratch.name, max_steps=2, per_device_train_batch_size=4, max_length=None, use_cpu=True, bf16=False,
            report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, activation_checkpointing=False,
        )
        trainer = trl.SFTTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(model), args=arguments, train_dataset=data, processing_class=tokenizer
        )
        prepared = trainer.train_dataset
        assert len(prepared) == len(traces), f"TRL kept {len(prepared)} of {len(traces)} {name}"
        for row, trace in zip(prepared, traces):
            text = trace["query"] + trace["completion"]
            expect = tokenizer(text)["input_ids"]
            if name == "pairs":
                # The completion alone is learned, and its end.
                assert row["input_ids"] == expect + [tokenizer.eos_token_id], (row, text)
                learned = [label for label in row["labels"] if label != -100]
                assert learned == tokenizer(trace["completion"])["input_ids"] + [tokenizer.eos_token_id], (row, trace)
            else:
                assert row["input_ids"][: len(expect)] == expect, (row, text)
        loss = trainer.train().training_loss
        assert 0 < loss < 20, loss
        print(f"TRL {trl.__version__}: {len(prepared)} {name}, loss {loss:.3f} in two steps")


def check_verl():
    """verl's dataset of prompts, and its batches. Only the package's own `__init__`, which starts Ray, is left out."""
    package = types.ModuleType("verl")
    package.__path__ = list(importlib.util.find_spec("verl").submodule_search_locations)
    sys.modules["verl"] = package
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(run / "pretrain/model"))
    tokenizer.chat_template = TEMPLATE
    config = OmegaConf.create({"prompt_key": "prompt", "max_prompt_length": 1024, "cache_dir": scratch.name, "filter_overlong_prompts": True})
    for split in ("train", "test"):
        file = primed / f"prime/verl/{split}.parquet"
        written = pyarrow.parquet.read_table(file).to_pylist()
        prompts = RLHFDataset([str(file)], tokenizer, config)
        assert len(prompts) == len(written), f"verl kept {len(prompts)} of {len(written)} prompts"
        batch = next(iter(torch.utils.data.DataLoader(prompts, batch_size=len(written), collate_fn=collate_fn)))
        for place, row in enumerate(written):
            assert batch["raw_prompt"][place] == row["prompt"]
            assert batch["reward_model"][place] == row["reward_model"]
            assert batch["data_source"][place] == "countdown" and batch["index"][place] == row["extra_info"]["index"] == place
        print(f"verl {importlib.metadata.version('verl')}: {len(prompts)} prompts of {file}")


check_datasets()
check_trl()
check_verl()
