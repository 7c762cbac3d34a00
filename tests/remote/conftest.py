"""Tests that talk to the loopback Hub, and to buckets on this machine."""

from tests.hub_server.fixtures import *  # noqa: F403 (fixtures are found by their names)
from tests.remote.bucket_fixtures import *  # noqa: F403
