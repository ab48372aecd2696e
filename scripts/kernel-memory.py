#!/usr/bin/env python3
"""What a connection costs the kernel, and what of it a server could save.

    sudo scripts/kernel-memory.py [CONNECTIONS]

For each setting that a server has for its sockets it opens connections over loopback, sends
something each way, and reads /proc/slabinfo: both ends, and then the server's alone, after the
clients have closed theirs in TCP_REPAIR, in which the kernel tells the peer nothing.
"""
import os
import resource
import select
import signal
import socket
import sys
import time

TCP_REPAIR = 19
PER_SOURCE = 3000  # connections; beyond, connect() searches long for a port
SETTLE = 1.5  # seconds until what was freed has been given back
SHOWN = {"TCP": "TCP socket", "sock_inode_cache": "its inode", "dentry": "its name", "filp": "file",
         "eventpoll_epi": "epoll entry"}


def buffers(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def congestion(name):
    return lambda s: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())


SETTINGS = {
    "as they are": lambda s: None,
    "TCP_NODELAY": lambda s: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    "buffers 4 KiB": buffers,
    "reno": congestion("reno"),
    "bbr": congestion("bbr"),
}


def slabs():
    """Bytes in the objects of each cache."""
    with open("/proc/slabinfo") as f:
        rows = [line.split() for line in f.readlines()[2:]]
    return {r[0]: int(r[1]) * int(r[3]) for r in rows}


def serve(listener, conns, told):
    poll, accepted = select.epoll(), []
    while len(accepted) < conns:
        c, _ = listener.accept()
        poll.register(c, select.EPOLLIN)
        accepted.append(c)
    for c in accepted:
        c.send(b"x" * 60)
    for c in accepted:
        c.recv(100)
    os.write(told, b"s")
    signal.pause()


def connect(address, conns, told, leave):
    opened = []
    for i in range(conns):
        s = socket.socket()
        s.bind((f"127.0.{1 + i // PER_SOURCE}.1", 0))
        s.connect(address)
        opened.append(s)
    for s in opened:
        s.recv(100)
        s.send(b"x" * 8)
    os.read(leave, 1)
    for s in opened:
        s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        s.close()
    os.write(told, b"c")
    signal.pause()


def child(run, *args):
    pid = os.fork()
    if pid == 0:
        try:
            run(*args)
        finally:
            os._exit(1)
    return pid


def measure(setting, conns):
    listener = socket.socket()
    setting(listener)  # accepted sockets inherit all of these
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    time.sleep(SETTLE)
    before = slabs()
    heard, told = os.pipe()
    leave, go = os.pipe()
    children = [child(serve, listener, conns, told),
                child(connect, listener.getsockname(), conns, told, leave)]
    found = []
    try:
        for _ in ("both", "the server's"):
            if not select.select([heard], [], [], 60)[0]:
                sys.exit("kernel-memory: the connections did not come about in a minute")
            os.read(heard, 1)
            time.sleep(SETTLE)
            now = slabs()
            found.append({k: (now[k] - before.get(k, 0)) / conns for k in now})
            os.write(go, b"g")
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for fd in (heard, told, leave, go):
            os.close(fd)
        listener.close()
    return found


def main():
    conns = int(sys.argv[1]) if len(sys.argv) > 1 else 15000
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if not os.access("/proc/slabinfo", os.R_OK):
        sys.exit("kernel-memory: /proc/slabinfo is for root only")
    if conns + 20 > most:
        sys.exit(f"kernel-memory: {conns} connections, and a process may have {most} open files")
    print(f"{'bytes a connection':20}{'both':>8}{'server':>8}   the server's:")
    for name, setting in SETTINGS.items():
        try:
            both, server = measure(setting, conns)
        except OSError as e:
            print(f"{name:20}left out: {e}")
            continue
        parts = ", ".join(f"{SHOWN[k]} {server[k]:.0f}" for k in SHOWN)
        print(f"{name:20}{sum(both.values()):8.0f}{sum(server.values()):8.0f}   {parts}", flush=True)


if __name__ == "__main__":
    main()
