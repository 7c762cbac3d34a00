"""Tests that talk to the loopback Hub."""

from tests.hub_server.fixtures import *  # noqa: F403 (fixtures are found by their names)
