"""Tells each request which process this is, who connected according to accept() and getpeername(), and what came first.

peers.py ADDRESS PORT [reuseport]. A PROXY header (version 1, or 2 of IPv4) before the first request is told too, as version 1 writes it.
"""
import json
import os
import socket
import struct
import sys
import threading

address, port = sys.argv[1], int(sys.argv[2])
six = ":" in address
listener = socket.create_server(
    (address, port),
    family=socket.AF_INET6 if six else socket.AF_INET,
    backlog=1024,
    reuse_port="reuseport" in sys.argv,
    dualstack_ipv6=six,
)


def proxy_header(stream):
    first = stream.peek(1)[:1]
    if first == b"P":
        return stream.readline().decode().strip()
    if first == b"\r":
        *_, length = struct.unpack("!12s2BH", stream.read(16))
        source, target, *ports = struct.unpack_from("!4s4s2H", stream.read(length))
        return "PROXY TCP4 %s %s %d %d" % (socket.inet_ntoa(source), socket.inet_ntoa(target), *ports)
    return None


def serve(connection, accepted):
    stream = connection.makefile("rb")
    proxy = proxy_header(stream)
    while line := stream.readline():
        headers = {}
        while (header := stream.readline()) not in (b"\r\n", b""):
            name, value = header.decode().split(":", 1)
            headers[name.lower()] = value.strip()
        answer = {
            "pid": os.getpid(),
            "accepted": accepted[0],
            "peer": connection.getpeername()[0],
            "proxy": proxy,
            "headers": headers,
        }
        body = json.dumps(answer).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def survive(connection, accepted):
    with connection:
        try:
            serve(connection, accepted)
        except OSError:
            pass


print("listening", flush=True)
while True:
    threading.Thread(target=survive, args=listener.accept(), daemon=True).start()
