"""Every way in which a file can be wrong, each a function that spoils one."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

Damage = Callable[[Path, Random], None]
FIELD_VALUES: tuple[Any, ...] = (None, -1, 1e308, "x", [], {})


class Malicious:
    """What runs a command when it is unpickled: it makes a folder, named by the variable HACKED."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["HACKED"],)


def truncated(path: Path, random: Random) -> None:
    """Cut the file off anywhere."""
    data = path.read_bytes()
    path.write_bytes(data[: random.randrange(len(data))])


def emptied(path: Path, random: Random) -> None:
    """Leave nothing in it."""
    path.write_bytes(b"")


def bit_flipped(path: Path, random: Random) -> None:
    """Turn one bit."""
    _flip(path, random, 1)


def bits_flipped(path: Path, random: Random) -> None:
    """Turn two to eight bits."""
    _flip(path, random, random.randint(2, 8))


def _flip(path: Path, random: Random, n: int) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(n):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def lengthened(path: Path, random: Random) -> None:
    """Put bytes after its end."""
    path.write_bytes(path.read_bytes() + random.randbytes(random.randint(1, 100)))


def random_bytes(path: Path, random: Random) -> None:
    """Put noise in its place."""
    path.write_bytes(random.randbytes(random.choice((1, 8, 100, 5000))))


def text(path: Path, random: Random) -> None:
    """Put prose in its place."""
    path.write_text("It was a dark and stormy night.\n" * random.randint(1, 50))


def png(path: Path, random: Random) -> None:
    """Put a picture's header in its place."""
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + random.randbytes(64))


def zipped(path: Path, random: Random) -> None:
    """Put an archive in its place."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a" * random.randint(1, 1000))


def pickled(path: Path, random: Random) -> None:
    """Put a pickle in its place that runs something when it is loaded."""
    path.write_bytes(pickle.dumps(Malicious(), protocol=random.choice((0, 2, 4))))


def pickled_by_torch(path: Path, random: Random) -> None:
    """Put such a pickle in its place, in the form that torch.save gives it."""
    torch.save(
        {"a": torch.ones(2), "b": Malicious()}, path, _use_new_zipfile_serialization=random.random() < 0.5
    )


def huge_header(path: Path, random: Random) -> None:
    """Claim a safetensors header of 2^62 bytes, or of 2^27."""
    path.write_bytes((2 ** random.choice((27, 62))).to_bytes(8, "little") + b'{"a":' + bytes(100))


def huge_tensor(path: Path, random: Random) -> None:
    """Claim a tensor of 2^40 elements."""
    end = random.choice((16, 2**42))
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, end]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))


def deep_header(path: Path, random: Random) -> None:
    """Nest a safetensors header 100,000 deep."""
    header = b'{"a":' + b"[" * 100_000
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def deep_json(path: Path, random: Random) -> None:
    """Nest JSON 100,000 deep."""
    opening, closing = random.choice((("[", "]"), ('{"a":', "}")))
    path.write_text(opening * 100_000 + "1" + closing * 100_000)


def deep_field(path: Path, random: Random) -> None:
    """Nest one field of the JSON 100,000 deep."""
    _with_field(path, random, "[" * 100_000 + "]" * 100_000)


def long_list(path: Path, random: Random) -> None:
    """Put a list of 10^7 numbers into one field."""
    _with_field(path, random, "[" + "1," * (10**7 - 1) + "1]")


def huge_integer(path: Path, random: Random) -> None:
    """Put an integer of 10^5 digits into one field."""
    _with_field(path, random, "7" * 10**5)


def not_a_number(path: Path, random: Random) -> None:
    """Put NaN, infinity or a number too large for a float into one field."""
    _with_field(path, random, random.choice(("NaN", "Infinity", "-Infinity", "1e999")))


def invalid_utf8(path: Path, random: Random) -> None:
    """Put a byte that is no UTF-8 into it."""
    data = path.read_bytes()
    at = random.randrange(len(data))
    path.write_bytes(data[:at] + random.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80")) + data[at:])


def duplicated_key(path: Path, random: Random) -> None:
    """Have one name twice, with another value."""
    content = _first_object(path)
    name = random.choice(sorted(content))
    _put_object(path, json.dumps(content)[:-1] + f", {json.dumps(name)}: 0}}")


def replaced_field(path: Path, random: Random) -> None:
    """Put a value of another type, or another number, into any one field, however deep."""
    content = _first_object(path)
    holder, key = random.choice(list(_places(content)))
    holder[key] = random.choice([value for value in FIELD_VALUES if not _alike(value, holder[key])])
    _put_object(path, json.dumps(content, indent=1))


def missing_field(path: Path, random: Random) -> None:
    """Leave out any one field."""
    content = _first_object(path)
    del content[random.choice(sorted(content))]
    _put_object(path, json.dumps(content, indent=1))


def without_checksum(path: Path, random: Random) -> None:
    """Put a value of another type into a field of a file as earlier versions wrote it."""
    content = _first_object(path)
    content.pop("sha256", None)
    holder, key = random.choice(list(_places(content)))
    holder[key] = random.choice([value for value in FIELD_VALUES if not _alike(value, holder[key])])
    _put_object(path, json.dumps(content, indent=1))


def wrong_shape(path: Path, random: Random) -> None:
    """Give one tensor another shape, with the header as it was."""
    _with_tensor(path, random, lambda t: random.choice((t.flatten()[:-1], t[None], torch.zeros(()))).clone())


def wrong_dtype(path: Path, random: Random) -> None:
    """Give one tensor another type."""
    _with_tensor(
        path, random, lambda t: t.to(random.choice((torch.int32, torch.float16, torch.float64, torch.bool)))
    )


def nan_in_tensor(path: Path, random: Random) -> None:
    """Put NaN or infinity into one tensor, or another number where it has integers."""
    _with_tensor(path, random, lambda t: torch.full_like(t, float("nan") if t.is_floating_point() else 1))


def missing_tensor(path: Path, random: Random) -> None:
    """Leave out one tensor."""
    tensors, header = _tensors(path)
    del tensors[random.choice(sorted(tensors))]
    save_file(tensors, path, header)


def extra_tensor(path: Path, random: Random) -> None:
    """Add a tensor."""
    tensors, header = _tensors(path)
    save_file({**tensors, "surplus.9": torch.ones(3)}, path, header)


def missing(path: Path, random: Random) -> None:
    """Take it away."""
    path.unlink()


def folder_instead(path: Path, random: Random) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


def symlink_loop(path: Path, random: Random) -> None:
    """Put a link to itself in its place."""
    path.unlink()
    path.symlink_to(path.name)


def foreign(path: Path, random: Random) -> None:
    """Put a file of another kind of ours in its place: one of those in the folder that FOREIGN names."""
    others = sorted(Path(os.environ["FOREIGN"]).iterdir())
    data = path.read_bytes()
    shutil.copy(random.choice([other for other in others if other.read_bytes() != data]), path)


ANY_FILE: tuple[Damage, ...] = (
    truncated,
    emptied,
    bit_flipped,
    bits_flipped,
    lengthened,
    random_bytes,
    text,
    png,
    zipped,
    pickled,
    pickled_by_torch,
    huge_header,
    deep_json,
    missing,
    folder_instead,
    symlink_loop,
    foreign,
)
JSON_FILE: tuple[Damage, ...] = (
    deep_field,
    long_list,
    huge_integer,
    not_a_number,
    invalid_utf8,
    duplicated_key,
    replaced_field,
    missing_field,
    without_checksum,
)
TENSOR_FILE: tuple[Damage, ...] = (
    huge_tensor,
    deep_header,
    wrong_shape,
    wrong_dtype,
    nan_in_tensor,
    missing_tensor,
    extra_tensor,
)


def damages_of(path: Path) -> tuple[Damage, ...]:
    """Give the damages that a file of this ending can have."""
    if path.suffix == ".json" and not isinstance(_first_object(path), (dict, list)):
        return ANY_FILE
    own = {".json": JSON_FILE, ".jsonl": JSON_FILE, ".safetensors": TENSOR_FILE}
    return ANY_FILE + own.get(path.suffix, ())


def _tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str] | None]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except SafetensorError:
        return {"a": torch.ones(2)}, None


def _with_tensor(path: Path, random: Random, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors, header = _tensors(path)
    name = random.choice(sorted(tensors))
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, path, header)


def _with_field(path: Path, random: Random, value: str) -> None:
    content = _first_object(path)
    holder, key = random.choice(list(_places(content)))
    holder[key] = "<here>"
    _put_object(path, json.dumps(content, indent=1).replace('"<here>"', value))


def _first_object(path: Path) -> Any:
    """Give the content, or of a file of JSON lines its first line."""
    data = path.read_text(encoding="utf-8")
    return json.loads(data.split("\n")[0] if path.suffix == ".jsonl" else data)


def _put_object(path: Path, written: str) -> None:
    if path.suffix != ".jsonl":
        path.write_text(written, encoding="utf-8")
        return
    others = path.read_text(encoding="utf-8").split("\n")[1:]
    path.write_text("\n".join([written.replace("\n", ""), *others]), encoding="utf-8")


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Give every field as its holder and its key."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(items):
        yield content, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _alike(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b
