# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The data that [`ConGTrainer`] carries from stage to stage: checked, written, measured, shared between processes."""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import torch
from accelerate import PartialState
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset, load_from_disk
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from .checkpoints import damage, seal
from .compatibility import context_length
from .cong_config import ConGConfig
from .memory import peak_gib, peak_is_of, reset_peak
from .pair import StacksConfig
from .prompts import encode_prompt

logger = logging.getLogger(__name__)

# The columns of a dataset that any stage reads.
_READ = ("prompt", "completion", "chosen", "rejected", "chosen_reward", "rejected_reward")


@contextlib.contextmanager
def failing_in(stage: str) -> Iterator[None]:
    """Says of a failure in which stage and process it was: of several, the error alone does not tell."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        state = PartialState()
        where = f"process {state.process_index} of {state.num_processes}"
        logger.error("Stage %s failed in %s: %s", stage, where, type(error).__name__)
        raise


@contextlib.contextmanager
def reported(stage: str, log: Callable[[dict[str, float]], None] | None = None) -> Iterator[None]:
    """
    Says which stage it is and, at its end, what memory it took; and what [`failing_in`] says.

    Args:
        stage (`str`): The name of the stage.
        log (`Callable`, *optional*): Also receives the memory, as `memory/<stage>_peak_gib`.
    """
    PartialState().print(f"ConG {stage} begins.")
    reset_peak()
    with failing_in(stage):
        yield
    gib = peak_gib()
    PartialState().print(f"ConG {stage} ends. Peak memory of a process: {gib:.2f} GiB, {peak_is_of()}.")
    if log is not None:
        log({f"memory/{stage}_peak_gib": gib})


def check_dataset(dataset: Dataset | None, argument: str) -> None:
    """
    Refuses, before anything is loaded, a dataset that no stage could use.

    Args:
        dataset (`datasets.Dataset`): The dataset.
        argument (`str`): Its name in messages.

    Raises:
        TypeError: if it is not a map-style `Dataset`.
        ValueError: if it is empty, or lacks or hides a column.
        NotImplementedError: if completions are to be written from images, tools or per-row template arguments.
    """
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"`{argument}` is an IterableDataset; completions are written for whole datasets. Pass a `Dataset`: "
            "`Dataset.from_list(list(stream.take(n)))`."
        )
    if not isinstance(dataset, Dataset):
        raise TypeError(f"`{argument}` must be a `datasets.Dataset`, got {type(dataset).__name__}.")
    columns = dataset.column_names
    if len(dataset) == 0:
        raise ValueError(f"`{argument}` is empty; it needs at least one row.")
    visible = dataset.format["columns"]
    hidden = [column for column in columns if column in _READ and column not in visible]
    if hidden:
        raise ValueError(
            f"`{argument}` hides the columns {hidden}: its format shows {visible}. Pass `dataset.with_format(None)`."
        )
    if "rejected" in columns:
        if "chosen" not in columns:
            raise ValueError(f"`{argument}` has `rejected` without `chosen`; its columns are {columns}. Add `chosen`.")
        return
    if "prompt" not in columns:
        raise ValueError(f"`{argument}` needs the column `prompt`; its columns are {columns}. Rename yours.")
    unsupported = sorted({"image", "images", "tools", "chat_template_kwargs"} & set(columns))
    if unsupported:
        raise NotImplementedError(
            f"`{argument}` has the columns {unsupported}, which the writing of completions does not know: it is for "
            "text only. Remove them, or pass a dataset that has `chosen` and `rejected`."
        )


def check_writers(args: ConGConfig, decodes: bool, pairs_missing: bool) -> None:
    """
    Refuses a writer that the columns leave nothing to write.

    Args:
        args ([`ConGConfig`]): Says who writes.
        decodes (`bool`): Whether a split lacks completions.
        pairs_missing (`bool`): Whether it lacks rejected ones.

    Raises:
        ValueError: naming the setting.
    """
    if args.chosen_from == "steered" and not decodes:
        raise ValueError(
            "`chosen_from='steered'` has nothing to write: the dataset has its completions. Remove the columns "
            "`chosen` or `completion`, and `rejected`, or leave `chosen_from` out."
        )
    if args.rejected_from == "base" and not pairs_missing:
        raise ValueError(
            "`rejected_from='base'` has nothing to write: the dataset has the column `rejected`. Remove it, or "
            "leave `rejected_from` out."
        )


def check_shared(directory: Path) -> None:
    """
    Refuses machines that do not see one `directory`, in `output_dir`: each would keep a part of the data.

    Raises:
        ValueError: in a process that does not see what the main process writes there.
    """
    state, mark = PartialState(), directory / "shared"
    if state.num_processes == 1:
        return
    if state.is_main_process:
        fresh = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        mark.touch()
    state.wait_for_everyone()
    seen = mark.exists()
    state.wait_for_everyone()
    if state.is_main_process:
        mark.unlink()
        if fresh:
            directory.rmdir()  # what is refused later leaves nothing
    if not seen:
        raise ValueError(
            f"`output_dir` is {str(directory.parent)[:80]!r}, and what the main process writes there process "
            f"{state.process_index} does not see. All machines must share it: put it on a network file system."
        )


def check_strong_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: dict[str, Dataset],
    args: ConGConfig,
) -> None:
    """
    Refuses a strong model that would fail only after hours of decoding.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The strong model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        splits (`dict[str, datasets.Dataset]`): Rows with `prompt`, by split.
        args ([`ConGConfig`]): Settings of the run.

    Raises:
        ValueError: if it is an encoder-decoder or several models as one, chat messages meet no chat template, or the
            context leaves no room for a prompt.
    """
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"`model` is an encoder-decoder ({model.config.model_type!r}), which does not continue its prompt. Use a "
            "decoder-only model, one that `AutoModelForCausalLM` loads."
        )
    if isinstance(model.config, StacksConfig):
        raise ValueError(
            f"`model` is several models that decode as one ({model.config.model_type!r}), which no trainer updates as "
            "one. Use one model; of emulated fine-tuning, its `base`."
        )
    conversational = any(not isinstance(dataset[0]["prompt"], str) for dataset in splits.values())
    if conversational and tokenizer.chat_template is None:
        raise ValueError(
            "The prompts are chat messages and the tokenizer of `model` has no chat template. Set "
            "`processing_class.chat_template`, or pass plain prompts."
        )
    limit = context_length(model)
    if limit is not None and limit <= args.max_new_tokens:
        raise ValueError(
            f"`max_new_tokens` is {args.max_new_tokens} and the context of `model` {limit} tokens: no room is left "
            "for a prompt. Lower `max_new_tokens`."
        )


def warn_of_rounding(trainer: Trainer) -> None:
    """
    Warns if all weights are trained in half precision, where an update that is small beside its weight is lost.

    In shards there is no such loss: FSDP trains a float32 copy under mixed precision, DeepSpeed always does.
    """
    model, sharded = trainer.model, trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if is_peft_model(model):
        if not sharded and any(p.requires_grad and p.dtype == torch.bfloat16 for p in model.parameters()):
            logger.warning(
                "The adapter is trained in bfloat16, as TRL does on a quantised base, which rounds most updates of a "
                "small learning rate away. Learning rates of full fine-tuning are too small for it: 1e-5 and more."
            )
    elif model.dtype in (torch.bfloat16, torch.float16) and not sharded:
        logger.warning(
            "All weights of the model are trained in %s, which rounds most updates of a small learning rate away. "
            "Load it in float32, and let `bf16=True` compute in half precision.",
            str(model.dtype).removeprefix("torch."),
        )


def check_prompt_lengths(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: dict[str, Dataset],
    max_new_tokens: int,
) -> None:
    """
    Refuses, before decoding, prompts that leave the strong model no room to answer after it.

    Raises:
        ValueError: naming the row.
    """
    limit = context_length(model)
    if limit is None:
        return
    for name, dataset in splits.items():
        for index, prompt in enumerate(dataset["prompt"]):
            length = len(encode_prompt(tokenizer, prompt))
            if length + max_new_tokens > limit:
                raise ValueError(
                    f"Row {index} of {name} has a prompt of {length} tokens; with `max_new_tokens={max_new_tokens}` "
                    f"the context of `model`, {limit}, leaves {limit - max_new_tokens}. Shorten it, lower "
                    '`max_new_tokens`, or drop and count such rows with `invalid_prompts="drop"`.'
                )


def data_rows(dataset: Dataset) -> list[dict]:
    """The rows of a dataset without the columns that no stage reads: what names its content."""
    return dataset.select_columns([column for column in _READ if column in dataset.column_names]).to_list()


def given_completions(dataset: Dataset, column: str) -> Dataset:
    """
    Completions that came with a dataset, as [`generate_completions`] would have returned them.

    Args:
        dataset (`datasets.Dataset`): Rows with `prompt_id`, `prompt` and `column`.
        column (`str`): The column of completions: text, or one message of the assistant.

    Raises:
        ValueError: if a completion is neither; the message names the row.
    """

    def convert(row: dict, index: int) -> dict:
        completion = row[column]
        if isinstance(completion, list) and len(completion) == 1 and completion[0]["role"] == "assistant":
            completion = completion[0]["content"]
        if not isinstance(completion, str):
            raise ValueError(
                f"Row {index} of `{column}` is {repr(completion)[:80]}; it must be text or one assistant message."
            )
        return {"completion": completion, "finish_reason": "stop"}

    others = [name for name in dataset.column_names if name not in ("prompt_id", "prompt")]
    return dataset.map(convert, with_indices=True, remove_columns=others)


def drop_long_rows(
    dataset: Dataset, columns: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> Dataset:
    """
    The rows that a trainer would not cut.

    Args:
        dataset (`datasets.Dataset`): Rows with `prompt` and `columns`.
        columns (`tuple[str, ...]`): The columns of completions, each of which follows the prompt.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer of the model to train.
        max_length (`int` or `None`): Most tokens of prompt and completion; `None` keeps every row.
    """

    def lengths(prompts: list, completions: list) -> list[int]:
        whole = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        if isinstance(prompts[0], str):
            return [len(ids) + 1 for ids in tokenizer(whole)["input_ids"]]  # TRL appends the end-of-sequence token
        return [len(ids) for ids in tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False)]

    def fit(prompts: list, *completions: list) -> list[bool]:
        measured = [lengths(prompts, column) for column in completions]
        return [max(row) <= max_length for row in zip(*measured, strict=True)]

    if max_length is None:
        return dataset
    return dataset.filter(fit, input_columns=["prompt", *columns], batched=True, desc="Measuring lengths")


def warn_of_cuts(pairs: Dataset, max_length: int | None) -> None:
    """Warns if pairs that were given are longer than `max_length`; those that a run writes are dropped instead."""
    if max_length is None:
        return
    columns = [pairs[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
    long = sum(len(p) + max(len(c), len(r)) > max_length for p, c, r in zip(*columns, strict=True))
    if long:
        logger.warning(
            "%d of %d given pairs are longer than `max_length=%d` and are cut, as by `DPOTrainer`. Raise it, or leave "
            "these rows out.",
            long,
            len(pairs),
            max_length,
        )


def share(dataset: Dataset, directory: str | Path) -> Dataset:
    """
    Stores a dataset once and opens it in every process.

    DPOTrainer caches the scores of the reference beside the dataset, and a dataset in memory has another temporary
    folder in every process. A stored dataset that was damaged since is stored anew; a cache beside it that cannot be
    read is removed, and so computed anew.
    """
    directory, state = Path(directory), PartialState()
    if state.is_main_process:
        reason = damage(directory) if directory.exists() else None
        if reason is not None:
            logger.warning("%s is damaged: %s. It is written anew.", directory, reason)
            shutil.rmtree(directory)
        if not directory.exists():
            temporary = directory.with_name(directory.name + ".incomplete")
            dataset.save_to_disk(temporary)
            seal(temporary)
            temporary.rename(directory)
        for cache in directory.glob("cache-*.arrow"):
            try:
                Dataset.from_file(str(cache))
            except (pyarrow.ArrowInvalid, OSError) as error:
                logger.warning("%s is damaged: %s. It is computed anew.", cache, error)
                cache.unlink()
    state.wait_for_everyone()
    return load_from_disk(directory)
