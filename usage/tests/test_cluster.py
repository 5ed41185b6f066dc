"""The cluster that other tests break: a commit waits for the standby, which can take over."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from usage.tests.cluster import cluster, wait_until

pytestmark = pytest.mark.cluster


def test_a_commit_waits_for_the_standby_and_survives_the_primary(cluster_to_copy: Path) -> None:
    with cluster(cluster_to_copy) as servers, ThreadPoolExecutor(1) as pool:
        servers.primary.rows("CREATE TABLE fact (id int)")
        servers.add_standby()
        servers.standby.freeze()
        insert = pool.submit(servers.primary.rows, "INSERT INTO fact VALUES (1)")
        wait_until(lambda: servers.waiting_commits() == 1)
        assert not insert.done()

        servers.standby.thaw()
        insert.result()
        servers.primary.lose()
        servers.standby.promote()

        assert servers.standby.rows("SELECT id FROM fact") == [(1,)]


def test_a_cut_line_leaves_the_standby_behind(cluster_to_copy: Path) -> None:
    with cluster(cluster_to_copy, synchronous=False) as servers:
        servers.primary.rows("CREATE TABLE fact (id int)")
        servers.add_standby()
        servers.cut()
        servers.primary.rows("INSERT INTO fact VALUES (1)")

        servers.standby.promote()

        assert servers.standby.rows("SELECT id FROM fact") == []
