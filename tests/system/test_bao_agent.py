"""`bao agent`, the real one: logs in by itself, writes its token and secrets into files, and follows changes."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.patience import PATIENCE_S
from support.processes import poll
from support.targets import BAO, Bao, Target, unique


@contextmanager
def agent(target: Target, home: Path, configuration: dict[str, object]) -> Iterator[subprocess.Popen[bytes]]:
    """An agent with this configuration; ended whatever happens."""
    (home / "agent.json").write_text(json.dumps(configuration))
    with (home / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BAO), "agent", f"-config={home / 'agent.json'}"],
            stdout=log,
            stderr=log,
            env=target.environment(""),
            cwd=home,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE_S)


def told(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_an_agent_logs_in_and_keeps_files_up_to_date(
    bao: Bao, target: Target, mount: str, tmp_path: Path
) -> None:
    approle, policy = unique("approle"), unique("policy")
    bao.ok("auth", "enable", f"-path={approle}", "approle")
    bao.ok("policy", "write", policy, "-", text=f'path "{mount}/*" {{ capabilities = ["read", "list"] }}')
    bao.ok("write", f"auth/{approle}/role/app", f"token_policies={policy}", "token_ttl=10m")
    bao.ok("kv", "put", f"{mount}/app", "greeting=hello")
    (tmp_path / "role").write_text(bao.ok("read", "-field=role_id", f"auth/{approle}/role/app/role-id"))
    (tmp_path / "secret").write_text(
        bao.ok("write", "-f", "-field=secret_id", f"auth/{approle}/role/app/secret-id")
    )
    login = {"role_id_file_path": str(tmp_path / "role"), "secret_id_file_path": str(tmp_path / "secret")}
    greeting = f'{{{{ with secret "{mount}/data/app" }}}}{{{{ .Data.data.greeting }}}}{{{{ end }}}}'
    names = f'{{{{ range secrets "{mount}/metadata/" }}}}{{{{ . }}}} {{{{ end }}}}'
    configuration: dict[str, object] = {
        "vault": {"address": target.address} | ({"ca_cert": str(target.ca)} if target.ca else {}),
        "auto_auth": {
            "method": {"type": "approle", "mount_path": f"auth/{approle}", "config": login},
            "sink": [{"type": "file", "config": {"path": str(tmp_path / "token")}}],
        },
        "template_config": {"static_secret_render_interval": "1s"},
        "template": [
            {"contents": greeting, "destination": str(tmp_path / "greeting")},
            {"contents": names, "destination": str(tmp_path / "names")},
        ],
    }
    with agent(target, tmp_path, configuration) as process:
        poll(lambda: told(tmp_path / "greeting") == "hello", what="the secret in its file")
        poll(lambda: told(tmp_path / "names") == "app ", what="the list in its file")
        bao.ok("kv", "put", f"{mount}/app", "greeting=goodbye")
        poll(lambda: told(tmp_path / "greeting") == "goodbye", what="the new secret in its file")
        token = poll(lambda: told(tmp_path / "token"), what="the token in its file")
        assert bao.ok("kv", "get", "-field=greeting", f"{mount}/app", token=token) == "goodbye"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
