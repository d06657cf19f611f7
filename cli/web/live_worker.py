"""The live model of a server: one thread loads it and does what is asked of it, one action at a time."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from atlas.errors import AtlasError
from atlas.store.keeper import Keeper
from atlas.store.time_limit import TookTooLong
from cli.web.problems import Busy, detail_of
from cli.web.settings import Settings

if TYPE_CHECKING:
    from atlas.live.model import LiveModel
    from ingest.requests.heatmap_model import StoredModel

R = TypeVar("R")

WAITING = 32
"""Actions that may wait; of more, a page with heatmaps for every example would be the first to be refused."""

SECONDS = 120.0
"""What one action may take, without the time that it waits."""

ABANDONED = 150.0
"""Seconds after which an action ends that nobody asks about any more. Browsers ask once a minute for a page that is
not seen."""

KEPT = 64
"""Actions that are over and can still be asked about."""

LOADING, READY, FAILED = "loading", "ready", "failed"

WAITS, RUNNING, DONE, PROBLEM, CANCELLED = "waiting", "running", "done", "problem", "cancelled"


class Cancelled(AtlasError):
    """Someone ended the action."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The live model, and how the atlas knows its weights."""

    live: LiveModel
    stored: StoredModel


@dataclass(eq=False)
class Action:
    """Something that the model is asked to do. do: None when it is over, as it may hold a large picture. passes: of the
    model, so far: an answer takes one for each token."""

    about: str
    do: Callable[[Loaded], Any] | None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: str = WAITS
    result: Any = None
    error: Exception | None = None
    passes: int = 0
    began: float | None = None
    asked: float = field(default_factory=time.monotonic)
    over: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Before every layer of the model: go on, or not.

        Raises:
            Cancelled: it is to end. TookTooLong: it had its time.
        """
        now = time.monotonic()
        if self.stop.is_set() or now - self.asked > ABANDONED:
            raise Cancelled("this was cancelled")
        if self.began is not None and now - self.began > SECONDS:
            raise TookTooLong(f"this takes longer than {SECONDS:g} seconds; ask for fewer tokens")

    def plain(self, ahead: int) -> dict[str, Any]:
        """As JSON has it. ahead: how many are done before it."""
        seconds = 0.0 if self.began is None else time.monotonic() - self.began
        shown: dict[str, Any] = {"action": self.id, "about": self.about, "state": self.state, "ahead": ahead}
        shown |= {"passes": self.passes, "seconds": round(seconds, 1)}
        if self.state == DONE:
            shown["result"] = self.result
        if isinstance(self.error, AtlasError):
            shown["problem"] = detail_of(self.error)
        elif self.error is not None:
            shown["problem"] = "this failed unexpectedly; the server's terminal has the traceback"
        return shown


class Worker:
    """Loads the model of a server, and then does one action after another."""

    def __init__(self, settings: Settings, keeper: Keeper):
        self._settings, self._keeper = settings, keeper
        self._queue: queue.Queue[Action | None] = queue.Queue()
        self._actions: OrderedDict[str, Action] = OrderedDict()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live model", daemon=True)
        self.loaded: Loaded | None = None
        self.failed: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None

    @property
    def state(self) -> str:
        """Of the model: loading, ready or failed."""
        return FAILED if self.failed is not None else READY if self.loaded is not None else LOADING

    @property
    def name(self) -> str:
        """The model's, as the atlas has it; as it was asked for until it is loaded."""
        return str(self._settings.live.model) if self.loaded is None else self.loaded.stored.name

    def start(self) -> None:
        """Begin to load the model."""
        self._thread.start()

    def stop(self) -> None:
        """End everything; a model that is being loaded is not waited for."""
        self._stopped.set()
        with self._lock:
            for action in self._actions.values():
                action.stop.set()
        self._queue.put(None)
        if self._thread.is_alive() and self.loaded is not None:
            self._thread.join(timeout=10.0)

    def submit(self, about: str, do: Callable[[Loaded], Any]) -> Action:
        """Put an action behind the others.

        Raises:
            Busy: too many wait. AtlasError: the model could not be loaded.
        """
        if self.failed is not None:
            raise _refused(self.failed)
        action = Action(about, do)
        with self._lock:
            if len(self._waiting()) >= WAITING:
                raise Busy(f"{WAITING} actions wait for the model already; try again in a while")
            while len(self._actions) >= KEPT + WAITING:
                oldest = next(a for a in self._actions.values() if a.over.is_set())
                del self._actions[oldest.id]
            self._actions[action.id] = action
        self._queue.put(action)
        return action

    def wait_for(self, about: str, do: Callable[[Loaded], R], seconds: float) -> R:
        """The result of an action.

        Raises:
            Busy: it was not done in so many seconds. Whatever error it had.
        """
        action = self.submit(about, do)
        if not action.over.wait(seconds):
            self.cancel(action)
            what = "is still being loaded" if self.loaded is None else "has other things to do"
            raise Busy(f"the model {what}; try again in a while")
        with self._lock:
            self._actions.pop(action.id, None)  # nobody asks about it again, and a map is large
        if action.error is not None:
            raise action.error
        return cast(R, action.result)

    def cancel(self, action: Action) -> None:
        """End an action: before the next layer of the model where it runs, at once where it waits."""
        action.stop.set()
        with self._lock:
            if action.state == WAITS:
                action.state, action.error, action.do = CANCELLED, Cancelled("this was cancelled"), None
                action.over.set()

    def action(self, name: str) -> Action | None:
        """The action of an id, if it is known; it is asked about by this."""
        with self._lock:
            action = self._actions.get(name)
        if action is not None:
            action.asked = time.monotonic()
        return action

    def ahead(self, action: Action) -> int:
        """How many are done before an action."""
        if action.over.is_set() or action.state == RUNNING:
            return 0
        with self._lock:
            before = list(self._waiting())
            running = sum(each.state == RUNNING for each in self._actions.values())
        return running + (before.index(action) if action in before else 0)

    def waiting(self) -> int:
        """How many wait or run."""
        with self._lock:
            return sum(not action.over.is_set() for action in self._actions.values())

    def _waiting(self) -> list[Action]:
        return [action for action in self._actions.values() if action.state == WAITS]

    def _run(self) -> None:
        try:
            with self._keeper.asking():
                self.loaded = load(self._settings)
        except Exception as error:  # whatever it is, every page and the command say it
            self.failed = error
            self.on_failure()
        while (action := self._queue.get()) is not None and not self._stopped.is_set():
            self._do(action)
        with self._lock:
            for left in self._waiting():
                left.state = CANCELLED
                left.error = Cancelled("the server ends")
                left.over.set()

    def _do(self, action: Action) -> None:
        with self._lock:
            if action.over.is_set():
                return
            action.state, action.began = RUNNING, time.monotonic()
            do, action.do = action.do, None
        assert do is not None
        try:
            if self.loaded is None:
                raise _refused(self.failed)
            action.look()
            with watched(self.loaded.live, action):
                action.result = do(self.loaded)
            action.state = DONE
        except Cancelled as error:
            action.state, action.error = CANCELLED, error
        except AtlasError as error:
            action.state, action.error = PROBLEM, error
        except Exception as error:  # a defect of ours, or memory is short: the next action may succeed
            action.state, action.error = PROBLEM, error
            self._tell(error)
        finally:
            action.over.set()

    @staticmethod
    def _tell(error: Exception) -> None:
        import traceback

        traceback.print_exception(error)


@contextmanager
def watched(live: LiveModel, action: Action) -> Iterator[None]:
    """While the block lasts, passes of the model are counted, and end where the action is to end."""
    from atlas.live.hooks import watching

    def first(args: Any, kwargs: Any) -> None:
        action.passes += 1
        action.look()

    def further(args: Any, kwargs: Any) -> None:
        action.look()

    with ExitStack() as stack:
        for number, layer in enumerate(live.layout.layers):
            stack.enter_context(watching(layer, further if number else first))
        yield


def load(settings: Settings) -> Loaded:
    """The model of a server, in the precision that it was ingested in where none is given.

    Raises:
        UsageError: the atlas does not know its weights. AtlasError: it cannot be loaded.
    """
    from ingest.requests.heatmap_model import load_stored, stored_model

    asked = settings.live
    known = stored_model(settings.path, asked.model, {})
    if known is not None:
        stored = {"revision": known.revision, **known.precision}
        asked = replace(asked, **{name: value for name, value in stored.items() if getattr(asked, name) is None})
    return Loaded(*load_stored(settings.path, asked, None))


def _refused(error: Exception | None) -> AtlasError:
    """Why nothing can be asked of the model."""
    return error if isinstance(error, AtlasError) else AtlasError(f"the live model could not be loaded: {error}")
