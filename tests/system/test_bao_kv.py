"""`bao kv ...` and the generic read, write, list and delete, as people type them."""

from pathlib import Path

import pytest
from support.targets import Bao, table


def put(bao: Bao, path: str, *pairs: str, cas: int | None = None) -> int:
    """Write a secret; its new version."""
    flags = [] if cas is None else [f"-cas={cas}"]
    return int(bao.json("kv", "put", *flags, path, *pairs)["data"]["version"])


def data(bao: Bao, path: str, *flags: str) -> dict[str, object]:
    found: dict[str, object] = bao.json("kv", "get", *flags, path)["data"]["data"]
    return found


def test_put_prints_the_metadata_and_get_prints_the_secret(bao: Bao, mount: str) -> None:
    written = bao.ok("kv", "put", f"{mount}/app", "user=alice", "pass=s3cret")
    read = bao.ok("kv", "get", f"{mount}/app")
    assert f"{mount}/data/app" in written
    assert table(written)["version"] == "1"
    rows = table(read)
    assert (rows["user"], rows["pass"], rows["version"]) == ("alice", "s3cret", "1")
    assert (rows["custom_metadata"], rows["deletion_time"], rows["destroyed"]) == ("<nil>", "n/a", "false")


def test_mount_flag_and_path_mean_the_same(bao: Bao, mount: str) -> None:
    bao.ok("kv", "put", f"-mount={mount}", "team/app", "a=1")
    assert bao.ok("kv", "get", "-field=a", f"{mount}/team/app") == "1"


def test_older_versions_can_be_read(bao: Bao, mount: str) -> None:
    put(bao, f"{mount}/app", "v=one")
    assert put(bao, f"{mount}/app", "v=two") == 2
    assert data(bao, f"{mount}/app") == {"v": "two"}
    assert data(bao, f"{mount}/app", "-version=1") == {"v": "one"}
    assert f"No value found at {mount}/data/app" in bao.refused("kv", "get", "-version=9", f"{mount}/app")


def test_one_field_is_printed_without_a_newline(bao: Bao, mount: str) -> None:
    put(bao, f"{mount}/app", "user=alice")
    assert bao.ok("kv", "get", "-field=user", f"{mount}/app") == "alice"
    assert 'Field "nope" not present' in bao.refused("kv", "get", "-field=nope", f"{mount}/app", code=1)


def test_what_is_not_there_is_exit_code_2(bao: Bao, mount: str) -> None:
    assert bao.refused("kv", "get", f"{mount}/none") == f"No value found at {mount}/data/none\n"
    told = bao.refused("kv", "get", "nomount/none")
    assert "Code: 403" in told
    assert 'grant access to path "nomount/none/"' in told
    assert f"No value found at {mount}/metadata/none" in bao.refused("kv", "metadata", "get", f"{mount}/none")
    assert "No value found at nomount/none" in bao.refused("read", "nomount/none")
    told = bao.refused("write", "nomount/none", "a=b")
    assert 'no handler for route "nomount/none". route entry not found.' in told


def test_a_wrong_token_is_refused(bao: Bao, mount: str) -> None:
    told = bao.refused("kv", "get", f"{mount}/app", token="s.wrongwrongwrongwrongwron")
    assert "Code: 403" in told
    assert "permission denied" in told
    assert "permission denied" in bao.refused("kv", "get", f"{mount}/app", token="")


def test_check_and_set(bao: Bao, mount: str) -> None:
    assert put(bao, f"{mount}/app", "a=1", cas=0) == 1
    for stale in ("-cas=0", "-cas=7"):
        told = bao.refused("kv", "put", stale, f"{mount}/app", "a=2")
        assert "Code: 400" in told
        assert "check-and-set parameter did not match the current version" in told
    assert put(bao, f"{mount}/app", "a=3", cas=1) == 2
    assert data(bao, f"{mount}/app") == {"a": "3"}


def test_values_from_stdin_and_from_files(bao: Bao, mount: str) -> None:
    home = bao.target.home
    (home / "doc.json").write_text('{"text": "x", "nested": {"list": [1, 2.50, null, true]}}')
    (home / "raw.txt").write_text("two\nlines\n")
    bao.ok("kv", "put", f"{mount}/value", "v=-", text="from stdin")
    bao.ok("kv", "put", f"{mount}/doc", "-", text='{"k": {"deep": "ö"}}')
    bao.ok("kv", "put", f"{mount}/file", "@doc.json")
    bao.ok("kv", "put", f"{mount}/raw", "content=@raw.txt", "other=1")
    assert data(bao, f"{mount}/value") == {"v": "from stdin"}
    assert data(bao, f"{mount}/doc") == {"k": {"deep": "ö"}}
    assert data(bao, f"{mount}/file") == {"text": "x", "nested": {"list": [1, 2.50, None, True]}}
    assert data(bao, f"{mount}/raw") == {"content": "two\nlines\n", "other": "1"}


@pytest.mark.parametrize("flags", [(), ("-method=patch",), ("-method=rw",)])
def test_patch_changes_only_what_it_names(bao: Bao, mount: str, flags: tuple[str, ...]) -> None:
    put(bao, f"{mount}/app", "keep=1", "change=1")
    written = bao.json("kv", "patch", *flags, f"{mount}/app", "change=2", "new=3")
    assert written["data"]["version"] == 2
    assert data(bao, f"{mount}/app") == {"keep": "1", "change": "2", "new": "3"}


def test_patch_of_nothing_and_with_a_stale_version_is_refused(bao: Bao, mount: str) -> None:
    assert "Code: 404" in bao.refused("kv", "patch", f"{mount}/none", "a=1")
    assert "No value found" in bao.refused("kv", "patch", "-method=rw", f"{mount}/none", "a=1")
    put(bao, f"{mount}/app", "a=1")
    told = bao.refused("kv", "patch", "-cas=5", f"{mount}/app", "a=2")
    assert "check-and-set parameter did not match" in told
    bao.ok("kv", "delete", f"{mount}/app")
    assert "Code: 404" in bao.refused("kv", "patch", f"{mount}/app", "a=1")
    assert bao.json("kv", "metadata", "get", f"{mount}/app")["data"]["current_version"] == 1


def test_a_deleted_version_shows_when_it_was_deleted_and_comes_back(bao: Bao, mount: str) -> None:
    put(bao, f"{mount}/app", "a=1")
    bao.ok("kv", "delete", f"{mount}/app")
    rows = table(bao.ok("kv", "get", f"{mount}/app"))
    assert rows["deletion_time"].endswith("Z")
    assert "a" not in rows
    assert bao.json("kv", "get", f"{mount}/app")["data"]["data"] is None
    assert f"No data found at {mount}/data/app" in bao.refused("kv", "get", "-field=a", f"{mount}/app")
    bao.ok("kv", "undelete", "-versions=1", f"{mount}/app")
    assert data(bao, f"{mount}/app") == {"a": "1"}


def test_versions_are_deleted_and_destroyed_by_number(bao: Bao, mount: str) -> None:
    for value in "123":
        put(bao, f"{mount}/app", f"v={value}")
    bao.ok("kv", "delete", "-versions=1,2", f"{mount}/app")
    bao.ok("kv", "destroy", "-versions=1", f"{mount}/app")
    bao.ok("kv", "undelete", "-versions=1,2", f"{mount}/app")
    destroyed = bao.json("kv", "get", "-version=1", f"{mount}/app")["data"]
    assert destroyed["data"] is None
    assert destroyed["metadata"]["destroyed"] is True
    assert data(bao, f"{mount}/app", "-version=2") == {"v": "2"}
    assert data(bao, f"{mount}/app") == {"v": "3"}


def test_deleting_what_is_not_there_succeeds(bao: Bao, mount: str) -> None:
    assert "if it existed" in bao.ok("kv", "delete", f"{mount}/none")
    bao.ok("kv", "destroy", "-versions=1", f"{mount}/none")
    bao.ok("kv", "metadata", "delete", f"{mount}/none")


def test_metadata_is_written_patched_and_read(bao: Bao, mount: str) -> None:
    put(bao, f"{mount}/app", "v=1")
    settings = ("-max-versions=3", "-delete-version-after=3h25m19s")
    custom = ("-custom-metadata=owner=ops", "-custom-metadata=tier=1")
    bao.ok("kv", "metadata", "put", *settings, *custom, f"{mount}/app")
    rows = table(bao.ok("kv", "metadata", "get", f"{mount}/app"))
    assert (rows["max_versions"], rows["delete_version_after"]) == ("3", "3h25m19s")
    assert rows["custom_metadata"] == "map[owner:ops tier:1]"
    patch = ("-custom-metadata=owner=dev", "-remove-custom-metadata=tier")
    bao.ok("kv", "metadata", "patch", *patch, f"{mount}/app")
    found = bao.json("kv", "metadata", "get", f"{mount}/app")["data"]
    assert found["custom_metadata"] == {"owner": "dev"}
    assert found["max_versions"] == 3
    assert list(found["versions"]) == ["1"]
    assert found["current_version"] == 1
    assert "Code: 404" in bao.refused("kv", "metadata", "patch", "-max-versions=2", f"{mount}/none")


def test_only_so_many_versions_are_kept(bao: Bao, mount: str) -> None:
    bao.ok("kv", "metadata", "put", "-max-versions=2", f"{mount}/app")
    for value in "1234":
        put(bao, f"{mount}/app", f"v={value}")
    found = bao.json("kv", "metadata", "get", f"{mount}/app")["data"]
    assert sorted(found["versions"]) == ["3", "4"]
    assert found["oldest_version"] == 3
    assert "No value found" in bao.refused("kv", "get", "-version=2", f"{mount}/app")


def test_a_key_may_demand_check_and_set(bao: Bao, mount: str) -> None:
    bao.ok("kv", "metadata", "put", "-cas-required", f"{mount}/app")
    told = bao.refused("kv", "put", f"{mount}/app", "a=1")
    assert "check-and-set parameter required for this call" in told
    assert put(bao, f"{mount}/app", "a=1", cas=0) == 1


def test_deleting_the_metadata_deletes_everything(bao: Bao, mount: str) -> None:
    put(bao, f"{mount}/dir/a", "v=1")
    put(bao, f"{mount}/dir/b", "v=1")
    bao.ok("kv", "metadata", "delete", f"{mount}/dir/a")
    assert "No value found" in bao.refused("kv", "get", f"{mount}/dir/a")
    assert bao.json("kv", "list", f"{mount}/dir") == ["b"]
    assert put(bao, f"{mount}/dir/a", "v=2") == 1


def test_lists_show_keys_and_folders_in_order(bao: Bao, mount: str) -> None:
    for path in ("b", "a", "dir/x", "dir/sub/y", "dir-2/z"):
        put(bao, f"{mount}/{path}", "v=1")
    expected = ["a", "b", "dir-2/", "dir/"]
    assert bao.json("kv", "list", mount) == bao.json("kv", "list", f"{mount}/") == expected
    assert bao.ok("kv", "list", f"-mount={mount}", "dir").splitlines()[2:] == ["sub/", "x"]
    assert sorted(bao.json("kv", "scan", mount)) == ["a", "b", "dir-2/z", "dir/sub/y", "dir/x"]
    told = bao.refused("kv", "list", f"{mount}/nodir")
    assert f"No value found at {mount}/metadata/nodir" in told


def test_rollback_writes_an_old_version_again(bao: Bao, mount: str) -> None:
    put(bao, f"{mount}/app", "v=good")
    put(bao, f"{mount}/app", "v=bad")
    assert table(bao.ok("kv", "rollback", "-version=1", f"{mount}/app"))["version"] == "3"
    assert data(bao, f"{mount}/app") == {"v": "good"}
    assert "No value found" in bao.refused("kv", "rollback", "-version=9", f"{mount}/app")


def test_generic_commands_speak_the_api_paths(bao: Bao, mount: str) -> None:
    written = bao.json("write", f"{mount}/data/app", "-", text='{"data": {"n": 1}}')
    assert written["data"]["version"] == 1
    assert bao.json("read", f"{mount}/data/app")["data"]["data"] == {"n": 1}
    assert bao.json("list", f"{mount}/metadata") == ["app"]
    assert bao.ok("read", "-field=data", f"{mount}/data/app") == "map[n:1]"
    bao.ok("delete", f"{mount}/metadata/app")
    assert "No value found" in bao.refused("list", f"{mount}/metadata")
    told = bao.refused("write", f"{mount}/data/app", "data={}")
    assert 'error converting input for field "data"' in told
    assert "bao kv get" in bao(*("read", f"{mount}/app")).stderr


def test_the_mount_has_settings_of_its_own(bao: Bao, mount: str) -> None:
    assert table(bao.ok("read", f"{mount}/config"))["max_versions"] == "0"
    bao.ok("write", f"{mount}/config", "max_versions=2", "cas_required=true", "delete_version_after=90m")
    rows = table(bao.ok("read", f"{mount}/config"))
    assert (rows["max_versions"], rows["cas_required"]) == ("2", "true")
    assert rows["delete_version_after"] == "1h30m0s"
    told = bao.refused("kv", "put", f"{mount}/app", "a=1")
    assert "check-and-set parameter required" in told


def test_commands_can_be_shown_instead_of_run(bao: Bao, mount: str) -> None:
    shown = bao.ok("kv", "put", "-output-curl-string", f"{mount}/app", "a=b")
    assert f"{bao.target.address}/v1/{mount}/data/app" in shown
    assert '{"data":{"a":"b"}' in shown
    assert "No value found" in bao.refused("kv", "get", f"{mount}/app"), "it was not run"


def test_a_large_secret_comes_back_as_it_was(
    bao: Bao, mount: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """900 kB: under Strongroom's and under OpenBao's limit."""
    path: Path = tmp_path_factory.mktemp("large") / "value"
    path.write_text("0123456789abcdef\n" * (900_000 // 17))
    bao.ok("kv", "put", f"{mount}/large", f"v=@{path}")
    assert bao.ok("kv", "get", "-field=v", f"{mount}/large") == path.read_text()
