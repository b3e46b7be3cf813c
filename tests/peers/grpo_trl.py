#!/usr/bin/env python3
"""Whole policy steps, generation included, by TRL's GRPOTrainer on the CPU: what `dump-rl train` does in a step.

    python3 tests/peers/grpo_trl.py MODEL_DIR --prompts 4 --group 8 --prompt-tokens 100 --new-tokens 128

The shapes of `dump-rl bench train`: prompts of about as many tokens, completions of exactly as many (a minimum as large as
the maximum), LoRA of rank 16 on all linear layers, f32, no KL term. Rewards are random, so that every completion has an
advantage. One optimiser update a step, summed over micro-batches of `--micro-batch` sequences. Prints one JSON object with
the keys of `bench train --json`: `seconds` and `tokens_per_s` are the update's alone, beside them the generation's and the
whole step's seconds. The median of the timed steps counts; one goes before them.
"""

import argparse
import json
import os
import random
import resource
import statistics
import tempfile
import time

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class TimedTrainer(GRPOTrainer):
    """Seconds of generation since the last step."""

    generating = 0.0

    def _generate(self, *args, **kwargs):
        since = time.perf_counter()
        result = super()._generate(*args, **kwargs)
        self.generating += time.perf_counter() - since
        return result


class Steps(TrainerCallback):
    """Seconds of each step, and of the generation in it."""

    def __init__(self):
        self.trainer, self.steps = None, []

    def on_step_begin(self, *args, **kwargs):
        self.since, self.trainer.generating = time.perf_counter(), 0.0

    def on_step_end(self, *args, **kwargs):
        self.steps.append((time.perf_counter() - self.since, self.trainer.generating))


def prompt(tokenizer, tokens, draw):
    """A text of at least `tokens` tokens, one short word at a time."""
    words = ["one"]
    while len(tokenizer(" ".join(words)).input_ids) < tokens:
        words.append(draw.choice(["two", "three", "four", "five", "six", "ten"]))
    return " ".join(words)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=100)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    draw, sequences = random.Random(1), args.prompts * args.group
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = [{"prompt": prompt(tokenizer, args.prompt_tokens, draw)} for _ in range(args.prompts * (args.repeats + 2))]
    steps = Steps()
    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out, use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_steps=1, max_steps=args.repeats + 1,
            per_device_train_batch_size=args.micro_batch, gradient_accumulation_steps=sequences // args.micro_batch,
            num_generations=args.group, max_completion_length=args.new_tokens, temperature=1.0, beta=0.0, learning_rate=1e-4,
            generation_kwargs={"min_new_tokens": args.new_tokens}, gradient_checkpointing=False, disable_tqdm=True)
        steps.trainer = TimedTrainer(
            model=AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32), processing_class=tokenizer, args=config,
            reward_funcs=lambda completions, **_: [draw.random() for _ in completions], train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=LINEAR, task_type="CAUSAL_LM"), callbacks=[steps])
        steps.trainer.train()
    whole, generating = (statistics.median(column) for column in zip(*steps.steps[1:]))
    tokens = sequences * (args.prompt_tokens + args.new_tokens)
    print(json.dumps({
        "bench": "train", "engine": "trl", "model": args.model, "sequences": sequences, "prompt_tokens": args.prompt_tokens,
        "new_tokens": args.new_tokens, "micro_batch": args.micro_batch, "tokens_per_s": tokens / (whole - generating),
        "seconds": whole - generating, "generate_seconds": generating, "step_seconds": whole,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }))


if __name__ == "__main__":
    main()
