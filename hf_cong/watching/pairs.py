# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a DPO log says of ConG's pairs beside TRL's numbers."""


class LogsPairs:
    """
    Of a [`~trl.DPOTrainer`] with a [`Chain`] as `_chain`: two more numbers in every log, averaged as TRL averages its
    own; on evaluation data with `eval_` before them.

    `length_gap`: tokens of the chosen completion less those of the rejected one, both with the end-of-sequence token.

    `kl_to_reference`: the mean over the rejected completions y of log π_ref(y) − log π(y), in nats per completion:
    −`rewards/rejected` / β. They are samples of the reference, so it estimates KL(π_ref ‖ π), within limits: they
    were drawn at `temperature` and `top_p`, not at 1; one that hit `max_new_tokens` counts with an end of sequence
    that it does not have; on training data, from the second epoch on, the policy has been trained on just these
    samples, which makes it too large. On evaluation data it has not. Where the rejected completions are not the
    reference's, or `ld_alpha` weighs their tokens, there is no such number.

    Overrides `_prepare_inputs`, `log` and `evaluate`.
    """

    _other_evaluation = False

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        chosen, rejected = inputs["completion_mask"].sum(1).float().chunk(2)
        gaps = self.accelerator.gather(chosen - rejected)
        self._metrics["train" if self.model.training else "eval"]["length_gap"].append(gaps.mean().item())
        return inputs

    def log(self, logs, start_time=None):
        metrics = self._metrics["train" if self.model.training else "eval"]
        if "rewards/rejected" in metrics and self._rejected_are_of_the_reference():
            metrics["kl_to_reference"] = [-reward / self.beta for reward in metrics["rewards/rejected"]]
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        # Pairs that are passed in are of anybody; a name is that of evaluation data of the run.
        self._other_evaluation = eval_dataset is not None and not isinstance(eval_dataset, str)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _rejected_are_of_the_reference(self) -> bool:
        training = self.model.training
        splits = self._chain.splits.items()
        given = any("rejected" in data.column_names for name, data in splits if (name == "train") == training)
        own = training or not self._other_evaluation
        return self.args.rejected_from == "policy" and not given and own and self.ld_alpha is None and self.beta > 0
