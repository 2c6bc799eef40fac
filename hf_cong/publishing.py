# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What transformers and TRL do with the Hub, through `hf_cong.hub`: for a trainer that keeps a record of its run."""

from pathlib import Path

from accelerate.utils import is_peft_model
from transformers.trainer_utils import HubStrategy

from .hub.publication import Published
from .manifest import last_measures


class PublishesItsRun:
    """
    Of a trainer with a [`RunRecord`] as `_record`: its cards and pushes are made of that record, in the main process.

    Overrides `init_hf_repo`, `create_model_card`, `push_to_hub` and `_push_from_checkpoint`.
    """

    def _begin(self):
        if not self._record.facts:
            adapter = self.model.peft_config["default"] if is_peft_model(self.model) else None
            self._record.begin(self._identity, self.model.config.name_or_path, adapter)

    def _keep(self, **card: str | list[str] | None):
        """Saves the model as it is, the manifest, and the card."""
        self._begin()
        if self.state.log_history:
            self._record.measures["dpo"] = last_measures(self.state.log_history)
        self.save_model(_internal_call=True)
        self._record.write()
        self.create_model_card(**card)

    def init_hf_repo(self, token=None, private=None):
        if token is not None:
            raise ValueError("`token` is not taken. Log in with `hf auth login`, or set `HF_TOKEN`.")
        if private is not None:
            self.args.hub_private_repo = private
        self._record.connect()
        if self._record.pushes is not None:
            self._record.pushes.private = self.args.hub_private_repo
            self.hub_model_id, self.push_in_progress = self._record.pushes.repo_id, None

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        self._begin()
        conversational = self._tokenizer.chat_template is not None
        self._record.write_card(model_name, dataset_name, tags, conversational=conversational)

    def push_to_hub(
        self, commit_message="End of training", blocking=True, token=None, revision=None, private=None, **kwargs
    ) -> Published | None:
        """
        Saves the model, then publishes it, and what could not be published before.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`):
                Title of the commit.
            private (`bool`, *optional*):
                Whether a new repository is private. Defaults to `args.hub_private_repo`.
            kwargs:
                `model_name`, `dataset_name` and `tags`, for [`create_model_card`].

        Returns:
            [`Published`]: where it is, in the main process.

        Raises:
            ValueError: for the other arguments of transformers: `token`, `revision` and `blocking=False`; or if the
                run has ended in another launch, and this trainer has its untrained model.
            RuntimeError: if something could not be published. It is all on disk.
        """
        if revision is not None or not blocking:
            raise ValueError("`push_to_hub` waits, and writes the main branch: leave out `revision` and `blocking`.")
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.init_hf_repo(token, private)
        self._begin()
        if self.state.global_step == 0 and self._record.finished:
            raise ValueError(
                f"This trainer has not trained, and {self.args.output_dir} has the model of the same run when it had "
                "ended, which `push_to_hub` would replace. Publish that one with `hf-cong publish run --source "
                f"{self.args.output_dir}`, or call `train` first."
            )
        self._keep(**kwargs)
        return None if self._record.pushes is None else self._record.pushes.finish(commit_message)

    def _push_from_checkpoint(self, checkpoint_folder):
        if self._record.pushes is not None and self.args.hub_strategy == HubStrategy.EVERY_SAVE:
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            message = f"Training in progress, step {self.state.global_step}"
            if self.args.merge_adapter:
                merged = Path(self.args.output_dir) / "_cong" / "merged"
                self._merge(Path(checkpoint_folder), merged)
                checkpoint_folder = merged
            self._record.pushes.push_checkpoint(checkpoint_folder, message)
