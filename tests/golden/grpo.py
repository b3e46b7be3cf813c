#!/usr/bin/env python3
"""Golden numbers of one GRPO step, from PyTorch, transformers and PEFT.

    pip install torch transformers peft safetensors numpy
    python3 tests/golden/grpo.py

Made with torch 2.13.0, transformers 5.23.0 and peft 0.21.2 on a CPU with one thread. Writes into `grpo/` beside itself
  model/                      a random Llama: two blocks, grouped-query attention, tied embeddings
  adapter/                    a random LoRA adapter of it, as PEFT saves it
  batch.json                  completions, their engine's log-probabilities and advantages
  expected.json               log-probabilities, entropy, losses, and what each update did
  grads_<mode>.safetensors    gradients of the loss, by each mode of averaging
  after1, after2.safetensors  the adapter after one AdamW update on the batch, and after two (token-mean)
  losses.json                 every kind of loss and every option: advantages, loss, and of the gradient with respect to
                              each tensor of the adapter its norm and the sum of its entries

Every sequence is computed alone, without padding. Losses: src/train/loss.rs and loss/. Everything is f32.
"""

import json
import math
import random
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent / "grpo"
TEMPERATURE, CLIP, IS_CAP, KL_COEF = 0.8, 0.2, 2.0, 0.1
LR, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-2, 0.01, 0.5
MODES = ["token-mean", "seq-mean-token-mean"]
# Prompt length, completion length, advantage.
SHAPES = [(7, 9, 1.3), (3, 14, -0.7), (12, 5, 0.0), (5, 1, -1.1), (9, 20, 0.4)]
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "dtype": "float32",
}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def fill(parameter, mean, deviation, rng):
    with torch.no_grad():
        parameter.copy_(mean + deviation * torch.randn(parameter.shape, generator=rng))


def base_model(rng):
    """Random weights, saved and read back, so that the configuration on disk is the one that counts."""
    folder = OUT / "model"
    folder.mkdir(parents=True)
    model = LlamaForCausalLM(LlamaConfig(**MODEL))
    for name, parameter in sorted(model.named_parameters()):
        if "norm" in name:
            fill(parameter, 1.0, 0.2, rng)
        elif "embed" in name:
            fill(parameter, 0.0, 0.25, rng)
        else:
            fill(parameter, 0.0, 1.0 / math.sqrt(parameter.shape[1]), rng)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_json(folder / "config.json", MODEL)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    inv_freq = model.model.rotary_emb.inv_freq
    assert torch.allclose(inv_freq, MODEL["rope_theta"] ** (-torch.arange(0, 8, 2) / 8)), inv_freq
    return model.eval()


def with_adapter(model, rng):
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=modules, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
    policy = get_peft_model(model, config)
    for name, parameter in sorted(policy.named_parameters()):
        if "lora_A" in name:
            fill(parameter, 0.0, 0.6 / math.sqrt(parameter.shape[1]), rng)
        elif "lora_B" in name:
            fill(parameter, 0.0, 0.05, rng)
    policy.peft_config["default"].base_model_name_or_path = "tests/golden/grpo/model"
    folder = OUT / "adapter"
    policy.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    saved = json.loads((folder / "adapter_config.json").read_text())
    saved["target_modules"].sort()  # PEFT writes a set, in any order
    write_json(folder / "adapter_config.json", saved)
    return policy.eval()


def trainable(policy):
    """Parameters by the names of PEFT's files."""
    named = [(n.replace(".default", ""), p) for n, p in policy.named_parameters() if p.requires_grad]
    return dict(sorted(named))


def save(name, tensors):
    save_file({n: t.detach().clone().contiguous() for n, t in tensors.items()}, OUT / f"{name}.safetensors")


def score(policy, sample):
    """Log-probabilities and entropies of a completion's tokens."""
    ids = torch.tensor([sample["prompt"] + sample["completion"]])
    logits = policy(input_ids=ids).logits[0].float() / TEMPERATURE
    first, n = len(sample["prompt"]) - 1, len(sample["completion"])
    all_log_probs = torch.log_softmax(logits[first : first + n], dim=-1)
    targets = torch.tensor(sample["completion"])[:, None]
    return all_log_probs.gather(1, targets)[:, 0], -(all_log_probs.exp() * all_log_probs).sum(-1)


def aggregate(per_token, mode):
    if mode == "token-mean":
        return torch.cat(per_token).mean()
    return torch.stack([tokens.mean() for tokens in per_token]).mean()


def grpo(policy, batch, old, reference, mode):
    """Total, policy-gradient part, KL part, and the share of tokens whose ratio was clipped."""
    surrogate, kl, clipped = [], [], []
    for sample, old_lp, ref_lp in zip(batch, old, reference):
        log_probs, _ = score(policy, sample)
        ratio = torch.exp(log_probs - old_lp)
        free, bound = ratio * sample["advantage"], ratio.clamp(1 - CLIP, 1 + CLIP) * sample["advantage"]
        weight = torch.exp(old_lp - torch.tensor(sample["rollout_log_probs"])).clamp(max=IS_CAP)
        surrogate.append(-torch.min(free, bound) * weight)
        kl.append(torch.exp(ref_lp - log_probs) - (ref_lp - log_probs) - 1)
        clipped.append((bound < free).float())
    pg_loss, kl_loss = aggregate(surrogate, mode), aggregate(kl, mode)
    return pg_loss + KL_COEF * kl_loss, pg_loss, kl_loss, aggregate(clipped, mode)


def gradient(policy, loss):
    policy.zero_grad()
    loss.backward()
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in trainable(policy).values()))


# Rewards of two groups, of the first three completions and of the other two.
GROUPS = [[1.0, -0.5, 0.25], [2.0, -1.0]]
# What the policy from before the batch gave, beside the policy's own log-probabilities; ratios lie on both sides of a clip.
OFFSETS = [0.0, -0.35, 0.05, 0.4, -0.3]
MAX_NEW_TOKENS = 32
# The defaults of each kind, by the papers that src/config/loss.rs names.
KINDS = {
    "grpo": {},
    "dr_grpo": {"loss_agg_mode": "seq-mean-token-sum-norm", "scale": "none"},
    "dapo": {"clip_ratio_high": 0.28},
    "gspo": {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4, "loss_agg_mode": "seq-mean-token-mean"},
    "cispo": {"clip_ratio_low": 1.0, "clip_ratio_high": 4.0},
    "rloo": {"scale": "leave_one_out"},
    "reinforce++": {"scale": "batch_std"},
}
DEFAULTS = {
    "clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_c": 0.0, "loss_agg_mode": "token-mean", "kl_loss_coef": 0.0,
    "kl_loss_type": "k3", "entropy_coef": 0.0, "rollout_is": "truncate", "rollout_is_threshold": 2.0, "scale": "group_std",
}
CASES = [{"kind": kind} for kind in KINDS]
CASES += [{"kind": "grpo", "loss_agg_mode": mode} for mode in
          ["seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]]
CASES += [{"kind": "grpo", "kl_loss_coef": 0.1, "kl_loss_type": kl} for kl in ["k1", "k2", "k3"]]
CASES += [
    {"kind": "grpo", "clip_ratio_c": 1.3},
    {"kind": "grpo", "rollout_is": "none"},
    {"kind": "grpo", "rollout_is_threshold": 1.2},
    {"kind": "grpo", "rollout_is": "mask", "rollout_is_threshold": 1.3},
    {"kind": "grpo", "entropy_coef": 0.05},
    {"kind": "gspo", "clip_ratio_low": 0.01, "clip_ratio_high": 0.01},
    {"kind": "cispo", "clip_ratio_low": 0.2, "clip_ratio_high": 0.2},
    {"kind": "gspo", "kl_loss_coef": 0.1, "kl_loss_type": "k2", "entropy_coef": -0.02, "rollout_is": "mask"},
]


def advantages(scale):
    """Of every completion: its reward less the mean of its group, or of the group's others, and what that is divided by."""
    centred = []
    for rewards in map(torch.tensor, GROUPS):
        if scale == "leave_one_out":
            others = (rewards.sum() - rewards) / (len(rewards) - 1)
            centred.append(rewards - others)
        else:
            divisor = rewards.std() + 1e-6 if scale == "group_std" else 1.0
            centred.append((rewards - rewards.mean()) / divisor)
    flat = torch.cat(centred)
    return flat / (flat.std() + 1e-6) if scale == "batch_std" else flat


def token_terms(s, log_probs, old, advantage):
    """What a kind makes of a completion's tokens, and where it was clipped."""
    low, high = 1 - s["clip_ratio_low"], 1 + s["clip_ratio_high"]
    ratio = torch.exp(log_probs - old)
    if s["kind"] == "cispo":
        weight = ratio.detach().clamp(low, high)
        return -weight * advantage * log_probs, (weight != ratio).float()
    if s["kind"] == "gspo":
        sequence = torch.exp((log_probs - old).mean()).detach()
        ratio = sequence * torch.exp(log_probs - log_probs.detach())
    free, bound = -ratio * advantage, -ratio.clamp(low, high) * advantage
    loss, clipped = torch.max(free, bound), bound > free
    if s["clip_ratio_c"] > 1 and advantage < 0:
        ceiling = -s["clip_ratio_c"] * advantage * torch.ones_like(loss)
        clipped, loss = clipped | (loss > ceiling), torch.min(loss, ceiling)
    return loss, clipped.float()


def importance(s, old, rollout):
    weight, cap = torch.exp(old - rollout), s["rollout_is_threshold"]
    if s["rollout_is"] == "none":
        return torch.ones_like(weight)
    if s["rollout_is"] == "truncate":
        return weight.clamp(max=cap)
    return weight * ((weight <= cap) & (weight >= 1 / cap))


def kl_terms(kind, log_probs, reference):
    if kind == "k1":
        return log_probs - reference
    if kind == "k2":
        return 0.5 * (log_probs - reference) ** 2
    return torch.exp(reference - log_probs) - (reference - log_probs) - 1


def averaged(per_token, mode):
    if mode == "token-mean":
        return torch.cat(per_token).mean()
    if mode == "seq-mean-token-mean":
        return torch.stack([tokens.mean() for tokens in per_token]).mean()
    total = torch.stack([tokens.sum() for tokens in per_token]).mean()
    return total if mode == "seq-mean-token-sum" else total / MAX_NEW_TOKENS


def case(policy, batch, old, reference, changes):
    """One kind of loss with its options, in numbers."""
    s = {**DEFAULTS, **KINDS[changes["kind"]], **changes}
    surrogate, kl, entropy, clipped = [], [], [], []
    offset = 0
    for sample, old_lp, ref_lp, advantage in zip(batch, old, reference, advantages(s["scale"])):
        log_probs, entropies = score(policy, sample)
        moved = torch.tensor([OFFSETS[(offset + i) % len(OFFSETS)] for i in range(len(old_lp))])
        offset += len(old_lp)
        before, rollout = old_lp + moved, torch.tensor(sample["rollout_log_probs"])
        terms, is_clipped = token_terms(s, log_probs, before, advantage)
        surrogate.append(terms * importance(s, before, rollout))
        kl.append(kl_terms(s["kl_loss_type"], log_probs, ref_lp))
        entropy.append(entropies)
        clipped.append(is_clipped)
    pg_loss, kl_loss, bonus, share = (averaged(x, s["loss_agg_mode"]) for x in (surrogate, kl, entropy, clipped))
    total = pg_loss + s["kl_loss_coef"] * kl_loss - s["entropy_coef"] * bonus
    gradient(policy, total)
    grads = [p.grad.double() for p in trainable(policy).values()]
    short = lambda x: float(f"{x.item():.9g}")
    uniform = averaged([torch.ones_like(x) for x in clipped], s["loss_agg_mode"])
    return {
        "settings": changes,
        "advantages": [short(a) for a in advantages(s["scale"])],
        "total": short(total), "pg_loss": short(pg_loss), "kl_loss": short(kl_loss), "clip_fraction": short(share / uniform),
        "grad_norms": [short(g.norm()) for g in grads], "grad_sums": [short(g.sum()) for g in grads],
    }


def mismatch(log_probs, batch):
    """What the trainer reports about the engine: d = trainer − engine."""
    d = torch.cat(log_probs).double() - torch.tensor([x for s in batch for x in s["rollout_log_probs"]]).double()
    w = d.exp()
    return {
        "rollout_corr/kl": float(-d.mean()),
        "rollout_corr/k3_kl": float((w - d - 1).mean()),
        "rollout_corr/is_mean": float(w.mean()),
        "rollout_corr/is_eff_sample_size": float(w.sum() ** 2 / (len(w) * w.square().sum())),
    }


def random_batch(policy, rng):
    """Random ids; the engine's log-probabilities are the policy's and some noise, beyond the cap now and then."""
    draw = random.Random(5)
    ids = lambda n: [draw.randrange(MODEL["vocab_size"]) for _ in range(n)]
    batch = [{"prompt": ids(p), "completion": ids(n), "advantage": a} for p, n, a in SHAPES]
    with torch.no_grad():
        for sample in batch:
            log_probs = score(policy, sample)[0]
            sample["rollout_log_probs"] = (log_probs + 0.4 * torch.randn(log_probs.shape, generator=rng)).tolist()
    return batch


def main():
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    rng = torch.Generator().manual_seed(17)
    policy = with_adapter(base_model(rng), rng)
    batch = random_batch(policy, rng)
    write_json(OUT / "batch.json", batch)
    with torch.no_grad():
        scores = [score(policy, sample) for sample in batch]
        with policy.disable_adapter():
            reference = [score(policy, sample)[0] for sample in batch]
    old = [log_probs for log_probs, _ in scores]

    losses = {}
    for mode in MODES:
        total, pg_loss, kl_loss, _ = grpo(policy, batch, old, reference, mode)
        norm = gradient(policy, total)
        losses[mode] = {"total": total.item(), "pg_loss": pg_loss.item(), "kl_loss": kl_loss.item(), "grad_norm": norm}
        save(f"grads_{mode}", {n: p.grad for n, p in trainable(policy).items()})

    cases = [case(policy, batch, old, reference, changes) for changes in CASES]
    (OUT / "losses.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    clips = {c["settings"]["kind"]: c["clip_fraction"] for c in reversed(cases)}
    clips["cispo"] = max(c["clip_fraction"] for c in cases if c["settings"]["kind"] == "cispo")
    assert all(0.1 < clips[kind] < 0.9 for kind in ("grpo", "cispo", "dapo")) and 0 < clips["gspo"] < 1, clips

    optimiser = torch.optim.AdamW(trainable(policy).values(), lr=LR, weight_decay=WEIGHT_DECAY)
    updates = []
    for update in (1, 2):
        total, pg_loss, kl_loss, clipped = grpo(policy, batch, old, reference, "token-mean")
        norm = gradient(policy, total)
        torch.nn.utils.clip_grad_norm_(trainable(policy).values(), MAX_GRAD_NORM)
        optimiser.step()
        save(f"after{update}", trainable(policy))
        step = {"pg_loss": pg_loss, "kl_loss": kl_loss, "clip_fraction": clipped}
        updates.append({name: value.item() for name, value in step.items()} | {"grad_norm": norm})

    entropy = torch.cat([entropy for _, entropy in scores]).mean().item()
    expected = {
        "log_probs": [log_probs.tolist() for log_probs in old],
        "base_log_probs": [log_probs.tolist() for log_probs in reference],
        "entropy": entropy,
        "losses": losses,
        "updates": updates,
        "mismatch": mismatch(old, batch),
    }
    write_json(OUT / "expected.json", expected)

    for file in OUT.rglob("*.safetensors"):
        file.chmod(0o644)

    # What the numbers are to exercise.
    weights = torch.cat([lp - torch.tensor(s["rollout_log_probs"]) for lp, s in zip(old, batch)]).exp()
    assert (weights > IS_CAP).any() and (weights < IS_CAP).any(), "the cap is not reached"
    assert updates[0]["grad_norm"] > MAX_GRAD_NORM, "the gradient is not clipped"
    assert 0.1 < updates[1]["clip_fraction"] < 0.9, "the ratio is not clipped"
    assert entropy < 0.9 * math.log(MODEL["vocab_size"]), "the distributions are flat"


if __name__ == "__main__":
    main()
