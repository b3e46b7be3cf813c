#!/usr/bin/env python3
"""The same rollouts as `dump-rl bench rollout`, by transformers or vLLM on the CPU.

    python3 tests/peers/generate.py transformers MODEL_DIR --prompts 8 --group 8 --prompt-tokens 100 --new-tokens 128

Random prompts, every completion of the full length, temperature 1. Prints one JSON object with the keys of
`bench rollout --json`. The median of the timed runs counts; a short run goes before them.
"""

import argparse
import json
import os
import random
import resource
import statistics
import time


def prompts(args, vocabulary, seed):
    draw = random.Random(seed)
    return [[draw.randrange(vocabulary) for _ in range(args.prompt_tokens)] for _ in range(args.prompts)]


def with_transformers(args):
    """transformers' generate: one static batch, the prompt repeated for each completion."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval()

    def run(seed, new_tokens):
        rows = [row for row in prompts(args, model.config.vocab_size, seed) for _ in range(args.group)]
        ids = torch.tensor(rows)
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                min_new_tokens=new_tokens, max_new_tokens=new_tokens, pad_token_id=0)
        assert out.shape == (len(rows), args.prompt_tokens + new_tokens)

    return run


def with_vllm(args):
    """vLLM's offline engine: paged, continuous batching, prefixes shared."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{args.threads - 1}")
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(model=args.model, dtype=args.dtype, max_model_len=1024, seed=0)
    vocabulary = llm.get_tokenizer().vocab_size

    def run(seed, new_tokens):
        sampling = SamplingParams(
            n=args.group, temperature=1.0, max_tokens=new_tokens, ignore_eos=True, logprobs=0, detokenize=False)
        rows = [TokensPrompt(prompt_token_ids=row) for row in prompts(args, vocabulary, seed)]
        answers = llm.generate(rows, sampling, use_tqdm=False)
        assert sum(len(o.token_ids) for a in answers for o in a.outputs) == args.prompts * args.group * new_tokens

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["transformers", "vllm"])
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=100)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    run = with_transformers(args) if args.engine == "transformers" else with_vllm(args)
    run(0, min(8, args.new_tokens))
    seconds = []
    for repeat in range(1, args.repeats + 1):
        since = time.perf_counter()
        run(repeat, args.new_tokens)
        seconds.append(time.perf_counter() - since)
    median = statistics.median(seconds)
    tokens = args.prompts * args.group * args.new_tokens
    print(json.dumps({
        "bench": "rollout", "engine": args.engine, "dtype": args.dtype, "model": args.model,
        "sequences": args.prompts * args.group, "prompt_tokens": args.prompt_tokens, "new_tokens": args.new_tokens,
        "tokens_per_s": tokens / median, "seconds": median,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }))


if __name__ == "__main__":
    main()
