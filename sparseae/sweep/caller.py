"""The process that a sweep runs in is somebody's: afterwards it is as it was."""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch


@contextmanager
def as_it_was() -> Iterator[None]:
    """In this context anything may be set; at its end, however it ends, it is as before.

    That is the environment, the working directory, loggers, warnings, signal handlers, hooks,
    random states, and torch's threads, precision and gradients.
    """
    with ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())
        for keep in (
            _environment, _directory, _loggers, _signals, _hooks, _random_states, _torch,
        ):  # fmt: skip
            undo.callback(keep())
        yield


def _environment() -> Callable[[], None]:
    before = dict(os.environ)

    def restore() -> None:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    return restore


def _directory() -> Callable[[], None]:
    try:
        before = os.getcwd()
    except OSError:  # it is gone
        return lambda: None

    def restore() -> None:
        with suppress(OSError):
            if os.getcwd() == before:
                return
        with suppress(OSError):
            os.chdir(before)

    return restore


def _loggers() -> Callable[[], None]:
    every = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    before = [(log, log.level, log.handlers[:], log.propagate, log.disabled) for log in every]

    def restore() -> None:
        for log, level, handlers, propagate, disabled in before:
            log.setLevel(level)
            log.handlers[:], log.propagate, log.disabled = handlers, propagate, disabled

    return restore


def _signals() -> Callable[[], None]:
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # no other thread can set them
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return restore


def _hooks() -> Callable[[], None]:
    before = sys.excepthook, threading.excepthook, sys.unraisablehook, sys.stdout, sys.stderr
    mask, fault = os.umask(0), faulthandler.is_enabled()
    os.umask(mask)

    def restore() -> None:
        sys.excepthook, threading.excepthook, sys.unraisablehook, sys.stdout, sys.stderr = before
        os.umask(mask)
        if not fault:
            faulthandler.disable()

    return restore


def _random_states() -> Callable[[], None]:
    python, cpu = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()  # noqa: NPY002 (whoever runs the sweep may use it)
    cards = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cards:
            torch.cuda.set_rng_state_all(cards)

    return restore


def _torch() -> Callable[[], None]:
    settings: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    ]
    for owner, name in (
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cudnn, "benchmark"),
        (torch.backends.cudnn, "deterministic"),
    ):
        settings.append(
            (
                lambda owner=owner, name=name: getattr(owner, name),
                lambda value, owner=owner, name=name: setattr(owner, name, value),
            )
        )
    before = [(get, get(), put) for get, put in settings]

    def restore() -> None:
        for get, value, put in before:
            if get() != value:
                put(value)

    return restore
