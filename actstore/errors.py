"""The one error tree: every failure that actstore explains to its user.

::

    ActstoreError
    ├── UsageError (ValueError)              an argument or option that cannot work
    │   └── PathError                        a path that cannot be opened or made as it is needed
    ├── MissingExtraError (ImportError)      an optional dependency is not installed
    ├── StoreError
    │   ├── StoreNotFoundError (FileNotFoundError)   no store at that path
    │   ├── SnapshotNotFoundError (LookupError)      the store has no such commit
    │   ├── CorruptStoreError (ValueError)           a manifest or shard is damaged
    │   │   └── DamageError                          a file is not, byte for byte, what was written
    │   ├── ReadError (OSError)                      the system could not read one of its files
    │   │   └── MissingFileError (FileNotFoundError) … because it is not there
    │   ├── ConflictError (ValueError)               a stored key came with another vector
    │   ├── DivergedError (RuntimeError)             two copies each have commits of their own
    │   └── CommitError (OSError)                    the commit could not be made
    ├── IngestError
    │   ├── RecipeError (ValueError)         a recipe is wrong, or none or several fit
    │   │   └── UnknownRecipeError (UsageError)      there is none of that name
    │   ├── UnsafeFileError (ValueError)     the file would run code or exhaust memory
    │   ├── UnreadableFileError (ValueError) truncated, empty or of another format
    │   ├── LayoutError (ValueError)         the content does not fit the recipe
    │   │   └── ForeignFileError             the file is of another kind altogether
    │   ├── SidecarError (ValueError)        a sidecar table is missing or does not join
    │   ├── NonFiniteError (ValueError)      NaN or infinity among the values
    │   ├── PrecisionError (ValueError)      the stored type could not hold the values
    │   ├── RefusedError (ValueError)        all or nothing was asked, and files were refused
    │   └── ContractError (ValueError)       the data break a contract; lists every violation
    ├── QueryError
    │   ├── SqlError (ValueError)            the SQL was refused or failed
    │   ├── NotInStoreError (LookupError)    that layer, site, model, label … is not there
    │   ├── MixedVectorsError (ValueError)   a matrix was asked of rows of several places or widths
    │   └── StackError (ValueError)          examples of a stack lack a vector, or have several
    ├── HubError
    │   ├── RepositoryNotFoundError (LookupError)   no such repository, or none that the token sees
    │   ├── RevisionError (LookupError)      the repository has no such branch, tag or commit
    │   ├── RemoteFileError (FileNotFoundError)     the repository has no such file
    │   ├── AccessError (PermissionError)    gated, a token that may not, or one that is not valid
    │   ├── RateLimitError (ConnectionError) the Hub asks for more patience than we have
    │   ├── OfflineError (ConnectionError)   the Hub cannot be reached, or HF_HUB_OFFLINE is set
    │   ├── TransferError (ConnectionError)  a transfer failed again and again, or came damaged
    │   ├── RemoteStoreError (ValueError)    what the repository holds is no store, or a broken one
    │   │   └── NoRemoteStoreError           it holds other files
    │   ├── RemoteChangedError (RuntimeError)   others changed what this push would overwrite
    │   └── CardError (ValueError)           the Hub refuses the data-set card
    ├── BucketError
    │   ├── BucketNotFoundError (LookupError)       no such bucket, or none of that name here
    │   ├── BucketAccessError (PermissionError)     no credentials, or such as may not
    │   ├── BucketConnectionError (ConnectionError) the server cannot be reached, or fails for long
    │   ├── BucketConditionError (RuntimeError)     it ignores conditions: commits could be lost
    │   └── BucketFileError (ValueError)            an object is not what the manifest says
    ├── CaptureError
    │   ├── ModelError (ValueError)          no blocks found, or a kind that cannot be captured
    │   ├── ExampleError (ValueError)        the questions' file or one of its rows is malformed
    │   ├── HookError (RuntimeError)         a hook fired too rarely or saw another shape
    │   ├── SelfCheckError (RuntimeError)    what the hooks see is not what the model computes
    │   ├── MixedRunError (ValueError)       the rows would come from a run unlike the earlier one
    │   └── DiskSpaceError (OSError)         the disk cannot hold what the run would write
    ├── AnalysisError
    │   ├── TooFewRowsError (ValueError)     too few rows or groups, or a single class
    │   ├── ChanceError (ValueError)         a vector that is no better than chance was to be used
    │   ├── HarmError (ValueError)           a smaller type would cost more than was allowed
    │   └── MismatchError (ValueError)       a probe, vector or state made for other rows
    └── ExportError (ValueError)             the rows do not make up the layout that was asked for

A message says what failed, where, what was found against what was expected, and
what to do next. Each leaf is also the builtin that a caller would expect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


class ActstoreError(Exception):
    """Base of every error that actstore raises on purpose."""


class UsageError(ActstoreError, ValueError):
    """An argument or option cannot work as given."""


class PathError(UsageError):
    """A path is none of this machine's, of the wrong kind, or leads where nothing may be read."""


class MissingExtraError(ActstoreError, ImportError):
    """An optional dependency is missing; the message holds the install command."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the optional extra {extra!r}: pip install 'actstore[{extra}]'"
        )


class StoreError(ActstoreError):
    """Something about a store on disk."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store at the given path."""


class SnapshotNotFoundError(StoreError, LookupError):
    """The store has no commit of that number."""


class CorruptStoreError(StoreError, ValueError):
    """A manifest or shard does not hold what it should; ``path`` names it within the store."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class DamageError(CorruptStoreError):
    """Files are not what the manifest says, so nothing is returned or made of them, or removed.

    ``problems`` lists (path within the store, reason).
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__(message, problems[0][0])
        self.problems = tuple(problems)


class ReadError(StoreError, OSError):
    """The system could not read a file of a store, which may be whole; nothing stored is lost.

    ``path`` is the file; ``reason`` is what the system said, and ``errno`` its number for it.
    """

    def __init__(self, message: str, path: Path, reason: str, number: int | None) -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason
        self.errno = number

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.path, self.reason, self.errno)


class MissingFileError(ReadError, FileNotFoundError):
    """A file that was there, or should be, is not there."""


class ConflictError(StoreError, ValueError):
    """A row's key is already stored with a different vector, or came with another one before.

    ``row`` is the key as text; ``sources`` are where the row comes from and the one before it,
    where both came in one writing, and empty where the other one was stored before.
    """

    def __init__(self, message: str, row: str = "", sources: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.row = row
        self.sources = sources


class DivergedError(StoreError, RuntimeError):
    """Two copies of a store each have commits that the other lacks, or nobody can tell."""


class CommitError(StoreError, OSError):
    """A commit could not be written; the previous commit still stands."""


class IngestError(ActstoreError):
    """A source could not be turned into rows.

    ``path`` is the file that it is about, where it is about one; ``reason`` is the message
    without it, for lists in which the file's name stands beside.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason
        self.path = path


class RecipeError(IngestError, ValueError):
    """A recipe is malformed, or no recipe or more than one fits the source."""


class UnknownRecipeError(RecipeError, UsageError):
    """There is no recipe of that name, and no such file."""


class UnsafeFileError(IngestError, ValueError):
    """Opening the file would run code or exhaust memory."""


class UnreadableFileError(IngestError, ValueError):
    """The file is empty, truncated or not of the format its recipe names."""


class LayoutError(IngestError, ValueError):
    """The file opened, but its content does not fit the recipe."""


class ForeignFileError(LayoutError):
    """The file is of another kind than the recipe's; it counts as unmatched, not as refused."""


class SidecarError(IngestError, ValueError):
    """A sidecar table is missing, unreadable or does not join."""


class NonFiniteError(IngestError, ValueError):
    """NaN or infinity among the values."""


class PrecisionError(IngestError, ValueError):
    """The requested stored type could not hold the values."""


class RefusedError(IngestError, ValueError):
    """Nothing was stored because files were refused; ``refused`` lists (path, reason)."""

    def __init__(self, refused: Sequence[tuple[str, str]]) -> None:
        self.refused = tuple(refused)
        lines = "\n".join(f"  - {path}: {reason}" for path, reason in self.refused)
        files = "1 file was" if len(self.refused) == 1 else f"{len(self.refused)} files were"
        super().__init__(
            f"nothing was stored, because {files} refused and all or nothing was asked for:\n"
            f"{lines}\nrepair or remove them, or leave out --strict"
        )


class ContractError(IngestError, ValueError):
    """The data break a contract; ``violations`` lists every one."""

    def __init__(self, contract: str, violations: Sequence[str]) -> None:
        self.contract = contract
        self.violations = tuple(violations)
        lines = "\n".join(f"  - {violation}" for violation in self.violations)
        super().__init__(
            f"contract {contract} is broken in {len(self.violations)} places:\n{lines}"
        )


class QueryError(ActstoreError):
    """A question to the store could not be answered."""


class SqlError(QueryError, ValueError):
    """The SQL was refused or failed."""


class NotInStoreError(QueryError, LookupError):
    """A layer, site, model, label or column was asked for that the store does not have."""


class MixedVectorsError(QueryError, ValueError):
    """A matrix was asked of vectors that differ in width, or in where they were taken.

    ``differing`` has the columns in which they differ, each with its values.
    """

    def __init__(
        self, message: str, differing: Mapping[str, tuple[object, ...]] | None = None
    ) -> None:
        super().__init__(message)
        self.differing = dict(differing or {})


class StackError(QueryError, ValueError):
    """Examples lack one of the vectors that are to be stacked, or have several of one kind."""


class HubError(ActstoreError):
    """Something about a repository on the Hub; no message holds a token or a signed URL."""

    status: int | None = None
    """HTTP status of the answer, where there was one."""
    said: str = ""
    """What the Hub said in it, on one line and without secrets."""


class RepositoryNotFoundError(HubError, LookupError):
    """There is no such repository, or it is private and the token does not open it."""


class RevisionError(HubError, LookupError):
    """The repository has no such branch, tag or commit, or not of the kind that is needed."""


class RemoteFileError(HubError, FileNotFoundError):
    """The repository has no such file at that revision."""


class AccessError(HubError, PermissionError):
    """The Hub refuses: a gated repository, a token without the right, or an invalid one."""


class RateLimitError(HubError, ConnectionError):
    """The Hub asks to wait longer than is sensible; ``seconds`` says how long, if it did."""

    def __init__(self, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


class OfflineError(HubError, ConnectionError):
    """The Hub cannot be reached at all."""


class TransferError(HubError, ConnectionError):
    """A request failed again and again, or what arrived is not what the repository holds."""


class RemoteStoreError(HubError, ValueError):
    """What the repository holds is not a store, or a damaged or hostile one."""


class NoRemoteStoreError(RemoteStoreError):
    """The repository holds other files than a store; they may be ingested."""


class RemoteChangedError(HubError, RuntimeError):
    """Others have changed the repository in a way that this push would undo."""


class CardError(HubError, ValueError):
    """The Hub does not accept the card's metadata."""


class BucketError(ActstoreError):
    """Something about a bucket; no message holds a key or a signature."""


class BucketNotFoundError(BucketError, LookupError):
    """There is no such bucket where the store was looked for."""


class BucketAccessError(BucketError, PermissionError):
    """The bucket refuses: there are no credentials, or such as may not do this."""


class BucketConnectionError(BucketError, ConnectionError):
    """The server of the bucket cannot be reached, or fails again and again."""


class BucketConditionError(BucketError, RuntimeError):
    """The server ignores conditions of writes, so that one commit could overwrite another."""


class BucketFileError(BucketError, ValueError):
    """An object in the bucket is missing or not what the manifest says."""


class CaptureError(ActstoreError):
    """Activations could not be captured."""


class ModelError(CaptureError, ValueError):
    """The model's blocks were not found, or it is of a kind that cannot be captured."""


class ExampleError(CaptureError, ValueError):
    """The file of questions, or one of its rows, does not hold what it should."""


class HookError(CaptureError, RuntimeError):
    """A hook fired too rarely or too often, or saw something of another shape."""


class SelfCheckError(CaptureError, RuntimeError):
    """What the hooks see differs from what the model computes; the message has the numbers."""


class MixedRunError(CaptureError, ValueError):
    """The store holds rows of the same model and data set from a run with other settings."""


class DiskSpaceError(CaptureError, OSError):
    """The disk cannot hold what the run would write."""


class AnalysisError(ActstoreError):
    """An analysis could not be made."""


class TooFewRowsError(AnalysisError, ValueError):
    """There are too few rows or groups, or rows of one class only."""


class ChanceError(AnalysisError, ValueError):
    """No layer's vector is better than chance, and none was named to be used all the same."""


class HarmError(AnalysisError, ValueError):
    """A smaller type would cost probes more than was allowed, or what it costs cannot be told."""


class MismatchError(AnalysisError, ValueError):
    """A probe or vector is for another model, site, layer or width, a state for other rows."""


class ExportError(ActstoreError, ValueError):
    """The rows do not make up the layout that was asked for."""
