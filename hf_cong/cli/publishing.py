# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The command that publishes."""

from dataclasses import fields

from .commands import parse

# What each kind takes besides where it goes.
_TAKES = {
    "run": ("source", "evaluation", "system", "license", "language", "stages", "collection"),
    "model": ("source", "evaluation", "system", "license", "language", "base_model"),
    "pair": ("source", "evaluation", "system", "license", "language"),
    "dataset": ("source", "prompts", "license", "language"),
    "decoding": (),
    "results": ("source", "system"),
}
_ALL_TAKE = ("repo_id", "private", "dry_run", "replace")


def publish(argv: list[str]):
    from ..arguments import PublishArguments

    kind, argv = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("run", argv)
    if kind not in _TAKES:
        raise ValueError(
            f"there is no kind {kind!r:.80}. Kinds: {', '.join(_TAKES)}. A folder is given as `--source`."
        )
    (args,) = parse("publish", (PublishArguments,), argv)

    from ..hub.account import full_repo_id
    from ..hub.decoding import decoding_publication
    from ..hub.folders import dataset_publication, model_publication, pair_publication
    from ..hub.publication import describe
    from ..hub.publication import publish as publish_one

    _check_taken(kind, args, PublishArguments(repo_id=args.repo_id))
    # Who is logged in completes a bare name. A dry run asks nobody.
    where = {"repo_id": args.repo_id if args.dry_run else full_repo_id(args.repo_id), "private": args.private}
    options = {name: getattr(args, name) for name in _TAKES[kind] if name != "source"}
    if kind == "decoding":
        publication = decoding_publication(**where)
    elif kind == "dataset":
        publication = dataset_publication(args.source, **where, **options)
    else:
        build = {"model": model_publication, "pair": pair_publication}[kind]
        publication = build(args.source[0], **where, **options)
    if args.dry_run:
        print(describe(publication))
        return
    _report(publish_one(publication, replace=args.replace), private=publication.private)


def _check_taken(kind: str, args, defaults) -> None:
    """Refuses what would have no effect."""
    taken = (*_TAKES[kind], *_ALL_TAKE)
    for name in (field.name for field in fields(args)):
        if name not in taken and getattr(args, name) != getattr(defaults, name):
            raise ValueError(f"`{name}` is not for `hf-cong publish {kind}`. Leave it out.")
    if "source" in taken and not args.source:
        raise ValueError("`source` is required: set it in the recipe or pass `--source FOLDER`.")
    if kind != "dataset" and len(args.source) > 1:
        raise ValueError(f"`source` is {len(args.source)} folders; only a dataset is made of several. Name one.")


def _report(published, private: bool) -> None:
    print(f"{published.url} is {'written' if published.changed else 'unchanged'}, at commit {published.commit}.")
