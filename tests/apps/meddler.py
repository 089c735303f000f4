"""A worker like name.py that meddles with the program of its group.

meddler.py ADDRESS PORT [reuseport] [early|late]

SIGUSR1 takes the program off, SIGUSR2 puts another in its place, which chooses the group's first socket. `early` does so
instead of listening, `late` as soon as it listens; both end at once.
"""
import ctypes
import os
import signal
import socket
import struct
import sys

SO_ATTACH_REUSEPORT_CBPF, SO_DETACH_REUSEPORT_BPF = 51, 68


def detach(*_):
    listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
    print("detached", flush=True)


def replace(*_):
    # `ret 0`, and the struct sock_fprog that leads to it.
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    listener.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", 1, ctypes.addressof(program))
    )
    print("replaced", flush=True)


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if "reuseport" in sys.argv:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind((sys.argv[1], int(sys.argv[2])))
if "early" in sys.argv:
    replace()
    sys.exit()
listener.listen(1024)
if "late" in sys.argv:
    replace()
    sys.exit()
signal.signal(signal.SIGUSR1, detach)
signal.signal(signal.SIGUSR2, replace)
print("listening", flush=True)
me = str(os.getpid()).encode()
while True:
    connection, _ = listener.accept()
    try:
        connection.sendall(me)
    except OSError:
        pass
    connection.close()
