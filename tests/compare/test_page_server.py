"""What the server of the page lets in, and what it sends."""

import http.client
import json
import socket
from collections.abc import Iterator
from threading import Thread
from typing import Any, NamedTuple

import pytest

from detox_lightning.compare.page_server import MAX_BYTES, PORTS, PageServer
from detox_lightning.errors import InputError

PAGE = "<p>Grüße</p>"
END = b'"end"'


class Sent(NamedTuple):
    status: int
    kind: str
    text: str


def answer(question: bytes) -> dict[str, str]:
    """Says what it has heard; ends the server as Ctrl-C does."""
    if question == END:
        raise KeyboardInterrupt
    return {"html": question.decode()}


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with PageServer("127.0.0.1", 0) as server:
        thread = Thread(target=server.serve, args=[PAGE, answer])
        thread.start()
        yield server
        Thread(target=ask, args=[server, END], daemon=True).start()  # nobody answers this
        thread.join()


def send(server: PageServer, verb: str, path: str, body: bytes | None, **headers: str) -> Sent:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(verb, path, body, named)
    response = connection.getresponse()
    text = response.read().decode("utf8")
    return Sent(response.status, response.headers["Content-Type"], text)


def ask(server: PageServer, body: bytes, path: str = "/answers", **changed: str) -> Sent:
    headers = {"X_Token": server.token, "Content_Type": "application/json", **changed}
    return send(server, "POST", path, body, **headers)


def error(sent: Sent) -> Any:
    assert sent.status == 403
    return json.loads(sent.text)["error"]


def test_the_page_and_an_answer(server: PageServer) -> None:
    assert send(server, "GET", "/", None) == (200, "text/html; charset=utf-8", PAGE)
    sent = ask(server, '{"text": "Grüße"}'.encode())
    assert (sent.status, sent.kind) == (200, "application/json; charset=utf-8")
    assert json.loads(sent.text) == {"html": '{"text": "Grüße"}'}


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "LOCALHOST:80", "127.0.0.1:7860"])
def test_names_of_this_machine(server: PageServer, name: str) -> None:
    """Another port is that of a tunnel."""
    assert send(server, "GET", "/", None, Host=name).status == 200


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", ""])
def test_another_name_that_leads_here_gets_neither_page_nor_answer(
    server: PageServer, name: str
) -> None:
    sent = send(server, "GET", "/", None, Host=name)
    assert (sent.status, sent.text) == (403, f"there is only {server.url}")
    assert error(ask(server, b"{}", Host=name)) == f"there is only {server.url}"


@pytest.mark.parametrize("token", ["", "guessed", "ü"])
def test_a_question_without_the_page_s_token_is_refused(server: PageServer, token: str) -> None:
    assert "load it again" in error(ask(server, b"{}", X_Token=token))


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_what_a_form_of_another_site_could_send_is_refused(server: PageServer, kind: str) -> None:
    said = error(ask(server, b"{}", Content_Type=kind))
    assert said == "a question must be application/json"


def test_too_long_a_question_is_told_its_length(server: PageServer) -> None:
    said = error(ask(server, b" " * (MAX_BYTES + 1)))
    assert said == "the text is too long: 65,537 bytes, at most 65,536"
    assert ask(server, b" " * MAX_BYTES).status == 200


@pytest.mark.parametrize("path", ["/style.css", "/../../etc/passwd", "//etc/passwd", "/?x", "/%00"])
def test_no_path_is_opened(server: PageServer, path: str) -> None:
    sent = send(server, "GET", path, None)
    assert (sent.status, sent.text) == (403, f"there is only {server.url}")
    assert error(ask(server, b"{}", path)) == f"there is only {server.url}"


@pytest.mark.parametrize("length", ["-1", "many", "9" * 5000])
def test_an_impossible_length_is_no_question(server: PageServer, length: str) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        head = f"POST /answers HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile("rb").read().startswith(b"HTTP/1.0 403")


def test_a_browser_that_goes_away_is_no_error(
    server: PageServer, capfd: pytest.CaptureFixture[str]
) -> None:
    for sent in (b"", b"GET", b"POST /answers HTTP/1.0\r\nContent-Length: 9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            connection.sendall(sent)
            reset = b"\1\0\0\0\0\0\0\0"  # closes at once
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    assert send(server, "GET", "/", None).status == 200
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with PageServer("127.0.0.1", server.server_port) as next_one:
        assert 0 < next_one.server_port - server.server_port < PORTS
    monkeypatch.setattr("detox_lightning.compare.page_server.PORTS", 1)
    with pytest.raises(InputError) as caught:
        PageServer("127.0.0.1", server.server_port)
    assert str(caught.value) == (
        f"--host=127.0.0.1 --port={server.server_port}: no page can be served there ([Errno 98] "
        "Address already in use); give an address of this machine, and a free port (0: any)"
    )


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 65536), ("300.1.1.1", 0)])
def test_what_no_machine_has(host: str, port: int) -> None:
    with pytest.raises(InputError, match=f"--host={host} --port={port}: no page can be served"):
        PageServer(host, port)


def test_on_the_network_any_name_leads_to_the_page() -> None:
    with PageServer("0.0.0.0", 0) as server:
        assert server.names is None
