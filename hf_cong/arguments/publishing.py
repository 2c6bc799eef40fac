# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the command that publishes."""

from dataclasses import dataclass, field


@dataclass
class PublishArguments:
    """
    Arguments of `hf-cong publish`: what hf_cong made, on the Hub.

    Args:
        repo_id (`str`): The repository, `"namespace/name"`; without a namespace it is your own. A run takes names from
            it: `NAME` for the model, `NAME-S` for the model after SFT, `NAME-data` and `NAME-pair`.
        source (`str` or `list[str]`, *optional*): The folder to publish. A dataset may be of several: output
            directories of `hf-cong generate` and of `hf-cong build`. `decoding` has none.
        evaluation (`str`, *optional*): Output directory of `hf-cong evaluate`, or a results file of lm-eval, for the
            card of a model.
        system (`str`, *optional*): Which of the evaluation's systems the model is. Needed if there are several.
        base_model (`str`, *optional*): The Hub id of an adapter's base, for one that was trained on a local copy.
        prompts (`str`, *optional*): The Hub id of the dataset that a dataset's prompts are from: its licence is a part
            of the result's. Needed if the folders do not tell, because `hf-cong generate` read a file.
        private (`bool`, *optional*, defaults to `True`): Whether only its namespace sees a new repository. `False` on
            the command line only.
        license (`str`, *optional*): Its licence, as the Hub names it. Defaults to what follows from the licences of
            what it was made of.
        language (`str` or `list[str]`, *optional*): Its languages, as the Hub names them: `en`.
        stages (`list[str]`, *optional*, defaults to `["data", "sft", "model"]`): What to publish of a run: `"data"`,
            `"sft"`, `"model"`, and `"pair"`, for which the weak models are loaded and saved as one below `source`, by
            a dry run too.
        collection (`bool`, *optional*, defaults to `True`): Whether a run's repositories are gathered in a collection.
        dry_run (`bool`, *optional*, defaults to `False`): Whether to only show what would be written: files with their
            sizes, what stays here and why, the card, and who sees it. Needs no token and no network, and so does not
            know of results that are on the Hub already and stay in the card.
        replace (`bool`, *optional*, defaults to `False`): Whether to write over what something else than this source
            left in the repository. On the command line only.
    """

    repo_id: str = field(metadata={"help": "Repository, namespace/name."})
    source: list[str] | str = field(
        default_factory=list, metadata={"help": "Folder to publish; of a dataset, one or several."}
    )
    evaluation: str | None = field(
        default=None, metadata={"help": "Output directory of `hf-cong evaluate`, or lm-eval's results, for the card."}
    )
    system: str | None = field(default=None, metadata={"help": "Which system of the evaluation the model is."})
    base_model: str | None = field(default=None, metadata={"help": "Hub id of an adapter's base, for a local copy."})
    prompts: str | None = field(default=None, metadata={"help": "Hub id of the dataset of a dataset's prompts."})
    private: bool = field(default=True, metadata={"help": "Only its namespace sees a new repository."})
    license: str | None = field(default=None, metadata={"help": "Licence, as the Hub names it (from the sources)."})
    language: list[str] | str = field(default_factory=list, metadata={"help": "Languages, as the Hub names them."})
    stages: list[str] = field(
        default_factory=lambda: ["data", "sft", "model"],
        metadata={
            "help": "What to publish of a run: data, sft, model, pair. A pair is loaded and saved below `source` "
            "first, by a dry run too."
        },
    )
    collection: bool = field(default=True, metadata={"help": "Gather a run's repositories in a collection."})
    dry_run: bool = field(default=False, metadata={"help": "Only show what would be written."})
    replace: bool = field(default=False, metadata={"help": "Write over what is there of another run; by hand only."})

    def __post_init__(self):
        self.source = [self.source] if isinstance(self.source, str) else self.source
        self.language = [self.language] if isinstance(self.language, str) else self.language
        for name in ("source", "language", "stages"):
            for value in getattr(self, name):
                if not isinstance(value, str) or not value:
                    raise ValueError(f"`{name}` holds {value!r:.80}; it must be text. Correct it.")
