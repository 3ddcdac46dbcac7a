"""hvac's calls for both versions of KV, against one server from a configuration file, or a real OpenBao."""

from collections.abc import Iterator

import hvac
import pytest
from hvac.exceptions import InvalidPath, InvalidRequest
from support.processes import poll
from support.targets import unique


@pytest.fixture
def old(vault: hvac.Client) -> Iterator[str]:
    """A mount of version 1."""
    path = unique("old")
    vault.sys.enable_secrets_engine("kv", path=path, options={"version": "1"})
    yield path
    vault.sys.disable_secrets_engine(path)


@pytest.fixture
def new(vault: hvac.Client) -> Iterator[str]:
    """A mount of version 2 that is up."""
    path = unique("new")
    vault.sys.enable_secrets_engine("kv-v2", path=path)
    poll(lambda: is_up(vault, path), what="a usable mount")
    yield path
    vault.sys.disable_secrets_engine(path)


def is_up(vault: hvac.Client, path: str) -> bool:
    try:
        vault.secrets.kv.v2.read_configuration(mount_point=path)
    except hvac.exceptions.VaultError:
        return False
    return True


# --- version 1 ---


def test_a_secret_of_version_1(vault: hvac.Client, old: str) -> None:
    v1 = vault.secrets.kv.v1
    v1.create_or_update_secret("app/db", {"user": "u", "n": 1}, mount_point=old)
    read = v1.read_secret("app/db", mount_point=old)
    assert read["data"] == {"user": "u", "n": 1}
    assert (read["lease_duration"], read["renewable"], read["lease_id"]) == (2764800, False, "")
    v1.create_or_update_secret("app/db", {"other": True}, mount_point=old)
    assert v1.read_secret("app/db", mount_point=old)["data"] == {"other": True}


@pytest.mark.parametrize("method", ["POST", "PUT", None])
def test_version_1_is_written_by_either_method(vault: hvac.Client, old: str, method: str | None) -> None:
    v1 = vault.secrets.kv.v1
    for value in (1, 2):
        v1.create_or_update_secret("a", {"v": value}, method=method, mount_point=old)
    assert v1.read_secret("a", mount_point=old)["data"] == {"v": 2}


def test_version_1_lists_and_deletes(vault: hvac.Client, old: str) -> None:
    v1 = vault.secrets.kv.v1
    for path in ("a", "d/e", "d/f/g"):
        v1.create_or_update_secret(path, {"x": 1}, mount_point=old)
    assert v1.list_secrets("", mount_point=old)["data"]["keys"] == ["a", "d/"]
    assert v1.list_secrets("d", mount_point=old)["data"]["keys"] == ["e", "f/"]
    v1.delete_secret("a", mount_point=old)
    v1.delete_secret("a", mount_point=old)
    with pytest.raises(InvalidPath):
        v1.read_secret("a", mount_point=old)
    with pytest.raises(InvalidPath):
        v1.list_secrets("nothing", mount_point=old)


def test_version_1_becomes_version_2(vault: hvac.Client, old: str) -> None:
    vault.secrets.kv.v1.create_or_update_secret("a/b", {"x": 1}, mount_point=old)
    vault.sys.tune_mount_configuration(old, options={"version": "2"})
    poll(lambda: is_up(vault, old), what="the new version")
    found = vault.secrets.kv.v2.read_secret_version("a/b", mount_point=old, raise_on_deleted_version=True)
    assert (found["data"]["data"], found["data"]["metadata"]["version"]) == ({"x": 1}, 1)
    assert vault.sys.read_mount_configuration(old)["data"]["options"]["version"] == "2"


# --- version 2 ---


def written(vault: hvac.Client, mount: str, path: str, count: int) -> None:
    for number in range(1, count + 1):
        vault.secrets.kv.v2.create_or_update_secret(path, {"n": number}, mount_point=mount)


def states(vault: hvac.Client, mount: str, path: str) -> dict[int, str]:
    """Of every version that is known: live, deleted or destroyed."""
    versions = vault.secrets.kv.v2.read_secret_metadata(path, mount_point=mount)["data"]["versions"]
    return {
        int(number): "destroyed" if each["destroyed"] else "deleted" if each["deletion_time"] else "live"
        for number, each in versions.items()
    }


@pytest.mark.parametrize("cas", [None, 0])
def test_a_first_write(vault: hvac.Client, new: str, cas: int | None) -> None:
    made = vault.secrets.kv.v2.create_or_update_secret("a", {"x": 1}, cas=cas, mount_point=new)
    assert (made["data"]["version"], made["data"]["destroyed"], made["data"]["deletion_time"]) == (
        1,
        False,
        "",
    )


@pytest.mark.parametrize("cas", [0, 1, 3, 99])
def test_a_write_with_the_wrong_check_and_set(vault: hvac.Client, new: str, cas: int) -> None:
    written(vault, new, "a", 2)
    with pytest.raises(InvalidRequest, match="check-and-set parameter did not match the current version"):
        vault.secrets.kv.v2.create_or_update_secret("a", {"x": 1}, cas=cas, mount_point=new)
    assert states(vault, new, "a") == {1: "live", 2: "live"}
    made = vault.secrets.kv.v2.create_or_update_secret("a", {"x": 1}, cas=2, mount_point=new)
    assert made["data"]["version"] == 3


@pytest.mark.parametrize("count", [1, 2, 3])
def test_deleting_the_latest_version(vault: hvac.Client, new: str, count: int) -> None:
    written(vault, new, "a", count)
    vault.secrets.kv.v2.delete_latest_version_of_secret("a", mount_point=new)
    expected = dict.fromkeys(range(1, count), "live") | {count: "deleted"}
    assert states(vault, new, "a") == expected
    with pytest.raises(InvalidPath):
        vault.secrets.kv.v2.read_secret_version("a", mount_point=new, raise_on_deleted_version=True)
    shown = vault.secrets.kv.v2.read_secret_version("a", mount_point=new, raise_on_deleted_version=False)
    assert shown["data"]["data"] is None
    assert shown["data"]["metadata"]["deletion_time"]


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(1, [1]), (2, [1]), (2, [2]), (2, [1, 2]), (7, [1, 3, 5]), (2, [9]), (3, ["1", "2"])],
)
def test_versions_are_deleted_undeleted_and_destroyed(
    vault: hvac.Client, new: str, count: int, chosen: list[int]
) -> None:
    written(vault, new, "a", count)
    v2, there = vault.secrets.kv.v2, {int(each) for each in chosen} & set(range(1, count + 1))
    live = dict.fromkeys(range(1, count + 1), "live")
    v2.delete_secret_versions("a", versions=chosen, mount_point=new)
    assert states(vault, new, "a") == live | dict.fromkeys(there, "deleted")
    v2.undelete_secret_versions("a", versions=chosen, mount_point=new)
    assert states(vault, new, "a") == live
    v2.destroy_secret_versions("a", versions=chosen, mount_point=new)
    assert states(vault, new, "a") == live | dict.fromkeys(there, "destroyed")
    v2.undelete_secret_versions("a", versions=chosen, mount_point=new)
    assert states(vault, new, "a") == live | dict.fromkeys(there, "destroyed"), "there is no way back"


@pytest.mark.parametrize(
    "call", ["delete_secret_versions", "undelete_secret_versions", "destroy_secret_versions"]
)
def test_versions_of_nothing_are_no_error(vault: hvac.Client, new: str, call: str) -> None:
    getattr(vault.secrets.kv.v2, call)("nothing", versions=[1], mount_point=new)
    with pytest.raises(InvalidPath):
        vault.secrets.kv.v2.read_secret_metadata("nothing", mount_point=new)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of hvac's own call in it
def test_patch_changes_what_it_names(vault: hvac.Client, new: str) -> None:
    v2 = vault.secrets.kv.v2
    v2.create_or_update_secret("a", {"keep": 1, "change": 1, "deep": {"a": 1, "b": 2}}, mount_point=new)
    v2.patch("a", {"change": 2}, mount_point=new)
    found = v2.read_secret_version("a", mount_point=new, raise_on_deleted_version=True)["data"]["data"]
    assert (found["keep"], found["change"]) == (1, 2)
    with pytest.raises(InvalidPath):
        v2.patch("nothing", {"x": 1}, mount_point=new)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"max_versions": 5}, {"max_versions": 5}),
        ({"cas_required": True}, {"cas_required": True}),
        ({"delete_version_after": "30m"}, {"delete_version_after": "30m0s"}),
        ({"custom_metadata": {"a": "b"}}, {"custom_metadata": {"a": "b"}}),
    ],
)
def test_metadata_of_a_secret(
    vault: hvac.Client, new: str, given: dict[str, object], shown: dict[str, object]
) -> None:
    v2 = vault.secrets.kv.v2
    v2.update_metadata("a", mount_point=new, **given)
    assert shown.items() <= v2.read_secret_metadata("a", mount_point=new)["data"].items()
    v2.delete_metadata_and_all_versions("a", mount_point=new)
    with pytest.raises(InvalidPath):
        v2.read_secret_metadata("a", mount_point=new)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, {"max_versions": 10, "delete_version_after": "0s"}),
        ({"max_versions": 8}, {"max_versions": 8}),
        ({"cas_required": True}, {"cas_required": True}),
        ({"max_versions": 8, "cas_required": True}, {"max_versions": 8, "cas_required": True}),
        ({"delete_version_after": "30m"}, {"delete_version_after": "30m0s"}),
    ],
)
def test_configuration_of_the_mount(
    vault: hvac.Client, new: str, given: dict[str, object], shown: dict[str, object]
) -> None:
    vault.secrets.kv.v2.configure(mount_point=new, **given)
    assert shown.items() <= vault.secrets.kv.v2.read_configuration(mount_point=new)["data"].items()


def test_a_window_of_versions(vault: hvac.Client, new: str) -> None:
    vault.secrets.kv.v2.configure(max_versions=2, mount_point=new)
    written(vault, new, "a", 5)
    assert sorted(states(vault, new, "a")) == [4, 5]
    data = vault.secrets.kv.v2.read_secret_metadata("a", mount_point=new)["data"]
    assert (data["oldest_version"], data["current_version"]) == (4, 5)


def test_generic_reads_writes_lists_and_deletes(vault: hvac.Client, new: str) -> None:
    vault.write_data(f"{new}/data/a/b", data={"data": {"x": 1}})
    read = vault.read(f"{new}/data/a/b")
    assert read is not None
    assert read["data"]["data"] == {"x": 1}
    listed = vault.list(f"{new}/metadata/a")
    assert listed is not None
    assert listed["data"]["keys"] == ["b"]
    vault.delete(f"{new}/metadata/a/b")
    assert vault.read(f"{new}/data/a/b") is None
    assert vault.list(f"{new}/metadata/a") is None
