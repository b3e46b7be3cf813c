#!/usr/bin/env python3
"""Golden numbers of every model family, from PyTorch, transformers and PEFT.

    pip install torch transformers peft safetensors
    python3 tests/golden/architectures.py [FAMILY]...          writes architectures/ beside itself
    python3 tests/golden/architectures.py --model DIR          the same numbers of a real model, compared at once with those of
                                                               this program (by the test `a_real_model`, which cargo builds)

For each family a folder with `config.json`, `model.safetensors` (random, f32, two blocks), a random LoRA adapter on all
linear layers as PEFT saves it, and `expected.safetensors`: the tokens (2 × T), the logits behind the last token of each
row, the log-probability of each token from the second on, and the gradients of their weighted sum with respect to the
adapter. Weights are drawn wide enough that biases, norms and rotary scaling matter.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

OUT = Path(__file__).parent / "architectures"
T = 40
COMMON = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    "bos_token_id": 0, "eos_token_id": 1,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
# Query heads together wider than the residual stream, keys and values narrower.
WIDE = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16}
FAMILIES = {
    "llama2": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0,
               "tie_word_embeddings": False},
    "llama3": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": 500000.0,
               "rope_scaling": LLAMA3, "tie_word_embeddings": True, **WIDE},
    "llama-bias": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0,
                   "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "rope_theta": 1000000.0,
                "sliding_window": None, **WIDE, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rope_theta": 1000000.0,
              "use_sliding_window": False, "tie_word_embeddings": True},
    "qwen2-linear": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rope_theta": 10000.0,
                     "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "use_sliding_window": False,
                     "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "rope_theta": 1000000.0,
              **WIDE, "attention_bias": False, "tie_word_embeddings": True},
    # Windows shorter than T: in every layer, from a layer on, and in the layers that are named.
    "mistral-window": {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "rope_theta": 10000.0,
                       "sliding_window": 8, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2-window": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rope_theta": 1000000.0,
                     "use_sliding_window": True, "sliding_window": 19, "max_window_layers": 1,
                     "tie_word_embeddings": True},
    "qwen3-window": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 16,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "use_sliding_window": True,
                     "sliding_window": 5, "max_window_layers": 2,
                     "layer_types": ["sliding_attention", "full_attention"], "tie_word_embeddings": True},
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def fill(model):
    """Values that do not vanish: norms around 1, biases as large as what they are added to."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else noise * (0.3 if parameter.dim() == 1 else 0.2))


def make(name, settings):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = {**COMMON, **settings}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager")
    model = model.float().eval()
    fill(model)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()
               if not (k == "lm_head.weight" and config["tie_word_embeddings"])}, folder / "model.safetensors")
    expect(model, folder, name)


def expect(model, folder, name):
    """Writes a random adapter of the model, and what they give together."""
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=LINEAR))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    adapter = folder / "adapter_config.json"
    adapter.write_text(json.dumps(
        {**json.loads(adapter.read_text()), "base_model_name_or_path": name, "task_type": "CAUSAL_LM"}, indent=1) + "\n")
    tokens = torch.randint(0, model.config.vocab_size, (2, T), generator=generator)
    logits = model(tokens).logits
    log_probs = torch.gather(torch.log_softmax(logits[:, :-1], -1), 2, tokens[:, 1:].unsqueeze(2)).squeeze(2)
    weights = torch.randn(log_probs.shape, generator=generator)
    (log_probs * weights).sum().backward()
    expected = {"tokens": tokens.to(torch.uint32), "logits": logits[:, -1].detach().contiguous(),
                "log_probs": log_probs.detach(), "weights": weights}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            expected["grad." + key.replace(".default", "")] = parameter.grad
    save_file(expected, folder / "expected.safetensors")
    print(name, "ok")


def compare(folder):
    """Prints how far this program is from transformers and PEFT on the model in `folder`."""
    with tempfile.TemporaryDirectory() as out:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        expect(model.eval(), Path(out), folder.name)
        del model
        test = ["cargo", "test", "--release", "--package", "dump-rl", "a_real_model", "--", "--ignored", "--nocapture"]
        environment = {**os.environ, "DUMP_RL_MODEL": str(folder.resolve()), "DUMP_RL_GOLDEN": out}
        return subprocess.run(test, cwd=OUT.parent, env=environment).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("family", nargs="*", help="those to make again; all if none is named")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.model:
        return compare(args.model)
    for name in args.family or FAMILIES:
        make(name, FAMILIES[name])


if __name__ == "__main__":
    raise SystemExit(main())
