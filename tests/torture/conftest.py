"""Tests that attack what the store promises; some of them talk to the loopback Hub."""

from tests.hub_server.fixtures import *  # noqa: F403 (fixtures are found by their names)
