"""The tests' own odd S3 is an ordinary one until a quirk bends it."""

from __future__ import annotations

from pathlib import Path

from tests.support.quirky_s3 import DROP, error, quirky_s3, run_command


def test_an_export_arrives_and_comes_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "café & co.txt").write_text("one")
    (source / "large.bin").write_bytes(b"x" * (20 << 20))
    with quirky_s3(page=1) as s3:
        env = s3.environment(tmp_path)
        sent = run_command("export", source, "s3://tryout/p", env=env)
        assert sent.returncode == 0, sent.stderr
        assert s3.bodies() == {"p/café & co.txt": b"one", "p/large.bin": b"x" * (20 << 20)}
        assert s3.requests("PUT", partNumber="2")
        back = run_command("grab", "s3://tryout/p", tmp_path / "back", env=env)
        assert back.returncode == 0, back.stderr
        assert (tmp_path / "back" / "large.bin").read_bytes() == b"x" * (20 << 20)


def test_a_quirk_bends_one_answer(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with quirky_s3(lambda r: error(403, "AccessDenied") if r.method == "PUT" else None) as s3:
        sent = run_command("export", tmp_path / "a", "s3://tryout/p", env=s3.environment(tmp_path))
        assert sent.returncode != 0
        assert not s3.bodies()


def test_a_dropped_connection_is_tried_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("a")
    dropped: list[int] = []

    def drop_once(r):
        if r.method == "PUT" and not dropped:
            dropped.append(r.number)
            return DROP
        return None

    with quirky_s3(drop_once) as s3:
        sent = run_command("export", source, "s3://tryout/p", env=s3.environment(tmp_path))
        assert sent.returncode == 0, sent.stderr
        assert s3.bodies() == {"p/a": b"a"}
        assert dropped
