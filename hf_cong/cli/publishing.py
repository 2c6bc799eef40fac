# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The command that publishes."""

from dataclasses import fields

from .commands import parse

# What each kind takes besides where it goes.
_OF_A_MODEL = ("source", "private", "evaluation", "system", "license", "language")
_TAKES = {
    "run": (*_OF_A_MODEL, "base_model", "stages", "collection"),
    "model": (*_OF_A_MODEL, "base_model"),
    "pair": _OF_A_MODEL,
    "dataset": ("source", "private", "prompts", "license", "language"),
    "decoding": ("private",),
    "results": ("source", "system"),
}


def publish(argv: list[str]):
    from ..arguments import PublishArguments

    kind, argv = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("run", argv)
    if kind not in _TAKES:
        raise ValueError(f"there is no kind {kind!r:.80}; kinds are {', '.join(_TAKES)}. A folder goes to `--source`.")
    (args,) = parse("publish", (PublishArguments,), argv)
    _check_taken(kind, args, PublishArguments(repo_id=args.repo_id))
    try:
        _publish(kind, args)
    except RuntimeError as error:  # somebody else wrote there meanwhile
        raise OSError(error) from error


def _publish(kind: str, args):
    from huggingface_hub.utils import validate_repo_id

    from ..hub.account import full_repo_id
    from ..hub.publication import describe, publish
    from ..hub.results import describe_results, publish_results
    from ..hub.run import has_several, publish_run

    validate_repo_id(args.repo_id)
    # A dry run asks nobody, not even whose a bare name is.
    repo_id = args.repo_id if args.dry_run else full_repo_id(args.repo_id)
    options = {"repo_id": repo_id, **{name: getattr(args, name) for name in _TAKES[kind] if name != "source"}}
    collection = options.pop("collection", False)
    publications = [] if kind == "results" else _publications(kind, args.source, options)
    if args.dry_run:
        texts = [describe(one) for one in publications] or [describe_results(*args.source, **options)]
        if collection and has_several(*args.source):
            gathered = ", ".join(one.repo_id for one in publications)
            texts.append(f"The collection {repo_id.split('/')[-1]!r} gathers {gathered}.")
        print("\n\n".join(texts))
        return
    if kind == "results":
        published = [publish_results(*args.source, **options, replace=args.replace)]
    elif kind == "run":
        where = {"repo_id": repo_id, "collection": collection}
        published = publish_run(*args.source, publications, **where, replace=args.replace)
    else:
        published = [publish(publication, replace=args.replace) for publication in publications]
    for one in published:
        seen, state = "private" if one.private else "public", "written" if one.changed else "unchanged"
        print(f"{one.url} ({seen}) is {state}, at commit {one.commit}.")


def _publications(kind: str, source: list[str], options: dict) -> list:
    from ..hub.data_folders import dataset_publication
    from ..hub.decoding import decoding_publication
    from ..hub.folders import check_folder, model_publication, pair_publication
    from ..hub.run import run_publications

    if kind == "run":
        check_folder(*source, "run")
        return run_publications(*source, **options)
    if kind == "decoding":
        return [decoding_publication(**options)]
    if kind == "dataset":
        return [dataset_publication(source, **options)]
    return [{"model": model_publication, "pair": pair_publication}[kind](*source, **options)]


def _check_taken(kind: str, args, defaults):
    """Refuses what would have no effect."""
    taken = (*_TAKES[kind], "repo_id", "dry_run", "replace")
    for name in (field.name for field in fields(args)):
        if name not in taken and getattr(args, name) != getattr(defaults, name):
            raise ValueError(f"`{name}` is not for `hf-cong publish {kind}`. Leave it out.")
    if "source" in taken and not args.source:
        raise ValueError("`source` is required: set it in the recipe or pass `--source FOLDER`.")
    if kind != "dataset" and len(args.source) > 1:
        raise ValueError(f"`source` is {len(args.source)} folders; only a dataset is made of several. Name one.")
