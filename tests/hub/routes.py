# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Which address of the stand-in Hub is answered by which function."""

import re
from collections.abc import Callable
from urllib.parse import unquote

from . import collections, content, repositories
from .wire import Refusal

_PARTS = {
    "kind": "models|datasets|spaces",
    "repo_id": "[^/]+/[^/]+|[^/]+",
    "slug": "[^/]+/[^/]+",
    "path": ".+",
    "oid": "[0-9a-f]{64}",
}
_REPO = "/api/{kind}/{repo_id}"

ROUTES = [
    ("GET", "/api/whoami-v2", repositories.whoami),
    ("POST", "/api/repos/create", repositories.create),
    ("DELETE", "/api/repos/delete", repositories.delete),
    ("POST", "/api/validate-yaml", repositories.validate_card),
    ("GET", "/api/collections", collections.listing),
    ("POST", "/api/collections", collections.create),
    ("GET", "/api/collections/{slug}", collections.read),
    ("PATCH", "/api/collections/{slug}", collections.update),
    ("DELETE", "/api/collections/{slug}", collections.delete),
    ("POST", "/api/collections/{slug}/items", collections.add_item),
    ("PATCH", "/api/collections/{slug}/items/{item}", collections.update_item),
    ("DELETE", "/api/collections/{slug}/items/{item}", collections.delete_item),
    ("GET", "/api/{kind}", repositories.listing),
    ("PUT", _REPO + "/settings", repositories.settings),
    ("POST", _REPO + "/user-access-request/grant", repositories.grant),
    ("GET", _REPO + "/auth-check", repositories.check_access),
    ("GET", _REPO + "/auth-check/write", repositories.check_write_access),
    ("GET", _REPO + "/refs", repositories.refs),
    ("GET", _REPO + "/commits/{revision}", repositories.commits),
    ("POST", _REPO + "/branch/{branch}", repositories.create_branch),
    ("DELETE", _REPO + "/branch/{branch}", repositories.delete_branch),
    ("POST", _REPO + "/tag/{revision}", repositories.create_tag),
    ("DELETE", _REPO + "/tag/{revision}", repositories.delete_tag),
    ("POST", _REPO + "/preupload/{branch}", content.preupload),
    ("POST", _REPO + "/commit/{branch}", content.commit),
    ("GET", _REPO + "/tree/{revision}", content.tree),
    ("GET", _REPO + "/tree/{revision}/{path}", content.tree),
    ("POST", _REPO + "/paths-info/{revision}", content.paths_info),
    ("GET", _REPO + "/revision/{revision}", repositories.info),
    ("GET", _REPO, repositories.info),
    ("POST", "/{kind}/{repo_id}.git/info/lfs/objects/batch", content.lfs_batch),
    ("POST", "/{repo_id}.git/info/lfs/objects/batch", content.lfs_batch),
    ("PUT", "/lfs/{oid}", content.lfs_upload),
    ("POST", "/lfs/{oid}", content.lfs_verify),
    ("GET", "/{kind}/{repo_id}/resolve/{revision}/{path}", content.resolve),
    ("GET", "/{repo_id}/resolve/{revision}/{path}", content.resolve),
]


def _pattern(template: str) -> re.Pattern:
    names = re.split(r"\{(\w+)\}", template)
    names[::2] = map(re.escape, names[::2])
    names[1::2] = [f"(?P<{name}>{_PARTS.get(name, '[^/]+')})" for name in names[1::2]]
    return re.compile("".join(names))


_PATTERNS = [(method, _pattern(template), endpoint) for method, template, endpoint in ROUTES]


def find_endpoint(method: str, path: str) -> tuple[Callable, dict[str, str]]:
    """The function that answers a request, and the arguments that its address holds."""
    for route_method, pattern, endpoint in _PATTERNS:
        found = pattern.fullmatch(path)
        if found and route_method == ("GET" if method == "HEAD" else method):
            return endpoint, {name: unquote(value) for name, value in found.groupdict().items()}
    raise Refusal(501, f"The stand-in Hub does not know {method} {path}")
