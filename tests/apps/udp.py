"""Answers every datagram with this process's PID. udp.py PORT"""
import os
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind(("0.0.0.0", int(sys.argv[1])))
print("listening", flush=True)
while True:
    _, client = server.recvfrom(64)
    server.sendto(str(os.getpid()).encode(), client)
