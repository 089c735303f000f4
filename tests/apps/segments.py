"""A TCP client of its own, below the kernel: segments.py INTERFACE FROM FROM_PORT TO PORT FIRST SECOND

Opens a connection and sends its second segment first, then, a moment later, both in their order. Prints what came back
after the one and after the others: RST where it was a reset. An empty SECOND is the connection's end. FROM must be
nobody's address.
"""
import array
import socket
import struct
import sys
import time

interface, source, own_port, target, port = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
first, second = (text.encode().decode("unicode_escape").encode() for text in sys.argv[6:8])
ISN = 1000
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind((interface, 0))
mac = wire.getsockname()[4]
ours, theirs = socket.inet_aton(source), socket.inet_aton(target)


def checksum(data):
    total = sum(array.array("H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return socket.htons(~total & 0xFFFF)


def receive(wanted, seconds):
    """The first frame that is wanted, until so many seconds have passed."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            frame, address = wire.recvfrom(65536)
        except TimeoutError:
            return None
        if address[2] != socket.PACKET_OUTGOING and (found := wanted(frame)) is not None:
            return found
    return None


def send(sequence, acknowledged, flags, data=b""):
    tcp = [own_port, port, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0]
    pseudo = ours + theirs + struct.pack("!BBH", 0, socket.IPPROTO_TCP, 20 + len(data))
    tcp[7] = checksum(pseudo + struct.pack("!HHLLBBHHH", *tcp) + data)
    ip = [0x45, 0, 40 + len(data), 0, 0, 64, socket.IPPROTO_TCP, 0, ours, theirs]
    ip[7] = checksum(struct.pack("!BBHHHBBH4s4s", *ip))
    packet = struct.pack("!BBHHHBBH4s4s", *ip) + struct.pack("!HHLLBBHHH", *tcp) + data
    wire.send(gateway + mac + b"\x08\x00" + packet)


def segment(frame):
    """(sequence, flags, data) of a segment to us."""
    if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP or frame[30:34] != ours:
        return None
    tcp = frame[34:14 + struct.unpack("!H", frame[16:18])[0]]
    if struct.unpack("!HH", tcp[:4]) != (port, own_port):
        return None
    return struct.unpack("!L", tcp[4:8])[0], tcp[13], tcp[(tcp[12] >> 4) * 4:]


# Who has the target's address learns ours from the question.
arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, ours, b"\0" * 6, theirs)
wire.send(b"\xff" * 6 + mac + b"\x08\x06" + arp)
gateway = receive(lambda frame: frame[22:28] if frame[12:14] == b"\x08\x06" and frame[28:32] == theirs else None, 5)
send(ISN, 0, SYN)
sequence, flags, _ = receive(segment, 5)
assert flags == SYN | ACK, flags
following = sequence + 1
send(ISN + 1, following, ACK)


def told(seconds):
    global following
    text = ""
    while (found := receive(segment, seconds)) is not None:
        sequence, flags, data = found
        if flags & RST:
            return text + "RST"
        if sequence == following:
            text += data.decode()
            following += len(data) + (flags & FIN)
            send(ISN + 1 + len(first) + (len(second) or 1), following, ACK)
        if flags & FIN:
            return text
    return text


end = PSH | ACK if second else FIN | ACK
send(ISN + 1 + len(first), following, end, second)
print(repr(told(0.3)))
send(ISN + 1, following, PSH | ACK, first)
send(ISN + 1 + len(first), following, end, second)
print(repr(told(5)))
