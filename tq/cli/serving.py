"""`tq serve`: flags to settings, and the one place where the concrete parts of a server are put together."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
import uvloop

from tq import __version__, lifecycle, tokens
from tq.broker import Broker
from tq.errors import (
    EXIT_DAMAGED,
    EXIT_DATA,
    EXIT_STORAGE_FAILED,
    EXIT_USAGE,
    StartError,
    StorageDamaged,
    StorageFailed,
)
from tq.logs import LOGGER, JsonFormatter, StderrHandler
from tq.settings import LIST, Settings
from tq.store import Store
from tq.store.directory import FORMAT
from tq.web import tls
from tq.web.access import AccessLog
from tq.web.server import Application, Server

log = logging.getLogger("tq.cli")

STOPS = (signal.SIGTERM, signal.SIGINT)
IN_MEMORY = "memory:"
GARBAGE_OBJECTS = 20_000  # may pile up before cycles are looked for; a request leaves none


def _setting_options(command: Any) -> Any:
    """One option for each row of the settings table."""
    for field in reversed(msgspec.structs.fields(Settings)):
        info = msgspec.inspect.type_info(field.type)
        assert isinstance(info, msgspec.inspect.Metadata)
        is_list = info.extra == LIST
        command = click.option(
            "--" + field.name.replace("_", "-"),
            envvar="TQ_" + field.name.upper(),
            show_envvar=True,
            type=_option_type(info.type),
            is_flag=isinstance(info.type, msgspec.inspect.BoolType),
            multiple=is_list,
            callback=_joined if is_list else None,
            default=None if is_list else field.default,
            show_default=True,
            help=(info.extra_json_schema or {})["description"],
        )(command)
    return command


def _joined(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> str:
    return ",".join(values)


_TYPES = {
    msgspec.inspect.BoolType: click.BOOL,
    msgspec.inspect.StrType: click.STRING,
    msgspec.inspect.IntType: click.INT,
    msgspec.inspect.FloatType: click.FLOAT,
}


def _option_type(found: msgspec.inspect.Type) -> click.ParamType[Any]:
    return click.Choice(found.values) if isinstance(found, msgspec.inspect.LiteralType) else _TYPES[type(found)]


@click.command()
@_setting_options
def serve(**flags: Any) -> None:
    """Run the server until SIGTERM or SIGINT."""
    lines = StderrHandler()
    if flags["log_format"] == "json":
        lines.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[lines])
    logging.getLogger(LOGGER).setLevel(logging.INFO)
    try:
        settings = _settings(flags).within_files(_open_files())
        gc.freeze()  # what lives as long as the process
        gc.set_threshold(GARBAGE_OBJECTS)
        failure = uvloop.run(_serve(settings, lines))
    except StartError as error:
        _end(lines, str(error), error.exit_code)
    if failure:
        is_damage = isinstance(failure, StorageDamaged)
        _end(lines, failure.detail, EXIT_DAMAGED if is_damage else EXIT_STORAGE_FAILED)


def _end(lines: StderrHandler, sentence: str, exit_code: int) -> NoReturn:
    """Say why behind all that was logged."""
    if isinstance(lines.formatter, JsonFormatter):
        log.critical("%(error)s", {"event": "failed", "error": sentence, "exit_code": exit_code})
        lines.drain()
    else:
        lines.drain()
        click.echo(f"tq: {sentence}", err=True)
    sys.exit(exit_code)


def _open_files() -> int:
    """How many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def _settings(flags: dict[str, Any]) -> Settings:
    """Raises StartError that names the flag when a value is out of its range."""
    try:
        return msgspec.convert(flags, Settings)
    except msgspec.ValidationError as error:
        what, _, name = str(error).rpartition(" - at `$.")
        flag = "--" + name.rstrip("`").replace("_", "-")
        raise StartError(f"{what} for {flag}.", EXIT_USAGE) from error


async def _serve(settings: Settings, lines: StderrHandler) -> StorageFailed | None:
    """Returns what went wrong while serving. Raises StartError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in STOPS:
        loop.add_signal_handler(signum, _stop, signum, stop)
    store = open_store(settings)
    try:
        broker = Broker(store, settings)
    except StorageDamaged as damage:
        store.close()
        raise StartError(damage.detail, EXIT_DATA) from damage
    try:
        access = AccessLog(lines.write_access, is_json=settings.log_format == "json") if settings.access_log else None
        server = Server(Application(broker, settings, access), settings, tls.load(settings))
        if settings.tokens:
            server.use_tokens(tokens.load(Path(settings.tokens)))
        loop.add_signal_handler(signal.SIGHUP, _reload, server, broker, settings)
        urls = await server.listen()
        _say(f"tq {__version__} listens on {' and '.join(urls)}, data in {settings.data_dir}")
        _tell_start(settings, store, urls)
        await _first(stop, broker.failed)
        await server.close()
        if access:
            access.flush()
    finally:
        await broker.close()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # one more must not change the exit code when the loop is gone
    if not broker.failure:
        log.info("stopped in order", {"event": "stopped"})
    return broker.failure


def _say(sentence: str) -> None:
    """On stdout; one that takes nothing, as a file on a disk that is full, keeps nobody from receiving."""
    try:
        click.echo(sentence)
    except OSError as error:
        log.warning("stdout takes nothing (%s): %s", error.strerror, sentence)
        # What is still in the buffer must go somewhere, or the end of the process would fail of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_start(settings: Settings, store: Store, urls: list[str]) -> None:
    told = {
        "event": "started",
        "version": __version__,
        "addresses": urls,
        "data_dir": settings.data_dir,
        "format": "none" if settings.data_dir == IN_MEMORY else FORMAT,
        "recovered": store.recovered or "nothing",
    }
    log.info(
        "started: version %(version)s, data in %(data_dir)s of format %(format)s, recovered from %(recovered)s", told
    )


def _stop(signum: signal.Signals, stop: asyncio.Event) -> None:
    if not stop.is_set():  # a supervisor, or somebody who is impatient, may send many
        log.info("stopping: %(signal)s", {"event": "stopping", "signal": signum.name})
    stop.set()


def _reload(server: Server, broker: Broker, settings: Settings) -> None:
    """Read the files of tokens and of TLS again; what cannot be read stays as it was."""
    if settings.tokens:
        try:
            server.use_tokens(tokens.load(Path(settings.tokens)))
        except StartError as error:
            told = {"event": "tokens_not_read", "error": str(error)}
            log.error("%(error)s The tokens stay as they were.", told)
        else:
            broker.end_waiting()  # for who waits may have no right to any more
            log.info("the tokens were read again", {"event": "tokens_read"})
    if settings.tls_cert:
        try:
            server.use_tls(tls.load(settings))
        except StartError as error:
            told = {"event": "certificate_not_read", "error": str(error)}
            log.error("%(error)s The certificate stays as it was.", told)
        else:
            log.info("the certificate was read again", {"event": "certificate_read"})
    if not (settings.tokens or settings.tls_cert):
        log.warning("SIGHUP: there are no tokens and no certificate to read again")


def open_store(settings: Settings) -> Store:
    """The engine that `data_dir` asks for. Raises StartError."""
    apply = partial(lifecycle.apply, max_queues=settings.max_queues)
    if settings.data_dir == IN_MEMORY:
        from tq.store.memory import MemoryStore

        return MemoryStore(apply)
    from tq.store.lmdb import LmdbStore

    return LmdbStore(
        Path(settings.data_dir),
        apply,
        max_spaces=lifecycle.MAX_SPACES,
        reserve_bytes=settings.reserve_bytes,
        max_store_bytes=settings.max_store_bytes or None,
        watches_faults=True,
    )


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
