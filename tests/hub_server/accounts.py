"""Who may do what: users, tokens and organisations of the loopback Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.hub_server.answers import ApiError

Role = Literal["read", "write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """The owner of a token. Two tokens of one user are two `User`s of the same name."""

    name: str
    role: Role = "write"
    """What the token allows."""
    orgs: Mapping[str, Role] = field(default_factory=dict)

    def sees(self, namespace: str) -> bool:
        """Whether private repositories of `namespace` exist for this user."""
        return namespace == self.name or namespace in self.orgs

    def writes(self, namespace: str) -> bool:
        if self.role != "write":
            return False
        return namespace == self.name or self.orgs.get(namespace) == "write"

    def whoami(self) -> dict[str, object]:
        return {
            "type": "user",
            "id": f"id-{self.name}",
            "name": self.name,
            "fullname": self.name.capitalize(),
            "email": f"{self.name}@example.org",
            "emailVerified": True,
            "isPro": False,
            "avatarUrl": f"/avatars/{self.name}.svg",
            "orgs": [
                {"type": "org", "id": f"id-{org}", "name": org, "fullname": org, "roleInOrg": role}
                for org, role in self.orgs.items()
            ],
            "auth": {
                "type": "access_token",
                "accessToken": {"displayName": f"{self.name}-{self.role}", "role": self.role},
            },
        }


DEFAULT_USERS: Mapping[str, User] = {
    "hf_write": User(name="alice", orgs={"org": "write"}),
    "hf_read": User(name="alice", role="read", orgs={"org": "write"}),
    "hf_other": User(name="bob"),
}


def authenticate(token: str | None, users: Mapping[str, User]) -> User | None:
    """The token's owner, None without a token; 401 for a token that nobody has."""
    if token is None:
        return None
    user = users.get(token)
    if user is None:
        raise ApiError(401, "Invalid credentials in Authorization header")
    return user
