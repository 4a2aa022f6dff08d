"""Adapters into one plain model: python -m bsr_lite.scale.merge --model ADAPTERS --output FOLDER

The result is an fp32 AutoModelForSequenceClassification folder that needs neither peft nor this
library; its model card shows how to read a raw reward.
"""

import argparse
from pathlib import Path

from ..errors import ModelError, run
from ..models import RewardModel, load_base
from ..pretrained import read_adapters
from ..saving import check_target, check_template, read_meta, save_reward_model


def merge_reward_model(folder: str | Path, target: str | Path) -> None:
    """Write a saved LoRA or QLoRA model as one fp32 AutoModelForSequenceClassification folder.

    W = W_base + (alpha / r) B A.  A 4-bit base is dequantized first: merging into 4-bit weights
    would round them again.  Raises: ModelError when there are no adapters.
    """
    meta = read_meta(Path(folder))
    if not meta["lora_rank"]:
        raise ModelError(f"{folder} has no adapters: it is in the standard layout already")
    source, target = Path(folder).resolve(), check_target(target)
    if source == target or source in target.parents or target in source.parents:
        raise ModelError(f"merging into {target} would replace the adapters in {source}: name "
                         "another folder")
    base, tokenizer, _ = load_base(meta, seed=0)
    check_template(folder, tokenizer, meta)
    if meta["quantization"]:
        base = base.dequantize()
    # on the CPU: the card that trained it may not hold the whole model in fp32
    merged = read_adapters(base.cpu().float(), folder).merge_and_unload()
    meta |= {"lora_rank": None, "quantization": None, "dtype": "float32",
             "trained_dtype": "QLoRA" if meta["quantization"] else "LoRA"}
    save_reward_model(RewardModel(merged, tokenizer, meta), target)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bsr_lite.scale.merge", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a LoRA or QLoRA reward model")
    parser.add_argument("--output", required=True, help="folder to write, new or a model's")
    args = parser.parse_args(argv)
    merge_reward_model(args.model, args.output)
    print(f"merged model in {args.output}; its README.md shows how to score with it")


if __name__ == "__main__":
    run(main)
