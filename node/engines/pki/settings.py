"""Issuers as they are shown and changed, and the mount's configuration."""

import dataclasses
from typing import Any

from node.auth.fields import SECOND_NS, boolean, duration_ns, rfc3339, strings, text
from node.core.core import Core
from node.core.fields import ABOUT_LISTED, LISTED, Field, Kind, in_path, like, named
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route
from node.engines.pki import authority
from node.engines.pki import certificates as c
from node.engines.pki.authority import (
    CONFIG,
    CRL_DEFAULTS,
    DEFAULT,
    ISSUERS,
    KEYS,
    SIGNING,
    URL_DEFAULTS,
    USAGES,
)
from node.engines.pki.certs import DER, PEM, REVOCATION, ca_chain, public
from node.engines.shelf import Shelf, shelf
from node.errors import InvalidRequest, NotFound

_BEHAVIORS = ("err", "truncate", "permit")

_ISSUER = (
    *named(Kind.STRING, "issuer_id issuer_name key_id certificate usage"),
    *named(Kind.STRING, "leaf_not_after_behavior revocation_signature_algorithm"),
    *named(Kind.STRINGS, "ca_chain manual_chain issuing_certificates ocsp_servers"),
    *named(Kind.STRINGS, "crl_distribution_points delta_crl_distribution_points"),
    Field("revoked", Kind.BOOLEAN, "Whether it is out of use."),
    *REVOCATION,
)


def routes() -> list[Route]:
    """The paths of a mount, relative to it."""
    return [*_issuer_routes(), *_list_routes(), *_config_routes()]


def _issuer_routes() -> list[Route]:
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    issuer = in_path("issuer", '"default", an id or a name.')
    changes = (
        Field("issuer_name", summary="Its new name."),
        Field("usage", Kind.STRINGS, "What it may do."),
        Field(
            "leaf_not_after_behavior",
            summary="What becomes of a ttl beyond its own end: err, truncate or permit.",
        ),
    )
    one = {
        read: _read_issuer,
        update: _update_issuer,
        Operation.PATCH: _update_issuer,
        delete: _delete_issuer,
    }
    return [
        Route(
            "issuer/{issuer}",
            one,
            summary="An issuer.",
            fields=(issuer, *changes),
            answers=dict.fromkeys((read, update, Operation.PATCH), _ISSUER),
        ),
        Route(
            "issuer/{issuer}/revoke",
            {update: _revoke_issuer},
            summary="Takes an issuer out of use.",
            fields=(issuer,),
            answers={update: _ISSUER},
        ),
        public("issuer/{issuer}/json", _issuer_json, "An issuer's certificate.", shown=_ISSUER),
        public("issuer/{issuer}/pem", _issuer_pem, "An issuer's certificate in PEM.", form=PEM),
        public("issuer/{issuer}/der", _issuer_der, "An issuer's certificate in DER.", form=DER),
        public("ca", _ca_der, "The default issuer in DER.", form=DER),
        public("ca/pem", _ca_pem, "The default issuer in PEM.", form=PEM),
        public("ca_chain", _ca_chain, "The default issuer and those above it in PEM.", form=PEM),
    ]


def _list_routes() -> list[Route]:
    read, delete, lists = Operation.READ, Operation.DELETE, Operation.LIST
    return [
        *(
            Route(
                path,
                {lists: _list_issuers},
                authenticated=False,
                summary="Lists issuers.",
                answers={lists: (LISTED, ABOUT_LISTED)},
            )
            for path in ("issuers", "issuers/")
        ),
        *(
            Route(path, {lists: _list_keys}, summary="Lists keys.", answers={lists: (LISTED, ABOUT_LISTED)})
            for path in ("keys", "keys/")
        ),
        Route(
            "key/{key}",
            {read: _read_key, delete: _delete_key},
            summary="A key.",
            answers={read: named(Kind.STRING, "key_id key_name key_type")},
        ),
    ]


def _config_routes() -> list[Route]:
    read, update = Operation.READ, Operation.UPDATE
    defaults = (Field(DEFAULT), Field("default_follows_latest_issuer", Kind.BOOLEAN, "Always false."))
    return [
        Route(
            "config/issuers",
            {read: _read_default, update: _set_default},
            summary="The default issuer.",
            fields=defaults,
            answers=dict.fromkeys((read, update), defaults),
        ),
        Route(
            "config/keys",
            {read: _read_default_key},
            summary="The default key.",
            answers={read: (Field(DEFAULT),)},
        ),
        Route(
            "config/urls",
            {read: _read_urls, update: _set_urls},
            summary="What certificates say about where to look.",
            fields=like(URL_DEFAULTS),
            answers=dict.fromkeys((read, update), like(URL_DEFAULTS)),
        ),
        Route(
            "config/crl",
            {read: _read_crl, update: _set_crl},
            summary="Revocation lists.",
            fields=like(CRL_DEFAULTS),
            answers=dict.fromkeys((read, update), like(CRL_DEFAULTS)),
        ),
    ]


# --- issuers ---


async def _read_issuer(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    return Response(data=_shown(view, authority.find_issuer(view, params["issuer"])))


def _shown(view: Shelf, issuer: authority.Issuer) -> dict[str, Any]:
    revoked = {
        "revocation_time": issuer.revoked_ns // SECOND_NS,
        "revocation_time_rfc3339": rfc3339(issuer.revoked_ns),
    }
    return {
        "ca_chain": [link.pem + "\n" for link in authority.chain(view, issuer)],
        "certificate": issuer.pem + "\n",
        "crl_distribution_points": [],
        "delta_crl_distribution_points": [],
        "issuer_id": issuer.id,
        "issuer_name": issuer.name,
        "issuing_certificates": [],
        "key_id": issuer.key_id,
        "leaf_not_after_behavior": issuer.leaf_not_after_behavior,
        "manual_chain": None,
        "ocsp_servers": [],
        "revocation_signature_algorithm": c.signature_algorithm(issuer.certificate),
        "revoked": issuer.revoked_ns > 0,
        "usage": ",".join(issuer.usage),
        **(revoked if issuer.revoked_ns else {}),
    }


async def _update_issuer(core: Core, request: Request, params: dict[str, str]) -> Response:
    view, data = shelf(core, request), request.data
    issuer = authority.find_issuer(view, params["issuer"])
    changed = dataclasses.replace(issuer)
    if data.get("issuer_name") is not None:
        name = text(data["issuer_name"], "issuer_name")
        if name and any(each.name == name and each.id != issuer.id for each in authority.issuers(view)):
            raise InvalidRequest("issuer name already in use")
        changed = dataclasses.replace(changed, name=name)
    if data.get("usage") is not None:
        usage = strings(data["usage"], "usage")
        if not set(usage) <= set(USAGES):
            raise InvalidRequest(f"unknown usage: there are {', '.join(USAGES)}")
        changed = dataclasses.replace(changed, usage=tuple(name for name in USAGES if name in usage))
    if data.get("leaf_not_after_behavior") is not None:
        behavior = text(data["leaf_not_after_behavior"], "leaf_not_after_behavior")
        if behavior not in _BEHAVIORS:
            raise InvalidRequest(f"leaf_not_after_behavior is one of {', '.join(_BEHAVIORS)}")
        changed = dataclasses.replace(changed, leaf_not_after_behavior=behavior)
    await view.write(view.put(ISSUERS + issuer.id, changed.stored(), expect=issuer.revision))
    return Response(data=_shown(view, changed))


async def _revoke_issuer(core: Core, request: Request, params: dict[str, str]) -> Response:
    """It issues nothing any more; its own certificate is revoked where an issuer above it is here."""
    view = shelf(core, request)
    issuer = authority.find_issuer(view, params["issuer"])
    if not issuer.revoked_ns:
        now_ns = view.store.now_ns()
        usage = tuple(name for name in issuer.usage if name != SIGNING)
        changed = dataclasses.replace(issuer, revoked_ns=now_ns, usage=usage)
        path = c.serial(issuer.certificate.serial_number)
        known = view.get(authority.CERTS + path) is not None
        commands = authority.revoke(view, path, now_ns)[1] if known else []
        await view.write(view.put(ISSUERS + issuer.id, changed.stored(), expect=issuer.revision), *commands)
        issuer = changed
    return Response(data=_shown(view, issuer))


async def _delete_issuer(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    try:
        issuer = authority.find_issuer(view, params["issuer"])
    except InvalidRequest:
        return Response()  # it is not there: as asked for
    commands = [view.delete(ISSUERS + issuer.id), view.delete(authority.CRL + issuer.id)]
    warnings = None
    if authority.config(view, "issuers", {DEFAULT: ""})[DEFAULT] == issuer.id:
        commands.append(view.delete(f"{CONFIG}issuers"))
        warnings = [
            f"Deleted issuer {issuer.id} (the default): until another is chosen, issuing needs its reference."
        ]
    await view.write(*commands)
    return Response(warnings=warnings)


async def _list_issuers(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    found = authority.issuers(view)
    if not found:
        raise NotFound
    default = authority.config(view, "issuers", {DEFAULT: ""})[DEFAULT]
    info = {
        issuer.id: {
            "is_default": issuer.id == default,
            "issuer_name": issuer.name,
            "key_id": issuer.key_id,
            "serial_number": c.serial(issuer.certificate.serial_number),
        }
        for issuer in found
    }
    return Response(data={"key_info": info, "keys": list(info)})


async def _issuer_json(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    shown = _shown(view, authority.find_issuer(view, params["issuer"]))
    return Response(
        data={name: shown[name] for name in ("ca_chain", "certificate", "issuer_id", "issuer_name")}
    )


async def _issuer_pem(core: Core, request: Request, params: dict[str, str]) -> Response:
    pem = authority.find_issuer(shelf(core, request), params["issuer"]).pem
    return Response(body=pem.encode(), headers=dict(PEM))


async def _issuer_der(core: Core, request: Request, params: dict[str, str]) -> Response:
    der = c.to_der(authority.find_issuer(shelf(core, request), params["issuer"]).certificate)
    return Response(body=der, headers=dict(DER))


async def _ca_pem(core: Core, request: Request, params: dict[str, str]) -> Response:
    return (
        await _issuer_pem(core, request, {"issuer": DEFAULT}) if _has_default(core, request) else _nothing()
    )


async def _ca_der(core: Core, request: Request, params: dict[str, str]) -> Response:
    return (
        await _issuer_der(core, request, {"issuer": DEFAULT}) if _has_default(core, request) else _nothing()
    )


async def _ca_chain(core: Core, request: Request, params: dict[str, str]) -> Response:
    if not _has_default(core, request):
        return _nothing()
    return Response(body=ca_chain(shelf(core, request)).encode(), headers=dict(PEM))


def _nothing() -> Response:
    return Response(status=NO_CONTENT)


def _has_default(core: Core, request: Request) -> bool:
    return bool(authority.config(shelf(core, request), "issuers", {DEFAULT: ""})[DEFAULT])


# --- keys ---


async def _list_keys(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    default = authority.config(view, "keys", {DEFAULT: ""})[DEFAULT]
    info: dict[str, Any] = {}
    for key_id in view.children(KEYS, limit=authority.KEYS_MAX):
        item = view.get(KEYS + key_id)
        if item is not None:
            info[key_id] = {"is_default": key_id == default, "key_name": item.value["name"]}
    if not info:
        raise NotFound
    return Response(data={"key_info": info, "keys": list(info)})


async def _read_key(core: Core, request: Request, params: dict[str, str]) -> Response:
    view, key_id = shelf(core, request), params["key"]
    if key_id == DEFAULT:
        key_id = authority.config(view, "keys", {DEFAULT: ""})[DEFAULT]
    item = view.get(KEYS + key_id)
    if item is None:
        raise InvalidRequest(f"unable to find PKI key for reference: {params['key']}")
    return Response(data={"key_id": key_id, "key_name": item.value["name"], "key_type": item.value["kind"]})


async def _delete_key(core: Core, request: Request, params: dict[str, str]) -> Response:
    view, key_id = shelf(core, request), params["key"]
    if any(issuer.key_id == key_id for issuer in authority.issuers(view)):
        raise InvalidRequest("this key belongs to an issuer: delete that first")
    await view.write(view.delete(KEYS + key_id))
    return Response(status=NO_CONTENT)


# --- configuration ---


async def _read_default(core: Core, request: Request, params: dict[str, str]) -> Response:
    default = authority.config(shelf(core, request), "issuers", {DEFAULT: ""})[DEFAULT]
    return Response(data={DEFAULT: default, "default_follows_latest_issuer": False})


async def _set_default(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    if boolean(request.data.get("default_follows_latest_issuer"), "default_follows_latest_issuer"):
        raise InvalidRequest('"default_follows_latest_issuer" is not offered')
    issuer = authority.find_issuer(view, text(request.data.get(DEFAULT), DEFAULT))
    await view.write(view.put(f"{CONFIG}issuers", {DEFAULT: issuer.id}))
    return await _read_default(core, request, params)


async def _read_default_key(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=authority.config(shelf(core, request), "keys", {DEFAULT: ""}))


async def _read_urls(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=authority.config(shelf(core, request), "urls", URL_DEFAULTS))


async def _set_urls(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    if boolean(request.data.get("enable_templating"), "enable_templating"):
        raise InvalidRequest('"enable_templating" is not offered')
    said = authority.config(view, "urls", URL_DEFAULTS)
    for name, default in URL_DEFAULTS.items():
        if isinstance(default, list) and request.data.get(name) is not None:
            said[name] = strings(request.data[name], name)
            if any("://" not in url or not url.isascii() or " " in url for url in said[name]):
                raise InvalidRequest(f"invalid URL found in {name.replace('_', ' ')}")
    await view.write(authority.put_config(view, "urls", URL_DEFAULTS, said))
    return Response(data=said)


async def _read_crl(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=authority.config(shelf(core, request), "crl", CRL_DEFAULTS))


async def _set_crl(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    said = authority.config(view, "crl", CRL_DEFAULTS)
    for name, default in CRL_DEFAULTS.items():
        given = request.data.get(name)
        if given is None:
            continue
        if isinstance(default, bool):
            said[name] = boolean(given, name)
        else:
            duration_ns(given, name)
            said[name] = text(given, name)
    if not duration_ns(said["expiry"], "expiry"):
        raise InvalidRequest("the expiry of revocation lists must be greater than zero")
    if said["enable_delta"]:
        raise InvalidRequest("delta revocation lists are not offered")
    lists = (authority.outdated(view, issuer.id) for issuer in authority.issuers(view))
    await view.write(authority.put_config(view, "crl", CRL_DEFAULTS, said), *lists)
    return Response(data=said)
