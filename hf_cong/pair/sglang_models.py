# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The pair inside SGLang, written against SGLang 0.5. Experimental: imported and checked by tests, never run on a GPU.

As in vLLM, a pair is one model with the layers of both stacks and a hidden state twice as wide, the policy's half
first. SGLang finds it through the entry point `sglang.srt.plugins`, which is [`register`].
"""

from collections.abc import Iterable
from itertools import groupby

import torch
from sglang.srt.layers.logits_processor import LogitsProcessor, LogitsProcessorOutput
from sglang.srt.layers.quantization.base_config import QuantizationConfig
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.models.registry import ModelRegistry
from sglang.srt.runtime_context import get_parallel
from sglang.srt.utils import add_prefix
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..functional import check_alpha, contrastive_scores
from .configuration_contrastive_pair import ContrastivePairConfig


class SGLangPairConfig(ContrastivePairConfig):
    """A pair's configuration with the shape of one stack of 2L layers at the top, where SGLang sizes its cache by it.

    Not as `text_config`: that would make it a multimodal model.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name, value in self.get_text_config().to_dict().items():
            if not hasattr(self, name):
                setattr(self, name, value)


class PairTrunk(nn.Module):
    """Both stacks up to their heads: `(N,)` ids to `(N, H_policy + H_reference)`."""

    def __init__(self, policy: nn.Module, reference: nn.Module):
        super().__init__()
        self.stacks = nn.ModuleList([policy, reference])

    @property
    def layers(self) -> list[nn.Module]:
        """Where SGLang looks for attention when it captures graphs: by global layer, the policy's first."""
        return [layer for stack in self.stacks for layer in stack.layers]

    def forward(self, input_ids: Tensor, positions: Tensor, forward_batch: ForwardBatch) -> Tensor:
        return torch.cat([stack(input_ids, positions, forward_batch) for stack in self.stacks], dim=-1)


class PairLogitsProcessor(LogitsProcessor):
    """
    Overrides `_get_logits`, which makes the logits of sampled tokens and of prompt log-probabilities alike.

    Each member's own processor is called, for it knows that member's soft cap and head; not into the buffer that
    CUDA graphs share, for both would write there.
    """

    def __init__(self, config: SGLangPairConfig):
        super().__init__(config)
        self.alpha, self.plausibility_threshold = config.alpha, config.plausibility_threshold
        self.width = config.policy_config.get_text_config().hidden_size

    def _get_logits(self, hidden_states, lm_head, logits_metadata, embedding_bias=None, use_logits_buffer=True):
        policy_logits, reference_logits = (
            member.logits_processor._get_logits(states, member.lm_head, logits_metadata, use_logits_buffer=False)
            for member, states in zip(
                lm_head, (hidden_states[:, : self.width], hidden_states[:, self.width :]), strict=True
            )
        )
        return contrastive_scores(
            policy_logits,
            reference_logits,
            alpha=self.alpha,
            plausibility_threshold=self.plausibility_threshold,
        )


class ContrastivePairForCausalLM(nn.Module):
    """
    SGLang's side of [`~hf_cong.ContrastivePairForCausalLM`]; experimental.

    Its members are SGLang's own models whose stack is `model`, head `lm_head` and attention `RadixAttention`, such as
    Llama and Qwen. Pipeline parallelism and data-parallel attention are refused; EAGLE needs a hidden state of one
    width and does not work.
    """

    def __init__(self, config: SGLangPairConfig, quant_config: QuantizationConfig | None = None, prefix: str = ""):
        super().__init__()
        check_alpha(config.alpha, config.plausibility_threshold)  # overrides come after the configuration
        parallel = get_parallel()
        if parallel.pp_size > 1 or parallel.attn_dp_size > 1:
            raise ValueError(
                f"A pair runs without pipeline parallelism and data-parallel attention, got `pp_size` "
                f"{parallel.pp_size} and `attn_dp_size` {parallel.attn_dp_size}. Use `--tp-size`."
            )
        self.config = config
        members = []
        for role in ("policy", "reference"):
            member_config = getattr(config, f"{role}_config")
            member_class, _ = ModelRegistry.resolve_model_cls(
                MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[member_config.model_type]
            )
            members.append(member_class(member_config, quant_config=quant_config, prefix=add_prefix(role, prefix)))
        self.policy, self.reference = members
        for module in self.reference.modules():
            if isinstance(module, RadixAttention):
                module.layer_id += config.policy_config.get_text_config().num_hidden_layers
        self.model = PairTrunk(self.policy.model, self.reference.model)
        self.logits_processor = PairLogitsProcessor(config)

    @torch.no_grad()
    def forward(
        self, input_ids: Tensor, positions: Tensor, forward_batch: ForwardBatch, input_embeds: Tensor | None = None
    ) -> LogitsProcessorOutput:
        """log p_α on the policy's plausible set: of the tokens to sample, and of prompt tokens where asked for."""
        if input_embeds is not None:
            raise ValueError("A pair needs token ids: its two stacks embed them differently. Send no `input_embeds`.")
        hidden_states = self.model(input_ids, positions, forward_batch)
        return self.logits_processor(input_ids, hidden_states, (self.policy, self.reference), forward_batch)

    def get_input_embeddings(self) -> nn.Module:
        return self.policy.get_input_embeddings()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]):
        for role, named in groupby(weights, key=lambda weight: weight[0].partition(".")[0]):
            self.get_submodule(role).load_weights((name.partition(".")[2], weight) for name, weight in named)


EntryClass = ContrastivePairForCausalLM


def register():
    """Tells SGLang which class runs a saved pair. SGLang calls this once in each of its processes."""
    AutoConfig.register("contrastive_pair", SGLangPairConfig, exist_ok=True)
    ModelRegistry.models[EntryClass.__name__] = EntryClass
