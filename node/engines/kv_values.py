"""Values of the KV engines as JSON text: what is written comes back digit by digit."""

from decimal import Decimal
from typing import Any

import msgspec

encode = msgspec.json.Encoder(decimal_format="number").encode
decode = msgspec.json.Decoder(float_hook=Decimal).decode


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: the target with the patch's members put in, and those that are null taken out."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def without_leaves(value: Any, depth: int) -> Any:
    """The object's keys, values replaced by null; `depth` levels of them, 0 for all of them.

    An empty object inside another is a value.
    """
    if not isinstance(value, dict):
        return None
    if depth == 1 or depth < 0:
        return dict.fromkeys(value)
    below = depth - 1 if depth else 0
    return {name: without_leaves(item, below) if item else None for name, item in value.items()}
