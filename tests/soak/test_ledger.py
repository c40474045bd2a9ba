"""The ledger's storms, minutes long each (`SOAK_SECONDS`)."""

import os

from tests.ledger import test_faults
from tests.ledger.test_faults import (
    database,
    server,
    test_a_database_that_goes_away_makes_reports_wait,
    test_a_database_that_refuses_connections_makes_reports_wait,
    test_a_ledger_killed_at_random_points_loses_nothing,
    test_several_ledgers_of_which_some_die_count_each_report_once,
)

__all__ = [
    "database",
    "server",
    "test_a_database_that_goes_away_makes_reports_wait",
    "test_a_database_that_refuses_connections_makes_reports_wait",
    "test_a_ledger_killed_at_random_points_loses_nothing",
    "test_several_ledgers_of_which_some_die_count_each_report_once",
]

test_faults.SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))
