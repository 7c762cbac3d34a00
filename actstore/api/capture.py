"""The public face of capturing: asks a model, and returns the rows of what was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from actstore.api.selection import Selection
from actstore.api.store import open as open_store
from actstore.capturing.run.capture import capture as run_capture
from actstore.capturing.run.summary import CaptureSummary

if TYPE_CHECKING:
    from actstore.capturing.prompts.example import Example
    from actstore.capturing.run.options import CaptureOptions
    from actstore.capturing.run.summary import CaptureProgress


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CaptureResult(CaptureSummary):
    """What a capture did, and with :meth:`selection` the rows of what was asked."""

    def selection(self) -> Selection:
        """Return the rows of what was asked, in their order, at the commit of this capture.

        Raises:
            UsageError: it was a dry run, which stores nothing.
            StoreNotFoundError: every example was refused, and there is no store yet.
        """
        asked = self._asked()
        return open_store(asked.store, asked.commit).rows_at(asked.rows)


def capture(
    model: Any,
    processor: Any,
    examples: Iterable[Example | Mapping[str, Any]],
    *,
    store: str | Path,
    progress: Callable[[CaptureProgress], None] | None = None,
    **options: Unpack[CaptureOptions],
) -> CaptureResult:
    """Capture activations of ``model`` while it reads, and answers, ``examples``.

    What the store has is not computed again; the result gives the rows of all examples, in
    the order asked. Arguments and errors are those of
    :func:`actstore.capturing.run.capture.capture`.

    Args:
        model: a decoder of transformers; None where everything is stored.
        processor: its tokenizer, or its processor where it sees images.
        examples: mappings with ``id``, ``question`` and more, or a data set or data frame.
        store: folder of the store, made when missing.
        progress: called after every batch.
        options: ``layers``, ``sites``, ``pool``, ``max_new_tokens``, ``dataset`` and the others.

    Raises:
        ActstoreError: as there.
    """
    done = run_capture(model, processor, examples, store=store, progress=progress, **options)
    return CaptureResult(**{each.name: getattr(done, each.name) for each in fields(done)})
