"""Tells each request which process this is, who connected according to accept() and getpeername(), and what came first.

peers.py ADDRESS PORT [reuseport]. A PROXY header (version 1) before the first request is told too.
"""
import json
import os
import socket
import sys
import threading

address, port = sys.argv[1], int(sys.argv[2])
listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if "reuseport" in sys.argv:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
if listener.family == socket.AF_INET6:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.bind((address, port))
listener.listen(1024)


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
