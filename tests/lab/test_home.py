import socket
from pathlib import Path

import pytest

from orderloop_lab.errors import LabError
from orderloop_lab.home import Home


def test_a_port_stays_the_same_while_it_is_free(tmp_path: Path) -> None:
    first = Home(tmp_path).port("postgres")
    assert Home(tmp_path).port("postgres") == first
    with socket.create_server(("127.0.0.1", first)):
        assert Home(tmp_path).port("postgres", in_use=True) == first
        assert Home(tmp_path).port("postgres") != first


def test_two_names_never_share_a_port(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert len({home.port(f"service-{number}") for number in range(50)}) == 50


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    secret = Home(tmp_path).secret("bank")
    assert Home(tmp_path).secret("bank") == secret
    assert (tmp_path / "secrets" / "bank").stat().st_mode & 0o077 == 0
    assert sorted(file.name for file in (tmp_path / "secrets").iterdir()) == ["bank", "lab-id"]


def test_a_state_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match="ORDERLOOP_LAB_STATE"):
        Home(tmp_path / "file" / "lab")
