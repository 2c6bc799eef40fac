# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""lm-eval's cache of answers (`use_cache`) asks by request alone, so every model needs a place of its own in it."""

from lm_eval.api.model import CacheHook
from sqlitedict import SqliteDict

from ...checkpoints import content_key


def use_own_table(cache_hook: CacheHook, identity: dict) -> None:
    """
    Makes a cache keep the answers of this model apart from those of all others that use the same file.

    The file is a SQLite database, the cache one table of it by name, which it looks up at every access.

    Args:
        cache_hook (`CacheHook`): What lm-eval gives a model to write to. Its `dbdict` is what lm-eval itself reads.
        identity (`dict`): Everything that changes an answer, as JSON values.
    """
    answers = cache_hook.dbdict
    if answers is not None:
        table = content_key(identity)
        SqliteDict(answers.filename, tablename=table).close()  # makes the table
        answers.tablename = table
