"""What can go wrong with what a node keeps.

StorageError
 +- WrongKey          the seal, or the share set, does not open this store
 +- InvalidShare      a share is malformed (length, duplicate, zero coordinate)
 +- Corrupt           stored bytes are not what was written: altered, cut, or from another place
 +- Incompatible      written by a version of the format that this build does not read
 +- SealUnavailable   the seal cannot be asked now (key file missing or unreadable)
 +- NotWanted         what the state has become meanwhile is not to be replaced by that copy
"""


class StorageError(Exception):
    """The root of this package's operating errors."""


class WrongKey(StorageError):
    """The key does not open this store."""


class InvalidShare(StorageError):
    """A key share is malformed."""


class Corrupt(StorageError):
    """Stored bytes are not what was written there."""


class Incompatible(StorageError):
    """Another version of the format."""


class SealUnavailable(StorageError):
    """The seal cannot be asked now."""


class NotWanted(StorageError):
    """The state is not to be replaced by that copy any more."""
