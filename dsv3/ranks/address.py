"""Whether the address and the port where a job's nodes meet can be used, before anything waits for them."""

import errno
import socket

MOST_NODES, MOST_EACH = 4096, 256  # no machine has more GPUs; more processes would only bring it down
SELF_SECONDS = 5  # to wait until a machine reaches itself by the address that others know it by


def resolve(host: str) -> None:
    """Whether this machine knows an address for ``host``; raises ConnectionError."""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise ConnectionError(f"the address {host!r} of node 0 does not resolve ({error.strerror})") from None


def check_port(host: str, port: int) -> None:
    """Whether node 0 can hold the job's store at ``host``, this machine.

    torch accepts a port that is free on only some of the machine's addresses; its ranks would then talk to whatever
    program listens at ``host``.

    Raises:
        ConnectionError: the port is in use, or not for users; or ``host`` is another machine.
    """
    elsewhere = True
    for family, kind, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            with socket.socket(family, kind) as probe:
                probe.setsockopt(
                    socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
                )  # as torch does: a port closed just now counts as free
                probe.bind(address)
            elsewhere = False
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConnectionError(f"port {port} is in use on {host}; choose another --master-port") from None
            if error.errno == errno.EACCES:
                raise ConnectionError(f"port {port} is the system's; choose a --master-port above 1023") from None
    if not elsewhere:
        return
    try:  # not an address of this machine, but a router may forward it to here: listen, and see who answers
        with socket.create_server(("", port), family=family):
            socket.create_connection((host, port), timeout=SELF_SECONDS).close()
    except OSError:
        why = "does not lead to this machine, which is to be node 0"
        raise ConnectionError(f"{host} {why}; --master-addr must be an address of node 0") from None
