"""Tells every connection this process's PID, and holds it until the client ends it or says something.

hold.py PORT, on all addresses with SO_REUSEPORT
"""
import os
import resource
import selectors
import socket
import sys

limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("0.0.0.0", int(sys.argv[1])))
listener.listen(1024)
print("listening", flush=True)
me = b"%d\n" % os.getpid()
events = selectors.DefaultSelector()
events.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in events.select():
        connection = key.fileobj
        try:
            if connection is listener:
                connection, _ = listener.accept()
                events.register(connection, selectors.EVENT_READ)
                connection.sendall(me)
                continue
            # Whoever closes with something unread resets the connection.
            connection.recv(64)
        except OSError:
            pass
        events.unregister(connection)
        connection.close()
