"""Fixtures of more than one file here."""

from tests.cluster.aws import account as account
from tests.cluster.aws import calls as calls
from tests.cluster.aws import server as server
