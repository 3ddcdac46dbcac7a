"""What has been issued: reading, listing, revoking and tidying certificates, and revocation lists."""

from collections.abc import Mapping, Sequence
from typing import Any

from cryptography import x509

from node.auth.fields import SECOND_NS, boolean, duration_ns, rfc3339, text
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named
from node.core.request import Operation, Request, Response
from node.core.router import Handler, Route
from node.engines.pki import authority
from node.engines.pki import certificates as c
from node.engines.pki.authority import CERTS, DEFAULT, REVOKED
from node.engines.pki.revocation import RevocationLists
from node.engines.shelf import Shelf, listed, shelf
from node.errors import InvalidRequest, NotFound
from node.store import Store
from storage.command import AnyCommand
from storage.rows import Mount

TIDY_STEP_MAX = 200
SAFETY_BUFFER_S = 72 * 3600
_TIDY_WISHES = ("tidy_cert_store", "tidy_revoked_certs", "tidy_revocation_list", "tidy_expired_issuers")

PEM = {"Content-Type": "application/pem-certificate-chain"}
DER = {"Content-Type": "application/pkix-cert"}
JSON = {"Content-Type": "application/json"}
CRL_PEM = {"Content-Type": "application/x-pem-file"}
CRL_DER = {"Content-Type": "application/pkix-crl"}

REVOCATION = (
    Field("revocation_time", Kind.INTEGER, "Seconds since 1970; 0: it is not revoked."),
    Field("revocation_time_rfc3339"),
)
_CERTIFICATE = (*REVOCATION, *named(Kind.STRING, "certificate ca_chain issuer_id"))


def routes() -> list[Route]:
    """The paths of a mount about certificates, relative to it. Certificates are public, and so is reading them."""
    revocation_lists = _Lists()
    serial = in_path("serial", "The serial number, with colons or dashes.")
    lists, revoked = {Operation.LIST: _list}, {Operation.LIST: _list_revoked}
    revocation = (
        Field("serial_number", summary="Which certificate."),
        Field("certificate", summary="The certificate itself, PEM."),
    )
    return [
        public("cert/{serial}", revocation_lists.read, "Shows a certificate.", serial, shown=_CERTIFICATE),
        public("cert/{serial}/raw", _raw, "A certificate in DER.", serial, form=DER),
        public("cert/{serial}/raw/pem", _raw_pem, "A certificate in PEM.", serial, form=PEM),
        public("crl", revocation_lists.der, "The revocation list in DER.", form=CRL_DER),
        public("crl/pem", revocation_lists.pem, "The revocation list in PEM.", form=CRL_PEM),
        public(
            "issuer/{issuer}/crl",
            revocation_lists.json,
            "An issuer's revocation list.",
            shown=(Field("crl"),),
        ),
        public(
            "issuer/{issuer}/crl/der",
            revocation_lists.der,
            "An issuer's revocation list in DER.",
            form=CRL_DER,
        ),
        public(
            "issuer/{issuer}/crl/pem",
            revocation_lists.pem,
            "An issuer's revocation list in PEM.",
            form=CRL_PEM,
        ),
        Route(
            "crl/rotate",
            {Operation.READ: revocation_lists.rotate},
            summary="Makes the revocation lists anew.",
            answers={Operation.READ: (Field("success", Kind.BOOLEAN),)},
        ),
        Route("certs", lists, summary="Lists serial numbers."),
        Route("certs/", lists, summary="Lists serial numbers."),
        Route("certs/revoked", revoked, summary="Lists serial numbers of revoked certificates."),
        Route("certs/revoked/", revoked, summary="Lists serial numbers of revoked certificates."),
        Route(
            "revoke",
            {Operation.UPDATE: _revoke},
            summary="Revokes a certificate.",
            fields=revocation,
            answers={Operation.UPDATE: (*REVOCATION, Field("state"))},
        ),
        Route(
            "tidy",
            {Operation.UPDATE: _tidy},
            summary="Forgets certificates that have expired.",
            fields=(
                *(Field(name, Kind.BOOLEAN, "What to tidy.") for name in _TIDY_WISHES),
                Field("safety_buffer", Kind.DURATION, "For how long after their end they stay."),
            ),
        ),
    ]


def public(
    pattern: str,
    handler: Handler,
    summary: str,
    *fields: Field,
    form: Mapping[str, str] = JSON,
    shown: tuple[Field, ...] = (),
) -> Route:
    """A path that everybody may read; `form` is what its answer is."""
    return Route(
        pattern,
        {Operation.READ: handler},
        authenticated=False,
        summary=summary,
        fields=fields,
        answers={Operation.READ: shown},
        media_type=form["Content-Type"],
    )


# --- reading ---


def _shown(certificate: str, *, revoked_ns: int = 0, **more: str) -> Response:
    return Response(
        data={
            **more,
            "certificate": certificate,
            "revocation_time": revoked_ns // SECOND_NS,
            "revocation_time_rfc3339": rfc3339(revoked_ns) if revoked_ns else "",
        }
    )


def ca_chain(view: Shelf) -> str:
    """The default issuer's certificate and those above it, PEM."""
    return "\n".join(link.pem for link in authority.chain(view, authority.find_issuer(view, DEFAULT)))


async def _raw(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(body=c.to_der(_certificate(core, request, params["serial"])), headers=dict(DER))


async def _raw_pem(core: Core, request: Request, params: dict[str, str]) -> Response:
    pem = c.to_pem(_certificate(core, request, params["serial"]))
    return Response(body=pem.encode(), headers=dict(PEM))


def _certificate(core: Core, request: Request, serial: str) -> x509.Certificate:
    view = shelf(core, request)
    if serial == "ca":
        return authority.find_issuer(view, DEFAULT).certificate
    item = view.get(CERTS + authority.serial_path(serial))
    if item is None:
        raise NotFound
    return x509.load_pem_x509_certificate(item.value["certificate"].encode())


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"keys": listed(core, request, CERTS)})


async def _list_revoked(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"keys": listed(core, request, REVOKED)})


# --- revocation lists ---


class _Lists:
    """The handlers that give out revocation lists."""

    def __init__(self) -> None:
        self._lists = RevocationLists()

    async def read(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """A certificate, or what else is kept under a name of its own."""
        view, serial = shelf(core, request), params["serial"]
        if serial == "ca":
            return _shown(authority.find_issuer(view, DEFAULT).pem)
        if serial == "ca_chain":
            chain = ca_chain(view)
            return _shown(chain, ca_chain=chain)
        if serial == "crl":
            return _shown(c.to_pem(await self._get(core, request, params)))
        item = view.get(CERTS + authority.serial_path(serial))
        if item is None:
            raise NotFound
        value = item.value
        issuer = {"issuer_id": value["issuer_id"]} if value["revoked_ns"] else {}
        return _shown(value["certificate"], revoked_ns=value["revoked_ns"], **issuer)

    async def _get(
        self, core: Core, request: Request, params: dict[str, str]
    ) -> x509.CertificateRevocationList:
        reference = params.get("issuer", DEFAULT)
        return await self._lists.get(shelf(core, request), reference, core.unsealed.now_ns())

    async def pem(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        made = await self._get(core, request, params)
        return Response(body=c.to_pem(made).encode(), headers=dict(CRL_PEM))

    async def der(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        return Response(body=c.to_der(await self._get(core, request, params)), headers=dict(CRL_DER))

    async def json(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        return Response(data={"crl": c.to_pem(await self._get(core, request, params))})

    async def rotate(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        view = shelf(core, request)
        for issuer in authority.issuers(view):
            await view.write(authority.outdated(view, issuer.id))
            if view.get(authority.KEYS + issuer.key_id) is not None:
                await self._lists.get(view, issuer.id, core.unsealed.now_ns())
        return Response(data={"success": True})


# --- revoking ---


async def _revoke(core: Core, request: Request, params: dict[str, str]) -> Response:
    serial, pem = (text(request.data.get(name), name) for name in ("serial_number", "certificate"))
    if not serial and not pem:
        raise InvalidRequest("The serial number or certificate to revoke must be provided.")
    path = authority.serial_path(serial) or c.serial(c.load_certificate(pem.encode()).serial_number)
    view = shelf(core, request)
    revoked_ns, commands = authority.revoke(view, path, view.store.now_ns())
    if commands:
        await view.write(*commands, request_id=request.request_id)
    return Response(
        data={
            "revocation_time": revoked_ns // SECOND_NS,
            "revocation_time_rfc3339": rfc3339(revoked_ns),
            "state": "revoked",
        }
    )


async def end_lease(store: Store, mount: Mount, data: Any) -> Sequence[AnyCommand]:
    """A lease on a certificate has ended: it is revoked, unless it has been forgotten already."""
    view = Shelf(store, mount.mount_id)
    path = data["serial"]
    return authority.revoke(view, path, store.now_ns())[1] if view.get(CERTS + path) is not None else []


# --- tidying ---


async def _tidy(core: Core, request: Request, params: dict[str, str]) -> Response:
    wishes = {name for name in _TIDY_WISHES if boolean(request.data.get(name), name)}
    if not wishes:
        return Response(
            status=202, warnings=["Manual tidy requested but no tidy operations were set: nothing was done."]
        )
    view = shelf(core, request)
    buffer_ns = duration_ns(request.data.get("safety_buffer", SAFETY_BUFFER_S), "safety_buffer")
    limit_ns = view.store.now_ns() - buffer_ns
    if "tidy_cert_store" in wishes:
        await _forget(view, CERTS, limit_ns)
    if wishes & {"tidy_revoked_certs", "tidy_revocation_list"}:
        await _forget(view, REVOKED, limit_ns)
    return Response(status=202, warnings=["Tidy operation finished."])


async def _forget(view: Shelf, folder: str, limit_ns: int) -> None:
    """Remove what ended before `limit_ns`, in steps."""
    after = ""
    while names := view.children(folder, after=after, limit=TIDY_STEP_MAX):
        after = names[-1]
        gone = [name for name in names if 0 < _ends_ns(view, folder + name) <= limit_ns]
        if gone:
            await view.write(*(view.delete(folder + name) for name in gone))


def _ends_ns(view: Shelf, path: str) -> int:
    item = view.get(path)
    if item is None:
        return 0
    value = item.value
    if "ends_ns" in value:
        return int(value["ends_ns"])
    return c.ends_ns(x509.load_pem_x509_certificate(value["certificate"].encode()))
