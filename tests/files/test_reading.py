"""What is read from a file is what was written, or one kind of error; nothing else comes out."""

import hashlib
import json
import os
import random
import socket
import threading
import time

import numpy as np
import pytest
from filelock import FileLock

from benchmarks.report.pictures import ReportFiles, scaling
from hierdiff.config import from_yaml
from hierdiff.files.arrays import read_npy, read_npz, write_npz
from hierdiff.files.cache import built_by_one, kept_array
from hierdiff.files.digest import check_seal, read_json, seal, write_json
from hierdiff.files.reading import Damaged, read_text

F32 = np.dtype("float32")
ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """One to three bits turned over, or cut short, or a piece of other bytes."""
    spoilt = bytearray(content)
    kind = chance.choice(["flip", "flip", "flip", "cut", "noise"])
    if kind == "cut":
        return bytes(spoilt[: chance.randrange(len(spoilt))])
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(spoilt))
        spoilt[place] = (
            chance.randrange(256) if kind == "noise" else spoilt[place] ^ (1 << chance.randrange(8))
        )
    return bytes(spoilt)


def npz(path, compressed):
    (np.savez_compressed if compressed else np.savez)(path, a=ARRAY, b=np.asarray("text"))


WRITERS = {
    "a.npy": lambda path: np.save(path, ARRAY),
    "stored.npz": lambda path: npz(path, False),
    "deflated.npz": lambda path: npz(path, True),
    "a.json": lambda path: write_json(path, {"value": [1.5, "two", None]}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_any_damage_is_one_kind_of_error_or_harmless(tmp_path, name):
    """Of 150 damages of each format; .npy alone has no digest, so that its numbers may differ."""
    path, chance = tmp_path / name, random.Random(name)
    WRITERS[name](path)
    read = {"npy": read_npy, "npz": read_npz, "json": read_json}[name.rpartition(".")[2]]
    content, read_back, refused = path.read_bytes(), read(path), 0
    wanted = repr(read_back)
    for _ in range(150):
        path.write_bytes(damaged(content, chance))
        try:
            found = read(path)
        except Damaged as error:
            assert str(path) in str(error)
            refused += 1
            continue
        if name.endswith(".npz"):  # a name may be damaged, what it names is not
            found = {**read_back, **found}
            found = {key: found[key] for key in read_back}
        if name != "a.npy":
            assert repr(found) == wanted
    assert refused > 40


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-6, -1)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (5,)}",
        "{'descr': '<f4', 'fortran_order': False",
        "__import__('os').getpid()",
        "(" * 5000,
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused_before_memory_is_taken(tmp_path, header):
    text = header.encode() + b"\n"
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 24)
    with pytest.raises(Damaged):
        read_npy(path)


def test_arrays_of_every_form_come_back(tmp_path):
    for array in (ARRAY, np.asfortranarray(ARRAY), np.zeros((0, 3), np.uint8), np.array(7.5)):
        np.save(tmp_path / "a.npy", array)
        found = read_npy(tmp_path / "a.npy")
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    write_npz(tmp_path / "a.npz", {"a": ARRAY, "b": np.asarray("x")})
    found = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["a"], ARRAY)
    assert str(found["b"]) == "x" and found["a"].flags.writeable


def test_an_archive_that_unpacks_to_more_than_its_limit_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1_000_000))
    with pytest.raises(Damaged, match="more than 1000"):
        read_npz(tmp_path / "a.npz", limit=1000)


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
def test_what_is_no_file_is_never_opened(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    for read in (read_npy, read_npz, read_json):
        with pytest.raises(Damaged, match="no regular file"):
            read(path)
    with pytest.raises(OSError, match="no regular file"):
        read_text(path)


def test_an_absent_file_is_told_from_a_damaged_one(tmp_path):
    for read in (read_npy, read_npz, read_json, read_text, check_seal):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")


def test_text_has_the_lines_that_its_writer_meant(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa\u2028b\u0085c\r\nd\re\x0b\x0cf\n".encode())
    assert read_text(path).split("\n") == ["a\u2028b\u0085c", "d", "e\x0b\x0cf", ""]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_text_that_is_no_utf_8_names_its_line(tmp_path, bom):
    path = tmp_path / "a.txt"
    path.write_bytes(bom + b"one\ntwo\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"a\.txt:3 is no UTF-8 .*: save the file as UTF-8"):
        read_text(path)


def test_a_seal_holds_until_the_file_is_written_to(tmp_path, monkeypatch):
    path, reads = tmp_path / "a.bin", []
    path.write_bytes(b"0123")
    with pytest.raises(FileNotFoundError):
        check_seal(path)
    seal(path, hashlib.sha256(b"0123").hexdigest())
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: reads.append(None) or digest(*given))
    for _ in range(3):
        check_seal(path)
    assert len(reads) == 1
    about = path.stat()
    with path.open("r+b") as file:
        file.write(b"9")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    with pytest.raises(Damaged, match="does not match its sha256"):
        check_seal(path)
    path.write_bytes(b"0123")
    check_seal(path)
    assert len(reads) == 3


def test_a_damaged_seal_is_no_seal(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123")
    for told in ({"sha256": "0" * 64}, {}, [], None):
        write_json(tmp_path / "a.bin.seal", told)
        with pytest.raises(Damaged):
            check_seal(path)
    (tmp_path / "a.bin.seal").write_text(json.dumps({"content": {}}))
    with pytest.raises(Damaged):
        check_seal(path)


def test_any_damage_of_a_kept_array_or_its_seal_makes_it_again(tmp_path, caplog):
    path, chance = tmp_path / "a.npy", random.Random(0)
    kept_array(path, ARRAY.shape, F32, [ARRAY])
    beside = path.with_name("a.npy.seal")
    for file in [path] * 20 + [beside] * 20:
        file.write_bytes(damaged(file.read_bytes(), chance))
        found = kept_array(path, ARRAY.shape, F32, [ARRAY[:1], ARRAY[1:]])
        np.testing.assert_array_equal(found, ARRAY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "a.npy.seal"]
    assert caplog.text.count("is made again") > 20


def test_what_killed_builders_left_is_removed_by_the_next(tmp_path):
    left = tmp_path / ".a.npy.0123.part"
    (left / "deep").mkdir(parents=True)
    other = tmp_path / ".b.npy.0123.part"
    other.touch()
    kept_array(tmp_path / "a.npy", ARRAY.shape, F32, [ARRAY])
    assert not left.exists() and other.exists()


def test_one_builds_while_others_wait_and_none_takes_the_name_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)
    inside, most, names = [], [], set()

    def work():
        with built_by_one(tmp_path / "a") as part:
            inside.append(None)
            most.append(len(inside))
            names.add(part)
            part.touch()
            time.sleep(0.002)
            assert part.exists()
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) == len(names) == 12
    assert list(tmp_path.iterdir()) == []


def test_without_locks_all_build(tmp_path, monkeypatch):
    def none(*given, **more):
        raise NotImplementedError("no flock")

    monkeypatch.setattr(FileLock, "acquire", none)
    with built_by_one(tmp_path / "a") as first, built_by_one(tmp_path / "a") as second:
        first.touch()
        assert second != first and first.exists()


@pytest.mark.parametrize("name", ["config.yaml", "scaling.json"])
def test_a_pipe_among_the_files_of_a_run_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    if name == "config.yaml":
        with pytest.raises(OSError, match="no regular file"):
            from_yaml(tmp_path / name)
    else:
        files = ReportFiles()
        assert list(scaling([tmp_path], files)) == []
        assert "no regular file" in files.broken[0]
