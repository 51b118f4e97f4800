"""Every knob of the server: name, type, bounds, default and reason, in one table.

The field `data_dir` is the flag `--data-dir` and the environment variable `TQ_DATA_DIR`; likewise the others. A flag
beats its variable. The command line, its help and the documentation are made from this table.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from tq.model import MAX_MESSAGE_BYTES, MAX_QUEUES

_MIB = 1024 * 1024
SPARE_FILES = 64  # descriptors that connections leave for the storage and whatever else
LIST = {"is_list": True}  # of a setting whose flag may be given several times


class Settings(Struct, frozen=True):
    host: Annotated[
        str,
        Meta(min_length=1, description="Address to listen on. 'localhost' is 127.0.0.1 and ::1 both."),
    ] = "localhost"
    port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="TCP port to listen on; 0 takes any free one."),
    ] = 8000
    data_dir: Annotated[
        str,
        Meta(
            min_length=1,
            description="Directory of the messages, made when absent. 'memory:' keeps them in memory only, for tests.",
        ),
    ] = "/workdir/data"
    max_body_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=2 * MAX_MESSAGE_BYTES,
            description="Largest request body, which is held in memory while it arrives.",
        ),
    ] = 16 * _MIB
    max_header_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=_MIB,
            description="Largest request line and headers together; browsers and proxies stay below.",
        ),
    ] = 32 * 1024
    header_seconds: Annotated[
        float,
        Meta(gt=0, le=3600, description="Time a client has for a request line and headers; then 408."),
    ] = 10.0
    body_seconds: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="Time a client has for a body, or to take an answer, beyond what 16 KiB/s would take.",
        ),
    ] = 30.0
    idle_seconds: Annotated[
        float,
        Meta(gt=0, description="How long a connection may be silent between requests; proxies reuse theirs."),
    ] = 300.0
    max_connections: Annotated[
        int,
        Meta(ge=1, description="Connections at a time; one more gets 503. Also bounded by the open files allowed."),
    ] = 20_000
    max_connections_per_address: Annotated[
        int,
        Meta(
            ge=1,
            description="Of those, from one address; one more gets 503. "
            "Below the total, so that nobody takes all; not far, because a proxy brings everyone from one.",
        ),
    ] = 15_000
    max_transit_bytes: Annotated[
        int,
        Meta(
            ge=_MIB,
            description="Bodies and answers on their way in memory, over all connections, beyond 64 KiB for each. "
            "Above it the slowest gives way. 16 of the largest bodies, and little beside the store's cache.",
        ),
    ] = 256 * _MIB
    max_waiters: Annotated[
        int,
        Meta(
            ge=1,
            description="Receives that may wait for a message at a time; more get 503. "
            "Below the connections there may be, so that those who send find one.",
        ),
    ] = 15_000
    max_queues: Annotated[
        int,
        Meta(ge=1, le=MAX_QUEUES, description="Queues there may be; one more gets 429. Each slows commits a little."),
    ] = MAX_QUEUES
    max_waiting_commands: Annotated[
        int,
        Meta(
            ge=1,
            description="Commands that may wait for a commit; more get 503, so that the wait stays short.",
        ),
    ] = 10_000
    max_waiting_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            description="Messages that may wait for a commit, 256 bytes added for each; more gets 503.",
        ),
    ] = 64 * _MIB
    max_store_bytes: Annotated[
        int,
        Meta(ge=0, description="Quota of the data file; 0 is as much as the disk holds."),
    ] = 0
    reserve_bytes: Annotated[
        int,
        Meta(
            ge=_MIB,
            description="Free room below which sends get 507, so that receiving can go on. "
            "As much again is kept allocated. At most an eighth of the disk is used for each.",
        ),
    ] = 16 * _MIB
    tokens: Annotated[
        str,
        Meta(description="File of tokens, as `tq token create` makes it; without one nobody is asked for a token."),
    ] = ""
    allow_anonymous: Annotated[
        bool,
        Meta(description="Serve everybody who can reach an address beyond this machine, though no token is asked for."),
    ] = False
    allowed_host: Annotated[
        str,
        Meta(
            description="Names that the server is asked by, beside IP addresses, localhost and the machine's own; "
            "separated by commas. With tokens any name will do.",
            extra=LIST,
        ),
    ] = ""
    cors_origins: Annotated[
        str,
        Meta(
            description="Origins, as https://example.com, whose pages may use the server; separated by commas. "
            "'*' is any, and needs tokens.",
            extra=LIST,
        ),
    ] = ""
    tls_cert: Annotated[
        str,
        Meta(description="File of the certificate and those that lead to its root, PEM; with it TLS is spoken."),
    ] = ""
    tls_key: Annotated[
        str,
        Meta(description="File of the certificate's private key, PEM, which not everybody may read."),
    ] = ""
    tls_client_ca: Annotated[
        str,
        Meta(
            description="File of certificates, PEM, by one of which a client's must be signed; without it none is "
            "asked for."
        ),
    ] = ""
    sqs_account: Annotated[
        str,
        Meta(pattern="^[0-9]{12}$", description="Account in the URLs and ARNs of queues over SQS, 12 digits."),
    ] = "000000000000"
    sqs_purge_seconds: Annotated[
        float,
        Meta(ge=0, le=3600, description="How long PurgeQueue is refused after one; SQS has 60, 0 allows it."),
    ] = 0.0
    sqs_recreate_seconds: Annotated[
        float,
        Meta(ge=0, le=3600, description="How long CreateQueue of a deleted name is refused; SQS has 60, 0 allows it."),
    ] = 0.0
    log_format: Annotated[
        Literal["text", "json"],
        Meta(description="How lines of the log on stderr look: for people, or one JSON object for each event."),
    ] = "text"
    access_log: Annotated[
        bool,
        Meta(description="Log a line for each request: client, method, path, status, bytes, milliseconds."),
    ] = False
    shutdown_seconds: Annotated[
        float,
        Meta(ge=0, le=3600, description="How long a stop waits for requests in hand to finish."),
    ] = 5.0

    def within_files(self, files: int) -> Settings:
        """With as many connections as so many open files allow.

        One address, and receives that wait, have at most three quarters of them, as by default; else they have all.
        """
        most = max(1, files - SPARE_FILES)
        if most >= self.max_connections:
            return self
        part = max(1, most * 3 // 4)
        return replace(
            self,
            max_connections=most,
            max_connections_per_address=min(self.max_connections_per_address, part),
            max_waiters=min(self.max_waiters, part),
        )

    @property
    def scheme(self) -> str:
        """Of the URLs that the server is asked by."""
        return "https" if self.tls_cert else "http"
