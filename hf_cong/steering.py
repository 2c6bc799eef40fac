# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The strong model writes the chosen completions itself, under the weak pair's implicit reward.

ConG lets the strong model imitate a weak writer, which costs it fluency. Here it stays within its own plausible set:
weak-to-strong search, and its token-level sibling, as the first half of ConG's stage I.
"""

from typing import Any

from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .checkpoints import tokenizer_identity
from .compatibility import differing_tokens
from .cong_config import ConGConfig
from .engines import Engine
from .pair import ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM
from .pair.configuration_stacks import check_one_family
from .rewards import ImplicitReward
from .search.engine import SearchEngine


class Steering:
    """
    How a strong model is steered by a pair.

    Token by token, as an [`EmulatedFineTuningForCausalLM`], if the three can be one model: one tokenizer, one family.
    Otherwise chunk by chunk, through a [`SearchEngine`], in which the pair reads text.

    Args:
        args ([`ConGConfig`]): β and τ, or the widths of the search.
        strong_config (`PreTrainedConfig`): Configuration of the strong model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer. Token by token, its chat template is the pair's too.
        weak_config (`PreTrainedConfig`): Configuration of the weak model before alignment.
        weak_tokenizer (`PreTrainedTokenizerBase`): Tokenizer of the pair.

    Attributes:
        obstacle (`str` or `None`): Why it is not done token by token.

    Raises:
        ValueError: if vLLM is to write, and would have to search.
    """

    def __init__(
        self,
        args: ConGConfig,
        strong_config: PreTrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        weak_config: PreTrainedConfig,
        weak_tokenizer: PreTrainedTokenizerBase,
    ):
        self.args, self.tokenizer, self.weak_tokenizer = args, tokenizer, weak_tokenizer
        self.obstacle = None
        if differing := len(differing_tokens(tokenizer, weak_tokenizer)):
            self.obstacle = f"{differing} ids of the tokenizers differ"
        else:
            try:
                check_one_family("EmulatedFineTuningLogitsProcessor", base=strong_config, policy=weak_config)
            except ValueError as error:
                self.obstacle = str(error).split(". ")[0]
        if self.obstacle is not None and args.engine == "vllm":
            raise ValueError(
                f"The strong model is steered by chunk-level search ({self.obstacle}), which vLLM does not do. Leave "
                "out `engine`."
            )

    def identity(self, pair: dict[str, Any], strong: dict[str, Any]) -> dict[str, Any]:
        """What names the writer, of what names the pair (see [`WeakPair`]) and the untouched strong model."""
        strong = {f"strong_{name}": value for name, value in strong.items()}
        pair = {name: value for name, value in pair.items() if name != "alpha"}
        if self.obstacle is None:
            return {**pair, **strong, "beta": self.args.steering_beta}
        del pair["plausibility_threshold"]
        return {**pair, **strong, **self._widths, "weak_tokenizer": tokenizer_identity(self.weak_tokenizer)}

    def engine(
        self, strong: PreTrainedModel | PeftModel, pair: ContrastivePairForCausalLM
    ) -> EmulatedFineTuningForCausalLM | Engine:
        """
        What writes.

        Args:
            strong (`PreTrainedModel` or `PeftModel`): The strong model before any stage, with the adapter that it has.
            pair ([`ContrastivePairForCausalLM`]): The weak pair.
        """
        if self.obstacle is not None:
            settings = ", ".join(f"{name} {value}" for name, value in self._widths.items())
            PartialState().print(f"ConG decode: steered by chunk-level search ({settings}): {self.obstacle}.")
            reward = ImplicitReward(pair, None, self.weak_tokenizer)
            return SearchEngine(strong, reward, seed=self.args.seed, **self._widths)
        PartialState().print(f"ConG decode: steered token by token, β = {self.args.steering_beta}.")
        if isinstance(strong, PeftModel):
            strong = strong.get_base_model()  # with the adapter in its layers
        return EmulatedFineTuningForCausalLM.from_pair(
            strong, pair, beta=self.args.steering_beta, plausibility_threshold=self.args.plausibility_threshold
        )

    @property
    def _widths(self) -> dict[str, int]:
        return {name: getattr(self.args, name) for name in ("beam_width", "successors_per_beam", "chunk_length")}
