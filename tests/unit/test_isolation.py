"""That unit tests cannot reach a network is itself tested."""

import socket
import subprocess
import sys

import pytest


def test_a_unit_test_cannot_open_a_socket() -> None:
    with pytest.raises(Exception, match=r"socket\.__new__ in a unit test"):
        socket.socket()


def test_a_unit_test_cannot_resolve_a_name() -> None:
    with pytest.raises(Exception, match=r"socket\.getaddrinfo in a unit test"):
        socket.getaddrinfo("localhost", 80)


def test_a_unit_test_cannot_start_a_process() -> None:
    with pytest.raises(Exception, match=r"subprocess\.Popen in a unit test"):
        subprocess.run([sys.executable, "-c", ""], check=True)
