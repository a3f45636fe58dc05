"""Where the tasks of a campaign run: the executor that a protocol names, opened and closed.

To add an executor, write a context manager that yields a `concurrent.futures.Executor` for its entry in the protocol,
enter it in `EXECUTORS`, and its key in `latf_sampling.settings.execution.ExecutorSettings`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from latf_sampling.campaign.check import platform
from latf_sampling.core import storage
from latf_sampling.core.devices import devices_of
from latf_sampling.core.platforms import GPU_PLATFORMS
from latf_sampling.core.processes import LocalExecutor
from latf_sampling.core.tasks import check_executor, describe
from latf_sampling.core.trust import trust
from latf_sampling.errors import FailureWarning, InstallationError, SettingsError, StoreError
from latf_sampling.records.programs import executor_program, refuse_untrusted
from latf_sampling.records.setup import Setup

DASK_TIMEOUT = 10
"""s that a Dask scheduler has to answer."""


@contextmanager
def open_executor(setup: Setup, given: Executor | None = None) -> Iterator[Executor]:
    """The executor of a protocol, as long as the context lasts, or the one that is given, which is not shut down.

    Parameters
    ----------
    setup
        The protocol, and whether its Python file may run that this user has never run.
    given
        Any executor of `concurrent.futures`; `None` takes that of the protocol.

    Raises
    ------
    InstallationError
        Its package is not installed; names the extra.
    SettingsError
        There is no scheduler at its address, or its configuration cannot work.
    StoreError
        The Python file may not run.
    """
    if given is not None:
        yield check_executor("executor", given)
        return
    protocol = setup.protocol
    if not setup.trust:
        refuse_untrusted(executor_program(protocol))
    trust(program.digest for program in executor_program(protocol))
    value = protocol.executor.value
    if protocol.executor.kind == "local" and value is None and platform(setup) in GPU_PLATFORMS:
        value = len(devices_of(protocol.devices.use)) * protocol.devices.walkers
    with EXECUTORS[protocol.executor.kind](value) as executor:
        yield executor


@contextmanager
def local(processes: int | None) -> Iterator[Executor]:
    """Processes of this machine, which are killed where the context ends with an error."""
    executor = LocalExecutor(processes)
    try:
        yield executor
    finally:
        executor.shutdown(wait=False)


@contextmanager
def dask(address: str) -> Iterator[Executor]:
    """Workers of a Dask scheduler, by its address or its scheduler file; the scheduler goes on afterwards."""
    distributed = _package("distributed", "dask")
    if address.endswith(".json") and not os.path.exists(address):  # which Dask would wait for without limit
        raise SettingsError(
            f"executor.dask: there is no file {address}; begin a scheduler with 'dask scheduler --scheduler-file'."
        )
    in_file = address.endswith(".json")
    where = {"scheduler_file": address} if in_file else {"address": address}

    async def connect() -> None:
        place = storage.read_json(address)["address"] if in_file else address
        security = distributed.Security().get_connection_args("client")
        stream = await asyncio.wait_for(distributed.comm.connect(place, DASK_TIMEOUT, **security), DASK_TIMEOUT)
        stream.abort()

    try:
        with warnings.catch_warnings(), ThreadPoolExecutor(1) as thread:
            warnings.simplefilter("ignore")  # that versions differ is seen by each task
            # A client waits without limit for the first bytes of what has accepted its connection. In a thread, since
            # a notebook has a loop of its own.
            thread.submit(lambda: asyncio.run(connect())).result()
            client = distributed.Client(timeout=DASK_TIMEOUT, set_as_default=False, **where)
    except Exception as error:  # of whatever is there in place of a scheduler
        raise SettingsError(
            f"executor.dask: no scheduler answers at {address} ({describe(error).rstrip('.')}); begin one with "
            "'dask scheduler', and give its address, or the file that it writes with --scheduler-file."
        ) from error
    try:
        yield client.get_executor(pure=False)
    finally:
        client.close(timeout=DASK_TIMEOUT)


@contextmanager
def parsl(file: str) -> Iterator[Executor]:
    """Workers of the Parsl configuration `config` in a Python file; its blocks end with the context."""
    package = _package("parsl", "parsl")
    from parsl.concurrent import ParslPoolExecutor

    config: Any = getattr(_run_file(Path(file)), "config", None)
    if not isinstance(config, package.Config):
        raise SettingsError(f"executor.parsl: {file} must define 'config', a parsl.Config.")
    has_blocks = any(getattr(each, "provider", None) is not None for each in config.executors)
    if has_blocks and config.strategy in (None, "none"):
        warnings.warn(
            f"executor.parsl: {file} has strategy='none', which begins no workers in place of lost ones; walkers would "
            "wait for them without end. Write strategy='simple'.",
            FailureWarning,
            stacklevel=2,
        )
    with _own_programs():
        try:
            executor = ParslPoolExecutor(config=config)
        except Exception as error:  # of whatever its providers need
            raise SettingsError(f"executor.parsl: {file} cannot be used ({describe(error).rstrip('.')}).") from error
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)


@contextmanager
def executorlib(options: dict[str, Any]) -> Iterator[Executor]:
    """Jobs of executorlib; `backend` names its class, other options are those of the class."""
    package = _package("executorlib", "executorlib")
    options = dict(options)
    backend = options.pop("backend")
    try:
        executor = getattr(package, EXECUTORLIB[backend])(**options)
    except Exception as error:  # of whatever the backend needs
        raise SettingsError(
            f"executor.executorlib: {EXECUTORLIB[backend]} cannot be used ({describe(error).rstrip('.')})."
        ) from error
    try:
        yield executor
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


EXECUTORS: dict[str, Callable[[Any], AbstractContextManager[Executor]]] = {
    "local": local,
    "dask": dask,
    "parsl": parsl,
    "executorlib": executorlib,
}
"""Executors by their key in a protocol."""

EXECUTORLIB = {
    "local": "SingleNodeExecutor",
    "slurm_job": "SlurmJobExecutor",
    "slurm_cluster": "SlurmClusterExecutor",
    "flux_job": "FluxJobExecutor",
    "flux_cluster": "FluxClusterExecutor",
}
"""Classes of executorlib by the names of backends."""


@contextmanager
def _own_programs() -> Iterator[None]:
    """Let the programs of this Python's packages be found, also where its environment was not activated."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _package(name: str, extra: str) -> ModuleType:
    if importlib.util.find_spec(name) is None:
        raise InstallationError(
            f"executor.{extra}: {name} is not installed; install it with pip install 'latf_sampling[{extra}]', here "
            "and for the workers."
        )
    return importlib.import_module(name)


def _run_file(file: Path) -> ModuleType:
    """The module of a Python file."""
    if file.suffix != ".py":
        raise SettingsError(f"executor.parsl: {file} is no Python file; its name must end with .py.")
    module = ModuleType("latf_executor_configuration")
    module.__file__ = str(file)
    try:
        # Not by a loader: it would rather run bytecode in __pycache__, which may be that of other code.
        exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), module.__dict__)
    except FileNotFoundError as error:
        raise StoreError(f"executor.parsl: there is no file {file}.") from error
    except (Exception, SystemExit) as error:  # whatever a program of the user raises
        raise SettingsError(f"executor.parsl: {file} fails ({describe(error).rstrip('.')}).") from error
    return module
