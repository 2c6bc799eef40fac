# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Contrastive decoding as a plug for `model.generate(..., logits_processor=[...])`, with two live models."""

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, PreTrainedModel

from .compatibility import check_decoder_model, check_head_widths, context_length
from .functional import check_alpha, check_beta, contrastive_scores, emulated_fine_tuning_scores, official_scores


class _Shadow:
    """
    Next-token logits of a second model for whatever token rows `generate` shows, at the cost of the new tokens only.

    `generate` tells a processor nothing about beams, rollbacks or new prompts. So each call finds, for every row, the
    row of the last call with the longest common prefix, reorders the cache accordingly, cuts it there and feeds the
    rest.
    """

    def __init__(self, model: PreTrainedModel, role: str, attention_mask: Tensor | None):
        self.model, self.role, self.prompt_mask = model, role, attention_mask
        self.cache, self.rows, self.prompts = None, None, None

    @torch.no_grad()
    def next_logits(self, ids: Tensor) -> Tensor:
        """
        Args:
            ids (`torch.LongTensor` of shape `(B, T)`): Prompts and what followed them, left-padded.

        Returns:
            `torch.Tensor` of shape `(B, V)`: logits of the next token, on the shadow model's device.
        """
        ids = ids.to(self.model.device)
        limit = context_length(self.model)
        if limit is not None and ids.shape[1] > limit:
            raise ValueError(
                f"The rows have {ids.shape[1]} tokens, and the {self.role}'s context is {limit}. Shorten the prompts "
                "or lower `max_new_tokens`."
            )
        mask = self._mask(ids)
        rows = ids.masked_fill(mask == 0, -1)  # padding is not the token it is written with
        kept = self._rewind(rows)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = self.model(
            input_ids=ids[:, kept:],
            attention_mask=mask,
            position_ids=positions[:, kept:],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.rows = rows
        return output.logits[:, -1]

    def _rewind(self, rows: Tensor) -> int:
        """Makes the cache hold a common prefix of all `rows`; returns its length."""
        kept = 0
        if self.rows is not None:
            seen = self.rows.shape[1]
            if rows.shape[1] > seen and torch.equal(rows[:, :seen], self.rows):
                return seen  # plain decoding: every row goes on
            # At least one token must be fed to get logits, so at most all but one are kept.
            width = min(rows.shape[1] - 1, seen)
            same = rows[:, None, :width] == self.rows[None, :, :width]  # (B, B_old, width)
            lengths, parents = same.long().cumprod(-1).sum(-1).max(1)
            kept = int(lengths.min())
        if kept < 2 and self.prompt_mask is None:
            _refuse_unmasked_padding(rows)
        if kept == 0:
            # No configuration: every layer then keeps all tokens, since a sliding-window layer could not be cut back.
            # The masks still apply the window.
            self.cache = DynamicCache()
            return 0
        if not torch.equal(parents, torch.arange(len(self.rows), device=parents.device)):
            self.cache.batch_select_indices(parents)
        self.cache.crop(kept - self.cache.get_seq_length())
        return kept

    def _mask(self, ids: Tensor) -> Tensor:
        mask = torch.ones_like(ids)
        if self.prompt_mask is None:
            return mask
        rows, width = self.prompt_mask.shape
        if ids.shape[0] % rows == 0 and ids.shape[1] >= width:
            copies = ids.shape[0] // rows
            prompts = ids[::copies, :width]
            if self.prompts is None and ids.shape[1] == width:
                self.prompts = prompts.clone()
            if self.prompts is not None and torch.equal(prompts, self.prompts):
                mask[:, :width] = self.prompt_mask.to(ids.device).repeat_interleave(copies, 0)
                return mask
        raise ValueError(
            f"`attention_mask` of shape {(rows, width)} does not belong to these prompts of shape {tuple(ids.shape)}, "
            "or was used for others before. Build a new processor for each batch, with "
            "`attention_mask=inputs['attention_mask']`."
        )


def _refuse_unmasked_padding(rows: Tensor):
    """Raises unless all rows start with the same token, once: padding starts a row otherwise, or with a repetition."""
    first, second = rows[:, 0], rows[:, 1:2]
    if bool((first != first[0]).any()) or bool((first[:, None] == second).any()):
        raise ValueError(
            "This batch may be left-padded, and a processor does not see the attention mask. Without it only rows "
            "that all start with the same token, once, are served. Build the processor with it, all ones if nothing "
            "is padded: `attention_mask=inputs['attention_mask']`."
        )


class _ShadowedLogitsProcessor(LogitsProcessor):
    """
    Turns the scores of the model whose `generate` is called into those of a formula with other live models.

    A subclass says which (`__init__`) and how (`contrast`). `model_class` names the class that does the same as one
    model, for messages.
    """

    model_class: str

    def __init__(self, attention_mask: Tensor | None, **models: PreTrainedModel):
        for role, model in models.items():
            check_decoder_model(model, role)
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(
                f"`attention_mask` must have shape (batch, tokens), got {tuple(attention_mask.shape)}. Pass the "
                "tokenizer's `attention_mask` as it is."
            )
        # a frozen model has no dropout
        self.shadows = [_Shadow(model.eval(), role, attention_mask) for role, model in models.items()]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.dim() != 2 or scores.dim() != 2:
            raise ValueError(
                f"{type(self).__name__} needs whole token rows of shape (batch, tokens), got "
                f"{tuple(input_ids.shape)}. Continuous batching does not keep them: use "
                f"`{self.model_class}.from_pair(...).generate_batch`."
            )
        contrast = self.contrast(scores, *(shadow.next_logits(input_ids).to(scores.device) for shadow in self.shadows))
        # `generate` divides flat indices by the width it knows, so ids beyond the common width are forbidden, not cut.
        output = torch.full_like(scores, -torch.inf, dtype=torch.float32)
        output[:, : contrast.shape[1]] = contrast
        return output

    def contrast(self, scores: Tensor, *logits: Tensor) -> Tensor:
        """The formula: scores `(B, V)` and the other models' logits, `(B, V)` each, to `(B, V)`."""
        raise NotImplementedError


class ContrastiveLogitsProcessor(_ShadowedLogitsProcessor):
    r"""
    Contrastive decoding of two live models: turns the policy's scores into log p_α, with the reference run alongside.

        F(v) = log π(v) − (1 − α) · log π_ref(v)   on the plausible set π ≥ τ·max π,      p_α = softmax(F)

    The policy is the model whose `generate` is called. The reference keeps its own cache, so a step costs one forward
    of each. Works with greedy search, sampling, `num_return_sequences`, beams, assisted and prompt-lookup decoding;
    one object may serve several `generate` calls. `generate_batch` (continuous batching) ignores `logits_processor`
    and has no place for one with state: use [`ContrastivePairForCausalLM`], which is also the faster way.

    `generate` applies its own penalties before this processor and temperature, top-k and top-p after it. Keep
    `repetition_penalty` at 1.0 in the generation configuration, so that the plausible set is taken on the raw policy;
    to penalise the contrast, pass a `RepetitionPenaltyLogitsProcessor` after this one.

    Args:
        reference_model (`PreTrainedModel`):
            The model before alignment. It must share the policy's vocabulary; dtype and device may differ.
        alpha (`float`, *optional*, defaults to `0.4`):
            α in [0, 1], the weight kept on the policy.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1).
        attention_mask (`torch.LongTensor` of shape `(B, T)`, *optional*):
            The prompts' attention mask, required when a batch is left-padded: `generate` does not hand it to
            processors. Without it, only rows that all start with the same token are served. With it, build a new
            processor for each batch.

    Raises:
        TypeError: if the reference is not a loaded model.
        ValueError: if α or τ is out of range, or the reference is an encoder-decoder or has a recurrent state; at the
            first step, if a batch may be padded and has no mask, or the mask belongs to another batch; at any step, if
            the rows outgrow the reference's context.

    Example:

    ```python
    >>> from hf_cong import ContrastiveLogitsProcessor

    >>> inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    >>> contrast = ContrastiveLogitsProcessor(reference, alpha=0.4, attention_mask=inputs["attention_mask"])
    >>> policy.generate(**inputs, logits_processor=[contrast], do_sample=True, temperature=0.8, top_p=0.95)
    ```

    Source: [ConG](https://huggingface.co/papers/2510.07884); see [`contrastive_scores`] for the formula.
    """

    model_class = "ContrastivePairForCausalLM"

    def __init__(
        self,
        reference_model: PreTrainedModel,
        *,
        alpha: float = 0.4,
        plausibility_threshold: float = 0.1,
        attention_mask: Tensor | None = None,
    ):
        check_alpha(alpha, plausibility_threshold)
        super().__init__(attention_mask, reference=reference_model)
        self.alpha = alpha
        self.plausibility_threshold = plausibility_threshold

    def contrast(self, policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
        return contrastive_scores(
            policy_logits, reference_logits, alpha=self.alpha, plausibility_threshold=self.plausibility_threshold
        )


class OfficialContrastiveLogitsProcessor(ContrastiveLogitsProcessor):
    """
    ConG's released decoding, to reproduce the paper's samples. The only change is `contrast`: the gauge of the scores.

    The released code penalises repetition by 1.2 after the contrast, on scores whose zero point makes that penalty
    several times stronger (see [`~functional.official_scores`]). Pass the penalty as the next processor and keep
    `repetition_penalty` out of the generation configuration:

    ```python
    >>> from transformers import RepetitionPenaltyLogitsProcessor

    >>> processors = [OfficialContrastiveLogitsProcessor(reference, alpha=0.4), RepetitionPenaltyLogitsProcessor(1.2)]
    >>> policy.generate(**inputs, logits_processor=processors, do_sample=True, temperature=0.8, top_p=0.95, top_k=0)
    ```

    Source: the released code of [ConG](https://huggingface.co/papers/2510.07884).
    """

    def contrast(self, policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
        return official_scores(
            policy_logits, reference_logits, alpha=self.alpha, plausibility_threshold=self.plausibility_threshold
        )


class EmulatedFineTuningLogitsProcessor(_ShadowedLogitsProcessor):
    r"""
    Emulated fine-tuning with live models: turns a large base's scores into log p_β, with a small pair run alongside.

        F(v) = log π_base(v) + β · (log π(v) − log π_ref(v))   on the plausible set π_base ≥ τ·max π_base,
        p_β = softmax(F)

    The base is the model whose `generate` is called; π is `tuned`, π_ref is `untuned`. Each of the two keeps its own
    cache, so a step costs one forward of all three. Proxy-tuning is `plausibility_threshold=0`; DeRa is that with the
    reference as the base and as `untuned`, λ = β. Everything else is as in [`ContrastiveLogitsProcessor`]: the modes
    of `generate`, the order of the processors, the mask of a left-padded batch. As one model, which is faster and has
    continuous batching: [`EmulatedFineTuningForCausalLM`].

    Args:
        tuned (`PreTrainedModel`):
            The small model after alignment, the policy of the pair. It and `untuned` must share the base's vocabulary;
            family, dtype and device may differ. Across vocabularies, steer by text: `weak_to_strong_search`.
        untuned (`PreTrainedModel`):
            The small model before alignment, the reference of the pair.
        beta (`float`, *optional*, defaults to `1.0`):
            β, at least 0, the weight of the pair.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1), on the base's own probabilities.
        attention_mask (`torch.LongTensor` of shape `(B, T)`, *optional*):
            The prompts' attention mask, required when a batch is left-padded. With it, build a new processor for each
            batch.

    Raises:
        TypeError: if `tuned` or `untuned` is not a loaded model.
        ValueError: if β or τ is out of range, one of the two is an encoder-decoder or has a recurrent state, or
            their heads are too far apart for one vocabulary; at the first step, if they are too far from the base's,
            a batch may be padded and has no mask, or the mask belongs to another batch; at any step, if the rows
            outgrow a context.

    Example:

    ```python
    >>> from hf_cong import EmulatedFineTuningLogitsProcessor

    >>> inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    >>> steer = EmulatedFineTuningLogitsProcessor(policy, reference, attention_mask=inputs["attention_mask"])
    >>> base.generate(**inputs, logits_processor=[steer], do_sample=True, temperature=0.8)
    ```

    Source: [EFT](https://huggingface.co/papers/2310.12962); see [`emulated_fine_tuning_scores`] for the formula.
    """

    model_class = "EmulatedFineTuningForCausalLM"

    def __init__(
        self,
        tuned: PreTrainedModel,
        untuned: PreTrainedModel,
        *,
        beta: float = 1.0,
        plausibility_threshold: float = 0.1,
        attention_mask: Tensor | None = None,
    ):
        check_beta(beta, plausibility_threshold)
        super().__init__(attention_mask, tuned=tuned, untuned=untuned)
        self.beta = beta
        self.plausibility_threshold = plausibility_threshold
        self.widths = {shadow.role: shadow.model.config.get_text_config().vocab_size for shadow in self.shadows}
        check_head_widths(**self.widths)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        check_head_widths(base=scores.shape[-1], **self.widths)
        return super().__call__(input_ids, scores)

    def contrast(self, base_logits: Tensor, tuned_logits: Tensor, untuned_logits: Tensor) -> Tensor:
        return emulated_fine_tuning_scores(
            base_logits,
            tuned_logits,
            untuned_logits,
            beta=self.beta,
            plausibility_threshold=self.plausibility_threshold,
        )
