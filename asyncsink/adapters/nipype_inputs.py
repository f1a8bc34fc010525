"""The inputs of DataSink and S3DataGrabber, made from the rows of the options: types, help, and what is refused."""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, get_args

from nipype.interfaces import io as nio
from nipype.interfaces.base import Directory, File, TraitError, isdefined, traits

from asyncsink.errors import ConfigError
from asyncsink.options.parse import check_option_names
from asyncsink.options.schema import GONE, OPTIONS, PANELS, LaneChoice, Option
from asyncsink.options.settings import RetryPolicy
from asyncsink.options.shared_limits import SharedLimits
from asyncsink.options.typed import DIRECTORIES, one_of, type_in_words

# -- Types -------------------------------------------------------------------------------------------------------------

_THEIRS = nio.DataSinkInputSpec().copyable_trait_names()
DATASINK_OPTIONS = tuple(name for name in OPTIONS if name in _THEIRS)
"""Inputs of DataSink that are options of an export."""

OF_WHOLE_EXPORTS = ("index", "complete_marker", "delete_extraneous", "delete_max")
"""Options about everything below a prefix. A node publishes a part, and would delete what others publish."""

OUR_OPTIONS = tuple(name for name in OPTIONS if name not in (*DATASINK_OPTIONS, *OF_WHOLE_EXPORTS))
"""Options of an export that asyncsink adds."""

_UNHASHED = ("journal", "manifest", "observe", "progress", "limits")
"""Inputs that do not decide what is published."""
_PATH_KINDS = ("path", "journal", "paths", "listing")
_PATHS = tuple(name for name in OUR_OPTIONS if OPTIONS[name].kind in _PATH_KINDS)
_SSE_KINDS = ("", "AES256", "aws:kms", "aws:kms:dsse")
_COMPANIONS: Mapping[str, Mapping[str, Any]] = {"sse_kms_key_id": {"sse": "aws:kms"}}
"""Options without which others are refused: each input is checked alone, since they come in any order."""

_DEFAULTS = {
    "compat": "nipype",
    "on_collision": "last",
    "on_missing": "error on S3, skip elsewhere",
    "on_unreadable": "error",
    "related_files": "True",
    "local_copy_mode": "what try_hard_link_datasink of Nipype's configuration says",
    "match": "start",
}
"""Defaults of the interfaces that are not those of the options: DataSink's and S3DataGrabber's own ways."""
_WORDS_OF_THE_COMMAND = {
    "; repeatable": "",
    r" Write \= for a = in OLD.": "",
    " (exit code 1)": "",
    "below SOURCE": "below bucket_path",
    "below DESTINATION": "below base_directory",
}
"""Words of the command line in the sentences of options, and what stands for them here."""

_TRAITS: dict[str, tuple[Any, ...]] = {
    "text": (traits.Str(),),
    "path": (File(),),
    "flag": (traits.Bool(),),
    "size": (traits.Int(), traits.Str()),
    "duration": (traits.Float(), traits.Str(), traits.Instance(timedelta)),
    "mapping": (traits.Dict(traits.Str(), traits.Str()),),
    "texts": (traits.List(traits.Str()), traits.Tuple()),
    "moment": (traits.Float(), traits.Str(), traits.Instance(timedelta), traits.Instance(datetime)),
    "paths": (traits.Str(), traits.List(), traits.Instance(os.PathLike)),
    "listing": (traits.Str(), traits.List(traits.Str()), traits.Instance(os.PathLike)),
    "object_options": (traits.Dict(traits.Str(), traits.Dict(traits.Str())),),
    "payer": (traits.Bool(), traits.Enum("requester")),
    "concurrency": (traits.Int(), traits.Str()),
    "count": (traits.Int(), traits.Str()),
    "retry": (traits.Instance(RetryPolicy),),
    "shard": (traits.Str(), traits.Tuple(traits.Int(), traits.Int())),
    "journal": (traits.Bool(), File()),
    "sse": (traits.Enum("AES256", "aws:kms", "aws:kms:dsse", ""),),
    "checksum": (traits.Str(),),
    "observer": (traits.Callable(),),
    "progress": (traits.Bool(), traits.Callable()),
    "limits": (traits.Instance(SharedLimits),),
    "transport": (traits.Enum(*get_args(LaneChoice)),),
}
"""The values that an input takes besides None, by the kind of its option."""


def trait_of(option: Option) -> Any:
    """The input (a trait) for an option."""
    kinds = _TRAITS.get(option.kind, ())
    if option.kind == "choice":
        kinds = (traits.Enum(*option.choices),)
    elif option.name in DIRECTORIES:
        kinds = (Directory(),)
    if option.name in _UNHASHED:  # Nipype ignores `nohash` of an Either
        return traits.Union(None, *kinds, desc=sentence_of(option), nohash=True)
    return traits.Either(None, *kinds, desc=sentence_of(option))


def sentence_of(option: Option) -> str:
    """The help of an option with its default, in the words and with the defaults of an interface."""
    if option.name == "sse" and "export" in option.commands:
        return "AES256, aws:kms or aws:kms:dsse; no key of your own, which Nipype would write to its files."
    default = _DEFAULTS.get(option.name)
    sentence = f"{option.help.removesuffix('.')} (default {default})." if default else option.sentence
    for elsewhere, here in _WORDS_OF_THE_COMMAND.items():
        sentence = sentence.replace(elsewhere, here)
    return sentence


# -- What is refused at once -------------------------------------------------------------------------------------------


class InputRefused(ConfigError, TraitError):
    """The value of an input is wrong: a TraitError too, which Nipype raises for inputs of its own."""

    def __init__(self, message: str, *, option: str = "", value: Any = None) -> None:
        """See ConfigError."""
        ConfigError.__init__(self, message, option=option, value=value)


def check_option(name: str, value: object) -> None:
    """Refuse values that must not become an input: Nipype writes inputs to hash files, result files and crash files.

    Raises:
        ConfigError: `value` is a customer key, which the message does not repeat; or `name` was an option once, and
            would become an output.
    """
    if name in GONE:
        check_option_names([name])
    if name == "sse" and isdefined(value) and value is not None and value not in _SSE_KINDS:
        raise ConfigError(
            "sse takes 'AES256', 'aws:kms' or 'aws:kms:dsse' here; a customer key would be written to Nipype's hash "
            "and crash files; use asyncsink.export for that."
        )


def check_value(name: str, value: object, parse: Callable[[dict[str, Any]], object]) -> None:
    """Refuse a value that is wrong whatever the other inputs are.

    Args:
        parse: checks options, which it gets by name.

    Raises:
        InputRefused: in one sentence.
    """
    if not isdefined(value) or value is None:
        return
    try:
        parse({name: value, **_COMPANIONS.get(name, {})})
    except ConfigError as error:
        if error.option == name:  # others are about what comes with further inputs
            raise InputRefused(str(error), option=name, value=value) from None


def check_no_output(name: str, value: object) -> None:
    """Refuse an absolute path for an option that takes none: it was meant as an output of that name.

    Raises:
        ConfigError: with the way to publish under that name.
    """
    if name not in _PATHS and isinstance(value, (str, os.PathLike)) and os.path.isabs(value):
        raise ConfigError(
            f"The input {name!r} is an option of asyncsink's, and holds the path {os.fspath(value)!r}; to publish "
            f"files under that name, make the sink with DataSink(infields=[{name!r}])."
        )


# -- Help --------------------------------------------------------------------------------------------------------------

HELP_COLUMNS = 80


def _type_in_words(option: Option) -> str:
    if option.name == "sse":
        return one_of([kind for kind in _SSE_KINDS if kind])
    return type_in_words(option)


def help_page(document: str, inputs: Mapping[str, tuple[str, str]], options: Mapping[str, Option], result: str) -> str:
    """The help of an interface: what it does, its inputs by subject, each with its type and a sentence, its result.

    Args:
        document: what it does, with an example.
        inputs: type and sentence of the inputs that are no option, and come first.
        options: the options that are inputs.
        result: what it returns.
    """
    paragraphs = inspect.cleandoc(document).split("\n\n")
    # Examples are indented, and stay as they are.
    lines = ["\n\n".join(each if each.startswith(" ") else textwrap.fill(each, HELP_COLUMNS) for each in paragraphs)]
    lines += ["", "Inputs", "------"]
    for name, (kind, sentence) in inputs.items():
        lines += _entry(name, kind, sentence)
    for panel, rows in PANELS.items():
        own = [options[name] for name in dict.fromkeys(option.name for option in rows) if name in options]
        own = [option for option in own if option in rows]
        if own:
            lines += ["", f"{panel.partition(' (')[0]}:"]
        for option in own:
            lines += _entry(option.name, _type_in_words(option), sentence_of(option))
    return "\n".join([*lines, "", "Output", "------", *_wrapped(result, 4), ""])


def _entry(name: str, kind: str, sentence: str) -> Iterator[str]:
    yield from textwrap.wrap(f"{name}: {kind}", HELP_COLUMNS, initial_indent="    ", subsequent_indent=" " * 8)
    yield from _wrapped(sentence, 8)


def _wrapped(text: str, indent: int) -> list[str]:
    spaces = " " * indent
    return textwrap.wrap(" ".join(text.split()), HELP_COLUMNS, initial_indent=spaces, subsequent_indent=spaces)


def shown_help(page: str, *, returnhelp: bool) -> str | None:
    """Print a page, as `help` of Nipype's interfaces does, or return it."""
    if returnhelp:
        return page
    print(page)  # noqa: T201 - what `help` is for
    return None
