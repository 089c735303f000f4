"""Answers every connection with this process's PID, without waiting for a request.

name.py ADDRESS PORT [plain|reuseport] [UID]
"""
import os
import socket
import sys

address, port = sys.argv[1], int(sys.argv[2])
listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if "reuseport" in sys.argv:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
if listener.family == socket.AF_INET6:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.bind((address, port))
if sys.argv[-1].startswith("uid="):
    os.setuid(int(sys.argv[-1][4:]))
listener.listen(1024)
print("listening", flush=True)
me = str(os.getpid()).encode()
while True:
    connection, _ = listener.accept()
    try:
        connection.sendall(me)
    except OSError:
        pass
    connection.close()
