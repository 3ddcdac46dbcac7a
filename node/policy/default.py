"""The policies that are always there: what every token gets unless it asks not to, and what wrapping tokens may do."""

NAME = "default"

WRAPPING = "response-wrapping"  # the policy of wrapping tokens; nobody writes it and nobody assigns it

WRAPPING_POLICY = """\
path "cubbyhole/response" {
    capabilities = ["read"]
}
path "sys/wrapping/unwrap" {
    capabilities = ["update"]
}
path "auth/token/revoke-self" {
    capabilities = ["update"]
}
"""

DEFAULT_POLICY = """\
# A token may look itself up, renew itself and give itself up.
path "auth/token/lookup-self" {
    capabilities = ["read"]
}
path "auth/token/renew-self" {
    capabilities = ["update"]
}
path "auth/token/revoke-self" {
    capabilities = ["update"]
}

# It may ask what it is allowed to do.
path "sys/capabilities-self" {
    capabilities = ["update"]
}
path "sys/internal/ui/resultant-acl" {
    capabilities = ["read"]
}

# Its own leases.
path "sys/renew" {
    capabilities = ["update"]
}
path "sys/leases/renew" {
    capabilities = ["update"]
}
path "sys/leases/lookup" {
    capabilities = ["update"]
}

# Its own drawer.
path "cubbyhole/*" {
    capabilities = ["create", "read", "update", "delete", "list"]
}

# Wrapping, and unwrapping what was wrapped for it.
path "sys/wrapping/wrap" {
    capabilities = ["update"]
}
path "sys/wrapping/lookup" {
    capabilities = ["update"]
}
path "sys/wrapping/unwrap" {
    capabilities = ["update"]
}

# Hashing harms nobody.
path "sys/tools/hash" {
    capabilities = ["update"]
}
path "sys/tools/hash/*" {
    capabilities = ["update"]
}
"""
