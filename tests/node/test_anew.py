"""A store that takes another's place: after a crash at any step the directory holds the one or the other, whole."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.state import T0, Node

from node.backup import anew, archive
from node.identity import Layout
from storage import command as c
from storage.keyring import DATABASE, RootKey
from storage.seal import SealFile, create_static


class Crash(Exception):
    pass


OLD_FILES = ("seal.json", "identity.sealed", "state.db", "state.db-wal", "raft/log/1.wal")


@pytest.fixture
def contents(tmp_path: Path) -> archive.Contents:
    """Of another store."""
    root = RootKey.generate()
    node = Node(tmp_path / "theirs.db", root.derive(DATABASE))
    node.ok(c.ClusterInit(T0, "theirs", "theirs"))
    node.machine.commit()
    node.machine.snapshot(tmp_path / "state.bin")
    meta = archive.Meta(
        version=1, id="x", index=1, term=3, configuration=archive.Configuration(),
        size=(tmp_path / "state.bin").stat().st_size, cluster_id="theirs", cluster_name="theirs", node_id="n",
        taken="", software="", seal_type="static", state_digest="",
    )  # fmt: skip
    node.machine.close()
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    seal = create_static(root, cluster_id="theirs", key_file=key)
    packed = tmp_path / "packed"
    packed.write_bytes(b"".join(archive.pack(tmp_path / "state.bin", meta, seal, b"ca", root)))
    (tmp_path / "unpacked").mkdir()
    return archive.unpack(packed, tmp_path / "unpacked")


def old_store(directory: Path) -> Layout:
    layout = Layout(directory)
    layout.prepare()
    for name in OLD_FILES:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old " + name.encode())
    return layout


def crashing(patch: pytest.MonkeyPatch, after: int) -> None:
    """The process ends at its `after`th fsync, rename or removal from now on."""
    count = 0

    def wrap(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            if count >= after:
                raise Crash
            count += 1
            return real(*arguments, **named)

        return call

    for owner, name in ((os, "fsync"), (Path, "rename"), (shutil, "rmtree")):
        patch.setattr(owner, name, wrap(getattr(owner, name)))


def test_a_crash_at_any_step_leaves_the_old_store_or_the_new_one(
    tmp_path: Path, contents: archive.Contents
) -> None:
    seen = set()
    for after in range(60):
        directory = tmp_path / "data"
        shutil.rmtree(directory, ignore_errors=True)
        layout = old_store(directory)
        with pytest.MonkeyPatch.context() as patch:
            crashing(patch, after)
            with contextlib.suppress(Crash):
                anew.lay_out(layout, contents)
                anew.finish(layout)
                seen.add("to the end")
        anew.finish(layout)  # what the next start does
        if layout.seal.read_bytes() == b"old seal.json":
            seen.add("old")
            for name in OLD_FILES:
                assert (directory / name).read_bytes() == b"old " + name.encode(), (after, name)
            assert anew.beginning(layout) is None
        else:
            seen.add("new")
            assert SealFile.read(layout.seal).cluster_id == "theirs"
            assert layout.database.read_bytes() == contents.state.read_bytes()
            assert anew.beginning(layout) == anew.Beginning(3, b"ca")
            assert not (directory / "state.db-wal").exists(), (
                "the old one's log beside the new one's database"
            )
            assert not layout.raft.exists()
            before = directory / anew.BEFORE
            assert {str(path.relative_to(before)) for path in before.rglob("*") if path.is_file()} == set(
                OLD_FILES
            )
        assert not (directory / anew.RESTORED).exists()
    assert seen == {"old", "new", "to the end"}


def test_a_second_restore_keeps_what_the_first_one_made(tmp_path: Path, contents: archive.Contents) -> None:
    layout = old_store(tmp_path / "data")
    for _ in range(2):
        anew.lay_out(layout, contents)
        assert anew.finish(layout)
    assert not anew.finish(layout)
    before = layout.root / anew.BEFORE
    assert SealFile.read(before / "seal.json").cluster_id == "theirs"
    assert not (before / "raft").exists()


def test_an_archive_is_of_one_root_key_only(contents: archive.Contents) -> None:
    assert not contents.is_of(RootKey.generate())
