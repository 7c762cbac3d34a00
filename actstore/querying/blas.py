"""One thread of BLAS for each of ours, where ours keep all cores busy.

OpenBLAS lets its threads work for one caller at a time, and those that wait for their turn, or for
each other, spin: two of our threads that multiply matrices on two cores take longer than one would
alone, and on a machine with other work several times as long.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

from actstore.storage.threads import workers

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Hold BLAS to one thread, in the whole process, until this is left.

    Where several threads ask for it, it is held until the first of them leaves. On machines of more
    cores than we have threads nothing is done: one product may have several there.
    """
    if (os.cpu_count() or 1) > workers():
        return nullcontext()
    held: AbstractContextManager[object] = _controller().limit(limits=1)
    return held


@cache
def _controller() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
