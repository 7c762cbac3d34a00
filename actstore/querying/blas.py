"""One thread of BLAS for each of ours, where ours keep all cores busy.

OpenBLAS lets its threads work for one caller at a time, and those that wait for their turn, or for
each other, spin: two of our threads that multiply matrices on two cores take longer than one would
alone, and on a machine with other work several times as long.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

from actstore.storage.threads import workers

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Hold BLAS to one thread, in the whole process, until this is left.

    Where several threads ask for it, it is held until the first of them leaves. Where BLAS has more
    threads than we have, on machines of many cores, nothing is done: a product may have them all.
    """
    controller = _controller()
    if any(library.num_threads > workers() for library in controller.lib_controllers):
        return nullcontext()
    held: AbstractContextManager[object] = controller.limit(limits=1)
    return held


@cache
def _controller() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
