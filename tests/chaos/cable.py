"""A TCP forwarder that can be cut: the registry goes away without being killed, also in the middle of a request."""

import contextlib
import socket
import threading


class Cable:
    """`url` leads to `target`; between `cut` and `mend` connections break and new ones are refused."""

    def __init__(self, target):
        host, _, port = target.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._lock = threading.Lock()
        self._open = set()
        self._bytes_left = None
        self._server = self._listen(0)
        self.port = self._server.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cut()

    def cut(self, after_bytes=None):
        """Now, or when clients have sent so many bytes more."""
        if after_bytes is not None:
            self._bytes_left = after_bytes
            return
        self._bytes_left = None
        with self._lock:
            server, self._server = self._server, None
            if server is not None:
                server.shutdown(socket.SHUT_RDWR)
                server.close()
            for one in self._open:
                _shut(one)
            self._open = set()

    def mend(self):
        with self._lock:
            self._bytes_left = None
            if self._server is None:
                self._server = self._listen(self.port)

    def _listen(self, port):
        server = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()
        return server

    def _accept(self, server):
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            try:
                behind = socket.create_connection(self._target, timeout=30)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, behind}
            threading.Thread(target=self._pump, args=(client, behind, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(behind, client, False), daemon=True).start()

    def _pump(self, source, sink, counted):
        try:
            while data := source.recv(65536):
                if counted and self._bytes_left is not None:
                    self._bytes_left -= len(data)
                    if self._bytes_left < 0:
                        self.cut()
                        return
                sink.sendall(data)
        except OSError:
            pass  # cut
        finally:
            _shut(source)
            _shut(sink)
            with self._lock:
                self._open -= {source, sink}


def _shut(one):
    with contextlib.suppress(OSError):  # it is already
        one.shutdown(socket.SHUT_RDWR)
    one.close()
