"""Flags as the users of Vault's tools write them, over click.

`-format=json`, `-format json` and `--format=json` are the same, a switch takes `-renewable=false`, and flags may stand
before and after the arguments. What every command that speaks to a server shares is added here, once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from node.cli.values import Duration, InvalidDuration, parse_duration

F = TypeVar("F", bound=Callable[..., Any])
HELP_NAMES = ("h", "help")
SENTENCE_CHARS_MAX = 240  # of a command, in the list of its group
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class FlagError(click.UsageError):
    """A flag that does not exist or has no usable value."""


class DurationType(click.ParamType[Duration]):
    """`90`, `90s`, `1h30m`: whole seconds, or Go's notation."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Duration:
        if isinstance(value, Duration):
            return value
        try:
            return parse_duration(str(value))
        except InvalidDuration as e:
            raise FlagError(f'invalid value "{value}" for flag {_shown(param)}: {e}', ctx) from e


class PairType(click.ParamType[tuple[str, str]]):
    """`key=value`."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if not separator:
            raise FlagError(f'invalid value "{value}" for flag {_shown(param)}: must be key=value', ctx)
        return key.strip(), text.strip()


class SwitchType(click.ParamType[bool]):
    """What Go's strconv.ParseBool takes."""

    name = "bool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if isinstance(value, bool):
            return value
        if value in _TRUE or value in _FALSE:
            return value in _TRUE
        raise FlagError(f'invalid boolean value "{value}" for {_shown(param)}', ctx)


class IntegerType(click.ParamType[int]):
    """A whole number, within bounds that make sense."""

    name = "int"

    def __init__(self, minimum: int | None = None, maximum: int | None = None) -> None:
        self._minimum, self._maximum = minimum, maximum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(str(value), 10)
        except ValueError as e:
            message = f'invalid value "{value}" for flag {_shown(param)}: not a whole number'
            raise FlagError(message, ctx) from e
        if self._minimum is not None and number < self._minimum:
            raise FlagError(
                f'invalid value "{value}" for flag {_shown(param)}: less than {self._minimum}', ctx
            )
        if self._maximum is not None and number > self._maximum:
            raise FlagError(
                f'invalid value "{value}" for flag {_shown(param)}: more than {self._maximum}', ctx
            )
        return number


DURATION = DurationType()
PAIR = PairType()
INTEGER = IntegerType()
NATURAL = IntegerType(minimum=0)
_SWITCH = SwitchType()


class Flag(click.Option):
    """One flag, written with one dash or two."""

    @property
    def is_switch(self) -> bool:
        """Whether it stands alone: a value can only follow after "="."""
        return isinstance(self.type, SwitchType)

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(opt.lstrip("-") for opt in self.opts))

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        if self.hidden:
            return None
        names = ", ".join(f"-{name}" for name in self.names)
        told = [self.help] if self.help else []
        if isinstance(self.type, click.Choice):
            told.append(f"One of {', '.join(map(str, self.type.choices))}.")
        return (names if self.is_switch else f"{names}=<{self.type.name}>"), " ".join(told)


def make_flag(name: str, kind: Any = str, *, aliases: Sequence[str] = (), **attributes: Any) -> Flag:
    """A flag `-name`; `kind` is a type or DURATION, PAIR, INTEGER, NATURAL; `attributes` are click's."""
    names = [spelling for each in (name, *aliases) for spelling in (f"-{each}", f"--{each}")]
    variable = attributes.pop("variable", name.replace("-", "_"))
    return Flag([*names, variable], type=kind, **attributes)


def make_switch(name: str, *, aliases: Sequence[str] = (), **attributes: Any) -> Flag:
    """A flag that is true when it stands alone. Without a default it is False; default=None tells "not said"."""
    attributes.setdefault("default", False)
    return make_flag(name, _SWITCH, aliases=aliases, **attributes)


def flag(name: str, kind: Any = str, **attributes: Any) -> Callable[[F], F]:
    """Decorates a command with make_flag(...)."""
    return _decorator(make_flag(name, kind, **attributes))


def switch(name: str, **attributes: Any) -> Callable[[F], F]:
    """Decorates a command with make_switch(...)."""
    return _decorator(make_switch(name, **attributes))


def _decorator(option: Flag) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        params: list[click.Parameter] = getattr(command, "__click_params__", [])
        params.append(option)
        command.__click_params__ = params  # type: ignore[attr-defined]
        return command

    return decorate


def _shown(param: click.Parameter | None) -> str:
    return f"-{param.opts[0].lstrip('-')}" if param is not None else "?"


class Command(click.Command):
    """A command whose flags may stand anywhere, plus those that its decorator says all such commands share."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shared: Callable[[], Sequence[Flag]] = getattr(self.callback, "__shared_flags__", tuple)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *self.shared()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._canonical(ctx, args))

    def _canonical(self, ctx: click.Context, args: Sequence[str]) -> list[str]:
        """Every flag as --name=value, then "--" and the arguments. Raises FlagError."""
        known = {
            name: param for param in self.get_params(ctx) if isinstance(param, Flag) for name in param.names
        }
        flags: list[str] = []
        rest: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                rest.extend(words)
                break
            name, separator, value = word.lstrip("-").partition("=")
            if not word.startswith("-") or word == "-" or word.startswith("---"):
                rest.append(word)
            elif name in HELP_NAMES:
                flags.append("--help")
            elif (option := known.get(name)) is None:
                if not ctx.resilient_parsing:
                    raise FlagError(f"flag provided but not defined: -{name}", ctx)
            else:
                given = value if separator else "true" if option.is_switch else next(words, None)
                if given is not None:
                    flags.append(f"--{option.names[0]}={given}")
                elif not ctx.resilient_parsing:
                    raise FlagError(f"flag needs an argument: -{name}", ctx)
        return [*flags, "--", *rest]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shared = self.shared()
        own = [param for param in self.get_params(ctx) if param not in shared]
        for title, params in (("Options", own), ("Server and output", shared)):
            flags = [param for param in params if isinstance(param, click.Option)]
            records = [record for param in flags if (record := param.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(click.Group):
    """Commands below a word; `lazy` names those that are loaded when they are used, as "module:attribute"."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (target := self.lazy.get(cmd_name)) is None:
            return super().get_command(ctx, cmd_name)
        import importlib

        module, _, name = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What each command does, in its whole first sentence, on as many lines as that takes."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        shown = [(name, command) for name, command in found if command is not None and not command.hidden]
        if shown:
            with formatter.section("Commands"):
                formatter.write_dl(
                    [(name, command.get_short_help_str(SENTENCE_CHARS_MAX)) for name, command in shown]
                )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """-help is one word here, not -h -e -l -p."""
        if args and args[0].lstrip("-") in HELP_NAMES and args[0].startswith("-"):
            args = ["--help", *args[1:]]
        name = args[0].lstrip("-").partition("=")[0] if args and args[0].startswith("-") else ""
        known = {opt.lstrip("-") for param in self.get_params(ctx) for opt in param.opts}
        if name and name not in known and not ctx.resilient_parsing:
            raise FlagError(f"flag provided but not defined: -{name} (flags follow the command)", ctx)
        return super().parse_args(ctx, args)


def sharing(flags: Callable[[], Sequence[Flag]]) -> Callable[[F], F]:
    """Marks a callback: its command has these flags too. They are made once, when first needed."""

    def decorate(callback: F) -> F:
        callback.__shared_flags__ = functools.cache(flags)  # type: ignore[attr-defined]
        return callback

    return decorate
