"""Lists of names: whole if an answer holds them, else in pages by the query's `after` and `limit`."""

from collections.abc import Callable

from node.auth.fields import integer
from node.core.core import Core
from node.core.request import Request
from node.errors import InvalidRequest, NotFound
from node.view import View


def page(
    core: Core, request: Request, find: Callable[[str, int], list[str]], *, keys_max: int | None = None
) -> list[str]:
    """What `find` (after which name, how many at most) gives for a request.

    Raises NotFound if there is nothing, as Vault answers an empty list, and InvalidRequest rather than to leave out
    what does not fit.
    """
    keys_max = keys_max or core.settings.list_keys_max
    request.paged = True
    try:
        limit = integer(request.query.get("limit"), "limit")
    except InvalidRequest as error:
        raise InvalidRequest(f"Field validation failed: {error.message}") from None
    names = find(request.query.get("after", ""), limit if 0 < limit <= keys_max else keys_max + 1)
    if not names:
        raise NotFound
    if len(names) > keys_max:
        raise InvalidRequest(f'more than {keys_max} keys: read them in pages, with "after" and "limit"')
    return names


def children(core: Core, request: Request, view: View, folder: str = "") -> list[str]:
    """The names in a folder of a corner of the store, in pages. Raises as page() does."""
    return page(core, request, lambda after, limit: view.children(folder, after, limit))
