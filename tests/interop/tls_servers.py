"""nginx and Apache with their key in the token, and clients that count what fails."""

from __future__ import annotations

import getpass
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Final

from tests.interop.address import Daemon, TokenAddress

NGINX: Final = """
daemon off;
user {user};
worker_processes 2;
pid {work}/nginx.pid;
error_log {work}/nginx-error.log notice;
ssl_engine pkcs11;
env P11_KIT_SERVER_ADDRESS;
env PKCS11_MODULE_PATH;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {work}/nginx-body; proxy_temp_path {work}/nginx-proxy;
    fastcgi_temp_path {work}/nginx-fcgi; uwsgi_temp_path {work}/nginx-uwsgi;
    scgi_temp_path {work}/nginx-scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {work}/{label}.crt;
        ssl_certificate_key "engine:pkcs11:{uri}";
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_tickets off;
        ssl_session_cache off;
        return 200 "served\\n";
    }}
}}
"""
APACHE: Final = """
ServerRoot {work}
ServerName localhost
PidFile {work}/apache.pid
ErrorLog {work}/apache-error.log
DefaultRuntimeDir {work}
Mutex file:{work} default
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule socache_shmcb_module {modules}/mod_socache_shmcb.so
LoadModule ssl_module {modules}/mod_ssl.so
User {user}
Group {user}
StartServers 2
SSLCryptoDevice pkcs11
SSLSessionCache none
SSLSessionTickets off
SSLProtocol -all +TLSv1.2 +TLSv1.3
DocumentRoot {work}/htdocs
<VirtualHost 127.0.0.1:{port}>
    SSLEngine on
    SSLCertificateFile {work}/{label}.crt
    SSLCertificateKeyFile "{uri}"
</VirtualHost>
"""


def free_port() -> int:
    """Return a port of loopback that nobody listened on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class TlsServer(Daemon):
    """A web server on loopback whose key is `label` in the token."""

    def __init__(self, token: TokenAddress, name: str, label: str) -> None:
        self.port, self.ca, self.name = free_port(), token.work / f"{label}.crt", name
        is_root = os.geteuid() == 0
        user = "www-data" if name == "apache" and is_root else getpass.getuser()
        (token.work / "htdocs").mkdir(exist_ok=True)
        (token.work / "htdocs" / "index.html").write_text("served\n")
        (token.work / "htdocs" / "index.html").chmod(0o644)
        conf = token.work / f"{name}.conf"
        conf.write_text(
            {"nginx": NGINX, "apache": APACHE}[name].format(
                work=token.work,
                user=user,
                port=self.port,
                label=label,
                uri=token.uri(label),
                modules=Path("/usr/lib/apache2/modules"),
            )
        )
        words: dict[str, list[str | Path]] = {
            "nginx": ["nginx", "-p", token.work, "-c", conf],
            "apache": ["apache2", "-d", token.work, "-f", conf, "-DFOREGROUND"],
        }
        self.error_log = token.work / f"{name}-error.log"
        super().__init__(token, words[name], token.work / f"{name}.out")

    def __enter__(self) -> TlsServer:
        self.wait_until(self.accepts)
        return self

    def accepts(self) -> bool:
        """Tell whether it listens."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def reload(self) -> None:
        """Have it start new workers and let the old ones finish."""
        self.process.send_signal(1 if self.name == "nginx" else 10)  # SIGHUP; Apache: SIGUSR1

    def fetch(self, version: ssl.TLSVersion, timeout_s: float = 30) -> None:
        """Make one full handshake and one request; raise when it fails."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout_s) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            assert tls.version() == version.name.replace("_", ".")
            tls.sendall(b"GET /index.html HTTP/1.0\r\nHost: localhost\r\n\r\n")
            said = b"".join(iter(lambda: tls.recv(4096), b""))
            assert b" 200 OK\r\n" in said, said
            assert said.endswith(b"served\n")


class TlsLoad:
    """Threads that fetch until the block ends; `failures` holds what went wrong."""

    VERSIONS: Final = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

    def __init__(self, server: TlsServer, threads: int = 2) -> None:
        self.server, self.served, self.failures = server, 0, list[Exception]()
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [
            threading.Thread(target=self._repeat, args=(number,)) for number in range(threads)
        ]

    def _repeat(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                self.server.fetch(self.VERSIONS[number % 2])
            except (OSError, AssertionError) as exc:
                self.failures.append(exc)
            else:
                with self._lock:
                    self.served += 1

    def __enter__(self) -> TlsLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
