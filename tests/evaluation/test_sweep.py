# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Sweeps: all is kept and joined by prompt, a killed run ends with the bytes of one that was not, the dead cases."""

import contextlib
import csv
import json
import math
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from hf_cong import ContrastivePairForCausalLM, ImplicitReward, generate_completions, run_sweep
from hf_cong.arguments import SweepArguments
from hf_cong.cli import main
from hf_cong.evaluation.divergence import measure_completions
from hf_cong.evaluation.judges import Judge, RewardModelJudge
from hf_cong.evaluation.sweep import FunctionJudge
from hf_cong.evaluation.sweep.recommendation import TOO_THIN
from hf_cong.evaluation.sweep.report import COLUMNS
from hf_cong.evaluation.sweep.settings import all_settings, sweep_settings
from hf_cong.evaluation.text_metrics import distinct_n
from hf_cong.journal import Journal, file_sha256
from hf_cong.prompts import prompt_id
from hf_cong.recipes import parse
from hf_cong.rewards import completion_logps
from tests.evaluation.judges.reward_models import reward_model
from tests.search.served import letters_tokenizer
from tests.tiny import tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROMPTS = [[{"role": "user", "content": f"{i} tell me {'x' * (i * 7 % 12)}"}] for i in range(6)]
# A random model seldom writes its end-of-sequence token; with these some rows stop and some do not.
EOS = [2, *range(100, 120)]
GRID = {"alphas": [0.3, 1.0], "temperatures": [1.0], "temperatures_times_alpha": [1.0]}
SETTINGS = {**GRID, "max_new_tokens": 10, "top_p": 1.0, "batch_size": 4, "seed": 3}
SERIES = sweep_settings((0.3, 1.0), (0.1,), (1.0,), (1.0,))


def make_pair(seed=0, eos=EOS):
    policy, reference = tiny_pair("llama", seed, vocab_size=len(TOKENIZER))
    policy.generation_config.eos_token_id = eos
    return ContrastivePairForCausalLM.from_pair(policy, reference)


def vowels(_, completion):
    return sum(completion.count(letter) for letter in "aeiou") / 10 + len(completion) / 100


GOLD = FunctionJudge("gold", vowels)


def run(path, pair=None, prompts=PROMPTS, **overrides):
    settings = {**SETTINGS, "judges": [GOLD], "tokenizer": TOKENIZER, **overrides}
    return run_sweep(prompts, pair or make_pair(), output_dir=path, **settings)


def table(path, name="rows.csv"):
    with open(path / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files(path):
    """Everything that a run leaves, by its bytes."""
    return {str(file.relative_to(path)): file_sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole")
    run(path)
    return path


def test_every_setting_writes_what_a_pair_made_with_it_writes(whole, tmp_path):
    texts = {}
    for setting in all_settings(SERIES):
        pair = make_pair()
        pair = ContrastivePairForCausalLM.from_pair(pair.policy, pair.reference, alpha=setting.alpha)
        expected = generate_completions(
            PROMPTS,
            pair,
            tokenizer=TOKENIZER,
            output_dir=tmp_path / setting.name,
            temperature=setting.temperature,
            **{name: SETTINGS[name] for name in ("max_new_tokens", "top_p", "batch_size", "seed")},
        )
        identity = json.loads((whole / "completions" / setting.name / "manifest.json").read_text())["identity"]
        assert (identity["engine"]["alpha"], identity["temperature"]) == (setting.alpha, setting.temperature)
        found = generate_completions(  # of the finished folder
            PROMPTS,
            lambda: None,
            engine_id=identity["engine"],
            tokenizer=TOKENIZER,
            output_dir=whole / "completions" / setting.name,
            temperature=setting.temperature,
            **{name: SETTINGS[name] for name in ("max_new_tokens", "top_p", "batch_size", "seed")},
        )
        assert found["completion_ids"][:] == expected["completion_ids"][:]
        assert set(found["alpha"]) == {setting.alpha}
        texts[setting] = found["completion"][:]
    assert len(texts) == 3 == len({tuple(column) for column in texts.values()})  # the negative control


def test_rows_hold_every_measure_joined_by_prompt(whole):
    rows = table(whole)
    assert list(rows[0]) == [*COLUMNS, "gold"]
    assert len(rows) == 3 * len(PROMPTS)
    pair = make_pair()
    by_setting = {}
    for setting in all_settings(SERIES):
        path = whole / "completions" / setting.name
        completions = [json.loads(line) for line in (path / "journal-00000.jsonl").read_text().splitlines()[1:]]
        by_setting[setting] = {row["prompt_id"]: row for row in completions}
        # in another order and batch than the sweep's
        order = sorted(by_setting[setting])
        prompts = {prompt_id(prompt): prompt for prompt in PROMPTS}
        picked = [by_setting[setting][name] for name in order]
        pair.config.alpha = setting.alpha
        expected = measure_completions(
            ImplicitReward(pair, None, TOKENIZER),
            [prompts[name] for name in order],
            [row["completion_ids"] for row in picked],
            [row["finish_reason"] for row in picked],
            **setting._asdict(),
        )
        mine = {row["prompt_id"]: row for row in rows if tuple(float(row[n]) for n in setting._fields) == setting}
        assert sorted(mine) == order
        for name, completion, values in zip(order, picked, expected, strict=True):
            for key, value in values.items():
                assert (float(mine[name][key]) if mine[name][key] else None) == pytest.approx(value, abs=1e-4), key
            assert float(mine[name]["gold"]) == vowels(None, completion["completion"])
            assert int(mine[name]["tokens"]) == len(completion["completion_ids"])
            assert mine[name]["finish_reason"] == completion["finish_reason"]
    assert {row["finish_reason"] for row in rows} == {"stop", "length"}


def test_the_summary_is_of_the_rows(whole):
    rows, summary = table(whole), table(whole, "summary.csv")
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["counts"] == {"rows_in": 6, "kept": 6, "dropped": {}}
    journals = sorted((whole / "completions").glob("*/journal-00000.jsonl"))
    assert len(journals) == 3
    for line, setting in zip(summary, all_settings(SERIES), strict=True):
        own = [row for row in rows if tuple(float(row[name]) for name in setting._fields) == setting]
        alone = [row for row in rows if (row["alpha"], row["temperature"]) == ("1.0", "1.0")]
        mean = sum(float(row["gold"]) for row in own) / 6
        assert float(line["gold"]) == pytest.approx(mean)
        assert float(line["gold_low"]) < mean < float(line["gold_high"])
        if setting.alpha == 1:
            assert line["gold_gain"] == ""
        else:
            gain = mean - sum(float(row["gold"]) for row in alone) / 6
            assert float(line["gold_gain"]) == pytest.approx(gain)
        read = [row for row in own if row["nll"]]
        total = sum(float(row["nll"]) * int(row["nll_tokens"]) for row in read)
        assert math.log(float(line["perplexity"])) == pytest.approx(
            total / sum(int(row["nll_tokens"]) for row in read)
        )
        weighted = sum(float(row["kl"]) * int(row["positions"]) for row in own)
        assert float(line["kl"]) == pytest.approx(weighted / sum(int(row["positions"]) for row in own))
        assert float(line["truncated"]) == sum(row["finish_reason"] == "length" for row in own) / 6
        path = whole / "completions" / setting.name / "journal-00000.jsonl"
        texts = [json.loads(text)["completion"] for text in path.read_text().splitlines()[1:]]
        assert float(line["distinct_2"]) == distinct_n(texts, 2)
    page = (whole / "sweep.md").read_text()
    assert "**Too thin to tell.** An interval takes at least 20 prompts, not 6." in page
    assert "| α = 0.3, T = 0.3 |" in page and "6 rows in, 6 kept, dropped: nothing" in page


def test_win_rates_count_ties_half_and_add_up(whole):
    rows = table(whole, "win_rates.csv")
    assert len(rows) == 3 * 2
    rates = {(row["setting"], row["baseline"]): row for row in rows}
    for (setting, other), row in rates.items():
        assert float(row["rate"]) + float(rates[other, setting]["rate"]) == pytest.approx(1)
        assert int(row["wins"]) + int(row["ties"]) + int(row["losses"]) == 6
        assert float(row["rate"]) == pytest.approx((int(row["wins"]) + int(row["ties"]) / 2) / 6)


def test_the_pictures_are_pictures(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    pictures = [name for name in manifest["files"] if name.endswith(".png")]
    assert sorted(pictures) == [
        "implicit_against_gold.png",
        "reward_against_fluency.png",
        "rewards_by_alpha.png",
        "win_rates_gold.png",
    ]
    for name in pictures:
        assert Image.open(whole / name).size[0] >= 800


def test_the_pairs_own_settings_are_put_back(tmp_path):
    pair = make_pair()
    pair.config.alpha, pair.config.plausibility_threshold = 0.77, 0.2
    for judge in (GOLD, FunctionJudge("fails", lambda *_: [][0])):
        with contextlib.suppress(IndexError):
            run(tmp_path / judge.name, pair, alphas=[0.3], temperatures_times_alpha=None, judges=[judge])
        assert pair.config.settings == {"alpha": 0.77, "plausibility_threshold": 0.2}
    with pytest.raises(ValueError, match="seed"):  # refused within
        run(tmp_path / "gold", pair, alphas=[0.4], seed=4)
    assert pair.config.settings == {"alpha": 0.77, "plausibility_threshold": 0.2}


def test_a_pair_is_loaded_once_and_a_finished_run_loads_none(tmp_path):
    loaded = []

    def load():
        loaded.append(make_pair())
        return loaded[-1]

    named = {"alphas": [0.3, 0.6], "temperatures_times_alpha": None, "judges": []}
    first = run(tmp_path, load, pair_id={"policy": "p", "alpha": 0.4, "plausibility_threshold": 0.1}, **named)
    assert len(loaded) == 1
    again = run(tmp_path, load, pair_id={"policy": "p", "alpha": 0.9, "plausibility_threshold": 0.1}, **named)
    assert again == first and len(loaded) == 1
    with pytest.raises(ValueError, match="`pair` is a function, so it takes `pair_id`"):
        run(tmp_path, load)


def _killed_after(appends, path):
    """As a process of its own: dies in the middle of writing a record."""
    append = Journal.append

    def counted(self, records):
        nonlocal appends
        appends -= 1
        if appends < 0:
            os.write(self._file, json.dumps(records[0]).encode()[: len(json.dumps(records[0])) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, records)

    Journal.append = counted
    run(path)


@pytest.mark.parametrize("appends", [5, 8, 17])
def test_killed_half_way_the_rerun_ends_with_the_same_bytes(whole, tmp_path, appends):
    # 3 settings of 2 batches each: 6 records of completions, 6 by the pair, 6 by the judge
    process = multiprocessing.get_context("fork").Process(target=_killed_after, args=(appends, tmp_path))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "manifest.json").exists()
    if appends >= 8:  # below float32 another batch is another rounding
        with pytest.raises(ValueError, match="another run: `batch_size` 4 there, 3 here"):
            run(tmp_path, batch_size=3)
    run(tmp_path)
    assert files(tmp_path) == files(whole)


def test_a_judge_that_fails_half_way_loses_nothing(whole, tmp_path):
    seen = []

    def failing(prompt, completion):
        if len(seen) == 7:
            raise ConnectionError("the judge is out")
        seen.append(prompt[0]["content"])
        return vowels(prompt, completion)

    with pytest.raises(ConnectionError, match="the judge is out"):
        run(tmp_path, judges=[FunctionJudge("gold", failing)])
    asked = []

    def counting(prompt, completion):
        asked.append(prompt[0]["content"])
        return vowels(prompt, completion)

    run(tmp_path, judges=[FunctionJudge("gold", counting)])
    assert len(asked) == 3 * 6 - 6  # of the seven, the last was of a batch that was not finished
    assert files(tmp_path) == files(whole)


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_a_reward_that_is_no_number_is_refused_by_its_prompt(tmp_path, bad):
    def judge(prompt, completion):
        return bad if prompt == PROMPTS[2] else 1.0

    with pytest.raises(ValueError, match=rf"By judge-gold, `gold` is (nan|inf) for prompt {prompt_id(PROMPTS[2])} in"):
        run(tmp_path, judges=[FunctionJudge("gold", judge)])
    assert len(list(tmp_path.glob("completions/*/manifest.json"))) == 3  # and what was written stands


def test_another_run_is_refused(whole):
    before = files(whole)
    for difference, changes in (
        ("`seed` 3 there, 4 here", {"seed": 4}),
        ("`pair.policy` ", {"pair": make_pair(seed=9)}),
        ("`judge.gold.version` None there, 2 here", {"judges": [FunctionJudge("gold", vowels, {"version": 2})]}),
        ("`top_p` ", {"top_p": 0.9}),
        ("`prompts` ", {"prompts": PROMPTS[::-1]}),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run: .*{difference}"):
            run(whole, **changes)
    assert files(whole) == before


def test_settings_and_judges_may_be_added_to_a_finished_sweep(tmp_path):
    few = {"temperatures_times_alpha": None, "judges": []}
    run(tmp_path, **few, alphas=[0.3])
    done = files(tmp_path / "completions")
    asked = []

    def counting(prompt, completion):
        asked.append(completion)
        return vowels(prompt, completion)

    both = {"alphas": [0.3, 0.6], "temperatures_times_alpha": None, "judges": [FunctionJudge("gold", counting)]}
    found = run(tmp_path, **both)
    assert [row["alpha"] for row in found["summary"]] == [0.3, 0.6] and len(asked) == 12
    assert done.items() < files(tmp_path / "completions").items()  # as they were, and more
    assert not (tmp_path / "win_rates_implicit_reward_per_token.png").exists()  # a picture of the earlier command
    found = run(tmp_path, **{**both, "alphas": [0.6]})
    assert [row["alpha"] for row in found["summary"]] == [0.6] and len(asked) == 12
    assert len(table(tmp_path)) == 6
    # and ends as a run that was asked for this at once
    run(tmp_path / "at once", **{**both, "alphas": [0.6]})
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "at once" / "rows.csv").read_bytes()


def test_without_a_judge_the_implicit_reward_is_said_to_say_nothing(tmp_path):
    found = run(tmp_path, judges=[], temperatures_times_alpha=None)
    assert found["recommendation"]["basis"] == "implicit_reward_per_token"
    page = (tmp_path / "sweep.md").read_text()
    assert "it rises as α falls by construction" in page
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "rewards_by_alpha.png",
        "win_rates_implicit_reward_per_token.png",
        "reward_against_fluency.png",
    }


@pytest.mark.parametrize("sign, alpha", [(1, 0.3), (-1, 1.0)])
def test_what_follows_or_opposes_the_implicit_reward_is_recommended_so(tmp_path, sign, alpha):
    tokenizer = letters_tokenizer()  # whose text is written in one way only
    pair = ContrastivePairForCausalLM.from_pair(*tiny_pair("llama", 3, vocab_size=len(tokenizer)))
    reward = ImplicitReward(pair, None, tokenizer)

    class Judge:
        name, identity = "gold", {}

        def score(self, prompts, completions):
            return [sign * total for total in reward.score(prompts, completions, normalize="tokens")]

    prompts = [f"tell me {'abcdefghijklmnopqrstuvwx'[number]} " for number in range(24)]
    settings = {"temperatures_times_alpha": None, "batch_size": 24, "tokenizer": tokenizer}
    found = run(tmp_path, pair, prompts=prompts, judges=[Judge()], **settings)
    assert found["recommendation"]["alpha"] == alpha
    page = (tmp_path / "sweep.md").read_text()
    assert f"**Recommended: α = {alpha:g}.** α = {alpha:g}, T = 1 has the highest mean `gold`" in page
    assert ("No smaller α than 0.3 was measured" in page) == (alpha == 0.3) == ("What comes with it" in page)
    for row in found["summary"]:  # a text does not show the special tokens that were written
        assert sign * row["gold_spearman_per_token"] > 0.7


def test_one_alpha_and_one_prompt_are_reported_but_tell_nothing(tmp_path):
    found = run(tmp_path, prompts=PROMPTS[:1], alphas=[0.4], temperatures_times_alpha=None)
    assert found["recommendation"]["verdict"] == TOO_THIN
    assert "Only α = 0.4 was measured" in found["recommendation"]["reason"]
    (row,) = found["summary"]
    assert (row["gold_low"], row["gold_gain"], row["gold_spearman"]) == (None, None, None)
    assert "NaN" not in (text := (tmp_path / "manifest.json").read_text()) and "Infinity" not in text
    assert not (tmp_path / "win_rates.csv").exists() and (tmp_path / "rewards_by_alpha.png").exists()
    found = run(tmp_path / "two", prompts=PROMPTS[:1], temperatures_times_alpha=None)
    assert found["recommendation"]["verdict"] == TOO_THIN and "not 1." in found["recommendation"]["reason"]


def test_empty_completions(tmp_path):
    pair = make_pair(eos=list(range(len(TOKENIZER))))  # whatever it writes ends it
    found = run(tmp_path, pair, judges=[], temperatures_times_alpha=None)
    for row in found["summary"]:
        assert (row["tokens"], row["truncated"], row["perplexity"], row["nll"], row["distinct_1"]) == (
            0,
            0,
            None,
            None,
            0,
        )
        assert row["kl"] > 0  # of the one position
    assert not (tmp_path / "reward_against_fluency.png").exists()


def test_when_all_is_cut_and_worth_the_same_the_report_says_so(tmp_path):
    constant, pair = FunctionJudge("gold", lambda *_: 0.5), make_pair(eos=[2])
    found = run(tmp_path, pair, judges=[constant], max_new_tokens=2, temperatures_times_alpha=None)
    assert {row["truncated"] for row in found["summary"]} == {1.0}
    assert "cut at the length limit in: α = 0.3, T = 1; α = 1, T = 1." in (tmp_path / "sweep.md").read_text()
    assert found["recommendation"]["verdict"] == TOO_THIN
    assert "`gold` is 0.5 for every completion" in found["recommendation"]["reason"]
    assert [row["gold_spearman"] for row in found["summary"]] == [None] * 2
    assert {row["ties"] for row in table(tmp_path, "win_rates.csv")} == {"6"}


def test_perplexity_is_under_the_given_model(whole, tmp_path):
    other = tiny_tokenizer(seed=1)  # another vocabulary
    model = tiny_model("llama", 5, vocab_size=len(other))
    model.save_pretrained(tmp_path / "model")
    other.save_pretrained(tmp_path / "model")
    run(tmp_path / "run", perplexity_model=str(tmp_path / "model"), temperatures_times_alpha=None)
    prompts = {prompt_id(prompt): prompt for prompt in PROMPTS}
    setting = all_settings(SERIES)[0]
    path = tmp_path / "run" / "completions" / setting.name / "journal-00000.jsonl"
    written = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    logps = completion_logps(
        model, other, [prompts[row["prompt_id"]] for row in written], [row["completion"] for row in written]
    )
    rows = {row["prompt_id"]: row for row in table(tmp_path / "run")[:6]}
    own = {row["prompt_id"]: row for row in table(whole)[:6]}
    for row, each in zip(written, logps, strict=True):
        found = rows[row["prompt_id"]]
        assert int(found["nll_tokens"]) == len(each)
        if len(each):
            assert float(found["nll"]) == pytest.approx(-each.mean().item(), abs=1e-4)
            assert found["nll"] != own[row["prompt_id"]]["nll"]  # the negative control: under the reference
        assert found["implicit_reward"] == own[row["prompt_id"]]["implicit_reward"]


def test_a_lora_pair_and_zero_alpha(tmp_path):
    adapted, _, _ = tiny_lora("llama", vocab_size=len(TOKENIZER))
    pair = ContrastivePairForCausalLM.from_pair(adapted)
    found = run(tmp_path, pair, alphas=[0, 1], judges=[])
    assert [(row["alpha"], row["temperature"]) for row in found["summary"]] == [(0.0, 1.0), (1.0, 1.0)]
    assert found["summary"][0]["implicit_reward_per_token"] > found["summary"][1]["implicit_reward_per_token"]


def test_prompts_beyond_the_number_and_bad_ones_are_counted(tmp_path):
    rows = [*PROMPTS, PROMPTS[0], ""]
    with pytest.raises(ValueError, match="Row 6 of the prompts is a duplicate"):
        run(tmp_path, prompts=rows)
    one = {"alphas": [0.3], "temperatures_times_alpha": None, "judges": [], "invalid_prompts": "drop"}
    found = run(tmp_path, prompts=rows, num_prompts=4, **one)
    dropped = {"duplicate": 1, "empty": 1, "beyond_num_prompts": 2}
    assert found["counts"] == {"rows_in": 8, "kept": 4, "dropped": dropped}
    long = [*PROMPTS, [{"role": "user", "content": "owl " * 600}]]
    found = run(tmp_path / "long", prompts=long, **one)
    assert found["counts"] == {"rows_in": 7, "kept": 6, "dropped": {"too_long": 1}}


REFUSED = {
    "`alphas` must hold each number once": {"alphas": [0.4, 0.4]},
    "`alpha` must lie in \\[0, 1\\]": {"alphas": [1.5]},
    "`max_new_tokens` must be at least 1": {"max_new_tokens": 0},
    "`top_p`": {"top_p": 1.5},
    "`num_prompts` must be at least 1, got 0": {"num_prompts": 0},
    "`batch_size` must be at least 1, got 0": {"batch_size": 0},
    "each needs a name of its own": {"judges": [GOLD, GOLD]},
    "and none of alpha, ": {"judges": [FunctionJudge("kl", vowels)]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(tmp_path, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **REFUSED[message])
    assert not list(tmp_path.rglob("*.parquet"))


def test_what_is_no_pair_or_judge_is_refused(tmp_path):
    with pytest.raises(TypeError, match="`judges` holds <function vowels .* Wrap a function in `FunctionJudge"):
        run(tmp_path, judges=[vowels])

    class Comparing(Judge):  # as the judge behind a URL is
        name, identity = "gold", {}

    with pytest.raises(TypeError, match="`judges` holds .*; what only compares two texts cannot judge"):
        run(tmp_path, judges=[Comparing()])

    class Short(Comparing):
        def score(self, prompts, completions):
            return [1.0]

    with pytest.raises(ValueError, match="Got 4 `completions`, 1 `scores`"):
        run(tmp_path / "short", judges=[Short()], alphas=[1.0], temperatures_times_alpha=None)
    with pytest.raises(TypeError, match="`pair` must be a ContrastivePairForCausalLM, got LlamaForCausalLM"):
        run(tmp_path, tiny_model("llama", vocab_size=len(TOKENIZER)))
    with pytest.raises(TypeError, match="`pair` must be a ContrastivePairForCausalLM, got LlamaForCausalLM"):
        run(tmp_path, lambda: tiny_model("llama", vocab_size=len(TOKENIZER)), pair_id={"policy": "p"})
    with pytest.raises(TypeError, match="`pair` must be .*, got str"):
        run(tmp_path, "gpt2")


RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*/sweep.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_every_recipe_parses_and_has_a_comment_above_every_key(path):
    (args,) = parse((SweepArguments,), ["--config", str(path)], prog="hf-cong sweep")
    assert args.policy and args.prompts and args.output_dir and 1.0 in args.alphas
    comment = False
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            assert comment, f"{path}: {line}"
        comment = line.startswith("#") or (comment and bool(line))


def test_the_command(tmp_path, capsys):
    policy, reference = tiny_pair("llama", vocab_size=len(TOKENIZER))
    for model, name in ((policy, "policy"), (reference, "reference")):
        model.save_pretrained(tmp_path / name)
        TOKENIZER.save_pretrained(tmp_path / name)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    argv = ["sweep", "--policy", str(tmp_path / "policy"), "--prompts", str(tmp_path / "prompts.jsonl")]
    whole = [*argv, "--reference", str(tmp_path / "reference"), "--output_dir", str(tmp_path / "run")]
    whole += ["--alphas", "0.4", "1", "--temperatures", "0.8", "--max_new_tokens", "4", "--num_prompts", "3"]
    assert main(whole) == 0
    printed = capsys.readouterr().out
    assert (
        "**Too thin to tell.**" in printed and "| α = 0.4, T = 0.8 |" in printed and "Completions, tables" in printed
    )
    assert len(table(tmp_path / "run")) == 2 * 3
    assert main(whole) == 0 and capsys.readouterr().out == printed
    # a reward model may be added, without writing anything again
    reward_model().save_pretrained(tmp_path / "judge")
    TOKENIZER.save_pretrained(tmp_path / "judge")
    before = files(tmp_path / "run" / "completions")
    assert main([*whole, "--reward_model", str(tmp_path / "judge")]) == 0
    assert files(tmp_path / "run" / "completions") == before
    scores = [float(row[str(tmp_path / "judge")]) for row in table(tmp_path / "run")]
    rows = [
        json.loads(line)
        for path in sorted((tmp_path / "run" / "completions").glob("*/journal-00000.jsonl"))
        for line in path.read_text().splitlines()[1:]
    ]
    prompts = {prompt_id(prompt): prompt for prompt in PROMPTS}
    expected = RewardModelJudge(str(tmp_path / "judge")).score(
        [prompts[row["prompt_id"]] for row in rows], [row["completion"] for row in rows]
    )
    assert sorted(scores) == pytest.approx(sorted(expected), abs=1e-4)
    capsys.readouterr()
    taken = tmp_path / "taken" / "completions" / "alpha-0.4_threshold-0.1_temperature-0.8" / "journal-00000.jsonl"
    with Journal(taken, {}):
        assert main([*whole, "--output_dir", str(tmp_path / "taken")]) == 2
    error = capsys.readouterr().err
    assert "is being written by another process" in error and "Traceback" not in error
    for message, extra in (
        ("`output_dir` is required", argv),
        ("is no pair. Pass a LoRA adapter", [*argv, "--output_dir", str(tmp_path / "x")]),
        ("`sandbox_dir` brings its own pair and prompts", [*argv, "--sandbox_dir", str(tmp_path / "x")]),
        ("unknown key `alpha`", [*argv, "--alpha", "0.4"]),
        ("`alphas` must hold each number once", [*whole[:-6], "--alphas", "0.4", "0.4"]),
    ):
        assert main(extra) == 2, message
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the world takes three minutes of two cores that have nothing else to do
def test_the_sandbox_is_swept(tmp_path, capsys):
    assert main(["sweep", "--sandbox_dir", str(tmp_path), "--num_prompts", "60"]) == 0
    printed = capsys.readouterr().out
    assert f"There is no world in {tmp_path} yet." in printed and "Built in " in printed
    rows = table(tmp_path / "sweep")
    assert len(rows) == 9 * 60 and {0.0} != {float(row["gold"]) for row in rows}
    assert main(["sweep", "--sandbox_dir", str(tmp_path), "--num_prompts", "60"]) == 0
    assert "There is no world" not in capsys.readouterr().out
