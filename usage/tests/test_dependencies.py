"""What must not be installed beside the service."""

from importlib.util import find_spec


def test_psycopg_3_is_absent() -> None:
    """Django would silently prefer it to psycopg2, which the statements of the ledger are for."""
    assert find_spec("psycopg") is None
    assert find_spec("psycopg2") is not None
