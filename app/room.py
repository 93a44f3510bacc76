"""The bytes that all batches under way in one process may hold together. Nobody waits for room.

A batch takes them as they come, not as it announced them: who sends slowly, or says that it will send a lot,
holds no more than it has sent.
"""

from __future__ import annotations

from types import TracebackType

from app.errors import ApiError, Kind


class Room:
    """Of one process."""

    def __init__(self, max_bytes: int) -> None:
        self.left = max_bytes

    def share(self) -> Share:
        """What one batch holds: nothing yet, and nothing when the context ends, however it does."""
        return Share(self)


class Share:
    """See `Room.share`."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held = 0

    def __enter__(self) -> Share:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hold(0)

    def grow(self, size: int) -> None:
        """Take `size` bytes more. Errors: ApiError 503; then none of them was taken."""
        self.hold(self._held + size)

    def hold(self, size: int) -> None:
        """Hold so many bytes from now on. Errors: ApiError 503; then nothing has changed."""
        more = size - self._held
        if more > self._room.left:
            raise ApiError(
                Kind.UNAVAILABLE, "Too many batches are under way; nothing was kept.", retry_after_seconds=1
            )
        self._room.left -= more
        self._held = size
