# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Ranking, filtering and margins by the weak pair's implicit reward, each against the same done by hand."""

import io
import json
import math
import shutil
import weakref

import pytest
import torch
from datasets import Dataset, load_from_disk
from pyarrow import parquet
from torch.nn.functional import logsigmoid, softplus
from transformers import TrainerCallback

from hf_cong import ImplicitReward
from hf_cong.hub.run import run_publication
from hf_cong.pair import ContrastiveLoraPairForCausalLM
from hf_cong.ranking import equal_length_penalty
from hf_cong.refinement import SEED_STEP
from hf_cong.weak_pair import WeakPair

from .distributed.run_cong import (
    chosen_rows,
    config,
    message,
    pairs,
    prompts,
    strong_model,
    trainer,
    weak_pair,
    weights,
)
from .distributed.run_steered import steered_trainer
from .distributed.test_staged import artefacts, at_once, by_stages, staged
from .test_steering import found_by_search
from .tiny import tiny_lora, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def rewards_by_hand(prompts, texts, finish_reasons, members=None, tokenizer=TOKENIZER):
    """One row at a time."""
    reward = ImplicitReward(*(members or weak_pair()), tokenizer)
    rows = zip(prompts, texts, finish_reasons, strict=True)
    return [reward.score([prompt], [text], finish_reasons=[reason])[0] for prompt, text, reason in rows]


def written(output_dir, stage="decode", split="train"):
    """The completions of every sample of a stage, by its seed."""
    found = {}
    for path in output_dir.glob(f"_cong/{stage}-{split}-*/manifest.json"):
        seed = json.loads(path.read_text())["identity"]["seed"]
        found[seed] = Dataset.from_parquet(str(path.with_name("completions.parquet"))).to_list()
    return [found[seed] for seed in sorted(found)]


def ranked_by_hand(samples, penalty=None, **kwargs):
    """For each prompt its candidates `(controlled reward, text, reward)`, the worst first."""
    rewards = [
        rewards_by_hand(*([row[name] for row in rows] for name in ("prompt", "completion", "finish_reason")), **kwargs)
        for rows in samples
    ]
    groups = [
        [(reward, row["completion"]) for reward, row in zip(scores, rows, strict=True) if row["completion"].strip()]
        for scores, rows in zip(zip(*rewards, strict=True), zip(*samples, strict=True), strict=True)
    ]
    groups = [group for group in groups if group]
    if penalty is None:
        by = [[[reward for reward, _ in group] for group in groups], [[len(text) for _, text in g] for g in groups]]
        penalty = equal_length_penalty(*by)
    return [sorted((reward - penalty * len(text), text, reward) for reward, text in group) for group in groups]


def text_of(turn):
    return turn[0]["content"]


# Several samples.


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_the_best_of_several_samples_is_chosen(tmp_path, family):
    weak = dict(zip(("weak_model", "weak_reference_model"), weak_pair(family), strict=True))
    made = trainer(tmp_path, prompts(12), settings={"num_chosen_samples": 3, "seed": 2}, **weak)
    made.train()
    samples = written(tmp_path)
    assert [rows[0]["prompt"] for rows in samples] == [message_prompt(0)] * 3
    groups = ranked_by_hand(samples, members=weak_pair(family))
    chosen = [text_of(row["chosen"]) for row in made.train_dataset]
    assert chosen == [group[-1][1] for group in groups]
    for other in (
        [group[0][1] for group in groups],  # the worst
        [group[-1][1] for group in ranked_by_hand(samples, members=weak_pair(family)[::-1])],  # of the inverse reward
        [max(group, key=lambda fact: fact[2])[1] for group in groups],  # by plain rewards
    ):
        assert chosen != other
    counts = made.stage_counts["samples/train"]
    assert counts["rows_in"] == 36 == counts["kept"] + sum(counts["dropped"].values())
    # The first sample lies where a run with one sample has it.
    single = trainer(tmp_path / "single", prompts(12), settings={"seed": 2, "max_steps": 1}, **weak)
    single.train()
    (decoded,) = (path.name for path in (tmp_path / "single/_cong").glob("decode-*"))
    assert (tmp_path / "_cong" / decoded).exists()
    assert sorted(rows[0]["seed"] for rows in samples)[0] != sorted(rows[0]["seed"] for rows in samples)[1]


def message_prompt(index):
    return prompts(index + 1)["prompt"][index]


def test_best_and_worst_make_the_pairs_and_nothing_is_sampled(tmp_path):
    made = trainer(tmp_path, prompts(12), settings={"num_chosen_samples": 3, "rejected_from": "worst"})
    made.train()
    groups = ranked_by_hand(written(tmp_path))
    differing = [group for group in groups if group[0][1] != group[-1][1]]
    found = [(text_of(row["chosen"]), text_of(row["rejected"])) for row in made.train_dataset]
    assert found == [(group[-1][1], group[0][1]) for group in differing]
    rewards = [reward for row in made.train_dataset for reward in (row["chosen_reward"], row["rejected_reward"])]
    assert rewards == pytest.approx([group[place][2] for group in differing for place in (-1, 0)], abs=1e-5)
    assert not list(tmp_path.glob("_cong/sample-*"))
    dropped = made.stage_counts["dpo/train"]["dropped"]
    assert dropped.get("identical", 0) == len(groups) - len(differing)
    # What is published of it says how it was made.
    data = run_publication(tmp_path, "data", {"data": "org/x-data"})
    rows = {name: parquet.read_table(io.BytesIO(content)).to_pylist() for name, content in data.files.items()}
    assert [row["reward"] for row in rows["sft/train.parquet"]] == pytest.approx(
        [group[-1][2] for group in groups], abs=1e-4
    )
    assert [row["rejected_reward"] for row in rows["preferences/train.parquet"]] == rewards[1::2]
    assert "| `num_chosen_samples` | 3 |" in data.card and "| `rejected_from` | `worst` |" in data.card
    assert "wrote 3 completions for every prompt" in data.card
    assert "over the one of several samples that the pair rewards least" in data.card
    assert "reward_margin" not in data.card and "| samples | `train` | 36 | 36 | none |" in data.card
    model = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "a variant of **ConG**" in model and "the one of several samples that the weak pair rewards least" in model


def test_a_prompt_with_one_text_has_sft_data_and_no_pair(tmp_path):
    greedy = {"top_k": 1, "top_p": 1.0, "temperature": 1.0}  # all samples of a prompt are one
    settings = {"num_chosen_samples": 2, "rejected_from": "worst", **greedy}
    made = trainer(tmp_path, prompts(4), settings=settings)
    with pytest.raises(ValueError, match="No row is left .* 4 arrived, dropped {.identical.: 4}"):
        made.train()
    assert made.stage_counts["sft/train"]["kept"] == 4


@pytest.mark.slow
def test_every_sample_of_a_search_has_a_seed_of_its_own(tmp_path):
    settings = {"seed": 5, "drop_truncated": False, "num_chosen_samples": 2, "rejected_from": "worst"}
    made = steered_trainer(tmp_path, "search", prompts(6), settings=settings)
    made.train()
    for rows, seed in zip(written(tmp_path), (5, 5 + SEED_STEP), strict=True):
        assert {json.dumps(row["prompt"]): row["completion_ids"] for row in rows} == found_by_search(seed)
    assert found_by_search(5) != found_by_search(5 + SEED_STEP)
    # The reward is of text: the pair has another vocabulary than the strong model.
    tokenizer = tiny_tokenizer(4)
    samples = written(tmp_path)
    groups = ranked_by_hand(samples, members=weak_pair("gpt2", tokenizer), tokenizer=tokenizer)
    assert {text_of(row["chosen"]) for row in made.train_dataset} <= {group[-1][1] for group in groups}


# The share that is kept, and the pairs that contradict.


@pytest.mark.parametrize("share", [pytest.param(0.25, marks=pytest.mark.slow), 0.6])
def test_a_share_of_the_chosen_completions_is_kept(tmp_path, share):
    made = trainer(tmp_path, prompts(20), settings={"chosen_share": share})
    made.train()
    (rows,) = written(tmp_path)
    usable = [row for row in rows if row["completion"].strip()]
    rewards = rewards_by_hand(*([row[name] for row in usable] for name in ("prompt", "completion", "finish_reason")))
    wanted = math.ceil(share * len(usable))
    (best,) = tmp_path.glob("_cong/best-train-*/completions.parquet")
    kept = Dataset.from_parquet(str(best)).to_list()
    assert len(kept) == wanted
    # Some penalty makes exactly these the best, and they are as long as all on average, to one swap.
    lengths = {row["prompt_id"]: len(row["completion"]) for row in usable}
    names = {row["prompt_id"] for row in kept}
    low, high = -math.inf, math.inf
    facts = [(row["prompt_id"], reward) for row, reward in zip(usable, rewards, strict=True)]
    for name, reward in facts:
        for other, less in facts:
            if name in names and other not in names:
                gap, longer = reward - less, lengths[name] - lengths[other]
                if longer > 0:
                    high = min(high, gap / longer)
                elif longer < 0:
                    low = max(low, gap / longer)
                else:
                    assert gap > -1e-5
    assert low <= high + 1e-6
    plain = {name for name, _ in sorted(facts, key=lambda fact: fact[1])[-wanted:]}
    mean = sum(lengths.values()) / len(lengths)

    def bias(chosen):
        return abs(sum(lengths[name] for name in chosen) / wanted - mean)

    assert bias(names) < bias(plain)  # what length control is for
    counts = made.stage_counts["sft/train"]
    assert counts == {"rows_in": 20, "kept": wanted, "dropped": counts["dropped"]}
    assert counts["dropped"]["below_share"] == len(usable) - wanted
    assert sum(counts["dropped"].values()) == 20 - wanted
    assert made.stage_counts["dpo/train"]["rows_in"] == wanted


@pytest.mark.parametrize(
    "settings", [{"chosen_share": 0.5}, pytest.param({"reward_margin": 0.1}, marks=pytest.mark.slow)]
)
def test_given_completions_are_scored_too_and_what_the_pair_cannot_read_is_counted(tmp_path, settings):
    def lengthen(row, index):
        return {"chosen": message(f"kind cat {index} " + "is kind " * (35 if index in (2, 5) else index % 4))}

    data = chosen_rows(12).map(lengthen, with_indices=True)
    members = weak_pair()
    for model in members:
        model.config.max_position_embeddings = 100
    weak = dict(zip(("weak_model", "weak_reference_model"), members, strict=True))
    made = trainer(tmp_path, data, settings={"max_length": 256, **settings}, **weak)
    made.train()
    # Of twelve, two are longer than the pair's context; half of the rest is kept.
    of_share = {"rows_in": 12, "kept": 5, "dropped": {"unscored": 2, "below_share": 5}}
    of_margin = {"rows_in": 12, "kept": 10, "dropped": {"unscored": 2}}
    if "chosen_share" in settings:
        assert made.stage_counts["sft/train"] == of_share
    else:
        assert made.stage_counts["sft/train"]["kept"] == 12
        assert made.stage_counts["dpo/train"] == of_margin
    assert not {text_of(data[index]["chosen"]) for index in (2, 5)} & {
        text_of(row["chosen"]) for row in made.train_dataset
    }


def contradicting_by_hand(output_dir):
    """The rewards of each pair by hand, and whether they contradict it under length control."""
    (chosen,), (rejected,) = written(output_dir), written(output_dir, "sample")
    others = {json.dumps(row["prompt"]): row for row in rejected}
    both = [(row, others[json.dumps(row["prompt"])]) for row in chosen]
    both = [
        (better, worse)
        for better, worse in both
        if better["completion"].strip() and worse["completion"].strip() and better["completion"] != worse["completion"]
    ]
    sides = [
        rewards_by_hand(*([pair[place][name] for pair in both] for name in ("prompt", "completion", "finish_reason")))
        for place in (0, 1)
    ]
    lengths = [[len(row["completion"]) for row in pair] for pair in both]
    penalty = equal_length_penalty([list(pair) for pair in zip(*sides, strict=True)], lengths)
    return [
        (better["completion"], worse["completion"], a, b, a - b - penalty * (one - other))
        for (better, worse), a, b, (one, other) in zip(both, *sides, lengths, strict=True)
    ]


def test_pairs_that_the_reward_contradicts_are_dropped(tmp_path):
    made = trainer(tmp_path, prompts(16), settings={"drop_contradicting": True})
    made.train()
    facts = contradicting_by_hand(tmp_path)
    agreeing = [fact[:2] for fact in facts if fact[4] > 0]
    assert 0 < len(agreeing) < len(facts)
    assert agreeing != [fact[:2] for fact in facts if fact[2] > fact[3]]  # what length control is for
    assert [(text_of(row["chosen"]), text_of(row["rejected"])) for row in made.train_dataset] == agreeing
    counts = made.stage_counts["dpo/train"]
    assert counts["dropped"]["contradicting"] == len(facts) - len(agreeing)
    assert counts["rows_in"] == counts["kept"] + sum(counts["dropped"].values())
    (path,) = tmp_path.glob("_cong/pairs-train-*/preferences.parquet")
    assert len(Dataset.from_parquet(str(path))) == len(agreeing)


# The margin.


def scored_pairs(n=8):
    rows = pairs(n)
    prompt, ends = rows["prompt"][:], ["stop"] * n
    for side in ("chosen", "rejected"):
        rewards = rewards_by_hand(prompt, [text_of(turn) for turn in rows[side]], ends)
        rows = rows.add_column(f"{side}_reward", rewards)
    return rows


CONSTANT = {
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "max_grad_norm": 0.0,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 8,  # one batch an epoch: the order of rows has no part
}


def dpo_with_offset(rows, beta, offsets, steps=4, learning_rate=1e-3):
    """DPO, row by row, with −log σ(β·Δ − offset), and its losses."""
    model, reference = strong_model(), strong_model()

    def logps(model, prompt, turn):
        before = TOKENIZER.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        ids = TOKENIZER.apply_chat_template(prompt + turn, return_dict=False)
        logits = model(torch.tensor([ids])).logits[0, len(before) - 1 : -1].log_softmax(-1)
        return logits.gather(1, torch.tensor(ids[len(before) :])[:, None]).sum()

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = 0
        for row, offset in zip(rows, offsets, strict=True):
            ratios = []
            for side in ("chosen", "rejected"):
                with torch.no_grad():
                    before = logps(reference, row["prompt"], row[side])
                ratios.append(logps(model, row["prompt"], row[side]) - before)
            loss -= logsigmoid(beta * (ratios[0] - ratios[1]) - offset) / len(offsets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def distance(one, other):
    both = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in both)


def test_the_margin_is_inside_the_loss(tmp_path):
    rows, gamma, beta = scored_pairs(), 0.7, 0.5
    made = trainer(
        tmp_path, rows, eval_dataset=rows, weak=False, settings={"reward_margin": gamma, "beta": beta, **CONSTANT}
    )
    before = made.evaluate()
    made.train()
    offsets = [gamma * (row["chosen_reward"] - row["rejected_reward"]) for row in rows]
    assert max(offsets) - min(offsets) > 0.1 and min(map(abs, offsets)) > 1e-4
    logs = [line for line in made.state.log_history if "rewards/margins" in line]
    first = softplus(torch.tensor(offsets)).mean().item()
    assert float(logs[0]["loss"]) == pytest.approx(first, abs=2e-5)
    assert before["eval_loss"] == pytest.approx(first, abs=2e-5)  # the loss of evaluation is the same
    assert float(logs[0]["rewards/margins"]) == pytest.approx(-sum(offsets) / len(offsets), abs=2e-4)
    model, losses = dpo_with_offset(rows, beta, offsets)
    assert [float(line["loss"]) for line in logs] == pytest.approx(losses, abs=1e-4)
    assert distance(made.model, model) < 2e-5
    for other in ([-offset for offset in offsets], [0.0] * len(offsets)):
        wrong, wrong_losses = dpo_with_offset(rows, beta, other)
        assert distance(made.model, wrong) > 1e-3
        assert [float(line["loss"]) for line in logs] != pytest.approx(wrong_losses, abs=1e-3)


def test_another_margin_asks_the_reference_nothing_again(tmp_path):
    found = []
    for margin in (0.3, 0.9):
        made = trainer(tmp_path, scored_pairs(), weak=False, settings={"reward_margin": margin})
        found.append((sorted(tmp_path.rglob("cache-*.arrow")), made.train_dataset["ref_chosen_logps"][:]))
    (before, some), (after, others) = found
    assert before == after and some != others


def test_a_whole_run_puts_the_rewards_of_its_own_pairs_in_the_margin(tmp_path):
    settings = {"reward_margin": 0.5, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.0]}
    made = trainer(tmp_path, prompts(12), eval_dataset=prompts(16).select(range(12, 16)), settings=settings)
    made.train()
    facts = contradicting_by_hand(tmp_path)
    assert [(text_of(row["chosen"]), text_of(row["rejected"])) for row in made.train_dataset] == [f[:2] for f in facts]
    found = [(row["chosen_reward"], row["rejected_reward"]) for row in made.train_dataset]
    assert sum(found, ()) == pytest.approx([reward for fact in facts for reward in fact[2:4]], abs=1e-5)
    (directory,) = tmp_path.glob("_cong/pairs-train-*/dataset")
    plain = [Dataset.from_file(str(path)) for path in directory.glob("cache-*.arrow")]
    names = ["ref_chosen_logps", "ref_rejected_logps"]
    reference = next(rows["ref_chosen_logps"][:] for rows in plain if rows.column_names == names)
    shifts = [a - b for a, b in zip(made.train_dataset["ref_chosen_logps"], reference, strict=True)]
    assert shifts == pytest.approx([0.5 * (fact[2] - fact[3]) / 0.5 for fact in facts], abs=1e-4)
    assert max(map(abs, shifts)) > 0.05
    assert "chosen_reward" in made.eval_dataset.column_names


# One launch, launches by stage, and what a kill leaves.


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, model in zip(("strong", "policy", "reference"), (strong_model(), *weak_pair()), strict=True):
        model.save_pretrained(root / name)
        TOKENIZER.save_pretrained(root / name)
    return root


BEST = {"num_chosen_samples": 2, "chosen_share": 0.8, "drop_contradicting": True, "reward_margin": 0.3}
WORST = {"num_chosen_samples": 2, "chosen_share": 0.8, "rejected_from": "worst", "reward_margin": 0.3}
REFINED = {
    "best": BEST,
    "worst": pytest.param(WORST, marks=pytest.mark.slow),
    "steered": pytest.param({**BEST, "chosen_from": "steered", "rejected_from": "base"}, marks=pytest.mark.slow),
}


def rewards_of(output_dir):
    return {path.relative_to(output_dir).as_posix(): path.read_bytes() for path in output_dir.rglob("rewards-*.jsonl")}


@pytest.mark.parametrize("refined", REFINED.values(), ids=REFINED)
def test_launches_by_stage_leave_the_bytes_of_one_launch(models, tmp_path, refined):
    steered = refined.get("chosen_from") == "steered"
    strong = {"model": str(models / "policy")} if steered else {}  # of the pair's family
    evals = {"eval_dataset": prompts(18).select(range(12, 18)), "eval_strategy": "epoch"}
    if not steered:
        at_once(models, tmp_path / "once", **evals, **refined)
    by_stages(models, tmp_path / "staged", **evals, **refined, **strong)
    if steered:
        shutil.copytree(tmp_path / "staged", tmp_path / "once")
        by_stages(models, tmp_path / "once", **evals, **refined, **strong)
    once, by_stage = artefacts(tmp_path / "once"), artefacts(tmp_path / "staged")
    assert once == by_stage and any(name.startswith("_cong/best-eval") for name in once)
    assert rewards_of(tmp_path / "once") == rewards_of(tmp_path / "staged")
    manifests = [json.loads((tmp_path / name / "_cong/manifest.json").read_text()) for name in ("once", "staged")]
    for name in ("run", "stages", "counts", "sources", "settings"):
        assert manifests[0][name] == manifests[1][name], name
    assert {name: manifests[0]["settings"].get(name) for name in refined} == refined
    for counts in manifests[0]["counts"].values():
        assert counts["rows_in"] == counts["kept"] + sum(counts["dropped"].values())


@pytest.mark.slow
def test_a_setting_of_later_stages_renames_nothing_of_the_earlier_ones(models, tmp_path):
    found = []
    for margin in (0.3, 0.9):
        at_once(models, tmp_path / str(margin), **{**BEST, "reward_margin": margin})
        found.append(artefacts(tmp_path / str(margin)))
    one, other = ({name: data for name, data in files.items() if name.startswith("_cong")} for files in found)
    assert one == other
    assert found[0]["model.safetensors"] != found[1]["model.safetensors"]
    staged(models, tmp_path / "0.3", "decode")  # a run without any of it, in the same directory
    assert {path.name for path in tmp_path.glob("0.3/_cong/decode-train-*")} == {
        name.split("/")[1] for name in one if name.startswith("_cong/decode-train-")
    }


@pytest.mark.slow
def test_a_kill_between_scores_leaves_no_trace(models, tmp_path):
    settings = {**BEST, "generation_batch_size": 3}
    at_once(models, tmp_path / "whole", **settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for name in ("best-*", "sft-*", "sample-*", "pairs-*", "decode-*/sft-*"):
        for path in (tmp_path / "killed/_cong").glob(name):
            shutil.rmtree(path)
    for path in tmp_path.glob("killed/checkpoint-*"):
        shutil.rmtree(path)
    journals = sorted((tmp_path / "killed/_cong").glob("rewards-train-*/rewards-00000.jsonl"))
    assert len(journals) == 3  # two samples and the rejected completions
    for path, kept in zip(journals, (4, 2, 0), strict=True):  # with and without half a batch, and nothing
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
    at_once(models, tmp_path / "killed", **settings)
    assert artefacts(tmp_path / "killed") == artefacts(tmp_path / "whole")
    assert rewards_of(tmp_path / "killed") == rewards_of(tmp_path / "whole")


def test_a_stage_says_which_scores_are_missing(models, tmp_path):
    staged(models, tmp_path, "decode", num_chosen_samples=2)
    for path in (tmp_path / "_cong").glob("rewards-*"):
        shutil.rmtree(path)
    with pytest.raises(FileNotFoundError, match="Stage `decode` .* not all completions have their reward"):
        staged(models, tmp_path, "sft", num_chosen_samples=2)
    with pytest.raises(FileNotFoundError, match="Stage `decode` of this run has not ended.*no manifest.json") as found:
        staged(models, tmp_path, "sft", num_chosen_samples=3)
    assert "another run" not in str(found.value)  # the two samples that there are


# The weak pair.


def test_an_adapter_scores_with_its_base_in_one_forward(tmp_path, models):
    adapted, policy, reference = tiny_lora("llama", 1, vocab_size=len(TOKENIZER), eos_token_id=TOKENIZER.eos_token_id)
    reference.save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    settings = {"chosen_share": 0.5, "weak_model_name_or_path": str(tmp_path / "adapter")}
    assert isinstance(
        WeakPair(config(tmp_path), str(tmp_path / "adapter"), None).load(), ContrastiveLoraPairForCausalLM
    )
    made = trainer(tmp_path / "out", chosen_rows(), weak=False, settings=settings)
    made.train()
    (path,) = tmp_path.glob("out/_cong/rewards-train-*/rewards-00000.jsonl")
    _, *lines = map(json.loads, path.read_text().splitlines())
    found = {line["prompt_id"]: line["reward"] for line in lines}
    rows = chosen_rows()
    wanted = rewards_by_hand(
        rows["prompt"][:], [text_of(turn) for turn in rows["chosen"]], ["stop"] * 12, (policy, reference)
    )
    assert sorted(found.values()) == pytest.approx(sorted(wanted), abs=1e-4)
    assert made.stage_counts["sft/train"]["kept"] == 6


@pytest.mark.parametrize("compares", [pytest.param(False, marks=pytest.mark.slow), True])
def test_weak_models_are_there_only_while_they_score(tmp_path, compares):
    alive = {"sft": [], "dpo": []}

    class Watch(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "sft/loss" in logs or "loss" in logs:
                alive["sft" if "sft/loss" in logs else "dpo"].append(any(model() is not None for model in references))

    policy, reference = weak_pair()
    references = [weakref.ref(policy), weakref.ref(reference)]
    settings = {"num_chosen_samples": 2, "drop_contradicting": compares}
    weak = {"weak_model": policy, "weak_reference_model": reference}
    made = trainer(tmp_path, prompts(8), settings=settings, callbacks=[Watch()], **weak)
    del policy, reference, weak
    made.train()
    assert set(alive["sft"]) == {compares}  # on the CPU meanwhile: they are to score the pairs
    assert set(alive["dpo"]) == {False}


# Refusals.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_chosen_samples": 0}, "`num_chosen_samples` must be at least 1, got 0"),
        ({"chosen_share": 0.0}, r"`chosen_share` must lie in \(0, 1\], got 0.0"),
        ({"chosen_share": 1.5}, r"`chosen_share` must lie in \(0, 1\], got 1.5"),
        ({"chosen_share": float("nan")}, "`chosen_share` must lie in"),
        ({"reward_margin": -0.1}, "`reward_margin` must be finite and at least 0, got -0.1"),
        ({"reward_margin": math.inf}, "`reward_margin` must be finite"),
        ({"rejected_from": "worst"}, "`rejected_from='worst'` needs several samples .* got `num_chosen_samples=1`"),
        (
            {"rejected_from": "worst", "num_chosen_samples": 2, "drop_contradicting": True},
            "`drop_contradicting` has nothing to drop",
        ),
        ({"reward_margin": 0.5, "precompute_ref_log_probs": False}, "`precompute_ref_log_probs=True`"),
        ({"reward_margin": 0.5, "loss_type": "sigmoid_norm"}, r"inside the loss 'sigmoid' .*\['sigmoid_norm'\]"),
        ({"reward_margin": 0.5, "loss_type": ["sft"]}, r"inside the loss 'sigmoid' .*\['sft'\]"),
        ({"reward_margin": 0.5, "loss_type": ["sigmoid", "ipo"]}, "inside the loss 'sigmoid'"),
        ({"reward_margin": 0.5, "f_divergence_type": "forward_kl"}, "'forward_kl'"),
        ({"reward_margin": 0.5, "beta": 0.0}, "`beta` above 0"),
    ],
)
def test_settings_without_effect_or_out_of_range_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings)


def test_rewards_that_are_none_are_refused(tmp_path):
    rows = pairs(4).add_column("chosen_reward", [1.0] * 4).add_column("rejected_reward", [0.5, None, 0.5, 0.5])
    with pytest.raises(ValueError, match=r"Row 1 of the pairs has the rewards \(1.0, None\)"):
        trainer(tmp_path, rows, weak=False, settings={"reward_margin": 1.0})


def test_what_is_no_number_is_refused(tmp_path):
    for name, value in (("num_chosen_samples", 2.5), ("chosen_share", "0.5"), ("reward_margin", None)):
        with pytest.raises(TypeError, match=f"`{name}` must be an? "):
            config(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (pairs, {"chosen_share": 0.5}, "The dataset has pairs, of which ConG drops none: got {'chosen_share': 0.5"),
        (pairs, {"drop_contradicting": True}, "The dataset has pairs"),
        (pairs, {"num_chosen_samples": 2}, "`num_chosen_samples` is 2, and the dataset has its completions"),
        (pairs, {"reward_margin": 1.0}, "`reward_margin` needs the columns `chosen_reward` and `rejected_reward`"),
        (chosen_rows, {"num_chosen_samples": 2}, "`num_chosen_samples` is 2, and the dataset has its completions"),
    ],
)
def test_data_that_leaves_a_setting_without_effect_is_refused(tmp_path, data, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, data(4), settings=settings)


def test_worst_needs_samples_in_every_split(tmp_path):
    settings = {"num_chosen_samples": 2, "rejected_from": "worst"}
    with pytest.raises(ValueError, match=r"`rejected_from='worst'` needs several samples .* \['eval'\] has one"):
        trainer(tmp_path, prompts(4), eval_dataset=chosen_rows(4), settings=settings)


@pytest.mark.slow
def test_given_pairs_of_an_evaluation_keep_their_rejected_completions(tmp_path):
    settings = {"num_chosen_samples": 2, "rejected_from": "worst", "reward_margin": 0.2}
    made = trainer(tmp_path, prompts(4), eval_dataset=pairs(4), settings=settings)
    made.train()
    assert {text_of(row["rejected"]) for row in made.eval_dataset} == {f"rude dog {index}" for index in range(3)}
    assert made.eval_dataset["rejected_reward"][:] == pytest.approx(
        rewards_by_hand(pairs(4)["prompt"][:], [text_of(turn) for turn in pairs(4)["rejected"]], ["stop"] * 4),
        abs=1e-5,
    )


def test_given_completions_without_a_pair_cannot_be_ranked(tmp_path):
    with pytest.raises(ValueError, match="Scoring by implicit reward needs the weak pair"):
        trainer(tmp_path, chosen_rows(4), weak=False, settings={"chosen_share": 0.5})


def test_plain_runs_are_as_they_were(tmp_path):
    made = trainer(tmp_path, prompts(4))
    made.train()
    assert not list(tmp_path.glob("_cong/rewards-*")) and not list(tmp_path.glob("_cong/best-*"))
    (directory,) = tmp_path.glob("_cong/pairs-train-*/dataset")
    assert set(load_from_disk(directory).column_names) == {"prompt_id", "prompt", "chosen", "rejected"}
    assert weights(made)
