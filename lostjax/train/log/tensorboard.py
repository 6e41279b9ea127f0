"""Write metrics to TensorBoard."""

import importlib
import math
import time
from pathlib import Path
from typing import Any

from lostjax.disk.lines import AppendingFile
from lostjax.train.log.sink import Values, is_evaluation

TENSORBOARD_FOLDER = "tensorboard"


class TensorBoard:
    """A sink that writes TensorBoard event files, with tensorboardX.

    On resume, a START event makes TensorBoard drop the events of later steps. Numbers
    that are not finite are omitted: the curves have gaps there. Events are written
    synchronously, because tensorboardX's writer thread dies of a full disk, or of a
    clock that is set back by a month, and the run would then wait forever for room in
    its queue.
    """

    def __init__(self, run_dir: str | Path, *, resume_step: int) -> None:
        self._folder = Path(run_dir) / TENSORBOARD_FOLDER
        self._writer = self._open(resume_step, is_new=resume_step == 0)

    def _open(self, step: int, *, is_new: bool) -> Any:
        # Imported here, because it imports torch if torch is installed.
        tensorboard = importlib.import_module("tensorboardX")
        tensorboard.record_writer.register_writer_factory("append", _AppendingFiles())
        self._folder.mkdir(parents=True, exist_ok=True)
        writer = tensorboard.event_file_writer.EventsWriter(
            f"append:{self._folder / 'events'}",
            # Names have a resolution of one second: the suffix keeps a run that is
            # resumed at once from writing to the same file.
            filename_suffix=f".from-{step}",
        )
        if not is_new:
            protocol = importlib.import_module("tensorboardX.proto.event_pb2")
            start = protocol.SessionLog(status=protocol.SessionLog.START)
            self._put(writer, step + 1, session_log=start)
        return writer

    def _put(self, writer: Any, step: int, **content: Any) -> None:
        protocol = importlib.import_module("tensorboardX.proto.event_pb2")
        event = protocol.Event(step=step, wall_time=time.time(), **content)
        writer.write_event(event)

    def go_back(self, step: int) -> None:
        self._writer.close()
        self._writer = self._open(step, is_new=False)

    def write(self, step: int, values: Values) -> None:
        room = "eval" if is_evaluation(values) else "train"
        scalars = [
            {"tag": f"{room}/{name.removeprefix('eval_')}", "simple_value": number}
            for name, value in values.items()
            if math.isfinite(number := float(value))
        ]
        self._put(self._writer, step, summary={"value": scalars})

    def close(self) -> None:
        self._writer.close()


class _AppendingFiles:
    """Opens TensorBoard's files such that a full disk raises nothing.

    See tensorboardX's `register_writer_factory`.
    """

    def open(self, path: str) -> AppendingFile:
        return AppendingFile(Path(path.removeprefix("append:")))
