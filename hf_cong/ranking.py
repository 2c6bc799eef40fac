# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Which completions are worth training on, by a pair's implicit reward: scored once, ranked under equal lengths.

An implicit reward is a sum over tokens, so that what wins by it tends to be the longer. A length penalty takes that
away: the number per character for which winners and losers are, on average, of one length.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
from accelerate import PartialState
from tqdm.auto import tqdm

from .checkpoints import content_key
from .compatibility import context_length
from .journal import Journal, check_identity, read_journal
from .rewards import ImplicitReward
from .rewards.likelihood import encode_completions, encode_prompts

logger = logging.getLogger(__name__)

_JOURNALS = "rewards-*.jsonl"
_STEPS = 60  # halvings of an interval: more than a float can tell apart


def score_completions(
    completions: datasets.Dataset,
    reward: Callable[[], ImplicitReward],
    *,
    reward_id: str | dict,
    output_dir: str | Path,
    batch_size: int = 16,
) -> datasets.Dataset:
    """
    Scores completions by an implicit reward, and keeps the scores in `output_dir`.

    Every batch is journaled: the same command goes on where a killed one stopped, on any number of processes, and
    calls `reward` only if work is left.

    Args:
        completions (`datasets.Dataset`):
            The columns `prompt_id` (each once), `prompt`, `completion` (text) and `finish_reason`.
        reward (`Callable`):
            Returns the [`ImplicitReward`].
        reward_id (`str` or `dict`):
            Names all that changes what `reward` says (JSON values).
        output_dir (`str` or `Path`):
            Receives `rewards-*.jsonl`, one for each process.
        batch_size (`int`, *optional*, defaults to `16`):
            Completions per batch.

    Returns:
        `datasets.Dataset`: `completions` with the column `reward`: the sum over the tokens, with that of the end if
        the completion came to one; `None` where prompt and completion are longer than the context of the pair.

    Raises:
        ValueError: if `output_dir` holds the scores of other completions or of another reward.
    """
    identity = {
        "completions": content_key(*(completions[name][:] for name in ("prompt_id", "completion", "finish_reason"))),
        "reward": reward_id,
    }
    state, output_dir = PartialState(), Path(output_dir)
    names, done = completions["prompt_id"][:], _read_scores(output_dir, identity)
    lengths = [len(text) for text in completions["completion"]]
    # Of like length together, the longest first: what does not fit in memory fails at once.
    ordered = sorted(range(len(names)), key=lambda index: (-lengths[index], index))
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    # The whole batch, though a kill may have left part of it: the same batch gives the same bits.
    batches = [batch for batch in batches if any(names[index] not in done for index in batch)]
    state.wait_for_everyone()  # all processes have looked before one writes
    if batches:
        batches = batches[state.process_index :: state.num_processes]
        scorer = reward()
        path = output_dir / f"rewards-{state.process_index:05d}.jsonl"
        bar = tqdm(total=sum(map(len, batches)), desc="Scoring completions", disable=not state.is_main_process)
        with Journal(path, identity) as journal, bar:
            for batch in batches:
                scores = _score(scorer, completions.select(batch), batch_size)
                records = [{"prompt_id": names[i], "reward": r} for i, r in zip(batch, scores, strict=True)]
                journal.append([record for record in records if record["prompt_id"] not in done])
                bar.update(len(batch))
        state.wait_for_everyone()
        done = _read_scores(output_dir, identity)
    return completions.add_column("reward", [done[name] for name in names], feature=datasets.Value("float64"))


def _score(reward: ImplicitReward, rows: datasets.Dataset, batch_size: int) -> list[float | None]:
    prompts = rows["prompt"][:]
    before = encode_prompts(reward.tokenizer, prompts, reward.chat_template_kwargs)
    ids = encode_completions(reward.tokenizer, prompts, before, rows["completion"][:])
    limit = min(context_length(scorer.model) or math.inf for scorer in reward.scorers)
    fits = [i for i, (prompt, own) in enumerate(zip(before, ids, strict=True)) if len(prompt) + len(own) < limit]
    scores: list[float | None] = [None] * len(ids)
    if fits:
        scored = reward.score(
            [prompts[i] for i in fits],
            [ids[i] for i in fits],
            finish_reasons=[rows["finish_reason"][i] for i in fits],
            batch_size=batch_size,
        )
        for i, score in zip(fits, scored, strict=True):
            scores[i] = score
    return scores


def _read_scores(output_dir: Path, identity: dict) -> dict[str, float | None]:
    scores = {}
    for path in sorted(output_dir.glob(_JOURNALS)):
        header, records = read_journal(path)
        if records:
            check_identity(identity, header["identity"], path)
        scores |= {record["prompt_id"]: record["reward"] for record in records}
    return scores


def equal_length_penalty(rewards: list[list[float]], lengths: list[list[int]]) -> float:
    r"""
    The penalty per unit of length for which the best and the worst of each group are, on average, of one length.

    As the penalty a rises, the best by r − a·length only gets shorter and the worst only longer, so the mean
    difference of their lengths falls with a; bisection finds where it changes its sign.

    Args:
        rewards (`list[list[float]]`): Rewards of the candidates for each prompt.
        lengths (`list[list[int]]`): Their lengths, in characters.

    Returns:
        `float`: in units of the reward per character; 0 if no group has two candidates of different lengths.

    Source: [DICE](https://huggingface.co/papers/2406.09760), which searches a grid.
    """
    groups = [list(zip(*group, strict=True)) for group in zip(rewards, lengths, strict=True)]

    def gap(penalty: float) -> int:
        controlled = [[(reward - penalty * length, length) for reward, length in group] for group in groups]
        return sum(max(group)[1] - min(group)[1] for group in controlled)

    if all(len(set(group)) == 1 for group in lengths):
        return 0.0
    return _zero(gap, most=max(max(group) - min(group) for group in rewards))


def _zero(gap: Callable[[float], float], most: float) -> float:
    """Where a falling function of the penalty is nearest to 0; at `most`, a character outweighs any reward."""
    low, high = -most - 1.0, most + 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if gap(middle) > 0:
            low = middle
        else:
            high = middle
    # None at all, if it does as well: the ends of an interval that does are ties.
    return min((0.0, low, high), key=lambda penalty: (abs(gap(penalty)), abs(penalty)))


def best_and_worst(
    candidates: list[datasets.Dataset], *, length_penalty: float | None = None, drop_truncated: bool = True
) -> tuple[datasets.Dataset, datasets.Dataset, dict]:
    """
    The best and the worst of several completions of each prompt, by their controlled reward.

    Args:
        candidates (`list[datasets.Dataset]`):
            What [`score_completions`] returned, once for each sample; joined by `prompt_id`.
        length_penalty (`float`, *optional*):
            Subtracted from the reward for every character; [`equal_length_penalty`] of the candidates by default.
        drop_truncated (`bool`, *optional*, defaults to `True`):
            Whether a completion that was cut at the length limit is no candidate.

    Returns:
        `tuple[datasets.Dataset, datasets.Dataset, dict]`: the best and the worst, a row of each for every prompt that
        has a candidate, with the column `controlled_reward` added, and the facts `{"length_penalty", "prompts",
        "kept", "dropped": {reason: candidates}}` with the reasons `empty`, `truncated` and `unscored`. Of a prompt
        with one candidate, best and worst are the same.

    Raises:
        ValueError: if no candidate is left, or a set of candidates has no rewards.
    """
    groups, dropped = {}, Counter()
    for index, rows in enumerate(candidates):
        missing = sorted({"prompt_id", "completion", "finish_reason", "reward"} - set(rows.column_names))
        if missing:
            raise ValueError(
                f"`candidates[{index}]` has the columns {rows.column_names}; {missing} are missing. Pass what "
                "`score_completions` returned."
            )
        facts = zip(*(rows[name][:] for name in ("prompt_id", "completion", "finish_reason", "reward")), strict=True)
        for row, (name, text, finish_reason, reward) in enumerate(facts):
            group = groups.setdefault(name, [])
            if not text.strip():
                dropped["empty"] += 1
            elif drop_truncated and finish_reason == "length":
                dropped["truncated"] += 1
            elif reward is None:
                dropped["unscored"] += 1
            else:
                group.append((reward, len(text), index, row))
    kept = {name: group for name, group in groups.items() if group}
    if not kept:
        raise ValueError(
            f"No candidate is left of {sum(map(len, candidates))}: dropped {dict(dropped)}; at least one must be "
            "kept. With `truncated`, raise `max_new_tokens` or pass `drop_truncated=False`."
        )
    if length_penalty is None:
        rewards, lengths = ([[candidate[place] for candidate in group] for group in kept.values()] for place in (0, 1))
        length_penalty = equal_length_penalty(rewards, lengths)
    ranked = [
        sorted(((reward - length_penalty * length, index, row) for reward, length, index, row in group))
        for group in kept.values()
    ]
    facts = {
        "length_penalty": length_penalty,
        "prompts": len(groups),
        "kept": len(kept),
        "dropped": dict(sorted(dropped.items())),
    }
    logger.info("Best and worst: %s", facts)
    best, worst = ([group[place] for group in ranked] for place in (-1, 0))
    return _take(candidates, best), _take(candidates, worst), facts


def _take(candidates: list[datasets.Dataset], places: list[tuple[float, int, int]]) -> datasets.Dataset:
    rows = datasets.concatenate_datasets(candidates)
    starts = [sum(map(len, candidates[:index])) for index in range(len(candidates))]
    taken = rows.select([starts[index] + row for _, index, row in places])
    return taken.add_column("controlled_reward", [reward for reward, _, _ in places])


def keep_share(scored: datasets.Dataset, share: float) -> datasets.Dataset:
    r"""
    The share of completions with the highest reward, under the length penalty for which those that are kept and those
    that are not are, on average, of one length.

    Args:
        scored (`datasets.Dataset`): What [`score_completions`] returned. A row without a reward is never kept.
        share (`float`): In (0, 1]: how many of the rows to keep, rounded up.

    Returns:
        `datasets.Dataset`: the kept rows, in their order.

    Raises:
        ValueError: if `share` is out of its range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must lie in (0, 1], got {share!r}. 1 keeps every completion that has a reward.")
    facts = enumerate(zip(scored["reward"], scored["completion"], strict=True))
    rows = [(reward, len(text), index) for index, (reward, text) in facts if reward is not None]
    count = min(len(rows), max(1, math.ceil(round(share * len(scored), 6))))  # 0.07 of 100 are 7, in floats too

    def best(penalty: float) -> list[tuple[float, int, int]]:
        return sorted(rows, key=lambda row: (row[0] - penalty * row[1], -row[2]), reverse=True)[:count]

    if count < len(rows):
        mean = sum(length for _, length, _ in rows) / len(rows)
        most = max(reward for reward, _, _ in rows) - min(reward for reward, _, _ in rows)
        rows = best(_zero(lambda penalty: sum(length for _, length, _ in best(penalty)) / count - mean, most))
    return scored.select(sorted(index for _, _, index in rows))


def agreeing(
    chosen: datasets.Dataset, rejected: datasets.Dataset, *, length_penalty: float | None = None
) -> tuple[list[str], dict]:
    """
    The prompts on which the implicit reward does not contradict the label.

    Args:
        chosen (`datasets.Dataset`): What [`score_completions`] returned for the preferred completions.
        rejected (`datasets.Dataset`): The same for the others; joined by `prompt_id`.
        length_penalty (`float`, *optional*):
            Subtracted from both rewards for every character; [`equal_length_penalty`] of the pairs by default.

    Returns:
        `tuple[list[str], dict]`: the `prompt_id`s of the pairs whose chosen completion has the higher controlled
        reward, in the order of `chosen`, and `{"length_penalty", "pairs", "contradicted", "unscored"}`.
    """
    others = {name: row for name, *row in _facts(rejected)}
    pairs = [(name, (reward, length), others[name]) for name, reward, length in _facts(chosen) if name in others]
    scored = [pair for pair in pairs if None not in (pair[1][0], pair[2][0])]
    if length_penalty is None:
        rewards, lengths = ([[pair[1][place], pair[2][place]] for pair in scored] for place in (0, 1))
        length_penalty = equal_length_penalty(rewards, lengths)

    def controlled(reward: float, length: int) -> float:
        return reward - length_penalty * length

    kept = [name for name, better, worse in scored if controlled(*better) > controlled(*worse)]
    facts = {
        "length_penalty": length_penalty,
        "pairs": len(pairs),
        "contradicted": len(scored) - len(kept),
        "unscored": len(pairs) - len(scored),
    }
    return kept, facts


def _facts(scored: datasets.Dataset) -> zip:
    lengths = [len(text) for text in scored["completion"]]
    return zip(scored["prompt_id"], scored["reward"], lengths, strict=True)
