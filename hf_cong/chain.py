# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A run's data on its way from stage to stage, and the names that tie the stages together.

[`ConGTrainer`] walks the chain in one launch, [`run_stage`] one stage per launch: each finds what the other left.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .checkpoints import checkpoints, content_key, damage, settings_identity, tokenizer_identity
from .cong_config import ConGConfig
from .engines import LazyEngine
from .generation import generate_completions
from .identity import STRONG, check_same_run, cut_alike, refuse_unfinished, untrained, write_record
from .journal import differences
from .preferences import build_preference_dataset, build_sft_dataset
from .prompts import read_prompts
from .refinement import SEED_STEP, Refinement
from .search.engine import SearchEngine
from .stages import (
    check_dataset,
    check_shared,
    check_writers,
    data_rows,
    drop_long_rows,
    given_completions,
    share,
)
from .steering import Steering
from .watching.trackers import Trackers, WatchWriting
from .weak_pair import WeakPair

_SFT_RECORD = "identity.json"
_WRITING = ("max_new_tokens", "temperature", "top_p", "top_k")


class Chain:
    """
    The data of one run, from prompts to pairs. Every artefact lies in a directory named by all that it depends on.

    Args:
        args ([`ConGConfig`]): Settings of the run.
        train_dataset (`datasets.Dataset`): As for [`ConGTrainer`], and so are the others.
        eval_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`, *optional*): Goes the same way.
        weak_model (`str` or `PreTrainedModel`, *optional*): The weak model after alignment.
        weak_reference_model (`str` or `PreTrainedModel`, *optional*): The weak model before alignment.
        weak_processing_class (`PreTrainedTokenizerBase`, *optional*): Their tokenizer.

    Attributes:
        splits (`dict[str, datasets.Dataset]`): The data as it came: `train`, and `eval` or `eval_<name>`.
        weak ([`WeakPair`]): The weak models.
        refinement ([`Refinement`]): What is ranked and dropped by their reward.
        pairs_missing (`bool`): Whether stages are left before DPO.
        root (`Path`): Where the directories of the stages lie.
        stage_counts (`dict[str, dict]`): By stage and split: `rows_in`, `kept`, and `dropped` by reason.
        decodes (`bool`): Whether the weak pair has anything to write.
        steering ([`Steering`] or `None`): How the strong model writes the chosen completions, if it does.
        stages (`dict[str, dict]`): The directories below `root` of what is finished, by stage and split.
        trackers ([`Trackers`]): Those of this launch, to be set before a stage that writes.

    Raises:
        TypeError: if a dataset is not a map-style `Dataset`, or `weak_model` is a `PeftModel`.
        ValueError: if a dataset is empty or lacks columns, or weak models are missing or do not share a vocabulary.
        NotImplementedError: if completions are to be written from images, tools or per-row template arguments.
    """

    def __init__(
        self,
        args: ConGConfig,
        train_dataset: Dataset | None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        *,
        weak_model: str | PreTrainedModel | None = None,
        weak_reference_model: str | PreTrainedModel | None = None,
        weak_processing_class: PreTrainedTokenizerBase | None = None,
    ):
        args.check_secrets()  # what was set since it was made
        self.args = args
        # Names that begin with an underscore are never uploaded by `push_to_hub`.
        self.root = Path(args.output_dir) / "_cong"
        self.splits = {"train": train_dataset}
        if isinstance(eval_dataset, dict):
            self.splits |= {f"eval_{name}": dataset for name, dataset in eval_dataset.items()}
        elif eval_dataset is not None:
            self.splits["eval"] = eval_dataset
        for name, dataset in self.splits.items():
            check_dataset(dataset, "train_dataset" if name == "train" else "eval_dataset")
        missing = {name for name, data in self.splits.items() if "rejected" not in data.column_names}
        self.pairs_missing = "train" in missing
        if missing and not self.pairs_missing:
            raise ValueError(
                f"`train_dataset` has pairs, but {sorted(missing)} has none. Pass evaluation data with the columns "
                "`prompt`, `chosen` and `rejected`."
            )
        self.stage_counts, self._dropped, self.stages = {}, {}, {}
        self.trackers: Trackers | None = None
        if args.log_completions and (eval_dataset is None or args.eval_strategy == "no"):
            raise ValueError(
                "`log_completions` is of evaluations, and there are none: `eval_dataset` is "
                f"{'None' if eval_dataset is None else 'given'} and `eval_strategy` {args.eval_strategy.value!r}. "
                "Set both, or leave `log_completions` out."
            )
        self.weak = WeakPair(
            args,
            args.weak_model_name_or_path if weak_model is None else weak_model,
            args.weak_reference_model_name_or_path if weak_reference_model is None else weak_reference_model,
            weak_processing_class,
        )
        self.refinement, self._worst = Refinement(args, self.root, self.weak), {}
        self.decodes = any(not {"chosen", "completion"} & set(data.column_names) for data in self.splits.values())
        if self.decodes:
            self.weak.require("A dataset without completions")
        if args.stage != "dpo":  # of what the stages before it have made
            check_writers(args, self.decodes, self.pairs_missing)
        self.refinement.check(self.splits, self.pairs_missing)
        self.steering = None
        check_shared(self.root)

    def meet(self, strong_config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Takes note of the strong model, which with `chosen_from="steered"` writes the chosen completions."""
        if self.args.chosen_from == "steered":
            self.steering = Steering(self.args, strong_config, tokenizer, self.weak.config(), self.weak.tokenizer)

    # The names.

    def identity(self, strong: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """What makes this run this run, given what [`strong_identity`] says and the strong model's tokenizer."""
        settings = settings_identity(self.args.to_dict())
        named = ("weak_model_name_or_path", "weak_reference_model_name_or_path", "model_init_kwargs")
        identity = {
            **{name: value for name, value in settings.items() if name not in named},
            **strong,
            "tokenizer": tokenizer_identity(tokenizer),
            "train_dataset": content_key(data_rows(self.splits["train"])),
        }
        if self.pairs_missing:
            identity["weak_model"], identity["weak_reference_model"] = self.weak.id
            if self.weak.tokenizer is not None:
                identity["weak_tokenizer"] = tokenizer_identity(self.weak.tokenizer)
        return identity

    def claim(self, identity: dict[str, Any]) -> None:
        """Refuses to mix the checkpoints of two runs in `output_dir`; else notes whose it is."""
        if checkpoints(self.args.output_dir):
            check_same_run(identity, Path(self.args.output_dir), self.args)
        PartialState().wait_for_everyone()  # all processes have looked before one writes
        if PartialState().is_main_process:
            write_record(self.root / "run.json", identity, self.args)

    def _sft_identity(self, identity: dict[str, Any], rows: Dataset) -> dict[str, Any]:
        strong = {name: identity[name] for name in (*STRONG, "tokenizer")}
        return {**settings_identity(self.args.sft_settings()), **strong, "rows": content_key(data_rows(rows))}

    def policy(self, identity: dict[str, Any], rows: Dataset) -> str:
        """The name of the weights that stage I leaves when it trains on `rows`."""
        if self.args.sft_num_train_epochs == 0:
            return untrained(identity)
        return self._sft_directory(self._sft_identity(identity, rows)).name.removeprefix("sft-")

    def _sft_directory(self, identity: dict[str, Any]) -> Path:
        """The directory of stage I: its own, or that of launches that cut the same batches for other processes."""
        own = self.root / f"sft-{content_key(identity)}"
        if not own.exists():
            for path in sorted(self.root.glob(f"sft-*/{_SFT_RECORD}")):
                found = json.loads(path.read_text(encoding="utf-8"))
                if not differences(cut_alike(identity, found, self.args), found):
                    return path.parent
        return own

    def writer_identity(self, identity: dict[str, Any]) -> tuple[dict[str, Any], PreTrainedTokenizerBase]:
        """What names whatever writes the chosen completions, and its tokenizer."""
        pair = self.weak.identity()
        if self.steering is None:
            return pair, self.weak.tokenizer
        strong = {name: identity[name] for name in STRONG}
        return self.steering.identity(pair, strong), self.steering.tokenizer

    # The stages.

    def writer(self, strong: Callable[[], PreTrainedModel | PeftModel]) -> Any:
        """What writes the chosen completions: the pair, or the strong model, untouched, that it steers."""
        pair = self.weak.load()
        return pair if self.steering is None else self.steering.engine(strong(), pair)

    def chosen(self, engine: Callable[[], Any] | None, identity: dict[str, Any]) -> dict[str, Dataset]:
        """
        Stage I, first half: the chosen completions, given or decoded, and of several the best. Afterwards no weak
        model is held unless it is to score pairs, and those of the caller are on the CPU.

        Args:
            engine (`Callable` or `None`): Returns what decodes, if anything is left to decode: [`writer`]. `None` only
                reads what was decoded before.
            identity (`dict[str, Any]`): What [`identity`] returned.
        """
        samples = {}
        with contextlib.closing(LazyEngine(engine)) as writer:  # makes room for what scores
            for name, dataset in self.splits.items():
                rows, self._dropped[name] = read_prompts(dataset, invalid_prompts=self.args.invalid_prompts)
                given = [column for column in ("chosen", "completion") if column in rows.column_names]
                if given:
                    samples[name] = [given_completions(rows, given[0])]
                    continue
                named = self.writer_identity(identity)
                samples[name] = [
                    self._completions(rows, engine and writer, *named, prefix=f"decode-{name}", sample=index)
                    for index in range(self.args.num_chosen_samples)
                ]
                if len(samples[name][0]) < len(rows):  # in the pair's context
                    self._dropped[name]["too_long_for_pair"] = len(rows) - len(samples[name][0])
        pair = self.refinement.scorer("decode", engine is None)
        chosen = {name: self._best(name, split, pair) for name, split in samples.items()}
        if self.refinement.compares:
            self.weak.send_away()
        else:
            self.weak.release()
        return chosen

    def _best(self, name: str, samples: list[Dataset], pair: Callable[[], Any]) -> Dataset:
        """The completion of each prompt that is kept."""
        if not self.refinement.ranks:
            return samples[0]
        ranked = self.refinement.rank(name, samples, pair)
        self._worst[name] = ranked.worst
        self._dropped[name] |= ranked.dropped
        self.stages.setdefault("best", {})[name] = ranked.directory
        if len(samples) > 1:
            self._count(f"samples/{name}", **ranked.counts)
        return ranked.best

    def sft_rows(self, chosen: dict[str, Dataset], tokenizer: PreTrainedTokenizerBase) -> dict[str, Dataset]:
        """What stage I trains on and, but for the split `train`, evaluates on."""
        return {name: self._sft_rows(name, completions, tokenizer) for name, completions in chosen.items()}

    def _sft_rows(self, name: str, chosen: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        rows, counts = build_sft_dataset(chosen, drop_truncated=self.args.drop_truncated)
        dropped = self._dropped[name]
        counts = {
            "rows_in": counts["rows_in"] + sum(dropped.values()),
            "dropped": {**dropped, **counts["dropped"]},
        }
        max_length = (self.args.sft_kwargs or {}).get("max_length", self.args.max_length)
        kept = self._keep_short(f"sft/{name}", rows, counts, ("completion",), tokenizer, max_length)
        if name not in self.stages.get("decode", {}):
            return kept
        directory = f"{self.stages['decode'][name]}/sft-{content_key(data_rows(kept))}"
        self.stages.setdefault("rows", {})[name] = directory
        return share(kept, self.root / directory)

    def begin_sft(self, identity: dict[str, Any], rows: Dataset) -> Path:
        """The directory of stage I, in which it now stands what its weights depend on."""
        identity = self._sft_identity(identity, rows)
        directory = self._sft_directory(identity)
        PartialState().wait_for_everyone()  # all processes have looked before one writes
        if PartialState().is_main_process and not (directory / _SFT_RECORD).exists():
            write_record(directory / _SFT_RECORD, identity, self.args)
        PartialState().wait_for_everyone()
        return directory

    def fine_tuned(self, identity: dict[str, Any], rows: Dataset) -> Path:
        """
        The directory of the weights that stage I has left.

        Raises:
            FileNotFoundError: if it has not ended, or only that of another run.
        """
        final = self.root / f"sft-{self.policy(identity, rows)}" / "final"
        reason = damage(final)
        if reason is not None:
            own, record = self._sft_identity(identity, rows), final.with_name(_SFT_RECORD)
            refuse_unfinished("sft", final, reason, own, record)
        return final

    def pairs(
        self,
        chosen: dict[str, Dataset],
        sft: dict[str, Dataset],
        policy: str,
        engine: Callable[[], Any] | None,
        tokenizer: PreTrainedTokenizerBase,
        identity: dict[str, Any],
    ) -> dict[str, Dataset]:
        """
        Stage II, first half: pairs each chosen completion that stage I kept with a sample of the strong model.

        Args:
            chosen (`dict[str, datasets.Dataset]`): What [`chosen`] returned.
            sft (`dict[str, datasets.Dataset]`): What [`sft_rows`] returned.
            policy (`str`): The name of the strong model's weights after stage I.
            engine (`Callable` or `None`): Returns what samples, if anything is left to sample: the strong model after
                stage I or, with `rejected_from="base"`, before it. `None` only reads.
            tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
            identity (`dict[str, Any]`): What [`identity`] returned.
        """
        writer = policy if self.args.rejected_from == "policy" else untrained(identity)
        sides = {}
        with contextlib.closing(LazyEngine(engine)) as sampler:  # makes room for what scores
            for name, rows in sft.items():
                better = _select(chosen[name], rows["prompt_id"])
                if "rejected" in self.splits[name].column_names:
                    given, _ = read_prompts(self.splits[name])
                    worse = _select(given_completions(given, "rejected"), rows["prompt_id"])
                elif self.args.rejected_from == "worst":
                    worse = _select(self._worst[name], rows["prompt_id"])
                else:
                    prefix = f"sample-{name}"
                    worse = self._completions(better, engine and sampler, writer, tokenizer, prefix=prefix)
                sides[name] = better, worse
        scorer = self.refinement.scorer("sample", engine is None)
        pairs = {name: self._pairs(name, *both, policy, scorer, tokenizer) for name, both in sides.items()}
        self.weak.release()
        return pairs

    def _pairs(self, name: str, chosen: Dataset, rejected: Dataset, policy: str, scorer, tokenizer) -> Dataset:
        leave_out, facts = {}, []
        if self.refinement.compares:
            chosen, rejected, leave_out = self.refinement.compare(name, chosen, rejected, scorer)
        if "reward" in chosen.column_names and "reward" in rejected.column_names:
            facts = [chosen["reward"][:], rejected["reward"][:], leave_out]
        key = content_key(policy, data_rows(chosen), data_rows(rejected), self.args.max_length, *facts)
        directory = self.root / f"pairs-{name}-{key}"
        pairs, counts = build_preference_dataset(
            chosen,
            rejected,
            output_dir=directory if PartialState().is_main_process else None,
            drop_truncated=self.args.drop_truncated,
            leave_out=leave_out,
        )
        columns = ("chosen", "rejected")
        pairs = self._keep_short(f"dpo/{name}", pairs, counts, columns, tokenizer, self.args.max_length)
        self.stages.setdefault("pairs", {})[name] = directory.name
        return share(pairs, directory / "dataset")

    def _completions(
        self,
        prompts: Dataset,
        engine: Callable[[], Any] | None,
        engine_id: str | dict,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prefix: str,
        sample: int = 0,
    ) -> Dataset:
        """[`generate_completions`] with the settings of the run, in a directory named by all that they depend on."""
        settings = {name: getattr(self.args, name) for name in _WRITING}
        stage, _, split = prefix.partition("-")
        writes = list(prompts["prompt_id"]), engine_id, tokenizer_identity(tokenizer), settings

        def place(sample: int) -> tuple[int, Path]:
            seed = self.args.seed + sample * SEED_STEP + (stage == "sample")
            return seed, self.root / f"{prefix}-{content_key(*writes, seed)}"

        seed, directory = place(sample)
        record = directory / "manifest.json"
        if engine is None and not record.exists():
            own = {**settings, "seed": seed, "engine": engine_id}
            others = [place(index)[1] for index in range(self.args.num_chosen_samples)]
            refuse_unfinished(stage, directory, "it has no manifest.json", own, record, others)
        # A launch that only reads what another wrote has nothing to tell of it.
        name = f"{stage}/{split}-{sample + 1}" if sample else f"{stage}/{split}"
        watch = None if engine is None else WatchWriting(self.trackers, name)

        def load() -> Any:  # what is finished asks for none
            loaded = engine()
            if isinstance(loaded, SearchEngine):
                loaded.seed = seed
            return loaded

        completions = generate_completions(
            prompts.select_columns(["prompt"]),
            load,
            engine_id=engine_id,
            tokenizer=tokenizer,
            output_dir=directory,
            seed=seed,
            batch_size=self.args.generation_batch_size,
            invalid_prompts=self.args.invalid_prompts,
            watch=watch,
            **settings,
        )
        if watch is not None:
            watch.end(completions)
        if sample == 0:
            self.stages.setdefault(stage, {})[split] = directory.name
        return completions

    def _keep_short(
        self,
        stage: str,
        rows: Dataset,
        counts: dict,
        columns: tuple[str, ...],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
    ) -> Dataset:
        """Drops the rows that a trainer would cut, then reports what the stage keeps."""
        kept = drop_long_rows(rows, columns, tokenizer, max_length)
        rows_in, dropped = counts["rows_in"], dict(counts["dropped"])
        if len(kept) < len(rows):
            dropped["too_long"] = len(rows) - len(kept)
        self._count(stage, rows_in, len(kept), dropped)
        if len(kept) == 0:
            raise ValueError(
                f"No row is left of {rows_in} for {stage}: dropped {dropped}. Raise `max_length` ({max_length})."
            )
        return kept

    def _count(self, stage: str, rows_in: int, kept: int, dropped: dict[str, int]) -> None:
        self.stage_counts[stage] = {"rows_in": rows_in, "kept": kept, "dropped": dropped}
        reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items()) or "none"
        PartialState().print(f"ConG {stage}: {rows_in} rows in, {kept} kept, dropped: {reasons}")


def _select(dataset: Dataset, prompt_ids: list[str]) -> Dataset:
    wanted = set(prompt_ids)
    return dataset.select([index for index, prompt_id in enumerate(dataset["prompt_id"]) if prompt_id in wanted])
