"""Structured logs: one JSON object (or one aligned line) an event, with the request id where there is one.

Nothing that a client sent or a store holds is ever a log field: events carry names, counts, ids and
durations. A Secret that gets in by mistake prints its mask.
"""

import logging
import sys
from typing import TextIO

import structlog

LEVELS = {"trace": 10, "debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}


def configure(*, level: str, form: str, node_id: str, region: str, stream: TextIO | None = None) -> None:
    """Send every log of the process, also the standard library's, to one stream (stderr by default)."""
    target = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.filter_by_level,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    renderer: structlog.typing.Processor
    if form == "json":
        renderer = structlog.processors.JSONRenderer()
        shared.append(structlog.processors.format_exc_info)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=target.isatty(), exception_formatter=_plain)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS["debug"]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared[1:],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(node=node_id, region=region)


def set_level(level: str, name: str = "") -> None:
    """From now on show events of this level and above: of one logger, or of all that have no level of their own."""
    logging.getLogger(name).setLevel(LEVELS[level])


def reset_level(name: str) -> None:
    """This logger has no level of its own any more."""
    logging.getLogger(name).setLevel(logging.NOTSET)


# Exceptions are rendered without local variables: those may hold what a client sent.
_plain = structlog.dev.plain_traceback


def name_of(error: BaseException | None) -> str:
    """Its type, and SQLite's name of the code where it has one; never its message, which may quote a secret."""
    code = getattr(error, "sqlite_errorname", "")
    return f"{type(error).__name__} {code}".strip()


def where(error: BaseException) -> list[str]:
    """The traceback as file:line, without any value: messages of unknown errors may quote a secret."""
    trace, frames = error.__traceback__, []
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    return frames
