"""What the paths of entities, their aliases and groups have in common: their routes, look-ups, and mounts."""

from typing import Any

from node.api.vault.auth_mounts import auth_mounts
from node.auth import fields
from node.core.core import Core
from node.core.fields import ABOUT_LISTED, LISTED, Field, Kind, in_path, named
from node.core.paging import children, page
from node.core.request import Operation, Request
from node.core.router import Route
from node.entities import records
from node.entities.draft import Draft
from node.errors import InvalidRequest
from node.view import View
from storage.entries import IDENTITY
from storage.rows import Mount

MADE_ALIAS = named(Kind.STRING, "id canonical_id")


def listings(path: str, handler: Any, summary: str, *, twin: str = "") -> list[Route]:
    """A list, asked for with and without its slash. By name: names alone; by id: what else there is to say of each."""
    members = (LISTED,) if path.endswith("name") else (LISTED, ABOUT_LISTED)
    said: dict[str, Any] = {"summary": summary, "answers": {Operation.LIST: members}}
    return [Route(each, {Operation.LIST: handler}, twin=twin, **said) for each in (path, f"{path}/")]


def one(path: str, handlers: Any, summary: str, *declared: Field, twin: str = "", answers: Any) -> Route:
    """One object, by its id or its name."""
    name = "id" if "{id}" in path else "name"
    said = (in_path(name, "Of the object."), *(each for each in declared if each.name != name))
    folded = name if name == "name" else ""
    return Route(path, handlers, twin=twin, folded=folded, summary=summary, fields=said, answers=answers)


def listed(core: Core, request: Request, folder: str) -> list[str]:
    """The ids in a folder of the index, in pages. Raises NotFound if there are none."""
    return children(core, request, View(core.unsealed, IDENTITY), folder)


def listed_names(core: Core, request: Request, folder: str) -> list[str]:
    """What the index holds by name, in pages, in the order of the index: ids. Raises NotFound."""
    view, draft = View(core.unsealed, IDENTITY), Draft(core.unsealed)
    found = page(
        core, request, lambda after, limit: view.children(folder, records.name_segment(after), limit)
    )
    return [draft.pointed(folder + name) for name in found]


def query(request: Request) -> tuple[str, str, str]:
    """What a look-up goes by, the value, and the mount's accessor for an alias's name. Raises InvalidRequest."""
    names = ("id", "name", "alias_id", "alias_name", "alias_mount_accessor")
    given = {name: fields.text(request.data.get(name), name) for name in names}
    accessor = given.pop("alias_mount_accessor")
    asked = [name for name, value in given.items() if value]
    if bool(given["alias_name"]) != bool(accessor):
        raise InvalidRequest("both 'alias_name' and 'alias_mount_accessor' needs to be set")
    if not asked:
        raise InvalidRequest("query parameter not supplied")
    if len(asked) > 1:
        raise InvalidRequest("query parameter conflict; please supply distinct set of query parameters")
    return asked[0], given[asked[0]], accessor


def mounts_by_accessor(core: Core) -> dict[str, Mount]:
    """The auth methods' mounts."""
    return {mount.accessor: mount for mount in auth_mounts(core)}


def check_accessor(core: Core, accessor: str) -> None:
    """Raises InvalidRequest if no auth method has it."""
    if accessor not in mounts_by_accessor(core):
        raise InvalidRequest(f'invalid mount accessor "{accessor}"')
