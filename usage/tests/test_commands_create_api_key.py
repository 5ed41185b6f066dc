"""`manage.py create_api_key` prints the key alone, so that a script can keep it."""

import errno
from unittest.mock import Mock

import pytest
from django.core.management import CommandError, call_command

from usage.models import ApiKey

pytestmark = pytest.mark.django_db


def test_standard_output_is_the_key_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("create_api_key", "cdn team")

    printed = capsys.readouterr()
    api_key = ApiKey.objects.identify(printed.out.removesuffix("\n"))
    assert api_key == ApiKey.objects.get(name="cdn team")
    assert "not shown again" in printed.err
    assert printed.out.strip() not in printed.err


def test_a_key_that_cannot_be_printed_is_not_made() -> None:
    full_disk = Mock(write=Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))

    with pytest.raises(OSError, match="No space left"):
        call_command("create_api_key", "cdn team", stdout=full_disk)

    assert not ApiKey.objects.exists()


def test_several_keys_live_under_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("create_api_key", "cdn team")
    call_command("create_api_key", "cdn team")

    keys = capsys.readouterr().out.split()
    assert all(ApiKey.objects.identify(key) for key in keys)
    assert ApiKey.objects.live().filter(name="cdn team").count() == len(set(keys)) == 2


@pytest.mark.parametrize("name", ["", "  ", "x" * 101])
def test_an_empty_or_too_long_name_is_refused(name: str) -> None:
    with pytest.raises(CommandError, match=r"^No key was made. name: .+\.$"):
        call_command("create_api_key", name)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize(
    "name", ["\udcff", "cdn\u202emaet", "cdn\nteam", "cdn\0team", "\u2028cdn\u2028x"]
)
def test_a_name_that_could_pass_for_another_is_refused(name: str) -> None:
    with pytest.raises(CommandError, match=r"name: A name has no spaces") as error:
        call_command("create_api_key", name)
    assert str(error.value).isprintable()
    assert not ApiKey.objects.exists()
