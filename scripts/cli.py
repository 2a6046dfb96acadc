"""Shared command line of every command other than ``train.py``: a documented function becomes a command."""

from __future__ import annotations

import inspect
import logging
import sys
import types
import typing
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import docstring_parser
from jsonargparse import ActionYesNo, ArgumentParser

from modules.user_errors import errors_in_one_line, user_error

PACKAGES = ("__main__", "scripts", "experiments", "benchmarks", "modules", "datamodules", "callbacks")

Result = TypeVar("Result")


def run(command: Callable[..., Result], arguments: list[str] | None = None) -> Result:
    """Parse ``arguments`` (by default those of the process), call ``command`` with them, and return its result.

    Parameters without a default are positional; keyword-only parameters and those with a default are options. ``bool`` is a flag with
    ``--no_`` as its opposite, ``list`` takes several words. Help texts come from the docstring.
    """
    with command_line():
        parser = parser_of(command)
        given = parser.instantiate_classes(parser.parse_args(arguments))
        return command(**vars(given))


@contextmanager
def command_line() -> Iterator[None]:
    """Log to the terminal and end with one line, ``error: ...``, on a user error: exit code 2 for unusable arguments, otherwise 1."""
    logging.basicConfig(format="%(message)s")
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.INFO)
    with errors_in_one_line():
        try:
            yield
        except ArgumentError as error:
            sys.stderr.write(f"error: {user_error(error)}\n")
            sys.exit(2)


def parser_of(command: Callable[..., Any]) -> ArgumentParser:
    """Return a parser whose arguments are the parameters of ``command``."""
    text = docstring_parser.parse((command.__doc__ or "").replace("``", ""))
    helps = {parameter.arg_name: parameter.description for parameter in text.params}
    parser = ArgumentParser(description=text.short_description, exit_on_error=False)
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        settings: dict[str, Any] = {"help": helps.get(name), **type_settings(parameter.annotation)}
        if parameter.default is not parameter.empty:
            parser.add_argument(f"--{name}", default=parameter.default, **settings)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            parser.add_argument(f"--{name}", required=True, **settings)
        else:
            parser.add_argument(name, **settings)
    return parser


def type_settings(annotation: Any) -> dict[str, Any]:
    """Return what ``add_argument`` needs for a type: flags without a value, lists as several words."""
    if annotation is bool:
        return {"action": ActionYesNo}
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    items = [typing.get_args(option)[0] for option in options if typing.get_origin(option) is list]
    return {"nargs": "+", "type": items[0]} if items else {"type": annotation}
