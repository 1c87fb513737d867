"""The library of the step in C is there wherever it can be made: else its tests are skipped."""

import os
import platform
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sparseae.engine import library
from sparseae.engine.library import Buffers, Compiled, compiled, turned
from tests.marks import with_c

DTYPES = [torch.float32, torch.float64]


def can_be_made() -> bool:
    return (
        library._compiler() is not None
        and torch.backends.cpu.get_cpu_capability() in library._VECTORS
    )


@pytest.mark.skipif(not can_be_made(), reason="there is no C compiler, or no AVX2")
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_can_be_compiled_computes_right(dtype):
    assert library.compiled(dtype) is not None


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("right", [True, False])
def test_what_is_not_there_or_computes_wrong_is_not_compiled(monkeypatch, there, right):
    made = SimpleNamespace()
    monkeypatch.setattr(library, "_library", lambda dtype: made if there else None)
    monkeypatch.setattr(library, "Compiled", lambda *told: told)
    monkeypatch.setattr(
        library, "_right", lambda *asked: right and asked == ((made, torch.float32), torch.float32)
    )
    library.compiled.cache_clear()
    expected = (made, torch.float32) if there and right else None
    assert library.compiled(torch.float32) == expected
    library.compiled.cache_clear()


def test_hidden_units_lie_turned_over_with_a_register_to_spare():
    like = torch.zeros(2, dtype=torch.float64)
    room = turned(like, rows=5, m=3)
    assert (room.shape, room.stride(), room.dtype) == ((5, 3), (1, 5), torch.float64)
    assert room.untyped_storage().nbytes() == (5 * 3 + 16) * 8


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize(("rows", "padded"), [(1, 16), (16, 16), (17, 32)])
def test_the_matrices_of_a_step_have_room_for_its_rows(rows, padded, smooth, several):
    m, n = 5, 7
    own = Buffers(torch.zeros(m, n, dtype=torch.float64), rows, smooth=smooth, several=several)
    shapes = {name: tuple(t.shape) for name, t in vars(own).items() if t is not None}
    known = {
        "A": (m, 2 * rows), "X": (2 * rows, n), "a": (rows, m), "dh": (rows, m), "units": (3, m),
        # As products.c takes it: x turned over and padded, and columns that fill no register.
        "room": (n * padded + (m + 2 * rows) * 16,),
    }  # fmt: skip
    if smooth:
        known |= dict.fromkeys(("h", "slope", "curvature"), (rows, m))
    if several:
        known["clean"] = (rows, n)
    assert shapes == known
    assert {t.dtype for t in vars(own).values() if t is not None} == {torch.float64}
    turned_over = [t for t in (own.a, own.dh, own.h, own.slope, own.curvature) if t is not None]
    assert {t.stride() for t in turned_over} == {(1, rows)}
    assert len({t.data_ptr() for t in turned_over}) == len(turned_over)


@with_c
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "m", "n"), [(5, 3, 7), (17, 9, 16), (16, 4, 33)])
def test_products_in_c_are_those_of_torch_wherever_their_operands_lie(dtype, rows, m, n):
    stream = torch.Generator().manual_seed(0)

    def noise(*size):
        return torch.randn(*size, generator=stream, dtype=torch.float64).to(dtype)

    c, x, W, b = compiled(dtype), noise(n, rows).t(), noise(m, n), noise(m)
    A, X, V = noise(m, 2 * rows), noise(2 * rows, n), noise(m, n)
    room = turned(W, rows + 2, m)[:rows]
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}

    def close(one, other):
        torch.testing.assert_close(one, other, **near)

    h = c.encode(x, W, b)
    assert h.stride() == c.hidden(W, rows, m).stride() == (1, rows)
    assert c.hidden(W, rows, m).shape == (rows, m)
    close(h, x @ W.T + b)
    assert c.encode(x, W, None, room) is room
    close(room, x @ W.T)
    apart = turned(W, 2 * rows, m)[::2].copy_(h)
    for own in (h, room, h.contiguous(), apart):
        out = torch.empty(rows, n, dtype=dtype)
        assert c.decode(own, W, out) is out
        close(out, own @ W)
        assert c.residual(own, W, x, 0.3, out) is out
        close(out, 0.3 * (own @ W - x))
    for method in ("gradient", "accumulate"):
        sums = V.clone()
        assert getattr(c, method)(A, X, sums, 0.9) is (sums if method == "gradient" else None)
        close(sums, 0.9 * V + A @ X)


@pytest.fixture
def asked(monkeypatch):
    """What `_library` asks to be loaded, on a machine that has all; nothing is compiled."""
    found = []
    monkeypatch.setattr(library, "_of_cache", lambda *told: found.append(told) or "library")
    monkeypatch.setattr(library, "_compiler", lambda: ["gcc", "-m64"])
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    library._library.cache_clear()
    yield found
    library._library.cache_clear()


def test_both_sources_are_compiled_for_the_type_and_the_processor(asked):
    sources = [Path(library.__file__).with_name(name) for name in ("products.c", "step.c")]
    text = "".join(source.read_text() for source in sources)
    for dtype, real, integer in (
        (torch.float32, "float", "int"),
        (torch.float64, "double", "long long"),
    ):
        assert library._library(dtype) == "library"
        name, command, source = asked.pop()
        assert command == ["gcc", "-m64", *library._FLAGS, "-mavx2", "-x", "c", "-"]
        assert source == f"#define REAL {real}\n#define INTEGER {integer}\n{text}"
        assert name.startswith("step-")
        assert name.endswith(".so")
        assert len(name) == len("step-.so") + 16


def test_whatever_a_library_is_made_of_names_it(asked, monkeypatch):
    def name() -> str:
        library._library.cache_clear()
        library._library(torch.float32)
        return asked[-1][0]

    names = [name(), name()]
    assert names[0] == names.pop()
    library._library(torch.float64)
    names.append(asked[-1][0])
    for module, what, value in (
        (library, "_compiler", lambda: ["gcc"]),
        (library, "_FLAGS", ("-O0",)),
        (platform, "machine", lambda: "x86_65"),
        (platform, "libc_ver", lambda: ("musl", "1.2")),
        (platform, "libc_ver", lambda: ("musl", "1.3")),
        (torch.backends.cpu, "get_cpu_capability", lambda: "AVX512"),
    ):
        monkeypatch.setattr(module, what, value)
        names.append(name())
    assert len(set(names)) == len(names) == 8


def test_what_no_compiler_or_processor_or_type_is_there_for_is_not_asked_for(asked, monkeypatch):
    assert library._library(torch.float16) is None
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert library._library(torch.float32) is None
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(library, "_compiler", lambda: None)
    library._library.cache_clear()
    assert library._library(torch.float32) is None
    assert asked == []


@pytest.mark.parametrize(
    "error",
    [OSError("full"), RuntimeError("no such flag\nmore"), subprocess.SubprocessError("late")],
)
def test_without_the_cache_it_is_made_in_a_folder_of_its_own_or_said_why_not(
    asked, monkeypatch, caplog, error
):
    def fails(*told):
        raise error

    made = []

    def loaded(file, *told):
        assert file.parent.is_dir()
        made.append((file, *told))
        return "own"

    monkeypatch.setattr(library, "_of_cache", lambda *told: asked.append(told) or fails())
    monkeypatch.setattr(library, "_loaded", loaded)
    assert library._library(torch.float32) == "own"
    ((file, *told),) = made
    assert (file.name, *told) == asked[0]
    assert not file.parent.exists()
    assert not caplog.records
    monkeypatch.setattr(library, "_loaded", fails)
    library._library.cache_clear()
    assert library._library(torch.float32) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    said = "step.c could not be compiled, and torch does its work: "
    assert record.getMessage() == said + str(error).split("\n")[0]


#: Compiles what is quickly compiled.
COMPILE = [*(library._compiler() or ["cc"]), "-shared", "-fPIC", "-x", "c", "-"]


@pytest.mark.skipif(library._compiler() is None, reason="there is no C compiler")
def test_a_library_is_made_whole_for_this_user_alone_and_once(tmp_path):
    file = tmp_path / "seven.so"
    assert library._loaded(file, COMPILE, "int seven(void) { return 7; }")["seven"]() == 7
    assert list(tmp_path.iterdir()) == [file]
    assert stat.S_IMODE(file.stat().st_mode) == 0o700
    assert library._loaded(file, ["no-such-compiler"], "")["seven"]() == 7


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(tmp_path):
    for says, quoted in (("import sys; sys.exit('  bad flag ')", "bad flag"), ("exit(3)", "3")):
        command = [sys.executable, "-c", says]
        with pytest.raises(RuntimeError) as raised:
            library._loaded(tmp_path / "none.so", command, "")
        assert str(raised.value) == f"{sys.executable}: {quoted}"
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_has_the_source_on_its_input_and_is_told_where_to_write(tmp_path):
    says = (
        "import pathlib, sys; print('noise'); option, place = sys.argv[1:];"
        "assert option == '-o';"
        "pathlib.Path(place).write_text('half'); sys.exit(sys.stdin.read())"
    )
    with pytest.raises(RuntimeError, match=r"the source$"):
        library._loaded(tmp_path / "none.so", [sys.executable, "-c", says], "the source")
    assert list(tmp_path.iterdir()) == []  # nor the half that was written


def test_a_compiler_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "_PATIENCE", 0.05)
    with pytest.raises(subprocess.TimeoutExpired):
        library._loaded(
            tmp_path / "none.so", [sys.executable, "-c", "import signal; signal.pause()"], ""
        )


def test_nobody_elses_place_is_trusted(monkeypatch):
    monkeypatch.setattr(library.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(library.os, "getegid", lambda: 1000)

    def trusted(mode, uid=1000, gid=1000):
        found = SimpleNamespace(st_mode=mode, st_uid=uid, st_gid=gid)
        place = SimpleNamespace(lstat=lambda: found)
        try:
            library._require_own(place)
        except PermissionError as error:
            assert str(error).endswith(": others could have written there")
            return False
        return True

    folder, file, sticky = stat.S_IFDIR, stat.S_IFREG, stat.S_ISVTX
    assert trusted(folder | 0o755)
    assert trusted(file | 0o755)
    assert trusted(folder | 0o755, uid=0, gid=0)
    assert not trusted(folder | 0o755, uid=1001)
    assert not trusted(folder | 0o755, uid=1)
    assert not trusted(folder | 0o757)
    assert not trusted(file | 0o646)
    assert trusted(folder | 0o775)  # by the user's own group
    assert trusted(folder | 0o775, gid=0)
    assert trusted(folder | 0o755, gid=1001)
    assert not trusted(folder | 0o775, gid=1001)
    assert not trusted(folder | 0o775, gid=1)
    assert trusted(folder | sticky | 0o777, uid=0, gid=0)
    assert trusted(folder | sticky | 0o775, gid=1001)
    assert not trusted(folder | sticky | 0o777, uid=1001)
    assert not trusted(file | sticky | 0o646)


def test_every_folder_above_the_cache_and_what_is_there_must_be_ones_own(tmp_path, monkeypatch):
    cache, asked = tmp_path / "one" / "two", []
    (link := tmp_path / "link").symlink_to(cache)
    monkeypatch.setattr(library, "_cache", lambda: link / "three")
    monkeypatch.setattr(library, "_require_own", asked.append)
    monkeypatch.setattr(library, "_loaded", lambda *told: told)
    cache.mkdir(parents=True)
    place = cache.resolve() / "three"
    assert library._of_cache("name.so", ["cc"], "source") == (place / "name.so", ["cc"], "source")
    assert place.is_dir()
    assert set(asked) == {place, *place.parents}
    (place / "name.so").touch()
    asked.clear()
    library._of_cache("name.so", ["cc"], "source")
    assert set(asked) == {place / "name.so", place, *place.parents}


@pytest.mark.parametrize(
    ("cc", "there", "command"),
    [
        (None, {"cc", "gcc", "clang"}, ["cc"]),
        ("", {"gcc", "clang"}, ["gcc"]),
        (None, {"clang"}, ["clang"]),
        (None, set(), None),
        ("icc -m64", {"icc", "cc"}, ["icc", "-m64"]),
        ("'my cc' -m64", {"my cc"}, ["my cc", "-m64"]),
        ("icc -m64", {"cc"}, None),
        ("icc 'a", {"icc", "cc"}, None),
    ],
)
def test_the_compiler_is_ccs_or_the_first_that_is_there(monkeypatch, cc, there, command):
    monkeypatch.delenv("CC", raising=False)
    if cc is not None:
        monkeypatch.setenv("CC", cc)
    monkeypatch.setattr(library.shutil, "which", lambda name: name if name in there else None)
    assert library._compiler() == command


def test_the_cache_is_where_the_xdg_specification_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert library._cache() == tmp_path / "own" / "sparseae"
    for value in ("relative", "", None):
        monkeypatch.delenv("XDG_CACHE_HOME")
        if value is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert library._cache() == tmp_path / ".cache" / "sparseae"
        monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'none'}: there is no such home"):
        library._cache()
    assert os.listdir(tmp_path) == []


def test_a_function_of_the_library_is_called_with_what_it_takes():
    """By ctypes, which would pass anything."""
    calls = {}

    class Library(dict):
        def __missing__(self, called):
            def function(*arguments):
                calls[called] = arguments

            self[called] = function
            return function

    made = Library()
    for dtype in DTYPES:
        Compiled(made, dtype)
        *_, number = library._TYPES[dtype]
        letters = {"P": library.ctypes.c_void_p, "n": library.ctypes.c_long, "x": number}
        kinds = {
            "encode": "PPPPPnnnn", "residual": "PPPPPnnnnx", "gradient": "PPPPnnnx",
            "update": "PPPPnnPPPxxxx", "forward": "PPP", "back": "PPPPP", "run": "PPPnnn",
        }  # fmt: skip
        assert made.keys() == kinds.keys()
        for called, kind in kinds.items():
            assert list(made[called].argtypes) == [letters[letter] for letter in kind]
            assert made[called].restype is None
