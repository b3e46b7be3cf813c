#!/usr/bin/env python3
"""The same policy steps as `dump-rl bench train`, by PyTorch, transformers and PEFT on the CPU.

    python3 tests/peers/train.py MODEL_DIR --prompts 4 --group 8 --prompt-tokens 100 --new-tokens 128

LoRA of rank 16 on all linear layers, f32, GRPO's clipped loss over the completions' tokens, AdamW. Logits are computed for
the completions alone; gradients are summed over micro-batches of `--micro-batch` sequences, without checkpointing.
Prints one JSON object with the keys of `bench train --json`. The median of the timed steps counts; one goes before them.
"""

import argparse
import json
import os
import random
import resource
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def batch(args, vocabulary):
    draw = random.Random(1)
    rows = []
    for _ in range(args.prompts):
        prompt = [draw.randrange(vocabulary) for _ in range(args.prompt_tokens)]
        rows += [prompt + [draw.randrange(vocabulary) for _ in range(args.new_tokens)] for _ in range(args.group)]
    advantages = [1.0 if i % 2 == 0 else -1.0 for i in range(len(rows))]
    return torch.tensor(rows), torch.tensor(advantages)


def step(model, optimizer, ids, advantages, args):
    total = ids.shape[0] * args.new_tokens
    for at in range(0, ids.shape[0], args.micro_batch):
        rows = ids[at:at + args.micro_batch]
        logits = model(input_ids=rows, logits_to_keep=args.new_tokens + 1).logits[:, :-1]
        targets = rows[:, -args.new_tokens:]
        log_probs = torch.gather(torch.log_softmax(logits, -1), 2, targets.unsqueeze(2)).squeeze(2)
        ratio = (log_probs - log_probs.detach()).exp()
        advantage = advantages[at:at + args.micro_batch].unsqueeze(1)
        loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum() / total
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


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
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    vocabulary = model.config.vocab_size
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=LINEAR))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids, advantages = batch(args, vocabulary)
    seconds = []
    for _ in range(args.repeats + 1):
        since = time.perf_counter()
        step(model, optimizer, ids, advantages, args)
        seconds.append(time.perf_counter() - since)
    median = statistics.median(seconds[1:])
    print(json.dumps({
        "bench": "train", "engine": "torch+peft", "model": args.model, "sequences": ids.shape[0],
        "prompt_tokens": args.prompt_tokens, "new_tokens": args.new_tokens, "micro_batch": args.micro_batch,
        "tokens_per_s": ids.numel() / median, "seconds": median,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }))


if __name__ == "__main__":
    main()
