"""Mistyped words, words of other tools, and words in the wrong place: each answer leads on, and nothing is done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest

from asyncsink.cli.app import COMMANDS, app
from asyncsink.cli.foreign_words import COMMANDS_ELSEWHERE, OPTIONS_ELSEWHERE, OPTIONS_OF_ONE_COMMAND

Cli = Any

TO = "results s3://bucket/x"


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        # rclone, s5cmd, the AWS CLI: commands
        (f"cp {TO}", f"try: asyncsink export {TO}"),
        (f"cp -r {TO}", f"try: asyncsink export {TO}"),
        ("cp s3://bucket/x here", "try: asyncsink grab s3://bucket/x here"),
        ("cp a b c s3://bucket/", "try: asyncsink export DIR s3://bucket/prefix"),
        (f"sync {TO} --delete", f"try: asyncsink export {TO}"),
        (f"copy {TO} --transfers 32", "try: asyncsink export DIR s3://bucket/prefix"),
        (f"s3 sync {TO}", "try: asyncsink export DIR s3://bucket/prefix"),
        (f"mv {TO}", "when asyncsink verify has proved them"),
        ("rm s3://bucket/x", "aws s3 rm"),
        ("cat s3://bucket/x", "try: asyncsink grab"),
        ("lsf s3://bucket", "try: asyncsink ls s3://"),
        ("du s3://bucket", "try: asyncsink ls s3://"),
        ("mb s3://bucket", "aws s3 mb"),
        ("sync-up a b", "Try: asyncsink -h"),
        (f"diff {TO}", "try: asyncsink check"),
        (f"upload {TO}", f"try: asyncsink export {TO}"),
        ("download s3://b/x here", "try: asyncsink grab s3://b/x here"),
        ("preview a s3://b", "try: asyncsink plan"),
        ("configure", "try: asyncsink config"),
        ("version", "try: asyncsink --version"),
        ("history", "try: asyncsink runs"),
        ("failures k1.jsonl", "try: asyncsink runs show FILE"),
        ("ls s3://bucket --summarize --human-readable", "sizes and totals are shown"),
        (f"check {TO} --missing-on-dst list", "try: --combined"),
        ("man", "try: asyncsink help"),
        ("mount s3://b /mnt", "nothing like it here"),
        ("stat s3://bucket/x", "try: asyncsink ls s3://"),
        ("clone s3://bucket/x", "try: asyncsink grab s3://"),
        ("rb s3://bucket", "aws s3 rb s3://bucket"),
        ("cp results/a.txt s3://bucket/x/a.txt", "try: asyncsink export results/a.txt s3://bucket/x/"),
        ("cp s3://a/x s3://b/x", "aws s3 sync s3://a/x s3://b/x"),
        ("runs list", "try: asyncsink runs"),
        ("help rclone", "asyncsink help coming-from"),
        ("help cp", "asyncsink help coming-from"),
        (f"EXPORT {TO}", "try: asyncsink export"),
        # mistyped commands, and none
        (f"exprot {TO}", "try: asyncsink export"),
        (f"exports {TO}", "try: asyncsink export"),
        ("grap s3://b x", "try: asyncsink grab"),
        ("verfiy x.jsonl", "try: asyncsink verify"),
        ("abort-upload s3://b", "try: asyncsink abort-uploads"),
        ("dev-server", "try: asyncsink devserver"),
        (TO, f"try: asyncsink export {TO}"),
        ("s3://bucket/x here", "try: asyncsink grab s3://bucket/x here"),
        ("frobnicate", "Try: asyncsink -h"),
        (f"--quiet export {TO}", "try: asyncsink COMMAND --quiet"),
        # options of others
        (f"export {TO} --bwlimit 10M", "try: --bandwidth 10MB"),
        (f"export {TO} --transfers 9", "try: --concurrency N, or -j N"),
        (f"export {TO} --checkers 9", "try: --concurrency N"),
        (f"export {TO} --numworkers 9", "try: --concurrency N"),
        (f"export {TO} --dryrun", "try: --dry-run, or -n"),
        (f"export {TO} --no-sign-request", "try: --anonymous"),
        (f"export {TO} --endpoint http://x", "try: --endpoint-url URL"),
        (f"export {TO} --exact-timestamps", "try: --overwrite size-mtime"),
        (f"export {TO} --size-only", "--overwrite size"),
        (f"export {TO} --ignore-existing", "try: --overwrite never"),
        (f"export {TO} -u", "try: --overwrite size-mtime"),
        (f"export {TO} -r", "a directory goes as a whole"),
        (f"export {TO} -P", "progress is shown"),
        (f"export {TO} --stats 1s", "progress is shown"),
        (f"export {TO} --recursive", "a directory goes as a whole"),
        (f"export {TO} --follow-symlinks", "try: --symlinks follow"),
        (f"export {TO} -L", "try: --symlinks follow"),
        (f"export {TO} --s3-chunk-size 8M", "try: --part-size"),
        (f"export {TO} --s3-storage-class X", "try: --storage-class"),
        (f"export {TO} --aws-secret-access-key hush", "try: --creds-path FILE"),
        (f"export {TO} --no-verify-ssl", "try: --ca-bundle FILE"),
        (f"export {TO} --only-show-errors", "try: --quiet"),
        (f"export {TO} --retry-count 3", "try: --retries N"),
        (f"export {TO} --force", "try: --overwrite always"),
        (f"export {TO} --resume", "goes on where"),
        ("grab s3://b/x here --no-sign-request", "try: --anonymous"),
        ("verify x.jsonl --debug", "try: -v"),
        (f"export {TO} --if-size-differ", "try: --overwrite size"),
        (f"export {TO} --ignore-times", "try: --overwrite always"),
        (f"export {TO} -y", "try: --yes"),
        (f"export {TO} --max-age 7d", "try: --newer-than"),
        (f"export {TO} --min-age 7d", "try: --older-than"),
        (f"export {TO} --max-delete 9", "try: --delete-max N"),
        (f"export {TO} --server-side-encryption AES256", "try: --sse KIND"),
        (f"export {TO} --filter x", "try: --exclude PATTERN, --include PATTERN"),
        (f"export {TO} --config x", "ASYNCSINK_CONFIG"),
        (f"export {TO} --cache-control x", "It is not supported"),
        (f"plan {TO} --dry-run", "a plan sends nothing"),
        (f"check {TO} --checksum", "It is not needed"),
        ("verify x.jsonl --checksum", "It is not needed"),
        ("ls s3://b -R", "try: -r"),
        ("grab s3://b/x here -r", "everything below SOURCE comes"),
        ("grab s3://b/x here --exclude x", "try: --template"),
        ("grab s3://b/x here -n", "asyncsink ls s3://"),
        # mistyped options, and those of other commands
        (f"export {TO} --overwrit never", "try: --overwrite"),
        (f"export {TO} --band 3", "try: --bandwidth"),
        (f"export {TO} --manifst x", "try: --manifest"),
        (f"export {TO} --simlinks x", "try: --symlinks"),
        (f"export {TO} --read-back", "asyncsink verify has it"),
        (f"export {TO} --zzzz", "Try: asyncsink export -h"),
        ("verify x.jsonl --transfers 3", "Try: asyncsink verify -h"),
        # places
        ("export s3://bucket/x here", "try: asyncsink grab s3://bucket/x here"),
        ("plan s3://bucket/x here", "try: asyncsink grab s3://bucket/x here"),
        ("grab s3://a/x s3://b/x", "aws s3 sync s3://a/x s3://b/x"),
        ("export s3://a/x s3://b/x", "aws s3 sync s3://a/x s3://b/x"),
        (f"grab {TO}", f"try: asyncsink export {TO}"),
        ("export results", "for example: asyncsink export derivatives s3://my-bucket/study"),
        ("export", "for example: asyncsink export"),
        ("verify", "for example: asyncsink verify study.jsonl"),
        (f"export {TO} --concurrency", "Try: asyncsink export -h"),
        ("run parts", "for example: asyncsink run parts --part"),
        (f"export {TO} -j many", "--concurrency many is no number; expected 1 to 1024"),
    ],
)
def test_each_wrong_line_gets_a_way_on(inside: Cli, results: Path, line: str, hint: str) -> None:
    ended = inside(*line.split())
    assert (ended.code, ended.stdout) == (2, "")
    first, *others = ended.stderr.splitlines()
    assert first.startswith("asyncsink: error: ")
    assert "hush" not in ended.stderr
    assert hint in "\n".join([first, *(other.strip() for other in others)]), ended.stderr


def test_a_far_word_gets_no_hint(inside: Cli) -> None:
    for option in ("--stats-every", "--logfile-please", "--transferring"):
        assert "try: " not in inside("export", "a", "s3://b", option).stderr


def test_the_words_that_are_proposed_exist() -> None:
    """Each option and each command in a hint is one of asyncsink's; no key is a word that asyncsink has."""
    ctx = click.Context(app)
    flags: dict[str, set[str]] = {}
    for name in COMMANDS:
        command = app.get_command(ctx, name)
        assert command is not None
        options = [each for each in command.get_params(click.Context(command)) if isinstance(each, click.Option)]
        flags[name] = {flag for each in options for flag in each.opts}
    of_one: list[str] = []
    for name, meant in OPTIONS_OF_ONE_COMMAND.items():
        assert set(meant) & flags[name] == set(), name
        of_one += meant.values()
    known = set().union(*flags.values())
    proposed = {
        word
        for text in (*COMMANDS_ELSEWHERE.values(), *OPTIONS_ELSEWHERE.values(), *of_one)
        for word in re.findall(r"(?<!\S)--?[a-z][a-z-]*", text)
    }
    assert proposed - known - {"-vv", "--version"} == set()
    commands = {name for text in COMMANDS_ELSEWHERE.values() for name in re.findall(r"asyncsink ([a-z]\S*)", text)}
    assert commands - {*COMMANDS} == set()
    assert set(COMMANDS_ELSEWHERE) & {*COMMANDS} == set()
    assert set(OPTIONS_ELSEWHERE) & flags["export"] == set()


def test_a_destination_that_looks_like_a_bucket_is_said_to_be_a_folder(inside: Cli, results: Path) -> None:
    ended = inside("export", "results", "tryout/x", "-q")
    assert "note: 'tryout/x' is a directory of this machine; the bucket is s3://tryout/x." in ended.stderr
    assert inside("export", "results", "./tryout/x", "-q").stderr == ""


def test_a_pattern_in_the_place_of_a_source_names_the_option_for_it(inside: Cli, bucket: str) -> None:
    listed = inside("ls", f"s3://{bucket}/raw/*.json")
    assert (listed.code, f"try: asyncsink ls s3://{bucket}/raw --match '*.json'" in listed.stderr) == (1, True), listed
    grabbed = inside("grab", f"s3://{bucket}/raw/*.json", "here")
    assert grabbed.code != 0
    assert f"grab s3://{bucket}/raw DIRECTORY --template '*.json' --glob" in grabbed.stderr, grabbed
