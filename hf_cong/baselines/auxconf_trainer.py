# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The auxiliary confidence loss of Burns et al. for language models, over [`~trl.SFTTrainer`]."""

import textwrap

from trl import SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput, entropy_from_logits

from ..adapters import stay_trainable
from .auxconf_config import AuxConfConfig
from .losses import auxconf_loss


class AuxConfTrainer(SFTTrainer):
    r"""
    Trainer for supervised fine-tuning on weak labels with an auxiliary confidence loss.

    The weak labels are completions that a weak model wrote. Every token of theirs is learned with the weight 1 − a,
    and the token that the strong model itself finds most probable in its place with the weight a:

        L = (1 − a)·CE(weak token) + a·CE(argmax of the model),   a = aux_coef·min(1, step / (aux_warmup_ratio·steps))

    This is our definition for language models. The original is for two classes and differs in three points:

    - it hardens the model's prediction at a threshold that keeps the share of each class as the weak labels have it.
      A vocabulary has no such share to keep: here it is the most probable token;
    - its weak labels are probabilities of the weak model; here they are what that model sampled;
    - its released code lets the weight grow to `aux_coef` times the *share of steps done*, which at the end of the
      warm-up is 0.1, and then sets it to `aux_coef` at once, a jump of ten times. Here it grows to `aux_coef`.

    Overrides `compute_loss`. It needs the logits of all completion tokens at once, which [`~trl.SFTTrainer`] never
    holds: `tokens × vocabulary` numbers in float32, a few times over. An evaluation has the final weight. Logs
    `aux_weight`, and otherwise what [`~trl.SFTTrainer`] logs.

    Args:
        args ([`AuxConfConfig`]):
            Configuration of the run. All other arguments are those of [`~trl.SFTTrainer`].

    Raises:
        TypeError: if `args` is not an [`AuxConfConfig`].
        NotImplementedError: under context or sequence parallelism.

    Example:

    ```python
    >>> from hf_cong import AuxConfConfig, AuxConfTrainer, build_sft_dataset

    >>> rows, _ = build_sft_dataset("weak-samples")  # what `generate_completions` wrote with the weak model
    >>> trainer = AuxConfTrainer("Qwen/Qwen2.5-7B-Instruct", args=AuxConfConfig("auxconf"), train_dataset=rows)
    >>> trainer.train()
    ```

    Source: [Weak-to-Strong Generalization](https://huggingface.co/papers/2312.09390), auxiliary confidence loss.
    """

    _tag_names = ["trl", "sft", "auxconf"]  # noqa: RUF012
    _name = "AuxConf"
    _paper = {  # noqa: RUF012
        "title": "Weak-to-Strong Generalization: Eliciting Strong Capabilities With Weak Supervision",
        "id": "2312.09390",
        # docstyle-ignore
        "citation": textwrap.dedent("""\
            @inproceedings{burns2024weak,
                title     = {Weak-to-Strong Generalization: Eliciting Strong Capabilities With Weak Supervision},
                author    = {Burns, Collin and Izmailov, Pavel and Kirchner, Jan Hendrik and Baker, Bowen and Gao, Leo
                             and Aschenbrenner, Leopold and Chen, Yining and Ecoffet, Adrien and Joglekar, Manas and
                             Leike, Jan and Sutskever, Ilya and Wu, Jeff},
                booktitle = {Proceedings of the 41st International Conference on Machine Learning},
                year      = {2024}
            }"""),
    }

    def __init__(self, model, args: AuxConfConfig, **kwargs):
        if not isinstance(args, AuxConfConfig):
            raise TypeError(f"`args` must be an `AuxConfConfig`, got {type(args).__name__}.")
        super().__init__(model, args, **kwargs)
        stay_trainable(self.model)
        parallelism = self.accelerator.parallelism_config
        if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
            raise NotImplementedError("The loss needs whole rows; switch context and sequence parallelism off.")

    @property
    def aux_weight(self) -> float:
        """The weight a of the model's own predictions in the current step."""
        warmup = self.args.aux_warmup_ratio * self.state.max_steps
        grown = min(1.0, self.state.global_step / warmup) if self.model.training and warmup > 0 else 1.0
        return self.args.aux_coef * grown

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weight = self.aux_weight

        def scored(labels=None, fused_lm_head=False, **inputs):
            outputs = model(**inputs)
            if not fused_lm_head:
                return outputs
            mask = labels[:, 1:] != -100
            logits, labels = outputs.logits[:, :-1][mask], labels[:, 1:][mask]  # (N, V) and (N,)
            return FusedCausalLMOutput(
                log_probs=-auxconf_loss(logits, labels, weight=weight),
                entropy=entropy_from_logits(logits.detach()),
                is_top1=logits.argmax(-1) == labels,
                label_mask=mask,
                aux_loss=outputs.aux_loss if self.aux_loss_enabled else None,
            )

        self._metrics["train" if self.model.training else "eval"]["aux_weight"].append(weight)
        return super().compute_loss(scored, inputs, return_outputs, num_items_in_batch)
