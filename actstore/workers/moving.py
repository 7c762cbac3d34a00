"""Objects that are sent to other machines, whose files lie in another folder there."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

Value = TypeVar("Value")


def moved(value: Value, folders: Mapping[Path, Path]) -> Value:
    """Return a copy of something in which all paths below some folders are below others.

    Args:
        value: what Python can pickle, and holds paths anywhere.
        folders: where each folder is in the copy.
    """
    if not folders:
        return value
    found: Value = _Moving(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), folders).load()
    return found


class _Moving(pickle.Unpickler):
    """Makes other paths of some."""

    def __init__(self, data: bytes, folders: Mapping[Path, Path]) -> None:
        super().__init__(io.BytesIO(data))
        deepest_first = sorted(folders, key=lambda folder: len(folder.parts), reverse=True)
        self._folders = {folder: folders[folder] for folder in deepest_first}

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if not (isinstance(found, type) and issubclass(found, PurePath)):
            return found

        def path(*parts: str) -> PurePath:
            made = found(*parts)
            for folder, to in self._folders.items():
                if made.is_relative_to(folder):
                    return to / made.relative_to(folder)
            return made

        return path
