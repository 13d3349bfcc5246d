"""Clients that misbehave, and ends that are not asked for."""

import collections
import random
import resource
import signal
import socket
import struct
import threading
import time
import zlib

from generators import wrk
from server import Server


def connect(server):
    stream = socket.create_connection(server.address, timeout=30)
    return stream


def post(server, body, more=b""):
    head = f"POST /v1/models/{server.name}/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + more + b"Connection: close\r\n\r\n" + body


def status(stream):
    """The status of an answer, or how the connection ended."""
    try:
        data = b""
        while b"\r\n" not in data:
            piece = stream.recv(4096)
            if not piece:
                return "closed"
            data += piece
        return int(data.split()[1])
    except socket.timeout:
        return "silent"
    except (OSError, ValueError, IndexError):
        return "closed"
    finally:
        stream.close()


def bomb(side):
    """A PNG of a few kilobytes that claims to be so large."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * min(side * (3 * side + 1), 30_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def send(server, count, make):
    """`count` requests, one after another."""
    found = collections.Counter()
    for _ in range(count):
        stream = connect(server)
        try:
            stream.sendall(make())
        except OSError:
            pass
        found[str(status(stream))] += 1
    return dict(found)


def run(args, say):
    picture = open(args.picture, "rb").read()
    misbehaving(args, picture, say)
    secrets(args, picture, say)
    ends(args, picture, say)


def trickle(server, count, start, drop, probe):
    """Connections that begin with `start` and go on with `drop` each half second: when the server is rid of them."""
    slow = []
    for _ in range(count):
        slow.append(connect(server))
        slow[-1].sendall(start)
    started = time.monotonic()
    meanwhile = probe()
    last = 0
    while slow and time.monotonic() < started + 40:
        for stream in list(slow):
            try:
                stream.setblocking(True)
                stream.sendall(drop)
                stream.setblocking(False)
                stream.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            except OSError:
                pass
            # It said no, or closed.
            last = time.monotonic() - started
            stream.close()
            slow.remove(stream)
        time.sleep(0.5)
    left = len(slow)
    for stream in slow:
        stream.close()
    return {"ended_by_the_server": count - left, "last_after_s": round(last, 1), "left": left, "meanwhile": meanwhile}


def misbehaving(args, picture, say):
    chance = random.Random(1)
    server = Server(args.aptvit, [args.model], [*args.options], env={"APTVIT_API_KEY": ""})
    probe = lambda: send(server, 1, lambda: post(server, picture))
    try:
        before = server.memory()
        garbage = lambda: chance.randbytes(chance.randrange(1, 4000))
        say(part="chaos", what="garbage instead of HTTP", found=send(server, 200, lambda: garbage() + b"\r\n\r\n"), then=probe())
        say(part="chaos", what="garbage as a picture", found=send(server, 200, lambda: post(server, garbage())), then=probe())

        def damaged():
            bytes_ = bytearray(picture)
            for _ in range(20):
                bytes_[chance.randrange(len(bytes_))] = chance.randrange(256)
            return post(server, bytes(bytes_[: chance.randrange(100, len(bytes_))]))

        say(part="chaos", what="damaged pictures", found=send(server, 200, damaged), then=probe())
        say(part="chaos", what="bombs", found=send(server, 20, lambda: post(server, bomb(60_000))), then=probe())

        for _ in range(100):
            stream = connect(server)
            stream.sendall(post(server, picture)[: chance.randrange(1, len(picture))])
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.close()
        say(part="chaos", what="100 connections cut within the request", then=probe())

        head = f"POST /v1/models/{server.name}/classify HTTP/1.1\r\nHost: x\r\n".encode()
        for what, start, drop in [
            ("200 that connect and say nothing", b"", b""),
            ("200 heads, one byte each half second", head + b"X: ", b"a"),
            ("200 bodies, one byte each half second", head + b"Content-Length: 10000\r\n\r\n", b"a"),
            ("200 that hang within the body", head + b"Content-Length: 10000\r\n\r\nabc", b""),
        ]:
            found = trickle(server, 200, start, drop, probe)
            say(part="chaos", what=what, **found, then=probe())

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        many, failed = [], 0
        for _ in range(10_000):
            try:
                many.append(socket.create_connection(server.address, timeout=5))
            except OSError:
                failed += 1
        time.sleep(1)
        for stream in many:
            stream.close()
        time.sleep(1)
        refused, server_counts = server.counted("aptvit_connections_refused_total"), server.counted("aptvit_connections ")
        say(part="chaos", what="10,000 connections", opened=len(many), not_opened=failed, turned_away=refused,
            still_open=server_counts, then=probe(), memory_mib=[before, server.memory()])
    finally:
        server.end()


def secrets(args, picture, say):
    server = Server(args.aptvit, [args.model], [*args.options], env={"APTVIT_API_KEY": "right"})
    tokens = ["Authorization: Bearer wrong\r\n", "Authorization: right\r\n", "", "Authorization: Bearer right\r\n"]
    for token in tokens:
        say(part="chaos", what="secret", shown=token.strip(), found=send(server, 10, lambda: post(server, picture, token.encode())))
    server.end()


def ends(args, picture, say):
    server = Server(args.aptvit, [args.model], [*args.options], env={"APTVIT_API_KEY": ""})
    results, clients = [], []

    def client():
        stream = connect(server)
        stream.sendall(post(server, picture))
        results.append(status(stream))

    for _ in range(60):
        clients.append(threading.Thread(target=client))
        clients[-1].start()
    while server.load()["waiting"] + server.load()["computing"] == 0 and any(c.is_alive() for c in clients):
        time.sleep(0.005)
    accepted = server.counted("aptvit_requests_in_flight") - 1
    code = server.end(signal.SIGTERM)
    for thread in clients:
        thread.join()
    say(part="chaos", what="SIGTERM under load", in_flight_before=accepted,
        found=dict(collections.Counter(map(str, results))), exit=code)

    server = Server(args.aptvit, [args.model], [*args.options], env={"APTVIT_API_KEY": ""})
    thread = threading.Thread(target=lambda: wrk(server.classify_url(), args.picture, 2, 8))
    thread.start()
    time.sleep(1)
    server.end(signal.SIGKILL)
    # wrk tries to connect as fast as it can until its time is over.
    thread.join()
    again = Server(args.aptvit, [args.model], [*args.options], env={"APTVIT_API_KEY": ""})
    say(part="chaos", what="kill -9 and a new start", ready_after_s=again.ready_after, then=send(again, 1, lambda: post(again, picture)))
    again.end()
