# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A smaller sibling to draft for a pair: the policy's first layers, fine-tuned on what the policy or the pair writes.

    python recipes/speculation/distil.py --policy DIR --prompts train.jsonl --output_dir runs/sibling
    python recipes/speculation/distil.py --policy DIR --reference DIR --prompts train.jsonl --output_dir runs/cd

With `--reference` the pair at `--alpha` writes the text, else the policy alone. Where a small model of the same
tokenizer is at hand (a 0.5B beside a 3B pair), none of this is needed.
"""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from hf_cong import ContrastivePairForCausalLM, build_sft_dataset, generate_completions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--reference")
    parser.add_argument("--alpha", type=float, default=0.4)
    parser.add_argument("--prompts", required=True, help="JSON lines with a column `prompt`")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--num_hidden_layers", type=int, default=1)
    parser.add_argument("--max_new_tokens", type=int, default=192)
    parser.add_argument("--num_train_epochs", type=float, default=8)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.policy, padding_side="left")
    writer = AutoModelForCausalLM.from_pretrained(args.policy)
    if args.reference:
        writer = ContrastivePairForCausalLM.from_pair(args.policy, args.reference, alpha=args.alpha)
    written = generate_completions(
        args.prompts,
        writer,
        tokenizer=tokenizer,
        output_dir=f"{args.output_dir}/completions",
        max_new_tokens=args.max_new_tokens,
        batch_size=64,
    )
    rows, counts = build_sft_dataset(written)
    print(counts)
    sibling = AutoModelForCausalLM.from_pretrained(args.policy, num_hidden_layers=args.num_hidden_layers)
    config = SFTConfig(
        output_dir=args.output_dir,
        learning_rate=args.learning_rate,
        num_train_epochs=args.num_train_epochs,
        per_device_train_batch_size=16,
        lr_scheduler_type="cosine",
        activation_checkpointing=False,
        bf16=False,
        save_strategy="no",
        report_to="none",
    )
    trainer = SFTTrainer(
        sibling, config, train_dataset=rows.select_columns(["prompt", "completion"]), processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model(args.output_dir)


if __name__ == "__main__":
    main()
