"""The store of a study: one SQLite file that holds every outcome and can be taken up after a kill."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, Self, cast

from tilewright.dataflow.errors import InputError
from tilewright.search.front import Fronts, fronts_of
from tilewright.search.outcome import Generation, Outcome, Row, Status
from tilewright.search.study import StudyError
from tilewright.sim.design import Design

FILE_NAME = "study.sqlite"
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE evaluation (
    key TEXT PRIMARY KEY, number INTEGER NOT NULL, generation INTEGER NOT NULL, device_class TEXT NOT NULL,
    template TEXT NOT NULL, device TEXT NOT NULL, parameters TEXT NOT NULL, mapping_objective TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT NOT NULL, violation REAL NOT NULL, simulated INTEGER NOT NULL,
    metrics TEXT NOT NULL, details TEXT NOT NULL
);
CREATE TABLE generation (
    number INTEGER NOT NULL, device_class TEXT NOT NULL, hypervolume REAL NOT NULL, n_front INTEGER NOT NULL,
    n_simulated INTEGER NOT NULL, n_pruned INTEGER NOT NULL, n_infeasible INTEGER NOT NULL,
    PRIMARY KEY (number, device_class)
);
"""
_COLUMNS = (
    "key, number, generation, device_class, template, device, parameters, mapping_objective,"
    " status, reason, violation, simulated, metrics"
)


class Store:
    """Outcomes of one study by key, durable as soon as `put` returns.

    The file is written ahead (WAL) without waiting for the disk: a killed process loses nothing that `put`
    has returned from, a power failure may lose the last outcomes but leaves the file whole. While it is open
    no other process can open it; `close` leaves one plain file.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any], *, resume: bool) -> None:
        """Open or make the store of the study `plan` (its identity) in `folder`, which is made if need be.

        Raises InputError if the folder holds another study (naming the field that differs), or a study at all
        unless `resume`; StudyError if it cannot be written or is in use.
        """
        self.file = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"{folder}: cannot be made: {error.strerror}") from error
        with self._told():
            # Statements commit by themselves, so a put is durable without a transaction of its own.
            self._connection = sqlite3.connect(self.file, isolation_level=None, timeout=1.0)
        try:
            with self._told():
                self._open(plan, resume)
        except BaseException:
            self._connection.close()
            raise

    def _open(self, plan: Mapping[str, Any], resume: bool) -> None:
        run = self._connection.execute
        stored = _stored_plan(self._connection, self.file)
        if stored is not None:
            _check_same_study(plan, stored, self.file.parent)
            if not resume:
                raise InputError(
                    f"{self.file.parent}: holds this study already; resume it or choose another folder"
                )
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        if stored is None:
            meta = (("schema_version", str(SCHEMA_VERSION)), ("plan", json.dumps(plan)), ("left_out", "[]"))
            run("BEGIN IMMEDIATE")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                run(statement)
            self._connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
            run("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's own errors (disk full, read-only, locked, no database) as one line."""
        try:
            yield
        except sqlite3.Error as error:
            raise _study_error(self.file, error) from error

    def get(self, key: str) -> tuple[Outcome, int, int] | None:
        """The outcome stored under `key` without its details, its number and its generation."""
        with self._told():
            found = self._connection.execute(
                "SELECT status, reason, violation, simulated, metrics, number, generation"
                " FROM evaluation WHERE key = ?",
                (key,),
            ).fetchone()
        if found is None:
            return None
        *outcome, number, generation = found
        return _outcome(*outcome), number, generation

    def put(self, row: Row) -> None:
        """Keep a row; one that is there under the same key is replaced."""
        design, outcome = row.design, row.outcome
        values = (
            row.key, row.number, row.generation, row.device_class, design.template, design.device,
            _to_json(design.parameters), design.objective, outcome.status, outcome.reason, outcome.violation,
            int(outcome.simulated), _to_json(_finite(outcome.metrics)), _to_json(outcome.details),
        )  # fmt: skip
        with self._told():
            self._connection.execute(
                f"INSERT OR REPLACE INTO evaluation ({_COLUMNS}, details) VALUES ({'?, ' * 13}?)", values
            )

    def renumber(self, key: str, number: int, generation: int) -> None:
        """Give a row the place that it has in this run of the study."""
        with self._told():
            self._connection.execute(
                "UPDATE evaluation SET number = ?, generation = ? WHERE key = ?", (number, generation, key)
            )

    def put_generation(self, states: Sequence[Generation]) -> None:
        with self._told():
            self._connection.executemany(
                "INSERT OR REPLACE INTO generation VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        s.number,
                        s.device_class,
                        s.hypervolume,
                        s.n_front,
                        s.n_simulated,
                        s.n_pruned,
                        s.n_infeasible,
                    )
                    for s in states
                ],
            )

    def put_left_out(self, reasons: Sequence[str]) -> None:
        """Keep why parts of the study were left out."""
        with self._told():
            self._connection.execute(
                "UPDATE meta SET value = ? WHERE name = 'left_out'", (_to_json(list(reasons)),)
            )

    def fronts(self) -> Fronts:
        """The fronts of all rows that are stored."""
        with self._told():
            return _read_fronts(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        with self._told():
            try:
                self._connection.execute("PRAGMA journal_mode = DELETE")
            finally:
                self._connection.close()


def load_fronts(folder: Path) -> Fronts:
    """The fronts of the study in `folder`, as far as it has got.

    Raises InputError if there is none; StudyError if it cannot be read or is being run.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        raise InputError(f"{folder}: holds no study ({FILE_NAME} is missing)")
    try:
        # The log of a killed study must be folded in, which writes; a closed study is only read.
        mode = "rw" if Path(f"{file}-wal").exists() else "ro"
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True, timeout=1.0)
        try:
            if _stored_plan(connection, file) is None:
                raise InputError(f"{folder}: holds no study ({FILE_NAME} is empty)")
            return _read_fronts(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise _study_error(file, error) from error


def _stored_plan(connection: sqlite3.Connection, file: Path) -> dict[str, Any] | None:
    """The identity of the stored study, None if the file is new; InputError for another kind of file."""
    try:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise InputError(f"{file}: is not the store of a study ({error})") from error
    if not tables:
        return None
    if "meta" not in tables:
        raise InputError(f"{file}: is a database, but not the store of a study")
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    if meta.get("schema_version") != str(SCHEMA_VERSION):
        raise InputError(
            f"{file}: has schema version {meta.get('schema_version')}, this program reads {SCHEMA_VERSION}"
        )
    return cast(dict[str, Any], json.loads(meta["plan"]))


def _study_error(file: Path, error: sqlite3.Error) -> StudyError:
    if "locked" in str(error):
        return StudyError(f"{file}: is in use by another run")
    return StudyError(f"{file}: {error}")


def _check_same_study(plan: Mapping[str, Any], stored: Mapping[str, Any], folder: Path) -> None:
    for name in dict.fromkeys((*plan, *stored)):
        if plan.get(name) != stored.get(name):
            there, here = _short(stored.get(name)), _short(plan.get(name))
            raise InputError(f"{folder}: holds another study: {name} is {there} there, {here} here")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _read_fronts(connection: sqlite3.Connection) -> Fronts:
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    query = f"SELECT {_COLUMNS} FROM evaluation ORDER BY number, key"
    rows = [_row(values) for values in connection.execute(query)]
    history = [
        Generation(*values)
        for values in connection.execute("SELECT * FROM generation ORDER BY number, device_class")
    ]
    return fronts_of(json.loads(meta["plan"]), rows, history, json.loads(meta["left_out"]))


def load_details(folder: Path, key: str) -> dict[str, Any]:
    """What the store keeps of one simulated design beside its metrics, by workload.

    Raises InputError if there is no such study or design.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        raise InputError(f"{folder}: holds no study ({FILE_NAME} is missing)")
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
        try:
            found = connection.execute("SELECT details FROM evaluation WHERE key = ?", (key,)).fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise _study_error(file, error) from error
    if found is None:
        raise InputError(f"{folder}: no design has key {key!r}")
    return cast(dict[str, Any], json.loads(found[0]))


def _row(values: Sequence[Any]) -> Row:
    key, number, generation, device_class, template, device, parameters, objective, *outcome = values
    design = Design(template, device, json.loads(parameters), objective)
    return Row(number, generation, key, device_class, design, _outcome(*outcome))


def _outcome(status: str, reason: str, violation: float, simulated: int, metrics: str) -> Outcome:
    return Outcome(cast(Status, status), reason, violation, bool(simulated), json.loads(metrics))


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics that JSON can say; an infinite one (a resource that the device lacks) stands in the reason."""
    return {name: value for name, value in metrics.items() if isfinite(value)}


def _to_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=dict)
