"""Issuers: making roots and intermediates, importing them, and what is said about them."""

import asyncio
import dataclasses
import uuid
from collections.abc import Mapping
from typing import Any

from cryptography import x509

from node.auth.fields import SECOND_NS, boolean, integer, text
from node.auth.ttl import limits
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named
from node.core.request import Operation, Request, Response
from node.core.router import Handler, Route
from node.engines.pki import authority, leaf, names
from node.engines.pki import certificates as c
from node.engines.pki.authority import CONFIG, DEFAULT, ISSUERS, ISSUERS_MAX, KEYS, USAGES
from node.engines.shelf import Shelf, shelf
from node.errors import InvalidRequest
from storage.command import AnyCommand

CA_USAGE = frozenset({"key_cert_sign", "crl_sign"})
PATH_LENGTH_MAX = 2**31 - 1
CA_BACKDATE_NS = 30 * SECOND_NS
_NO_URLS = (
    "This mount hasn't configured any authority information access (AIA) fields; this may make it harder for systems to"
    " find missing certificates in the chain or to validate revocation status of certificates. Consider updating"
    " /config/urls or the newly generated issuer with this information."
)
_ROOT_GONE = (
    "DELETE /root deletes all keys and issuers; prefer the new DELETE /key/:key_ref and DELETE /issuer/:issuer_ref for"
    " finer granularity, unless removal of all keys and issuers is desired."
)
_FIELDS = (
    Field("common_name", summary="The name of the authority."),
    Field("alt_names", Kind.STRINGS, "More names."),
    Field("ttl", Kind.DURATION, "For how long."),
    Field("key_type", summary="rsa, ec or ed25519."),
    Field("key_bits", Kind.INTEGER, "The size of the key."),
    Field("issuer_name", summary="A name to refer to it by."),
    Field("max_path_length", Kind.INTEGER, "How many authorities may follow below; -1 for any."),
    Field("format", summary="pem, der or pem_bundle."),
    Field("private_key_format", summary="der (the kind's own format) or pkcs8."),
    Field("key_name", summary="A name to refer to the key by."),
    *named(Kind.STRINGS, "ip_sans uri_sans"),
    Field("exclude_cn_from_sans", Kind.BOOLEAN, "Whether the common name is no alternative name."),
    *names.SUBJECT,
)
_KIND = in_path("kind", "internal, or exported: the answer shows the private key.")

_ROOT = (
    *leaf.CERTIFICATE,
    *leaf.PRIVATE,
    *named(Kind.STRING, "issuer_id issuer_name key_id key_name"),
)
_REQUEST = (*named(Kind.STRING, "csr key_id"), *leaf.PRIVATE)
_IMPORTED = (
    *named(Kind.STRINGS, "imported_issuers imported_keys existing_issuers existing_keys"),
    Field("mapping", Kind.STRING_MAP, "From issuers to their keys."),
)


def routes() -> list[Route]:
    """The paths of a mount that make or import issuers, relative to it."""
    generated = (_KIND, *_FIELDS, *leaf.REFUSED)
    asked = (_KIND, *_FIELDS, names.SERIAL_NUMBER)
    values = Field("use_csr_values", Kind.BOOLEAN, "Subject and names are those of the request.")
    csr = (Field("csr", summary="The request, PEM."), values, *_FIELDS, *leaf.REFUSED)
    bundle = (Field("pem_bundle", summary="Certificates and keys, PEM."),)
    signed = (Field("certificate", summary="The signed certificate, PEM; more may follow."),)
    return [
        *(
            _route(pattern, _make_root, "Makes a root authority.", generated, _ROOT)
            for pattern in ("root/generate/{kind}", "root/rotate/{kind}", "issuers/generate/root/{kind}")
        ),
        *(
            _route(pattern, _make_request, "Makes a key and a request.", asked, _REQUEST)
            for pattern in ("intermediate/generate/{kind}", "issuers/generate/intermediate/{kind}")
        ),
        _route("intermediate/set-signed", _import, "Imports the answer to it.", signed, _IMPORTED),
        _route("config/ca", _import, "Imports an authority.", bundle, _IMPORTED),
        _route("issuers/import/cert", _import, "Imports certificates.", bundle, _IMPORTED),
        _route("issuers/import/bundle", _import, "Imports certificates and keys.", bundle, _IMPORTED),
        Route("root", {Operation.DELETE: _delete_all}, sudo=True, summary="Deletes all issuers and keys."),
        *(
            _route(pattern, _sign_intermediate, "Signs an authority.", csr, leaf.CERTIFICATE)
            for pattern in ("root/sign-intermediate", "issuer/{issuer}/sign-intermediate")
        ),
        _route(
            "root/sign-self-issued",
            _sign_self_issued,
            "Signs a self-issued certificate.",
            (Field("certificate", summary="The certificate, PEM."),),
            named(Kind.STRING, "certificate issuing_ca"),
            sudo=True,
        ),
    ]


def _route(
    pattern: str,
    handler: Handler,
    summary: str,
    fields: tuple[Field, ...],
    made: tuple[Field, ...],
    *,
    sudo: bool = False,
) -> Route:
    update = Operation.UPDATE
    return Route(
        pattern, {update: handler}, sudo=sudo, summary=summary, fields=fields, answers={update: made}
    )


# --- making ---


async def _make_root(core: Core, request: Request, params: dict[str, str]) -> Response:
    view, data, form = shelf(core, request), request.data, leaf.form_of(request.data)
    exported = _exported(params["kind"])
    wanted = names.asked(data)
    template, warnings = _ca_template(core, request, view, wanted)
    name = _free_name(view, text(data.get("issuer_name"), "issuer_name"))
    key = await _new_key(data)
    made = await asyncio.to_thread(c.make_certificate, template, key.public_key(), issuer=None, signer=key)
    key_id, issuer = str(uuid.uuid4()), _issuer(made, name)
    issuer = _with_key(issuer, key_id)
    await view.write(
        authority.put_key(view, key_id, key, text(data.get("key_name"), "key_name")),
        view.put(ISSUERS + issuer.id, issuer.stored()),
        authority.put_certificate(view, made, issuer.id),
        *_first(view, issuer.id, key_id),
    )
    shown = leaf.certificate_fields(view, made, issuer, form)
    shown.pop("ca_chain")
    shown |= {"issuer_id": issuer.id, "issuer_name": name, "key_id": key_id, "key_name": ""}
    if exported:
        shown |= leaf.private_fields(key, data, form)
    return Response(data=shown, warnings=[*warnings, *_advice(view)] or None)


def _ca_template(
    core: Core, request: Request, view: Shelf, wanted: names.Names
) -> tuple[c.Template, list[str]]:
    data = request.data
    leaf.refuse_unsupported(data)
    now_ns = core.unsealed.now_ns()
    ttl_ns, warnings = leaf.lifetime(limits(core.settings, request.served_by), {"ttl": 0, "max_ttl": 0}, data)
    length = data.get("max_path_length")
    depth = -1 if length is None else integer(length, "max_path_length")
    if depth > PATH_LENGTH_MAX:
        raise InvalidRequest(f"max_path_length is at most {PATH_LENGTH_MAX}")
    template = c.Template(
        subject=names.subject(wanted.common_name, data),
        names=wanted.general(),
        not_before_ns=now_ns - CA_BACKDATE_NS,
        not_after_ns=now_ns + ttl_ns,
        key_usage=CA_USAGE,
        ca=True,
        path_length=None if depth < 0 else depth,
        urls=authority.urls(view),
    )
    return template, list(warnings)


async def _make_request(core: Core, request: Request, params: dict[str, str]) -> Response:
    view, data, form = shelf(core, request), request.data, leaf.form_of(request.data)
    exported = _exported(params["kind"])
    wanted = names.asked(data)
    key = await _new_key(data)
    csr = c.make_request(names.subject(wanted.common_name, data), wanted.general(), key)
    key_id = str(uuid.uuid4())
    await view.write(authority.put_key(view, key_id, key, text(data.get("key_name"), "key_name")))
    shown: dict[str, Any] = {"csr": leaf.encoded(csr) if form == "der" else c.to_pem(csr), "key_id": key_id}
    if exported:
        shown |= leaf.private_fields(key, data, form)
    return Response(data=shown)


async def _sign_intermediate(core: Core, request: Request, params: dict[str, str]) -> Response:
    view, form = shelf(core, request), leaf.form_of(request.data)
    csr = c.load_request(text(request.data.get("csr"), "csr"))
    signer = authority.find_signer(view, params.get("issuer", DEFAULT))
    if boolean(request.data.get("use_csr_values"), "use_csr_values"):
        template, warnings = _ca_template(core, request, view, leaf.names_of(csr))
        template = dataclasses.replace(template, subject=csr.subject)
    else:
        template, warnings = _ca_template(core, request, view, names.asked(request.data))
    made = await asyncio.to_thread(
        c.make_certificate, template, c.public_key(csr), issuer=signer.issuer.certificate, signer=signer.key
    )
    await view.write(authority.put_certificate(view, made, signer.issuer.id))
    shown = leaf.certificate_fields(view, made, signer.issuer, form)
    if c.ends_ns(made) > c.ends_ns(signer.issuer.certificate):
        warnings.append(
            "The signed certificate ends after its issuer does; paths through the issuer fail from then on."
        )
    return Response(data=shown, warnings=warnings or None)


async def _sign_self_issued(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    given = c.load_certificate(text(request.data.get("certificate"), "certificate").encode())
    if given.subject != given.issuer:
        raise InvalidRequest("given certificate is not self-issued")
    signer = authority.find_signer(view, DEFAULT)
    template = c.Template(
        subject=given.subject,
        names=(),
        not_before_ns=c.begins_ns(given),
        not_after_ns=c.ends_ns(given),
        key_usage=CA_USAGE,
        ca=True,
        urls=authority.urls(view),
    )
    made = await asyncio.to_thread(
        c.make_certificate, template, c.public_key(given), issuer=signer.issuer.certificate, signer=signer.key
    )
    await view.write(authority.put_certificate(view, made, signer.issuer.id))
    return Response(data={"certificate": c.to_pem(made), "issuing_ca": signer.issuer.pem})


def _exported(kind: str) -> bool:
    if kind not in ("internal", "exported"):
        raise InvalidRequest('the kind of a new authority must be "internal" or "exported"')
    return kind == "exported"


async def _new_key(data: Mapping[str, Any]) -> c.PrivateKey:
    kind = text(data.get("key_type"), "key_type") or "rsa"
    bits = c.key_bits(kind, integer(data.get("key_bits"), "key_bits"))
    return await asyncio.to_thread(c.make_key, kind, bits)


# --- importing ---


async def _import(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Certificates become issuers, keys are kept; what is here already is named, not doubled."""
    bundle = text(request.data.get("pem_bundle") or request.data.get("certificate"), "pem_bundle")
    if "-----BEGIN " not in bundle:
        raise InvalidRequest(
            "provided data holds no PEM: it is the contents of a file that is asked for, not its path"
        )
    certificates, keys = await asyncio.to_thread(c.pem_objects, bundle)
    if keys and request.path.endswith("issuers/import/cert"):
        raise InvalidRequest(
            "private keys found in the PEM bundle but not allowed by the path; use issuers/import/bundle"
        )
    view = shelf(core, request)
    imported = _Import(view)
    for key in keys:
        imported.add_key(key)
    for certificate in certificates:
        imported.add_certificate(certificate)
    if imported.commands:
        await view.write(*imported.commands, *imported.first())
    return Response(data=imported.report())


class _Import:
    """What an import adds, and what of it was here before."""

    def __init__(self, view: Shelf) -> None:
        self._view = view
        self._known = {issuer.pem: issuer.id for issuer in authority.issuers(view)}
        self._keys: dict[bytes, str] = {}
        self.commands: list[AnyCommand] = []
        self._new_keys: list[str] = []
        self._old_keys: list[str] = []
        self._new: list[str] = []
        self._old: list[str] = []
        self._mapping: dict[str, str] = {}

    def add_key(self, key: c.PrivateKey) -> None:
        public = key.public_key()
        key_id = authority.key_by_public(self._view, public)
        if key_id:
            self._old_keys.append(key_id)
        else:
            key_id = str(uuid.uuid4())
            self._new_keys.append(key_id)
            self.commands.append(authority.put_key(self._view, key_id, key, ""))
        self._keys[c.public_bytes(public)] = key_id

    def add_certificate(self, certificate: x509.Certificate) -> None:
        pem = c.to_pem(certificate)
        if pem in self._known:
            self._old.append(self._known[pem])
            return
        if len(self._known) >= ISSUERS_MAX:
            raise InvalidRequest(f"a mount has at most {ISSUERS_MAX} issuers")
        public = c.public_key(certificate)
        key_id = self._keys.get(c.public_bytes(public)) or authority.key_by_public(self._view, public)
        issuer = _with_key(_issuer(certificate, ""), key_id)
        self._known[pem] = issuer.id
        self._new.append(issuer.id)
        self._mapping[issuer.id] = key_id
        self.commands.append(self._view.put(ISSUERS + issuer.id, issuer.stored()))
        self.commands.append(authority.put_certificate(self._view, certificate, issuer.id))

    def first(self) -> list[AnyCommand]:
        """The first issuer with a key becomes the default, if there is none."""
        able = next((issuer_id for issuer_id in self._new if self._mapping[issuer_id]), None)
        return _first(self._view, able, self._mapping[able]) if able is not None else []

    def report(self) -> dict[str, Any]:
        return {
            "existing_issuers": self._old or None,
            "existing_keys": self._old_keys or None,
            "imported_issuers": self._new or None,
            "imported_keys": self._new_keys or None,
            "mapping": self._mapping,
        }


def _issuer(certificate: x509.Certificate, name: str) -> authority.Issuer:
    return authority.Issuer(
        id=str(uuid.uuid4()),
        name=name,
        certificate=certificate,
        key_id="",
        usage=USAGES,
        revoked_ns=0,
        leaf_not_after_behavior="err",
        revision=0,
    )


def _with_key(issuer: authority.Issuer, key_id: str) -> authority.Issuer:
    return dataclasses.replace(issuer, key_id=key_id)


def _first(view: Shelf, issuer_id: str, key_id: str) -> list[AnyCommand]:
    """The default issuer and key, where there are none yet."""
    if authority.config(view, "issuers", {DEFAULT: ""})[DEFAULT]:
        return []
    return [
        view.put(f"{CONFIG}issuers", {DEFAULT: issuer_id}),
        view.put(f"{CONFIG}keys", {DEFAULT: key_id}),
    ]


def _free_name(view: Shelf, name: str) -> str:
    known = authority.issuers(view)
    if len(known) >= ISSUERS_MAX:
        raise InvalidRequest(f"a mount has at most {ISSUERS_MAX} issuers")
    if name == DEFAULT:
        raise InvalidRequest('issuer name contained reserved name: "default"')
    if name and any(issuer.name == name for issuer in known):
        raise InvalidRequest("issuer name already in use")
    return name


def _advice(view: Shelf) -> list[str]:
    return [_NO_URLS] if authority.urls(view) == c.Urls() else []


async def _delete_all(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    await view.write(
        view.delete_below(ISSUERS),
        view.delete_below(KEYS),
        view.delete_below(authority.CRL),
        view.delete(f"{CONFIG}issuers"),
        view.delete(f"{CONFIG}keys"),
    )
    return Response(warnings=[_ROOT_GONE])
