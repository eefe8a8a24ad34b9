"""Whether the owner of a serverdir may use a file or folder, told by its mode and whose it is."""

import stat

import pytest

from replisync.verify.owner import Owner

OWNER = Owner(1000, 1000, frozenset({1000, 50}), closed=True)
ROOT = Owner(0, 0, frozenset({0}), closed=True)
READ_WRITE = stat.S_IRUSR | stat.S_IWUSR


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "may"),
    [
        (0o600, 1000, 1000, True),
        (0o400, 1000, 1000, False),
        (0o066, 1000, 50, False),
        (0o600, -1, -1, True),
        (0o600, 7, 7, False),
        (0o660, 7, 50, True),
        (0o660, 7, 7, False),
        (0o640, 7, 50, False),
        (0o606, 7, 50, False),
        (0o606, 7, 7, True),
        (0o600, 0, 0, False),
    ],
)
def test_the_bits_of_user_group_or_others_decide(mode: int, uid: int, gid: int, may: bool) -> None:
    assert OWNER.may(READ_WRITE, stat.S_IFREG | mode, uid, gid) == may


def test_root_may_use_what_others_have_but_lets_its_own_modes_count() -> None:
    assert ROOT.may(READ_WRITE, stat.S_IFREG | 0o000, 7, 7)
    assert not ROOT.may(READ_WRITE, stat.S_IFREG | 0o400, 0, 0)


@pytest.mark.parametrize(
    ("mode", "closed", "lacks"),
    [
        (stat.S_IFREG | 0o444, True, None),
        (stat.S_IFREG | 0o244, True, "a file that its owner can read"),
        (stat.S_IFREG | 0o446, True, "a file that not everybody may write to"),
        (stat.S_IFREG | 0o446, False, None),
        (stat.S_IFDIR | 0o700, True, None),
        (stat.S_IFDIR | 0o600, True, "a folder that its owner can use"),
    ],
)
def test_what_a_file_should_be_and_is_not(mode: int, closed: bool, lacks: str | None) -> None:
    assert OWNER._replace(closed=closed).lacks(mode, 1000, 1000) == lacks
