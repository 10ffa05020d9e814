"""What programs expect of a file system, tried in the directory that is the first argument. Prints a line for each fault."""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import sqlite3
import stat
import sys
import tempfile
import threading

os.chdir(sys.argv[1])
faults = 0


def trial(function):
    global faults
    here = tempfile.mkdtemp(dir=".")
    try:
        function(here)
    except Exception as fault:  # noqa: BLE001
        faults += 1
        print(f"{function.__name__}: {type(fault).__name__}: {fault}")
    shutil.rmtree(here)
    return function


def refused(number, function, *arguments, **named):
    try:
        function(*arguments, **named)
    except OSError as error:
        assert error.errno in number, error
    else:
        raise AssertionError("it was not refused")


@trial
def a_removed_file_stays_open(here):
    path = f"{here}/file"
    with open(path, "w+b", buffering=0) as file:
        file.write(b"before")
        os.unlink(path)
        refused([errno.ENOENT], os.stat, path)
        file.write(b" after")
        file.seek(0)
        assert file.read() == b"before after"
        assert os.fstat(file.fileno()).st_nlink == 0
        os.ftruncate(file.fileno(), 3)
        file.seek(0)
        assert file.read() == b"bef"


@trial
def a_file_that_is_replaced_stays_open(here):
    old, new = f"{here}/old", f"{here}/new"
    for path, text in (old, b"old"), (new, b"new"):
        with open(path, "wb") as file:
            file.write(text)
    with open(old, "r+b", buffering=0) as file:
        os.rename(new, old)
        assert file.read() == b"old"
        file.write(b"er")
        file.seek(0)
        assert file.read() == b"older"
        assert open(old, "rb").read() == b"new"


@trial
def what_is_removed_stays_what_it_was(here):
    made = {"dir": os.mkdir, "pipe": os.mkfifo, "link": lambda path: os.symlink("to", path)}
    for name, make in made.items():
        make(f"{here}/{name}")
        kept = os.open(f"{here}/{name}", os.O_PATH | os.O_NOFOLLOW)
        before = os.fstat(kept)
        (os.rmdir if name == "dir" else os.unlink)(f"{here}/{name}")
        after = os.fstat(kept)
        assert (after.st_ino, after.st_mode, after.st_nlink) == (before.st_ino, before.st_mode, 0), (name, after)
        if name == "link":
            assert os.readlink("", dir_fd=kept) == "to"
        os.close(kept)
    os.mkdir(f"{here}/old")
    os.mkdir(f"{here}/new")
    old = os.open(f"{here}/old", os.O_RDONLY)
    os.rename(f"{here}/new", f"{here}/old")
    assert os.fstat(old).st_nlink == 0 and os.listdir(old) == []
    refused([errno.ENOENT], os.mkdir, "in", 0o777, dir_fd=old)
    os.close(old)


@trial
def a_file_of_mode_0444_is_written_by_its_maker(here):
    file = os.open(f"{here}/object", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o444)
    os.write(file, b"object")
    os.lseek(file, 0, 0)
    assert os.read(file, 10) == b"object"
    os.close(file)
    assert stat.S_IMODE(os.stat(f"{here}/object").st_mode) == 0o444
    if os.geteuid():
        refused([errno.EACCES], open, f"{here}/object", "wb")


@trial
def writers_append(here):
    path = f"{here}/log"
    writers = [os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY) for _ in range(2)]
    for number in range(100):
        os.write(writers[number % 2], b"%03d\n" % number)
    assert open(path).read().split() == ["%03d" % number for number in range(100)]


@trial
def open_flags_hold(here):
    path = f"{here}/file"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
    refused([errno.EEXIST], os.open, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with open(path, "w") as file:
        file.write("long content")
    with open(path, "w") as file:
        assert os.fstat(file.fileno()).st_size == 0
    refused([errno.ENOTDIR], os.open, path, os.O_DIRECTORY)
    os.symlink("file", f"{here}/link")
    refused([errno.ELOOP], os.open, f"{here}/link", os.O_NOFOLLOW)
    # A file without a name is refused, so that programs take another way.
    refused([errno.EOPNOTSUPP], os.open, here, os.O_TMPFILE | os.O_RDWR)


@trial
def maps_are_shared(here):
    path = f"{here}/map"
    with open(path, "wb") as file:
        file.write(bytes(8192))
    with open(path, "r+b") as file, open(path, "r+b") as other:
        one, two = mmap.mmap(file.fileno(), 0), mmap.mmap(other.fileno(), 0)
        one[5000:5005] = b"hello"
        assert two[5000:5005] == b"hello"
        one.flush()
        assert open(path, "rb").read()[5000:5005] == b"hello"
        os.pwrite(other.fileno(), b"world", 100)
        assert one[100:105] == b"world"


@trial
def locks_hold(here):
    path = f"{here}/lock"
    open(path, "w").close()
    first, second = open(path, "r+"), open(path, "r+")
    fcntl.flock(first, fcntl.LOCK_EX)
    refused([errno.EAGAIN], fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(first, fcntl.LOCK_UN)
    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(first, fcntl.LOCK_EX, 10, 0)
    child = os.fork()
    if child == 0:
        try:
            fcntl.lockf(second, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
        except OSError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@trial
def sqlite_writes_ahead(here):
    path = f"{here}/base.db"
    base = sqlite3.connect(path, timeout=20)
    assert base.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    base.execute("create table t (n)")
    base.commit()

    def add():
        own = sqlite3.connect(path, timeout=20)
        for number in range(20):
            own.execute("insert into t values (?)", (number,))
            own.commit()
        own.close()

    writers = [threading.Thread(target=add) for _ in range(3)]
    [writer.start() for writer in writers]
    [writer.join() for writer in writers]
    assert base.execute("select count(*) from t").fetchone() == (60,)
    assert base.execute("pragma integrity_check").fetchone() == ("ok",)
    base.close()


@trial
def attributes_are_kept(here):
    path = f"{here}/file"
    open(path, "w").close()
    os.setxattr(path, "user.name", b"value")
    assert os.getxattr(path, "user.name") == b"value"
    assert os.listxattr(path) == ["user.name"]
    refused([errno.ENODATA], os.getxattr, path, "user.other")
    refused([errno.EEXIST], os.setxattr, path, "user.name", b"", os.XATTR_CREATE)
    os.removexattr(path, "user.name")
    assert os.listxattr(path) == []
    os.setxattr(here, "user.dir", b"x" * 1000)
    assert len(os.getxattr(here, "user.dir")) == 1000
    refused([errno.EOPNOTSUPP, errno.EPERM], os.setxattr, path, "trusted.x", b"")


@trial
def holes_are_kept(here):
    path = f"{here}/sparse"
    with open(path, "wb") as file:
        file.seek(10 << 20)
        file.write(b"end")
    assert os.stat(path).st_blocks < 1000
    with open(path, "r+b") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) > 9 << 20
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    assert os.stat(path).st_blocks >= 2048


@trial
def names_may_be_anything(here):
    names = [b"x" * 255, b"\xff\xfe", "é".encode(), "e\u0301".encode(), b"new\nline", b" ", b"-rf", b"a\\b", b"\x01"]
    for name in names:
        with open(here.encode() + b"/" + name, "wb") as file:
            file.write(name)
    assert sorted(os.listdir(here.encode())) == sorted(names)
    for name in names:
        assert open(here.encode() + b"/" + name, "rb").read() == name
    refused([errno.ENAMETOOLONG], open, f"{here}/" + "x" * 256, "w")


@trial
def a_path_may_be_long(here):
    at = os.open(here, os.O_RDONLY)
    for depth in range(250):
        os.mkdir("d" * 10, dir_fd=at)
        below = os.open("d" * 10, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    with open(os.open("file", os.O_CREAT | os.O_RDWR, dir_fd=at), "w+") as file:
        file.write("deep")
    assert os.stat("file", dir_fd=at).st_size == 4
    os.mkdir("x" * 255, dir_fd=at)
    deeper = os.open("x" * 255, os.O_RDONLY, dir_fd=at)
    for _ in range(4):
        os.mkdir("y", dir_fd=deeper)
        deeper = os.open("y", os.O_RDONLY, dir_fd=deeper)
    refused([errno.ENAMETOOLONG], os.mkdir, "y", dir_fd=deeper)


@trial
def times_and_modes_are_exact(here):
    path = f"{here}/file"
    open(path, "w").close()
    os.utime(path, ns=(1_000_000_001, 2_000_000_003))
    found = os.stat(path)
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_001, 2_000_000_003)
    os.utime(path, ns=(-1_000_000_001, -2_000_000_003))
    assert os.stat(path).st_mtime_ns == -2_000_000_003
    for mode in 0o755, 0o600, 0o000, 0o644:
        os.chmod(path, mode)
        assert stat.S_IMODE(os.stat(path).st_mode) == mode
    os.chmod(path, 0o6755)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
    os.symlink("nowhere", f"{here}/link")
    os.utime(f"{here}/link", ns=(5, 6), follow_symlinks=False)
    assert os.lstat(f"{here}/link").st_mtime_ns == 6
    with open(path, "w") as file:
        file.write("#!/bin/sh\nexit 3\n")
    os.chmod(path, 0o755)
    assert os.waitstatus_to_exitcode(os.system(path)) == 3


@trial
def links_are_one_file(here):
    one, two = f"{here}/one", f"{here}/two"
    with open(one, "w") as file:
        file.write("text")
    os.link(one, two)
    assert os.path.samefile(one, two) and os.stat(one).st_nlink == 2
    with open(two, "a") as file:
        file.write(" more")
    assert open(one).read() == "text more"
    os.unlink(one)
    assert open(two).read() == "text more" and os.stat(two).st_nlink == 1


@trial
def names_move(here):
    libc = ctypes.CDLL(None, use_errno=True)

    def renameat2(old, new, flags):
        if libc.renameat2(-100, old.encode(), -100, new.encode(), flags):
            raise OSError(ctypes.get_errno(), "renameat2")

    os.makedirs(f"{here}/a/b/c")
    open(f"{here}/a/b/c/file", "w").write("deep")
    inside = os.open(f"{here}/a/b", os.O_PATH)
    os.rename(f"{here}/a", f"{here}/z")
    assert open(f"{here}/z/b/c/file").read() == "deep"
    assert os.stat("c/file", dir_fd=inside).st_size == 4
    os.close(inside)
    refused([errno.EINVAL], os.rename, f"{here}/z", f"{here}/z/b/z")
    refused([errno.ENOTEMPTY, errno.EEXIST], os.rmdir, f"{here}/z")
    open(f"{here}/x", "w").write("x")
    open(f"{here}/y", "w").write("y")
    renameat2(f"{here}/x", f"{here}/y", 2)
    assert (open(f"{here}/x").read(), open(f"{here}/y").read()) == ("y", "x")
    refused([errno.EEXIST], renameat2, f"{here}/x", f"{here}/y", 1)


@trial
def pipes_and_sockets_are_there(here):
    import socket

    os.mkfifo(f"{here}/pipe")
    writer = threading.Thread(target=lambda: open(f"{here}/pipe", "w").write("through"))
    writer.start()
    assert open(f"{here}/pipe").read() == "through"
    writer.join()
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{here}/socket")
    server.listen()
    socket.socket(socket.AF_UNIX).connect(f"{here}/socket")
    refused([errno.EPERM, errno.EACCES], os.mknod, f"{here}/device", stat.S_IFCHR | 0o600, os.makedev(1, 3))


@trial
def the_owner_stays(here):
    found = os.stat(here)
    os.chown(here, found.st_uid, found.st_gid)
    os.chown(here, -1, found.st_gid)
    if os.geteuid() == 0:
        refused([errno.EPERM], os.chown, here, found.st_uid + 1, -1)
        refused([errno.EPERM], os.chown, here, -1, found.st_gid + 1)


@trial
def room_is_told(here):
    found = os.statvfs(here)
    assert found.f_blocks > 0 and found.f_bavail <= found.f_blocks and found.f_namemax == 255


@trial
def a_directory_is_listed_while_it_changes(here):
    for number in range(500):
        open(f"{here}/{number}", "w").close()
    seen = set()
    for entry in os.scandir(here):
        seen.add(entry.name)
        os.unlink(entry.path)
    assert len(seen) == 500 and os.listdir(here) == []


@trial
def data_is_copied_in_the_kernel(here):
    with open(f"{here}/from", "w+b") as source, open(f"{here}/to", "w+b") as to:
        source.write(os.urandom(300_000))
        source.flush()
        copied = 0
        while copied < 300_000:
            copied += os.copy_file_range(source.fileno(), to.fileno(), 300_000 - copied, copied, copied)
        os.fsync(to.fileno())
        source.seek(0)
        assert source.read() == open(f"{here}/to", "rb").read()
    directory = os.open(here, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


print(f"{faults} faults")
