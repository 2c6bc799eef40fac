# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A training run on the Hub: its data, the model after each stage, and a collection of them.

Everything is found through `_cong/manifest.json` in the run's `output_dir`, so what a trainer publishes as it goes and
what `hf-cong publish run` publishes later are the same, byte by byte.
"""

import io
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet
from datasets import Dataset, load_from_disk

from ..cards import collection_text, dataset_card
from ..journal import read_manifest
from .account import full_repo_id
from .collection import Item, gather
from .folders import model_publication, pair_publication
from .publication import Publication, Published, preflight, publish
from .sources import source_of
from .weak_pair import save_weak_pair

logger = logging.getLogger(__name__)

# What a run makes: the end of its repository's name, the type, and what the collection says of it.
_MADE = {
    "data": ("-data", "dataset", "What the models of the run wrote: completions to imitate, and preferences"),
    "sft": ("-S", "model", "ConG-S: the strong model after stage I"),
    "model": ("", "model", "The strong model at the end"),
    "pair": ("-pair", "model", "The weak pair that decoded, as one model"),
}
STAGES = ("data", "sft", "model")  # what is published unless more is asked for
_OF_A_COMPLETION = ("finish_reason", "seed", "alpha", "beta", "plausibility_threshold", "reward")


def run_repositories(repo_id: str, stages: Iterable[str] = STAGES) -> dict[str, str]:
    """The repositories of the run whose model is `repo_id`, by what they hold."""
    return {stage: f"{repo_id}{_MADE[stage][0]}" for stage in stages}


def has_several(output_dir: str | Path) -> bool:
    """Whether the run in `output_dir` has made what several repositories hold: else there is nothing to gather."""
    return len(_made(output_dir)) > 1


def run_publications(
    output_dir: str | Path,
    *,
    repo_id: str,
    stages: Sequence[str] = STAGES,
    private: bool = True,
    base_model: str | None = None,
    evaluation: str | Path | None = None,
    system: str | None = None,
    license: str | None = None,
    language: Sequence[str] = (),
) -> list[Publication]:
    """
    What a training run has made so far, a publication for each repository.

    Args:
        output_dir (`str` or `Path`):
            That of [`ConGTrainer`].
        repo_id (`str`):
            Where the model goes, `"namespace/name"`; the data go to `<repo_id>-data`, ConG-S to `<repo_id>-S`,
            the weak pair to `<repo_id>-pair`.
        stages (`Sequence[str]`, *optional*, defaults to `("data", "sft", "model")`):
            What to publish; `"pair"` too, on request. What the run has not made is named in a warning.
        private (`bool`, *optional*, defaults to `True`):
            Whether only its namespace sees a new repository.
        base_model (`str`, *optional*):
            The Hub id of the strong model, for an adapter that was trained on a local copy.
        evaluation (`str` or `Path`, *optional*):
            Results for the card of the model: see [`read_results`].
        system (`str`, *optional*):
            Which of the systems measured there the model is.
        license (`str`, *optional*):
            The licence of all of it, instead of what follows from its sources.
        language (`Sequence[str]`, *optional*):
            Its languages, instead of those of its prompts.

    Returns:
        `list[Publication]`: in the order of the stages.

    Raises:
        FileNotFoundError: if `output_dir` holds no run, or lacks files of it.
        ValueError: if the run has made nothing of what is asked for, or something that is not published.
    """
    if not stages or set(stages) - set(_MADE):
        raise ValueError(f"`stages` is {list(stages)!r:.80}; a run has {', '.join(_MADE)}. Name some of these.")
    made = [stage for stage in _made(output_dir) if stage in stages]
    if lacking := [stage for stage in stages if stage not in made]:
        logger.warning("The run in %s has made no %s: not published.", output_dir, ", no ".join(lacking))
    if not made:
        raise ValueError(
            f"The run in {output_dir} has made none of {', '.join(stages)}. If it has not ended, repeat the command "
            "that began it: it goes on. What its data had already, it does not make."
        )
    for name, value, of in (
        ("evaluation", evaluation, {"model"}),
        ("system", system, {"model"}),
        ("base_model", base_model, {"model", "sft"}),
    ):
        if value is not None and not of & set(made):
            raise ValueError(f"`{name}` is for the model, and what is published is {', '.join(made)}. Leave it out.")
    about = {"private": private, "license": license, "language": language}
    measured = {"evaluation": evaluation, "system": system}
    return [
        run_publication(
            output_dir,
            stage,
            run_repositories(repo_id, made),
            base_model=base_model,
            **about,
            **(measured if stage == "model" else {}),
        )
        for stage in made
    ]


def run_publication(
    output_dir: str | Path,
    stage: str,
    repositories: Mapping[str, str],
    *,
    folder: str | Path | None = None,
    private: bool = True,
    base_model: str | None = None,
    evaluation: str | Path | None = None,
    system: str | None = None,
    license: str | None = None,
    language: Sequence[str] = (),
) -> Publication:
    """
    One repository of a run.

    Args:
        output_dir (`str` or `Path`): That of the run.
        stage (`str`): `"data"`, `"sft"`, `"model"` or `"pair"`.
        repositories (`Mapping[str, str]`): See [`run_repositories`]; the card points to all of them.
        folder (`str` or `Path`, *optional*): Where the model lies, if not in `output_dir`: a checkpoint.
        private, base_model, evaluation, system, license, language: As for [`run_publications`].
    """
    manifest, about = _manifest(output_dir), {"license": license, "language": language, "repositories": repositories}
    if base_model is not None:
        manifest["sources"]["model"] = source_of(base_model)
    if folder is not None:  # in the middle of DPO, even if an earlier launch has ended it
        for known in ("stages", "measures"):
            manifest[known].pop("dpo", None)
    if stage == "data":
        files = _data_files(_root(output_dir), manifest["stages"])
        card = dataset_card(manifest, repo_id=repositories[stage], files=files, **about)
        return Publication(repositories[stage], "dataset", "dataset", manifest["run"], files, card, private)
    if stage == "pair":
        pair = save_weak_pair(_root(output_dir), manifest)
        return pair_publication(pair, repo_id=repositories[stage], private=private, run=manifest, **about)
    return model_publication(
        folder or (output_dir if stage == "model" else _root(output_dir) / manifest["stages"]["sft"]),
        repo_id=repositories[stage],
        private=private,
        base_model=base_model,
        evaluation=evaluation,
        system=system,
        run=(manifest, "sft" if stage == "sft" else "dpo"),
        **about,
    )


def publish_run(
    output_dir: str | Path,
    publications: Sequence[Publication],
    *,
    repo_id: str,
    collection: bool = True,
    replace: bool = False,
) -> list[Published]:
    """
    Publishes repositories of a run, and gathers them in a collection.

    Args:
        output_dir (`str` or `Path`): That of the run.
        publications (`Sequence[Publication]`): What [`run_publications`] returned.
        repo_id (`str`): As it was given there.
        collection (`bool`, *optional*, defaults to `True`): Whether to gather them, if the run has made several.
        replace (`bool`, *optional*, defaults to `False`): Whether to write over other content: see [`publish`].

    Returns:
        `list[Published]`: in the same order.

    Raises:
        PermissionError, ValueError, ConnectionError, RuntimeError: as [`publish`].
    """
    for one in publications:  # all of them may be written before one is
        preflight(one.repo_id, repo_type=one.repo_type, run=one.run, replace=replace)
    published = [publish(one, replace=replace) for one in publications]
    if collection and has_several(output_dir):
        there = {one.repo_id for one in publications}
        stages = [stage for stage, name in run_repositories(repo_id, _MADE).items() if name in there]
        _gather(output_dir, repo_id, stages, private=publications[0].private)
    return published


class RunPushes:
    """
    Publishes what a run makes while it runs. A push that fails is logged and owed: it is repeated with the next one.

    Args:
        output_dir (`str` or `Path`): That of the run.
        repo_id (`str`): Where the model goes; a bare name is of the user who is logged in.
        stages (`Sequence[str]`): What the run will publish.
        private (`bool`): Whether only its namespace sees a new repository.

    Raises:
        PermissionError: if nobody is logged in.
        ValueError: if this is no name of a repository.
    """

    def __init__(self, output_dir: str | Path, repo_id: str, *, stages: Sequence[str], private: bool):
        self.output_dir, self.private = output_dir, private
        self.repo_id = full_repo_id(repo_id)
        self.repositories = run_repositories(self.repo_id, stages)
        self._owed: dict[str, str] = {}
        self._published: dict[str, Published] = {}

    def preflight(self, run: str | None) -> None:
        """Finds out, for every repository, whether `run` may write it; `None` before the run has its name."""
        for stage, repo_id in self.repositories.items():
            preflight(repo_id, repo_type=_MADE[stage][1], run=run)

    def push(self, *stages: str, message: str | None = None) -> None:
        """Publishes those of these that the run has made, and those that are owed."""
        made = _made(self.output_dir)
        self._owed |= {stage: "" for stage in stages if stage in self.repositories and stage in made}
        for stage in list(self._owed):
            self._owed[stage] = self._failure(stage, message=message)
        self._owed = {stage: reason for stage, reason in self._owed.items() if reason}

    def push_checkpoint(self, folder: str | Path, message: str) -> None:
        """Publishes the model as it is in the middle of training. The next checkpoint makes up for a failure."""
        self._failure("model", folder=folder, message=message)

    def _failure(self, stage: str, *, folder: str | Path | None = None, message: str | None = None) -> str:
        """Publishes a stage; returns, after logging it, why it failed. Nothing that goes wrong here ends a run."""
        try:
            one = run_publication(self.output_dir, stage, self.repositories, folder=folder, private=self.private)
            self._published[stage] = publish(one, message=message)
            if len(self.repositories) > 1:
                _gather(self.output_dir, self.repo_id, self._published, private=self.private)
        except (OSError, RuntimeError, ValueError) as error:
            logger.error("%s is not published yet; the run goes on. %s", self.repositories[stage], error)
            return str(error)
        return ""

    def finish(self, message: str | None = None) -> Published:
        """
        Publishes the model, and what is owed.

        Raises:
            RuntimeError: if something cannot be published now either.
        """
        self._owed["model"] = ""
        self.push(message=message)
        if self._owed:
            reasons = "; ".join(f"{self.repositories[stage]}: {reason}" for stage, reason in self._owed.items())
            raise RuntimeError(
                f"Not everything is on the Hub. {reasons} All of it is in {self.output_dir}: `hf-cong publish run "
                f"--source {self.output_dir} --repo_id {self.repo_id}` finishes."
            )
        return self._published["model"]


def _gather(output_dir: str | Path, repo_id: str, stages: Iterable[str], *, private: bool) -> None:
    namespace, _, name = repo_id.partition("/")
    items = [Item(repository, *_MADE[stage][1:]) for stage, repository in run_repositories(repo_id, stages).items()]
    gather(name, items, namespace=namespace, description=collection_text(_manifest(output_dir)), private=private)


def _root(output_dir: str | Path) -> Path:
    return Path(output_dir) / "_cong"


def _manifest(output_dir: str | Path) -> dict:
    path = _root(output_dir) / "manifest.json"
    manifest = read_manifest(path)
    if lacking := {"run", "sources", "stages", "adapter"} - manifest.keys():
        raise ValueError(f"{path} is damaged: it has no `{min(lacking)}`. Repeat the command that wrote it.")
    return manifest


def _made(output_dir: str | Path) -> list[str]:
    """What the run has made so far, in the order of the stages."""
    manifest = _manifest(output_dir)
    done, steered = manifest["stages"], manifest["settings"].get("chosen_from") == "steered"
    made = {"data": "rows" in done or "pairs" in done, "sft": "sft" in done, "model": "dpo" in done}
    made["pair"] = "decode" in done and not steered  # then the pair decoded nothing by itself
    return [stage for stage in _MADE if made[stage]]


def _data_files(root: Path, stages: Mapping[str, Mapping[str, str]]) -> dict[str, bytes]:
    """The configurations `sft` and `preferences`, as far as they exist: exactly the rows that are trained on."""
    files, names = {}, _split_names({**stages.get("rows", {}), **stages.get("pairs", {})})
    for split, directory in stages.get("rows", {}).items():
        rows = load_from_disk(root / directory)
        folder = stages.get("best", stages["decode"])[split]  # of several samples, those that are kept
        written = pyarrow.parquet.read_table(root / folder / "completions.parquet")
        names_there = [name for name in _OF_A_COMPLETION if name in written.column_names]
        about = {row["prompt_id"]: row for row in written.select(["prompt_id", *names_there]).to_pylist()}
        for name in names_there:
            column = [about[prompt_id][name] for prompt_id in rows["prompt_id"]]
            if any(value is not None for value in column):
                rows = rows.add_column(name, column)
        files[f"sft/{names[split]}.parquet"] = _parquet(rows)
    for split, directory in stages.get("pairs", {}).items():
        rows = load_from_disk(root / directory / "dataset")
        files[f"preferences/{names[split]}.parquet"] = _parquet(rows)
    return files


def _parquet(rows: Dataset) -> bytes:
    content = io.BytesIO()
    rows.to_parquet(content)
    return content.getvalue()


def _split_names(splits: Iterable[str]) -> dict[str, str]:
    """The names of splits as the Hub knows them, no two alike."""
    names = {}
    for split in splits:
        name = re.sub(r"\W", "_", split, flags=re.ASCII)
        while name in names.values():
            name += "_"
        names[split] = name
    return names
