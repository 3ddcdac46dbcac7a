"""`strongroom server`: settings in, node.server.run, exit code out."""

import functools
import gc
import os
import tempfile
from pathlib import Path
from typing import Any

import click

from node.cli.output import LocalError
from node.config import ConfigError, Settings, dev_settings, load


@click.command()
@click.option(
    "-config", "--config", "configs", multiple=True, type=Path, help="A file or a directory; repeatable."
)
@click.option("-log-level", "--log-level", help="debug, info, warning or error.")
@click.option(
    "-dev", "--dev", is_flag=True, help="One node in plain HTTP that forgets everything: to try things out."
)
@click.option("-dev-root-token-id", "--dev-root-token-id", help="The root token of the -dev server.")
@click.option(
    "-dev-listen-address", "--dev-listen-address", help="host:port, loopback.  [default: 127.0.0.1:8200]"
)
@click.option(
    "-dev-no-store-token", "--dev-no-store-token", is_flag=True, help="Do not write ~/.vault-token."
)
def server(
    configs: tuple[Path, ...],
    log_level: str | None,
    dev: bool,
    dev_root_token_id: str | None,
    dev_listen_address: str | None,
    dev_no_store_token: bool,
) -> int:
    """Run a node until it is told to stop (SIGTERM).

    \b
    strongroom server -config /etc/strongroom/strongroom.hcl
    strongroom server -dev -dev-root-token-id root
    """
    if not dev and (dev_root_token_id or dev_listen_address or dev_no_store_token):
        raise click.UsageError("The -dev-... flags need -dev.")
    if dev and configs:
        raise click.UsageError("-dev takes no -config.")
    overrides = {"log_level": log_level}
    try:
        if not dev:
            read = functools.partial(load, configs, environ=os.environ, overrides=overrides)
            return _serve(read(), read_settings=read)
        with tempfile.TemporaryDirectory(prefix="strongroom-dev-", ignore_cleanup_errors=True) as directory:
            settings = dev_settings(
                data_dir=Path(directory),
                listen=dev_listen_address or "127.0.0.1:8200",
                environ=os.environ,
                overrides=overrides,
            )
            return _serve(settings, dev_root_token=dev_root_token_id, store_token=not dev_no_store_token)
    except ConfigError as e:
        raise LocalError(str(e)) from e


def _serve(settings: Settings, **options: Any) -> int:
    gc.disable()  # what is imported is no garbage: looking for some takes a tenth of the time to start
    from node.server import run

    gc.enable()

    return run(settings, **options)
