# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The pair inside vLLM: the directories that `save_pretrained` writes, on vLLM's own layers and scheduler.

To vLLM a pair is one model whose hidden state is twice as wide, the policy's half first. Paged attention, batching,
prefix caching, speculation and CUDA graphs are vLLM's; ours is the contrast of the two logits, made where logits are.
A base steered by a pair is the same with one stack more, which comes first.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedConfig
from vllm.compilation.decorators import support_torch_compile
from vllm.config import CompilationMode, VllmConfig
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase, RowParallelLinear
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, maybe_prefix
from vllm.platforms import current_platform
from vllm.sequence import IntermediateTensors

from ..functional import check_alpha, check_beta, contrastive_scores, emulated_fine_tuning_scores
from .configuration_contrastive_lora_pair import ContrastiveLoraPairConfig
from .vllm_scoring import announce_scoring, is_scoring

# Tested, exact. Another architecture joins when its attention is an `Attention` named `attn` and its projections are
# those of `_FUSED`.
LORA_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
# What vLLM computes in one multiplication, in the order of the output.
_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
}
# Argument -> its dimension of N tokens. Positions of multimodal models have one before it.
_TOKENS = {"input_ids": {0: "n"}, "positions": {-1: "n"}, "intermediate_tensors": {0: "n"}, "inputs_embeds": {0: "n"}}


def _stack(vllm_config: VllmConfig, prefix: str, name: str, config: PreTrainedConfig) -> nn.Module:
    """One member, of the class that vLLM has for it."""
    if "quantization_config" in config.to_dict():
        raise ValueError(
            f"The {name} is quantized, as its `quantization_config` says, and would here be read as if it were not. "
            "Save the model from members in bfloat16, float16 or float32."
        )
    vllm_config = vllm_config.with_hf_config(config)
    # `with_hf_config` leaves these as they were, those of all stacks together.
    model_config = vllm_config.model_config
    model_config.hf_text_config = config.get_text_config()
    model_config.model_arch_config = model_config.get_model_arch_config()
    heads = model_config.model_arch_config.total_num_attention_heads
    ranks = vllm_config.parallel_config.tensor_parallel_size
    if heads % ranks:
        raise ValueError(
            f"The {name} has {heads} attention heads, which `--tensor-parallel-size {ranks}` does not divide. All "
            "members are split alike: choose a size that divides the heads of each."
        )
    return initialize_model(vllm_config=vllm_config, prefix=maybe_prefix(prefix, name))


# One compiled graph for both stacks. vLLM names its cache of compiled graphs by class: two stacks compiled apart would
# find, and run, each other's.
@support_torch_compile(dynamic_arg_dims=_TOKENS)
class PairTrunk(nn.Module):
    """Two stacks on the same tokens: `(N,)` ids to `(N, H_policy + H_reference)`."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.policy_width = config.policy_config.get_text_config().hidden_size
        self.policy = _stack(vllm_config, prefix, "policy", config.policy_config)
        self.reference = _stack(vllm_config, prefix, "reference", config.reference_config)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self.policy.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        return torch.cat([self.policy(input_ids, positions), self.reference(input_ids, positions)], dim=-1)

    def member_logits(self, hidden_states: Tensor) -> tuple[Tensor | None, ...]:
        """The policy's and the reference's."""
        policy_states, reference_states = hidden_states.tensor_split([self.policy_width], dim=-1)
        return self.policy.compute_logits(policy_states), self.reference.compute_logits(reference_states)


class _PairAttention(Attention):
    """Attention of both streams at once: they attend alike and never to each other, so they are twice the heads."""

    def __init__(self, attention: Attention, vllm_config: VllmConfig):
        # Only one layer may own the name, by which vLLM binds caches.
        del vllm_config.compilation_config.static_forward_context[attention.layer_name]
        super().__init__(
            2 * attention.num_heads,
            attention.head_size,
            attention.impl.scale,
            num_kv_heads=2 * attention.num_kv_heads,
            cache_config=vllm_config.cache_config,
            quant_config=attention.quant_config,
            per_layer_sliding_window=attention.sliding_window,
            prefix=attention.layer_name,
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = query.shape[0]
        query, key, value = (states.reshape(rows // 2, -1) for states in (query, key, value))
        return super().forward(query, key, value).view(rows, -1)


class _PolicyDelta(LinearMethodBase):
    """
    A linear layer over both streams' rows, base weights read once, to which lora_B·lora_A is added on the policy's.

    It stands in for the layer's `quant_method`, the multiplication that vLLM's linear layers call before they gather
    or reduce. So under tensor parallelism each rank adds its share: rows of lora_B in a layer split by output, columns
    of lora_A in a layer split by input. The adapters of a fused layer are stacked: lora_B is block-diagonal.
    """

    def __init__(self, layer: LinearBase, targets: list[str], rank: int):
        self.base, self.rank, self.targets = layer.quant_method, rank, targets
        width, dtype = len(targets) * rank, layer.params_dtype
        layer.lora_A = nn.Parameter(
            torch.zeros(width, layer.input_size_per_partition, dtype=dtype), requires_grad=False
        )
        layer.lora_B = nn.Parameter(
            torch.zeros(sum(layer.output_partition_sizes), width, dtype=dtype), requires_grad=False
        )

    def create_weights(self, *args, **kwargs):
        raise NotImplementedError("The layer has its weights: this only adds to them.")

    def process_weights_after_loading(self, layer: nn.Module):
        self.base.process_weights_after_loading(layer)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        output = self.base.apply(layer, x, bias)
        output[::2] += linear(linear(x[::2], layer.lora_A), layer.lora_B)
        return output

    def load(self, layer: LinearBase, fused: tuple[str, ...], target: str, name: str, weight: Tensor):
        """Copies this rank's share of `lora_A` `(r, in)` or `lora_B` `(out, r)` of one target."""
        part = self.targets.index(target)
        columns = slice(part * self.rank, (part + 1) * self.rank)
        if name == "lora_A":
            if isinstance(layer, RowParallelLinear):
                weight = weight.chunk(layer.tp_size, dim=1)[layer.tp_rank]
            layer.lora_A[columns].copy_(weight)
            return
        sizes = layer.output_partition_sizes
        size, offset = sizes[fused.index(target)], sum(sizes[: fused.index(target)])
        # Ranks beyond the number of key-value heads hold copies of the same heads.
        shards = weight.shape[0] // size
        weight = weight.chunk(shards)[layer.tp_rank * shards // layer.tp_size]
        layer.lora_B[offset : offset + size, columns].copy_(weight)


@support_torch_compile(dynamic_arg_dims=_TOKENS)
class LoraPairTrunk(nn.Module):
    """One stack on the tokens taken twice, row 2n the policy's and 2n + 1 the reference's: `(N,)` to `(N, 2H)`."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.stack = _stack(vllm_config, prefix, "stack", config.reference_config)
        if type(self.stack).__name__ not in LORA_ARCHITECTURES:
            raise ValueError(
                f"A LoRA pair of {type(self.stack).__name__} does not run in vLLM, only one of "
                f"{', '.join(LORA_ARCHITECTURES)}. Merge the adapter and save the pair as two models."
            )
        for module in list(self.stack.modules()):
            for name, layer in list(module.named_children()):
                targets = [target for target in _FUSED.get(name, ()) if target in config.target_modules]
                if targets:
                    layer.quant_method = _PolicyDelta(layer, targets, config.lora_rank)
                elif isinstance(layer, Attention):
                    setattr(module, name, _PairAttention(layer, vllm_config))

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self.stack.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        hidden_states = self.stack(input_ids.repeat_interleave(2), positions.repeat_interleave(2, dim=-1))
        return hidden_states.view(input_ids.shape[0], -1)

    def member_logits(self, hidden_states: Tensor) -> tuple[Tensor | None, ...]:
        """The policy's and the reference's."""
        logits = self.stack.compute_logits(hidden_states.reshape(2 * hidden_states.shape[0], -1))
        return (None, None) if logits is None else (logits[::2], logits[1::2])

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        loaded = set()

        def base_weights():
            for name, weight in weights:
                path, _, leaf = name.rpartition(".")
                if leaf in ("lora_A", "lora_B"):
                    loaded.add(self._load_adapter(path, leaf, weight))
                else:
                    yield name, weight

        return AutoWeightsLoader(self).load_weights(base_weights()) | loaded

    def _load_adapter(self, path: str, leaf: str, weight: Tensor) -> str:
        parent, _, target = path.rpartition(".")
        name, fused = next((name, fused) for name, fused in _FUSED.items() if target in fused)
        layer = self.get_submodule(f"{parent}.{name}")
        layer.quant_method.load(layer, fused, target, leaf, weight)
        return f"{parent}.{name}.{leaf}"


@support_torch_compile(dynamic_arg_dims=_TOKENS)
class EmulatedFineTuningTrunk(nn.Module):
    """A base and a pair on the same tokens: `(N,)` ids to `(N, H_base + H_pair)`."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.base_width = config.base_config.get_text_config().hidden_size
        self.base = _stack(vllm_config, prefix, "base", config.base_config)
        pair_class = LoraPairTrunk if isinstance(config.pair_config, ContrastiveLoraPairConfig) else PairTrunk
        self.pair = pair_class(
            vllm_config=vllm_config.with_hf_config(config.pair_config), prefix=maybe_prefix(prefix, "pair")
        )

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self.base.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        return torch.cat([self.base(input_ids, positions), self.pair(input_ids, positions)], dim=-1)

    def member_logits(self, hidden_states: Tensor) -> tuple[Tensor | None, ...]:
        """The base's, the policy's and the reference's."""
        base_states, pair_states = hidden_states.tensor_split([self.base_width], dim=-1)
        return self.base.compute_logits(base_states), *self.pair.member_logits(pair_states)


class ContrastivePairForCausalLM(nn.Module):
    """
    vLLM's side of [`~hf_cong.ContrastivePairForCausalLM`].

    Each member is whatever vLLM has for its architecture, its Transformers backend included. Pipeline parallelism,
    prompt embeddings, quantization and pooling are refused.

    α and τ belong to the engine (`--hf-overrides`). vLLM shows a model nothing of a request, so an `alpha` among a
    request's extra arguments is neither used nor refused. What is sampled comes from the plausible set;
    `prompt_logprobs` are those of all tokens, as `forward` of the pair gives them.
    """

    trunk_class = PairTrunk
    scores = staticmethod(contrastive_scores)

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        model_config = vllm_config.model_config
        if model_config.runner_type != "generate":
            raise ValueError(
                f"A pair only generates, got `--runner {model_config.runner_type}`. Use one of its members for that."
            )
        if model_config.enable_prompt_embeds:
            raise ValueError(
                "A pair needs token ids: its two stacks embed them differently, so prompt embeddings cannot serve "
                "both. Drop `--enable-prompt-embeds`."
            )
        if model_config.quantization is not None:
            raise ValueError(
                f"A pair is not quantized, got `--quantization {model_config.quantization}`: it would round all "
                "members, and what counts is the small difference of two of them. Drop it."
            )
        self.config = model_config.hf_config
        self.settings = self._settings()
        self.trunk = self.trunk_class(vllm_config=vllm_config, prefix=prefix)
        announce_scoring()
        if vllm_config.compilation_config.mode != CompilationMode.NONE:
            # Few kernels instead of many, and none of the eager check for hopeless rows, which waits for the device
            # at every step and would let one request stop the engine.
            self.scores = torch.compile(self.scores, dynamic=True, backend=current_platform.simple_compile_backend)

    def _settings(self) -> dict[str, float]:
        alpha, plausibility_threshold = self.config.alpha, self.config.plausibility_threshold
        check_alpha(alpha, plausibility_threshold)  # `--hf-overrides` comes after the configuration's own check
        return {"alpha": alpha, "plausibility_threshold": plausibility_threshold}

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self.trunk.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        return self.trunk(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Rows to sample from, on the plausible set, or of prompts: `(N, H_of_all_stacks)` to `(N, V)`, float32."""
        logits = self.trunk.member_logits(hidden_states)
        if logits[0] is None:  # under tensor parallelism some platforms gather logits on the first rank alone
            return None
        return self.scores(*logits, **self.settings, mask=not is_scoring())

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        return AutoWeightsLoader(self).load_weights(weights, mapper=WeightsMapper(orig_to_new_prefix={"": "trunk."}))


class ContrastiveLoraPairForCausalLM(ContrastivePairForCausalLM):
    """vLLM's side of [`~hf_cong.ContrastiveLoraPairForCausalLM`], for the families of `LORA_ARCHITECTURES`."""

    trunk_class = LoraPairTrunk


class EmulatedFineTuningForCausalLM(ContrastivePairForCausalLM):
    """
    vLLM's side of [`~hf_cong.EmulatedFineTuningForCausalLM`]: the pair may be of two stacks or a LoRA pair.

    β and τ belong to the engine (`--hf-overrides`), and what else is said of a pair holds here too.
    """

    trunk_class = EmulatedFineTuningTrunk
    scores = staticmethod(emulated_fine_tuning_scores)

    def _settings(self) -> dict[str, float]:
        beta, plausibility_threshold = self.config.beta, self.config.plausibility_threshold
        check_beta(beta, plausibility_threshold)
        return {"beta": beta, "plausibility_threshold": plausibility_threshold}
