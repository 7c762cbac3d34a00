"""Memory that comes back is never that of a matrix somebody still looks at."""

import gc
import threading

import numpy as np
import pytest

from actstore.storage.buffer_pool import Memory

_ROWS, _WIDTH = 300, 4096  # above what is left to the system's allocator


def address(matrix: np.ndarray) -> int:
    return int(matrix.__array_interface__["data"][0])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_matrix_that_was_let_go_makes_the_next_one(dtype: str) -> None:
    memory = Memory()
    first = memory.matrix(_ROWS, _WIDTH, dtype)  # type: ignore[arg-type]
    assert (first.shape, str(first.dtype)) == ((_ROWS, _WIDTH), dtype)
    assert first.flags.c_contiguous
    assert first.flags.writeable
    place = address(first)
    del first
    assert address(memory.matrix(_ROWS - 1, _WIDTH, dtype)) == place  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "keep",
    [
        lambda matrix: matrix,
        lambda matrix: matrix[5:7],
        lambda matrix: matrix[5:7][:, 3:9].T[::2],
        lambda matrix: matrix.view(np.uint16).reshape(-1)[4:],
        lambda matrix: memoryview(matrix)[2:],
        lambda matrix: np.asarray(memoryview(matrix))[2:],
        lambda matrix: np.broadcast_to(matrix[3], (4, _WIDTH)),
    ],
    ids=["itself", "rows", "cut of a cut", "other type", "buffer", "through a buffer", "broadcast"],
)
def test_what_is_cut_out_of_a_matrix_keeps_its_memory(keep: object) -> None:
    memory = Memory()
    matrix = memory.matrix(_ROWS, _WIDTH, "float16")
    matrix[...] = 7
    part = keep(matrix)  # type: ignore[operator]
    place = address(matrix)
    del matrix
    gc.collect()
    others = [memory.matrix(_ROWS, _WIDTH, "float16") for _ in range(3)]
    for other in others:
        other[...] = 9
    assert place not in [address(other) for other in others]
    whole = np.asarray(part)
    assert (whole == (7 if whole.dtype == np.float16 else np.float16(7).view(np.uint16))).all()


def test_a_tensor_keeps_its_memory() -> None:
    torch = pytest.importorskip("torch")
    memory = Memory()
    tensor = torch.from_numpy(memory.matrix(_ROWS, _WIDTH, "float16"))[2:].view(-1)
    tensor.fill_(7)
    memory.matrix(_ROWS, _WIDTH, "float16")[...] = 9
    assert bool((tensor == 7).all())


def test_a_matrix_twice_as_large_as_needed_is_not_spent_on_a_small_one() -> None:
    memory = Memory()
    large = memory.matrix(4 * _ROWS, _WIDTH, "float16")
    place = address(large)
    del large
    small = memory.matrix(_ROWS, _WIDTH, "float16")
    assert address(small) != place
    assert address(memory.matrix(4 * _ROWS, _WIDTH, "float16")) == place


def test_no_more_is_kept_than_allowed_and_nothing_after_closing() -> None:
    size = _ROWS * _WIDTH * 2
    memory = Memory(kept_bytes=2 * size)
    matrices = [memory.matrix(_ROWS, _WIDTH, "float16") for _ in range(5)]
    matrices.clear()
    assert sum(block.size for block in memory._free.values()) == 2 * size
    held = memory.matrix(_ROWS, _WIDTH, "float16")
    memory.close()
    del held
    assert not memory._free


def test_threads_never_get_the_same_memory() -> None:
    memory = Memory()
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            matrix = memory.matrix(_ROWS, _WIDTH, "float16")
            matrix[...] = number
            if not bool((matrix == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
