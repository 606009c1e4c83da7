"""The next batch is made in a thread while a step works on the present one."""

from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, Generic, TypeVar

Batch = TypeVar("Batch")
PATIENCE = 0.1  # seconds between looks at whether anybody still wants a batch


class Ahead(Generic[Batch]):
    """The batches of a loader, in its order, up to `batches` of them made before they are asked for.

    A thread is enough where a batch is copied out of memory, which needs no interpreter. What goes wrong in the loader
    is raised where the batch was to be used.

    Args:
        loader: makes the batches.
        batches: how many may wait.
        cancel: called when nobody wants a further batch, for a loader that works on one for long.
    """

    def __init__(self, loader: Iterable[Batch], batches: int = 2, cancel: Callable[[], None] | None = None):
        self.loader, self._batches, self._cancel = loader, batches, cancel

    def __iter__(self) -> Iterator[Batch]:
        made: Queue[Any] = Queue(self._batches)
        unwanted, error = Event(), list[BaseException]()
        source = iter(self.loader)  # here: a DataLoader draws from the global generator when it begins

        def fill() -> None:
            try:
                for batch in source:
                    if not _put(made, batch, unwanted):
                        return
            except BaseException as fault:  # whatever it is, it is raised in the thread that asks
                error.append(fault)

        thread = Thread(target=fill, daemon=True)
        thread.start()
        try:
            while thread.is_alive() or not made.empty():
                try:
                    yield made.get(timeout=PATIENCE)
                except Empty:
                    continue
            if error:
                raise error[0]
        finally:
            unwanted.set()
            if self._cancel is not None:
                self._cancel()
            thread.join()


def _put(made: Queue[Any], batch: Any, unwanted: Event) -> bool:
    while not unwanted.is_set():
        try:
            made.put(batch, timeout=PATIENCE)
            return True
        except Full:
            continue
    return False
