"""One thread translates for all clients: requests that wait are translated together, in one batch.

A translation does not depend on the rest of its batch, so neither does an answer. Errors and warnings belong to the
request that they are about.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from copy import copy
from typing import NamedTuple

from experiments.programs import few_heights, shapes
from experiments.sentences import Translation
from experiments.translator import Asked, Translator
from transformer.config import counted


class QueueFullError(Exception):
    """Raised for a request that would make the queue too long."""


class NotReadyError(Exception):
    """Raised for a request before the common programs are compiled, or after the last one."""


class Wanted(NamedTuple):
    """What a request asks for."""

    texts: list[str]
    n_best: int = 1
    """At most this many translations of each text."""
    prefixes: list[str] | None = None
    """What the translation of each text begins with; None: anything."""


class Answer(NamedTuple):
    """The translations of each text of a request, and the model's warnings."""

    translations: list[list[Translation]]
    warnings: list[str]


class Job(NamedTuple):
    """A request in the queue."""

    wanted: Wanted
    answer: "Future[Answer]"
    due: float
    """When it has waited long enough for others, in the seconds of time.monotonic()."""


class Batcher:
    """A queue of requests, and the thread that translates them. No other thread uses the translator meanwhile."""

    def __init__(self, translator: Translator, wait: float, max_queue: int):
        """Prepares an empty queue.

        Args:
            wait: how many seconds a request waits for others while the model has nothing to do.
            max_queue: most sentences that may wait.
        """
        self.translator = copy(translator)  # its log is that of the request at hand
        self.translator.progress = lambda done, count: None
        self.translator.height = few_heights
        self.wait, self.max_queue = wait, max_queue
        self.waiting = 0
        """Number of sentences in the queue."""
        self.ready = threading.Event()
        """Set once the common programs are compiled."""
        self.failure: Exception | None = None
        """What ended the thread, if an error did."""
        self._jobs: deque[Job] = deque()
        self._stopping = False
        self._changed = threading.Condition()

    @property
    def most(self) -> int:
        """The longest n-best list. Samples differ by the number of their text: one of each."""
        return 1 if self.translator.experiment.decode.sample else self.translator.most

    def submit(self, wanted: Wanted) -> "Future[Answer]":
        """Puts a request into the queue. Its answer may be a UserError; cancelling it takes the request back.

        Raises:
            NotReadyError: the programs are not compiled yet, or the thread has ended.
            QueueFullError: too many sentences wait already.
        """
        count = len(wanted.texts)
        with self._changed:
            if not self.ready.is_set():
                raise NotReadyError("the model is not ready: try again later")
            # However short the queue may be, a request can be accepted if there is no other.
            if self.waiting and self.waiting + count > self.max_queue:
                raise QueueFullError(f"{counted(self.waiting, 'sentence')} wait already: try again later")
            answer: Future[Answer] = Future()
            self._jobs.append(Job(wanted, answer, time.monotonic() + self.wait))
            self.waiting += count
            self._changed.notify()
        return answer

    def stop(self) -> None:
        """Refuses further requests. The thread ends after those in the queue."""
        with self._changed:
            self._stopping = True
            self.ready.clear()
            self._changed.notify()

    def run(self, longest: int, on_ready: Callable[[], None]) -> None:
        """What the thread does: compiles, says that it is ready, and translates until it is stopped.

        Args:
            longest: compile for sentences of up to this many tokens.
        """
        try:
            self.warm_up(longest)
            with self._changed:
                if not self._stopping:
                    self.ready.set()
                    on_ready()
            while (jobs := self.next_jobs()) is not None:
                self.translate(jobs)
        except Exception as error:
            self.failure = error
            self.stop()
            for job in self._jobs:
                job.answer.cancel()

    def warm_up(self, longest: int) -> None:
        """Compiles for sentences of up to `longest` tokens, any number in a batch, and one translation of each."""
        for width, height in self.shapes(longest):
            if not self._stopping:
                self.translator.warm_up(width, height)

    def shapes(self, longest: int) -> list[tuple[int, int]]:
        """Returns the shapes of batches of sentences of up to `longest` tokens: each is a program."""
        return shapes(longest, self.translator.experiment.decode.batch_size, few_heights)

    def next_jobs(self) -> list[Job] | None:
        """Waits for requests, and takes as many as fit into a batch; None after the last one."""
        size = self.translator.experiment.decode.batch_size
        with self._changed:
            while not (self._jobs or self._stopping):
                self._changed.wait()
            while self._jobs and self.waiting < size and not self._stopping:
                if (left := self._jobs[0].due - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            if not self._jobs:
                return None
            taken: list[Job] = []
            count = 0
            while self._jobs and (not taken or count + len(self._jobs[0].wanted.texts) <= size):
                job = self._jobs.popleft()
                self.waiting -= len(job.wanted.texts)
                if job.answer.set_running_or_notify_cancel():  # otherwise its client is gone
                    taken.append(job)
                    count += len(job.wanted.texts)
            return taken

    def translate(self, jobs: Sequence[Job]) -> None:
        """Answers requests with one search."""
        read = []
        for job in jobs:
            warnings = self.listen()
            try:
                asked = self.translator.ask(job.wanted.texts, job.wanted.n_best, prefixes=job.wanted.prefixes)
                read.append((job, asked, warnings))
            except Exception as error:
                job.answer.set_exception(error)
        if read:
            self.answer(read)

    def answer(self, read: Sequence[tuple[Job, Asked, list[str]]]) -> None:
        """Answers requests that are read, and warned of."""
        try:
            found = iter(self.translator.answer(joined([asked for _, asked, _ in read])))
            answers = [self.answered(asked, [next(found) for _ in asked.texts], said) for _, asked, said in read]
        except Exception as error:  # perhaps due to one of them, such as a text that is too long for the memory
            if len(read) == 1:
                read[0][0].answer.set_exception(error)
            else:
                for one in read:
                    self.answer([one])
        else:
            for (job, *_), answer in zip(read, answers, strict=True):
                job.answer.set_result(answer)

    def answered(self, asked: Asked, found: list[list[Translation]], warnings: list[str]) -> Answer:
        """The answer to a request, with the warnings about its translations after those about its texts."""
        more = self.listen()
        self.translator.warn_of_answers(asked, found)
        return Answer(found, warnings + more)

    def listen(self) -> list[str]:
        """Returns the list to which the translator's warnings go from now on."""
        warnings: list[str] = []
        self.translator.log = lambda message: warnings.append(message.removeprefix("warning: "))
        return warnings


def joined(asked: Sequence[Asked]) -> Asked:
    """Joins what several requests ask into one."""
    every = [[one for part in parts for one in part] for parts in zip(*asked, strict=True)]
    return Asked(*every)
