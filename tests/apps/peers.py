"""Tells each request which process this is, who connected according to accept() and getpeername(), and what came first.

peers.py ADDRESS PORT [reuseport]. A PROXY header (version 1) before the first request is told too.
"""
import json
import os
import socket
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


def serve(connection, accepted):
    stream = connection.makefile("rb")
    proxy = None
    while line := stream.readline():
        if line.startswith(b"PROXY "):
            proxy = line.decode().strip()
            continue
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
