"""A file system without hard links, as FAT is one: a folder served through /dev/fuse by hand."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path

HEADER = struct.Struct("<IIQQIIII")
NO_ANSWER = (2, 42)
"""FORGET and BATCH_FORGET."""


class Server:
    """Answers the kernel's requests about one folder, each by a call of the system below it."""

    def __init__(self, below: str) -> None:
        self.paths = {1: below}
        self.numbers = {below: 1}
        self.answers: dict[int, Callable[[int, bytes], bytes]] = {
            1: self.lookup,
            3: self.attributes,
            4: self.set_attributes,
            9: self.mkdir,
            10: self.unlink,
            11: self.rmdir,
            12: lambda node, data: self.rename(node, data[:8], data[8:]),
            13: self.link,
            14: self.open,
            15: self.read,
            16: self.write,
            17: self.statfs,
            18: self.close,
            20: lambda node, data: b"",
            25: lambda node, data: b"",
            26: self.begin,
            27: lambda node, data: bytes(16),
            28: self.names,
            29: lambda node, data: b"",
            30: lambda node, data: b"",
            35: self.create,
            45: lambda node, data: self.rename(node, data[:8], data[16:]),
        }

    def serve(self, device: int) -> None:
        """Answer until the file system is unmounted."""
        while True:
            try:
                request = os.read(device, 1 << 18)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise
            _, what, unique, node, *_ = HEADER.unpack_from(request)
            if what in NO_ANSWER:
                continue
            code, answer = 0, b""
            try:
                answer = self.answers[what](node, request[HEADER.size :])
            except KeyError:
                code = errno.ENOSYS
            except OSError as error:
                code = error.errno or errno.EIO
            os.write(device, struct.pack("<IiQ", 16 + len(answer), -code, unique) + answer)

    def child(self, node: int, name: bytes) -> str:
        return os.path.join(self.paths[node], os.fsdecode(name.split(b"\0")[0]))

    def begin(self, node: int, data: bytes) -> bytes:
        return struct.pack("<IIIIHHIIHHI7I", 7, 31, 1 << 16, 0, 8, 8, 1 << 16, 1, 0, 0, 0, *[0] * 7)

    def about(self, path: str) -> bytes:
        found = os.lstat(path)
        times = [found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns]
        return struct.pack(
            "<6Q10I",
            self.numbers[path],
            found.st_size,
            found.st_blocks,
            *(each // 10**9 for each in times),
            *(each % 10**9 for each in times),
            found.st_mode,
            1,
            found.st_uid,
            found.st_gid,
            0,
            4096,
            0,
        )

    def entry(self, path: str) -> bytes:
        os.lstat(path)
        number = self.numbers.setdefault(path, len(self.paths) + 1)
        self.paths[number] = path
        return struct.pack("<4QII", number, 0, 0, 0, 0, 0) + self.about(path)

    def lookup(self, node: int, data: bytes) -> bytes:
        return self.entry(self.child(node, data))

    def attributes(self, node: int, data: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self.about(self.paths[node])

    def set_attributes(self, node: int, data: bytes) -> bytes:
        wanted, _, _, size = struct.unpack_from("<IIQQ", data)
        if wanted & 1 << 3:
            os.truncate(self.paths[node], size)
        if wanted & 1:
            os.chmod(self.paths[node], stat.S_IMODE(struct.unpack_from("<I", data, 68)[0]))
        return self.attributes(node, data)

    def mkdir(self, node: int, data: bytes) -> bytes:
        path = self.child(node, data[8:])
        os.mkdir(path, struct.unpack_from("<I", data)[0])
        return self.entry(path)

    def unlink(self, node: int, data: bytes) -> bytes:
        os.unlink(self.child(node, data))
        return b""

    def rmdir(self, node: int, data: bytes) -> bytes:
        os.rmdir(self.child(node, data))
        return b""

    def rename(self, node: int, to: bytes, names: bytes) -> bytes:
        old, new = names.split(b"\0")[:2]
        one, other = self.child(node, old), self.child(struct.unpack("<Q", to)[0], new)
        os.rename(one, other)
        for path, number in list(self.numbers.items()):
            if path == one or path.startswith(one + "/"):
                moved = other + path[len(one) :]
                self.numbers.pop(path)
                self.numbers[moved], self.paths[number] = number, moved
        return b""

    def link(self, node: int, data: bytes) -> bytes:
        raise PermissionError(errno.EPERM, "no hard links here")

    def open(self, node: int, data: bytes) -> bytes:
        flags = struct.unpack_from("<I", data)[0]
        return struct.pack("<QII", os.open(self.paths[node], flags & ~os.O_NOFOLLOW), 0, 0)

    def create(self, node: int, data: bytes) -> bytes:
        flags, mode = struct.unpack_from("<II", data)
        path = self.child(node, data[16:])
        file = os.open(path, flags | os.O_CREAT, mode)
        return self.entry(path) + struct.pack("<QII", file, 0, 0)

    def close(self, node: int, data: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", data)[0])
        return b""

    def read(self, node: int, data: bytes) -> bytes:
        file, at, size = struct.unpack_from("<QQI", data)
        return os.pread(file, size, at)

    def write(self, node: int, data: bytes) -> bytes:
        file, at, size = struct.unpack_from("<QQI", data)
        return struct.pack("<II", os.pwrite(file, data[40 : 40 + size], at), 0)

    def statfs(self, node: int, data: bytes) -> bytes:
        return struct.pack(
            "<5Q10I", 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, *[0] * 8
        )

    def names(self, node: int, data: bytes) -> bytes:
        _, first, size = struct.unpack_from("<QQI", data)
        found, answer = [".", "..", *sorted(os.listdir(self.paths[node]))], b""
        for number, name in enumerate(map(os.fsencode, found[first:]), start=first + 1):
            entry = struct.pack("<QQII", 1, number, len(name), 0) + name
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer


def mount(below: Path, at: Path) -> None:
    """Serve one folder as another, until that is unmounted."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(b"no-links", bytes(at), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "it cannot be mounted")
    print("mounted", flush=True)
    Server(str(below)).serve(device)


if __name__ == "__main__":
    mount(Path(sys.argv[1]), Path(sys.argv[2]))
