"""Knowing, while a hook runs, which tokens of which sequence the model is at: with and without a key-value cache."""

import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from sae_lens_ext.steering.generation import Generation
from sae_lens_ext.steering.patches import Patches
from sae_lens_ext.steering.running_pass import RunningPass, running_pass, several_texts


class Listener(Protocol):
    """A `steer` block."""

    def before_pass(self) -> None:
        """The model is about to run."""

    def counts(self) -> list[int]:
        """Tell how often each hook has fired."""
        ...

    def after_generation(self, before: list[int]) -> None:
        """A generation is over, before which `counts` were these."""


class PassTracker:
    """Follows the forward passes and generations of one model, for all `steer` blocks on it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        inner = getattr(model, "original_model", None)
        self._runs = (
            model if inner is None else inner
        )  # a TransformerBridge runs a Hugging Face model, which has the cache
        self._signature = inspect.signature(self._runs.forward)
        self._patches = Patches()
        self._passes: list[RunningPass] = []
        self._generations: list[Generation] = []
        self._padded_texts = False
        self.listeners: list[Listener] = []
        self._patches.replace(self._runs, "forward", self._following)
        if self._runs is not model:
            self._patches.replace(model, "forward", self._noting_texts)
            if hasattr(self._runs, "generate"):
                self._patches.replace(self._runs, "generate", self._generating_from_ids)
        if hasattr(type(model), "generate"):
            self._patches.replace(model, "generate", self._generating)
        if hasattr(type(model), "generate_stream"):
            self._patches.replace(model, "generate_stream", self._streaming)

    @property
    def current(self) -> RunningPass | None:
        """The forward pass that is under way, if there is one."""
        return self._passes[-1] if self._passes else None

    def leave(self, listener: Listener) -> None:
        """Follow no longer for this block; with the last one the model's methods are put back."""
        self.listeners.remove(listener)
        if not self.listeners:
            self._patches.undo()
            _trackers.pop(self._model, None)

    def _following(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def follow(*args: Any, **kwargs: Any) -> Any:
            if not self.listeners:
                return forward(*args, **kwargs)
            generation = self._generations[-1] if self._generations else None
            running = running_pass(self._signature, args, kwargs, generation, padded_texts=self._padded_texts)
            if running.generation is not None:
                running.generation.begin_pass(running.first, running.shape, running.real)
            for listener in self.listeners:
                listener.before_pass()
            self._passes.append(running)
            try:
                output = forward(*args, **kwargs)
            finally:
                self._passes.pop()
            if running.generation is not None:
                running.generation.end_pass()
            return output

        return follow

    def _noting_texts(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def note(*args: Any, **kwargs: Any) -> Any:
            before, self._padded_texts = (
                self._padded_texts,
                several_texts(args[0] if args else kwargs.get("input")),
            )
            try:
                return forward(*args, **kwargs)
            finally:
                self._padded_texts = before

        return note

    def _generating(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._generation(Generation()):
                return generate(*args, **kwargs)

        return run

    def _generating_from_ids(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """Follow Hugging Face's generate(), which may run a prompt in chunks, but is given all of it."""

        def run(*args: Any, **kwargs: Any) -> Any:
            named = {**kwargs, "inputs": args[0]} if args else kwargs
            ids = next(
                (
                    named[name]
                    for name in ("inputs", "input_ids", "inputs_embeds")
                    if named.get(name) is not None
                ),
                None,
            )
            with self._generation(Generation(prompt=None if ids is None else ids.shape[1])):
                return generate(*args, **kwargs)

        return run

    def _streaming(self, generate_stream: Callable[..., Any]) -> Callable[..., Any]:
        def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
            pieces = generate_stream(*args, **kwargs)
            return self._stream(pieces) if self.listeners else pieces

        return stream

    def _stream(self, pieces: Iterator[Any]) -> Iterator[Any]:
        generation = Generation()
        counts = [(listener, listener.counts()) for listener in self.listeners]
        while True:
            if not counts or not all(listener in self.listeners for listener, _ in counts):
                raise RuntimeError(
                    "A steer() block ended before all of generate_stream() was taken that began inside it, so the rest would not be steered. Take all pieces "
                    "inside the block."
                )
            self._generations.append(generation)
            try:
                piece = next(pieces)
            except StopIteration:
                break
            finally:
                self._generations.pop()
            yield piece
        for listener, before in counts:
            listener.after_generation(before)

    @contextmanager
    def _generation(self, generation: Generation) -> Generator[None, None, None]:
        counts = [(listener, listener.counts()) for listener in self.listeners]
        self._generations.append(generation)
        try:
            yield
        finally:
            self._generations.pop()
        for listener, before in counts:
            if listener in self.listeners:
                listener.after_generation(before)


_trackers: "WeakKeyDictionary[Any, PassTracker]" = WeakKeyDictionary()


def follow_passes(model: Any, listener: Listener) -> PassTracker:
    """Give the tracker of a model, one for all blocks, so that these may end in any order."""
    tracker = _trackers.get(model)
    if tracker is None or not tracker.listeners:
        tracker = _trackers[model] = PassTracker(model)
    tracker.listeners.append(listener)
    return tracker
