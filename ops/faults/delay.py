"""Holds back packets of a netfilter queue for a fixed time: ``python3 delay.py QUEUE MILLISECONDS``.

This program runs alone on a node (standard library only) and uses nfnetlink_queue, as described in the
kernel's ``include/uapi/linux/netfilter/nfnetlink_queue.h``. The packets stay in the kernel: the program
receives only their numbers, and one verdict releases all packets up to a number. By the kernel's rules,
packets pass if this program is not running or its queue is full.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from types import FrameType

NETLINK_NETFILTER = 12
SUBSYSTEM_QUEUE = 3
PACKET, CONFIG, VERDICT_BATCH = 0, 2, 3
CONFIG_COMMAND, CONFIG_PARAMETERS, CONFIG_LENGTH, CONFIG_MASK, CONFIG_FLAGS = 1, 2, 3, 4, 5
COMMAND_BIND = 1
COPY_NUMBERS_ONLY = 1
FAIL_OPEN, KEEP_LARGE = 1, 4
ATTRIBUTE_PACKET, ATTRIBUTE_VERDICT = 1, 2
ACCEPT = 1
REQUEST, ACKNOWLEDGE = 1, 4
NETLINK_ERROR = 2
NETLINK_NO_ENOBUFS = 5
SOL_NETLINK = 270
SO_RCVBUFFORCE = 33
# 100 ms at one gigabit per second are 8,300 packets of 1,500 bytes; more than this pass without delay.
PACKETS_MAX = 65_536
BUFFER_BYTES = 16 * 1024 * 1024
RECEIVE_BYTES = 256 * 1024


def attribute(kind: int, data: bytes) -> bytes:
    """Returns one padded attribute."""
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def message(kind: int, queue: int, attributes: bytes, flags: int = REQUEST) -> bytes:
    """Returns one message about a queue."""
    body = struct.pack("=BBH", socket.AF_UNSPEC, 0, socket.htons(queue)) + attributes
    return struct.pack("=IHHII", 16 + len(body), SUBSYSTEM_QUEUE << 8 | kind, flags, 0, 0) + body


def verdict(queue: int, number: int) -> bytes:
    """Returns the message that releases every packet up to ``number``."""
    return message(VERDICT_BATCH, queue, attribute(ATTRIBUTE_VERDICT, struct.pack("!II", ACCEPT, number)))


def packet_numbers(data: bytes) -> list[int]:
    """Returns the numbers of the packets that a datagram of the kernel announces.

    Raises:
        OSError: the kernel rejected a request.
    """
    found = []
    position = 0
    while position + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, position)
        if kind == NETLINK_ERROR:
            error = struct.unpack_from("=i", data, position + 16)[0]
            if error:
                raise OSError(-error, os.strerror(-error))
        elif kind == SUBSYSTEM_QUEUE << 8 | PACKET:
            at, end = position + 20, min(position + length, len(data))
            while at + 8 <= end:
                size, name = struct.unpack_from("=HH", data, at)
                if name & 0x7FFF == ATTRIBUTE_PACKET:
                    found.append(struct.unpack_from("!I", data, at + 4)[0])
                    break
                at += max(size, 4) + 3 & ~3
        position += max(length, 16) + 3 & ~3
    return found


def bind(queue: int) -> socket.socket:
    """Returns a socket that receives the packets of a queue.

    Raises:
        OSError: another program uses the queue, or this is not root.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    sock.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
    sock.bind((0, 0))
    flags = FAIL_OPEN | KEEP_LARGE
    for attributes in (
        attribute(CONFIG_COMMAND, struct.pack("!BBH", COMMAND_BIND, 0, 0)),
        attribute(CONFIG_PARAMETERS, struct.pack("!IB", 0, COPY_NUMBERS_ONLY)),
        attribute(CONFIG_LENGTH, struct.pack("!I", PACKETS_MAX)),
        attribute(CONFIG_FLAGS, struct.pack("!I", flags)) + attribute(CONFIG_MASK, struct.pack("!I", flags)),
    ):
        sock.send(message(CONFIG, queue, attributes, REQUEST | ACKNOWLEDGE))
        packet_numbers(sock.recv(RECEIVE_BYTES))
    return sock


def hold(sock: socket.socket, queue: int, delay_s: float) -> None:
    """Releases each packet after ``delay_s``; when the process is told to end, releases all at once."""
    held: deque[tuple[float, int]] = deque()
    poll = select.epoll()
    poll.register(sock, select.EPOLLIN)
    sock.setblocking(False)
    try:
        _release_in_time(sock, queue, delay_s, held, poll)
    finally:
        if held:  # otherwise the kernel would drop them
            sock.send(verdict(queue, held[-1][1]))


def _release_in_time(
    sock: socket.socket, queue: int, delay_s: float, held: deque[tuple[float, int]], poll: select.epoll
) -> None:
    while True:
        wait = -1.0 if not held else max(0.0, held[0][0] - time.monotonic())
        if poll.poll(wait):
            due = time.monotonic() + delay_s
            held.extend((due, number) for number in packet_numbers(sock.recv(RECEIVE_BYTES)))
        now, last = time.monotonic(), -1
        while held and held[0][0] <= now:
            last = held.popleft()[1]
        if last >= 0:
            sock.send(verdict(queue, last))


def ready() -> None:
    """Tells systemd that packets are delayed from now on."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"READY=1", address.replace("@", "\0", 1))


def end(number: int, frame: FrameType | None) -> None:
    """Ends the process."""
    sys.exit(0)


def main() -> None:
    """Runs until it is told to end."""
    queue, delay_s = int(sys.argv[1]), float(sys.argv[2]) / 1000
    signal.signal(signal.SIGTERM, end)
    with bind(queue) as sock:
        ready()
        hold(sock, queue, delay_s)


if __name__ == "__main__":
    main()
