"""Addresses of a tf.data service: `grpc://host:port`."""

from __future__ import annotations

import re
import socket

from irv2data.errors import UsageError

_FORM = re.compile(r"(grpc://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:\s]+):(?P<port>\d{1,5})")


def split_address(address: str) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        UsageError: It is none.
    """
    found = _FORM.fullmatch(address)
    if found is None:
        raise UsageError(f"service must be grpc://host:port, got {address!r}")
    return found["host"].strip("[]"), int(found["port"])


def check_reachable(address: str) -> None:
    """Raises a `UsageError` unless something listens there; TensorFlow itself would wait for ever."""
    host, port = split_address(address)
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        raise UsageError(
            f"service {address}: nothing answers there ({error.strerror or error}); start it with `irv2data serve "
            f"dispatcher --port={port}`"
        ) from None


def route_to(address: str) -> str:
    """This machine's own address on the way to another, by which that reaches it, too."""
    host, port = split_address(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(found[0], socket.SOCK_DGRAM) as probe:
        probe.connect(found[4])  # of datagrams: nothing is sent
        own = str(probe.getsockname()[0])
    return f"[{own}]" if ":" in own else own
