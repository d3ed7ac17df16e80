"""Files are read or refused: a tail that is missing is, what is damaged is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gecaso.advice import distinct, form
from gecaso.advice.reading import read, trace_of

A, B, C = (form.hash_of(name) for name in (b"a", b"b", b"c"))


def recording(*parts: bytes, sample: float = 1.0, start: float = 1000.0) -> bytes:
    return form.header(sample, start) + b"".join(parts)


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_several_recordings_are_merged_by_time(tmp_path: Path) -> None:
    one = written(
        tmp_path / "1",
        recording(form.requests([A, A], 0, 2), form.requests([A], 10, 11), form.total(30)),
    )
    other = written(
        tmp_path / "2", recording(form.requests([B], 0.5, 1), form.total(12), start=1001)
    )
    trace = read([one, other])
    assert trace.codes == [A, A, B, A]
    assert list(trace.times or ()) == [1000, 1001, 1001.5, 1010]
    assert trace.total == 42


def test_files_that_were_put_together_are_as_good(tmp_path: Path) -> None:
    parts = [recording(form.requests([A], 0, 1)), recording(form.requests([B], 0, 1), start=5.0)]
    trace = read([written(tmp_path / "both", b"".join(parts))])
    assert trace.codes == [B, A]


def test_recordings_of_different_samples_are_read_as_the_smaller_one(tmp_path: Path) -> None:
    codes = [form.hash_of(b"%d" % number) for number in range(1000)]
    few = [code for code in codes if code < form.limit_of(0.1)]
    files = [
        written(tmp_path / "all", recording(form.requests(codes, 0, 1))),
        written(tmp_path / "few", recording(form.requests(few, 2, 3), sample=0.1)),
    ]
    trace = read(files)
    assert trace.sample == 0.1
    assert trace.codes == few * 2


def test_a_recording_that_was_cut_off_anywhere_is_read_up_to_there(tmp_path: Path) -> None:
    first = recording(form.requests([A, B], 0, 1))
    whole = first + form.total(2) + form.requests([C], 1, 2)
    for length in range(len(first), len(whole)):
        assert read([written(tmp_path / "t", whole[:length])]).codes == [A, B]
    assert read([written(tmp_path / "t", whole)]).codes == [A, B, C]


def test_a_damaged_recording_is_refused(tmp_path: Path) -> None:
    good = recording(form.requests([A, B], 0, 1), form.total(2))
    for place in range(7, len(good)):
        bad = bytearray(good)
        bad[place] ^= 0xFF
        try:
            codes = read([written(tmp_path / "t", bytes(bad))]).codes
        except ValueError as error:
            assert str(tmp_path / "t") in str(error) or "no request" in str(error)  # noqa: PT017 - most bytes
        else:
            assert codes == [A, B]  # a length that became longer than the file: a tail


def test_a_recording_of_a_later_version_is_named_as_such(tmp_path: Path) -> None:
    data = bytearray(recording(form.requests([A], 0, 1)))
    data[7] = 9
    with pytest.raises(ValueError, match="version 9"):
        read([written(tmp_path / "t", bytes(data))])


def test_an_empty_recording_says_to_record_for_longer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record for longer"):
        read([written(tmp_path / "t", recording(form.total(100)))])


def test_what_the_sample_came_to_have_is_known_from_the_number_of_keys(tmp_path: Path) -> None:
    codes = [form.hash_of(b"%d" % number) for number in range(20_000)]
    several = distinct.registers()
    for code in codes:
        distinct.count(several, code)
    sampled = [code for code in codes if code < form.limit_of(0.1)]
    blocks = form.requests(sampled, 0, 1), form.keys(bytes(several))
    trace = read([written(tmp_path / "t", recording(*blocks, sample=0.1))])
    assert trace.rate == pytest.approx(len(sampled) / 20_000, rel=0.03)


@pytest.mark.parametrize("number", [0, 1, 100, 10_000, 60_000])
def test_different_keys_are_counted_within_three_per_cent(number: int) -> None:
    several = distinct.registers()
    for one in range(number):
        distinct.count(several, form.hash_of(b"%d" % one))
    assert distinct.estimate(bytes(several)) == pytest.approx(number, rel=0.03, abs=0.5)


# --- text -----------------------------------------------------------------------------------------


def test_a_text_has_one_key_a_line(tmp_path: Path) -> None:
    trace = read([written(tmp_path / "t.txt", "a\nb\n\na\n")])
    assert trace.codes == trace_of(["a", "b", "a"]).codes == [A, B, A]
    assert trace.times is None


def test_a_csv_may_have_times_and_sizes_and_is_merged_by_times(tmp_path: Path) -> None:
    one = written(tmp_path / "1.csv", "time,key,size\n1,a,10\n3,b,30\n")
    other = written(tmp_path / "2.csv", "key,time\nc,1970-01-01T00:00:02+00:00\n")
    trace = read([one, other])
    assert trace.codes == [A, C, B]
    assert list(trace.times or ()) == [1, 2, 3]
    assert trace.mean_weight == 20


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "a\nb\na\n"),
        ("t.csv", "key\na\nb\na\n"),
        ("t.csv", '"key"\r\n"a"\r\n"b"\r\n"a"\r\n'),
        ("t.csv", "Time, Key\n1,a\n2,b\n3,a\n"),
        ("t.csv", "key;time\na;1\nb;2\na;3\n"),
        ("t.tsv", "time\tkey\n1\ta\n2\tb\n3\ta\n"),
        ("keys.txt", "\ufefftime,key\n1,a\n2,b\n3,a\n"),
    ],
)
def test_csv_is_read_as_people_write_it(tmp_path: Path, name: str, text: str) -> None:
    trace = read([written(tmp_path / name, text)])
    assert trace.codes == [A, B, A]
    assert (trace.times is not None) == ("time" in text.lower())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "id,time\n1,2\n", "no column 'key'"),
        ("t.csv", "key,time\na,noon\n", r"t\.csv, line 2: time is a number"),
        ("t.csv", "key,size\na,big\n", r"t\.csv, line 2"),
        ("t.csv", "key,time\na\n", r"t\.csv, line 2"),
        ("t.csv", f"key,time\n{'a' * 200_000},1\n", r"t\.csv, line 2: field larger than"),
        ("t.csv", "time,key\n1\n", r"t\.csv, line 2: the line ends before"),
        ("t.txt", "", "it is empty"),
        ("t.csv", "", "it is empty"),
        ("t.txt", b"\xff\xfe\xfa", "no text in UTF-8"),
        ("t.bin", b"PK\x03\x04\x00\x00", "neither a recording"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read([written(tmp_path / name, text)])


def test_kinds_are_not_mixed_and_untimed_texts_not_merged(tmp_path: Path) -> None:
    text = written(tmp_path / "t.txt", "a\n")
    binary = written(tmp_path / "t.bin", recording(form.requests([A], 0, 1)))
    with pytest.raises(ValueError, match="one kind only"):
        read([text, binary])
    with pytest.raises(ValueError, match="merged by their times"):
        read([text, text])
    with pytest.raises(ValueError, match="no recording"):
        read([text], format="recording")


def test_a_long_file_of_keys_is_sampled_and_knows_its_share(tmp_path: Path) -> None:
    path = written(tmp_path / "t.txt", "\n".join(map(str, range(5000))))
    trace = read([path], sample=0.1)
    assert len(trace) == trace.rate * 5000
    assert 350 < len(trace) < 650
