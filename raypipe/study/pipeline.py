"""The stage `study`: a person classifies validation pictures in the browser. The answers become `study/NAME/`."""

from __future__ import annotations

import asyncio
import time

import pyarrow as pa

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import ConfigError
from raypipe.progress import print_line
from raypipe.study.server import HOST, StudyAnswer, StudySession, serve_until_answered
from raypipe.study.study_sample import draw_sample
from raypipe.tables.record import RunRecord

ANSWERS = pa.schema(
    [
        pa.field("participant", pa.string(), nullable=False),
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
    ]
)
"""`study/NAME/`: one row per picture, in the order in which they were shown. `label` is the true class."""


def run(config: Config) -> RunRecord:
    """Ask one person to classify `study.pictures` pictures (paper, section 5.3). Returns when all are answered.

    Each participant has a table of their own, `study/NAME/`. Nothing is written before the last answer, so an
    interrupted study leaves nothing behind. Raises ConfigError if no participant is set, InputError if there are too
    few pictures or not two classes, StageError if the server cannot listen on the port.
    """
    options, storage = config.study, config.open_storage()
    if not options.participant:
        raise ConfigError("study.participant: '' is not allowed; set the participant's name")
    inputs = {name: tables.get_record(storage, name).run_id for name in ("labels", "images")}
    sample = draw_sample(storage, seed=config.seed, participant=options.participant, pictures=options.pictures)
    settings = config.result_options("seed", "study")
    table = f"study/{options.participant}"
    with tables.begin(
        storage, table, command="study", config=settings, inputs=inputs, overwrite=config.overwrite
    ) as run:
        if run.record:
            print_line(f"{options.participant} has already answered; use --overwrite to repeat")
            return run.record
        started = time.monotonic()
        session = StudySession(sample, options.participant)
        print_line(f"Open http://{HOST}:{options.port} (Ctrl-C ends the study without writing)")
        asyncio.run(serve_until_answered(session, options.port))
        run.writer.write("answers", _as_table(options.participant, session.answers))
        result = session.result()
        record = run.commit(
            rows_in=len(session.answers), seconds={"answer": time.monotonic() - started}, facts={"accuracy": result}
        )
    print_line(
        f"{options.participant}: {result['right']} of {result['n']} right, {100 * result['accuracy']:.1f} % "
        f"(95 % interval {100 * result['low']:.1f} to {100 * result['high']:.1f} %)"
    )
    return record


def _as_table(participant: str, answers: list[StudyAnswer]) -> pa.Table:
    rows = [{"participant": participant, **vars(answer)} for answer in answers]
    return pa.Table.from_pylist(rows, schema=ANSWERS)
