# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a run asks of its weak pair after decoding: which samples are the best, which pairs to leave out, what margin.

All of it is read off the pair's implicit reward of text, so that it is the same for every strong model and tokenizer.
A completion that is longer, with its prompt, than the context of the pair has no reward: it is dropped, and counted.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset, Value

from .checkpoints import content_key
from .cong_config import ConGConfig
from .journal import replacing, write_manifest
from .pair import ContrastivePairForCausalLM
from .preferences import build_preference_dataset
from .prompts import encode_prompt
from .ranking import agreeing, best_and_worst, keep_share, score_completions
from .rewards import ImplicitReward
from .weak_pair import WeakPair

SEED_STEP = 2  # from a prompt's sample to its next one; between them lies the seed of the strong model's own


class Ranked(NamedTuple):
    """
    What is kept of the samples of a split.

    Args:
        best (`datasets.Dataset`): The completion of each prompt, with its `reward` and `controlled_reward`.
        worst (`datasets.Dataset`): The worst one of the same prompts.
        directory (`str`): Where the best lie, below `root`, as [`generate_completions`] would have left them.
        dropped (`dict[str, int]`): Prompts by the reason why none of their samples is kept.
        counts (`dict`): The same of samples: `rows_in`, `kept` and `dropped`.
    """

    best: Dataset
    worst: Dataset
    directory: str
    dropped: dict[str, int]
    counts: dict[str, Any]


class Refinement:
    """
    Ranking and filtering by the weak pair's implicit reward, as [`ConGConfig`] asks for it.

    Rewards are plain sums, in nats, over the tokens of a completion and its end if it came to one. Where completions
    are compared, a penalty per character makes the better and the worse ones equally long on average; it is found anew
    for each comparison and split: see [`equal_length_penalty`]. The margin alone is of plain rewards.

    Args:
        args ([`ConGConfig`]): Settings of the run.
        root (`Path`): Where scores are kept, in directories that are named by all that they depend on.
        weak ([`WeakPair`]): The pair.

    Attributes:
        ranks (`bool`): Whether chosen completions are scored.
        compares (`bool`): Whether pairs are scored.
    """

    def __init__(self, args: ConGConfig, root: Path, weak: WeakPair):
        self.args, self.root, self.weak = args, root, weak
        self.ranks = args.num_chosen_samples > 1 or args.chosen_share < 1
        self.compares = args.drop_contradicting or args.reward_margin > 0

    def check(self, splits: dict[str, Dataset], pairs_missing: bool) -> None:
        """
        Refuses what would have no effect on this data, or fail only after hours.

        Args:
            splits (`dict[str, datasets.Dataset]`): The data as it came.
            pairs_missing (`bool`): Whether stages are left before DPO.

        Raises:
            ValueError: naming the setting, or the split.
        """
        args = self.args
        written = [name for name, data in splits.items() if not {"chosen", "completion"} & set(data.column_names)]
        if args.reward_margin > 0 and not pairs_missing:
            for data in splits.values():
                _check_rewards(data)
        if args.stage == "dpo" and not pairs_missing:
            return  # of what the stages before it have made
        given = {name: getattr(args, name) for name in ("chosen_share", "drop_contradicting")}
        if not pairs_missing and given != {"chosen_share": 1, "drop_contradicting": False}:
            raise ValueError(
                f"The dataset has pairs, of which ConG drops none: got {given}. Leave these out, or remove the column "
                "`rejected`."
            )
        if args.num_chosen_samples > 1 and not written:
            raise ValueError(
                f"`num_chosen_samples` is {args.num_chosen_samples}, and the dataset has its completions. Remove the "
                "columns `chosen` or `completion`, and `rejected`, or leave `num_chosen_samples` out."
            )
        alone = [name for name in splits if name not in written and "rejected" not in splits[name].column_names]
        if args.rejected_from == "worst" and alone:
            raise ValueError(
                f"`rejected_from='worst'` needs several samples of each prompt, and {alone} has one completion. Add "
                "the column `rejected` there, or remove `chosen` or `completion`."
            )
        if pairs_missing and (self.ranks or self.compares):
            self.weak.require("Scoring by implicit reward")
            for data in splits.values():
                encode_prompt(self.weak.tokenizer, data[0]["prompt"])  # raises where it has no chat template

    def scorer(self, stage: str, reads: bool) -> Callable[[], ContrastivePairForCausalLM]:
        """
        What returns the weak pair, loaded once.

        Args:
            stage (`str`): The stage that scores.
            reads (`bool`): Whether this is a later stage, which only reads: it then raises `FileNotFoundError`.
        """

        def refuse():
            raise FileNotFoundError(
                f"Stage `{stage}` of this run has not ended: not all completions have their reward. Run it first, "
                f"with the same settings: `hf-cong train --config ... --stage {stage}`."
            )

        def load():
            clear_device_cache(garbage_collection=True)  # of what wrote
            return self.weak.load()

        return refuse if reads else functools.cache(load)

    def score(self, split: str, completions: Dataset, pair: Callable[[], ContrastivePairForCausalLM]) -> Dataset:
        """
        Completions with their rewards, which are computed once: see [`score_completions`].

        Args:
            split (`str`): Of which split they are.
            completions (`datasets.Dataset`): As [`generate_completions`] returned them.
            pair (`Callable`): Returns the weak pair; called if a score is missing.
        """
        texts = [completions[name][:] for name in ("prompt_id", "completion", "finish_reason")]
        reward_id = self.weak.reward_identity()
        directory = self.root / f"rewards-{split}-{content_key(*texts, reward_id)}"
        # The pair has its own precision, whatever that of training.
        with torch.autocast(PartialState().device.type, enabled=False):
            return score_completions(
                completions,
                lambda: ImplicitReward(pair(), None, self.weak.tokenizer),
                reward_id=reward_id,
                output_dir=directory,
                batch_size=self.args.generation_batch_size,
            )

    def rank(self, split: str, samples: list[Dataset], pair: Callable[[], ContrastivePairForCausalLM]) -> Ranked:
        """
        Of several completions of each prompt the best, and of these the share that is kept.

        Args:
            split (`str`): Of which split they are.
            samples (`list[datasets.Dataset]`): Each with one completion of every prompt.
            pair (`Callable`): Returns the weak pair; called if a score is missing.
        """
        settings = {name: getattr(self.args, name) for name in ("chosen_share", "drop_truncated")}
        scored = [self.score(split, one, pair) for one in samples]
        best, worst, facts = best_and_worst(scored, drop_truncated=self.args.drop_truncated)
        kept = keep_share(best, self.args.chosen_share)
        # Of one sample, what is wrong with it; of several, each may have its own fault.
        lost = {"no_sample": facts["prompts"] - facts["kept"]} if len(samples) > 1 else facts["dropped"]
        dropped = {**lost, "below_share": len(best) - len(kept)}
        rows_in = sum(map(len, samples))
        counts = {"rows_in": rows_in, "kept": rows_in - sum(facts["dropped"].values()), "dropped": facts["dropped"]}
        told = [name for name in best.column_names if name not in ("prompt", "completion_ids", "controlled_reward")]
        key = content_key([[one[name][:] for name in told] for one in scored], settings)
        directory = self.root / f"best-{split}-{key}"
        if PartialState().is_main_process and not (directory / "manifest.json").exists():
            identity = {"reward": self.weak.reward_identity(), "samples": len(samples), **settings}
            with replacing(directory / "completions.parquet") as temporary:
                kept.to_parquet(temporary)
            facts = {"identity": identity, "length_penalty": facts["length_penalty"], "counts": counts}
            write_manifest(directory / "manifest.json", facts, files=("completions.parquet",))
        return Ranked(kept, worst, directory.name, {why: n for why, n in dropped.items() if n}, counts)

    def compare(
        self, split: str, chosen: Dataset, rejected: Dataset, pair: Callable[[], ContrastivePairForCausalLM]
    ) -> tuple[Dataset, Dataset, dict[str, str]]:
        """
        Both sides of pairs with their rewards, and the pairs to leave out, with the reason.

        Args:
            split (`str`): Of which split they are.
            chosen (`datasets.Dataset`): The preferred completions. Those that have a `reward` are not scored again.
            rejected (`datasets.Dataset`): The others.
            pair (`Callable`): Returns the weak pair; called if a score is missing.
        """
        chosen, rejected = (
            side if "reward" in side.column_names else self.score(split, side, pair) for side in (chosen, rejected)
        )
        # Of those alone that would be pairs: no other has a part in the penalty.
        pairs, _ = build_preference_dataset(chosen, rejected, drop_truncated=self.args.drop_truncated)
        rewards = zip(*(pairs[name] for name in ("prompt_id", "chosen_reward", "rejected_reward")), strict=True)
        leave_out = {name: "unscored" for name, *both in rewards if None in both}
        if self.args.drop_contradicting:
            names = set(pairs["prompt_id"]) - leave_out.keys()
            sides = [
                side.select([index for index, name in enumerate(side["prompt_id"]) if name in names])
                for side in (chosen, rejected)
            ]
            agreed, _ = agreeing(*sides)
            leave_out |= dict.fromkeys(names.difference(agreed), "contradicting")
        return chosen, rejected, leave_out


def _check_rewards(pairs: Dataset) -> None:
    if not {"chosen_reward", "rejected_reward"} <= set(pairs.column_names):
        raise ValueError(
            f"`reward_margin` needs the columns `chosen_reward` and `rejected_reward`, and the pairs have "
            f"{pairs.column_names}. Remove the column `rejected`, and the trainer writes all three; or add them: what "
            "`ImplicitReward.score` says of your pairs."
        )
    for index, both in enumerate(zip(pairs["chosen_reward"], pairs["rejected_reward"], strict=True)):
        if not all(isinstance(reward, float) and math.isfinite(reward) for reward in both):
            raise ValueError(
                f"Row {index} of the pairs has the rewards {repr(both)[:80]}; `reward_margin` needs finite numbers. "
                "Score it, or leave the row out."
            )


def with_margin(pairs: Dataset, reward_margin: float, beta: float) -> Dataset:
    r"""
    Pairs of which DPO's loss −log σ(β·Δ) is −log σ(β·Δ − m), m = γ·(r(chosen) − r(rejected)).

    It is Δ that carries the margin: m/β is added to the reference's log-probability of the chosen completion.

    Args:
        pairs (`datasets.Dataset`): Pairs with `ref_chosen_logps`, `chosen_reward` and `rejected_reward`.
        reward_margin (`float`): γ.
        beta (`float`): β of DPO.

    Raises:
        ValueError: if there are no rewards.

    Source: the margin is that of [ODPO](https://huggingface.co/papers/2402.10571), with the implicit reward for its
    scores.
    """
    _check_rewards(pairs)
    columns = zip(*(pairs[name] for name in ("ref_chosen_logps", "chosen_reward", "rejected_reward")), strict=True)
    shifted = [logps + reward_margin * (better - worse) / beta for logps, better, worse in columns]
    return pairs.remove_columns("ref_chosen_logps").add_column("ref_chosen_logps", shifted, feature=Value("float32"))
