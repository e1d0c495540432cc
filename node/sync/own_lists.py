"""Keeps our own lists ready for signing while `serve` runs: finishes, confirms, recovers.

At the start and from time to time, it asks the peers what they hold of our lists. It releases what
a killed publisher has committed and not released. It fetches what is missing here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from federation.names import Origin
from federation.recovery import Action, Decision, PeerReport, is_settled
from node.admin import lists
from node.errors import DamageError, LockedError, NodeError, StoreError
from node.publish import permit as publish_permit
from node.store import lists as list_store
from node.store.connection import Store
from node.store.release import load_unreleased, released_size
from node.sync.recover import RecoveryTools, ask, recover
from node.system.locks import hold
from node.telemetry.logs import get_logger

_POLL_SECONDS: Final = 1.0
"""How often to look for what is committed and not released."""

_CLAIM_SECONDS: Final = 5.0
"""The least time between two rounds of questions, whatever peers claim meanwhile."""

_log = get_logger()


class OwnListGuard:
    """Guards the own lists of a running node."""

    def __init__(
        self,
        tools: RecoveryTools,
        *,
        interval_seconds: float,
        on_released: Callable[[], None] = lambda: None,
    ) -> None:
        self._tools = tools
        self._interval_seconds = interval_seconds
        self._on_released = on_released
        self._claimed = False
        self._damage: dict[Origin | None, str] = {}

    def claim(self) -> None:
        """Note that a peer claims to hold more of one of our lists than is here."""
        self._claimed = True

    async def run(self) -> None:
        """Guard until cancelled.

        Raises:
            StoreError: the store or the mark cannot be read or written.
        """
        asked = -self._interval_seconds
        while True:
            now = time.monotonic()
            wait = _CLAIM_SECONDS if self._claimed else self._interval_seconds
            try:
                if now - asked >= min(wait, self._interval_seconds):
                    asked, self._claimed = now, False
                    await self._ask()
                else:
                    await self._finish()
            except LockedError as error:
                # A publisher is running, or a long write to the store: try again later.
                _log.debug("guard_waits", detail=str(error))
            except DamageError as error:
                self._note_damage(None, error)
            await asyncio.sleep(_POLL_SECONDS)

    async def _ask(self) -> None:
        origins = await self._tools.writer.run_aside(_load_own)
        if not origins:
            return
        found = await ask(self._tools, origins)
        for origin in origins:
            await self._attend(origin, found.answers[origin])

    async def _attend(self, origin: Origin, answers: Sequence[PeerReport]) -> None:
        """Make one list ready for signing, as far as that is possible now."""
        try:
            await self._bring_in_order(origin, answers)
        except DamageError as error:
            self._note_damage(origin, error)
        else:
            self._damage.pop(origin, None)

    def _note_damage(self, origin: Origin | None, error: DamageError) -> None:
        """Report damage once: nothing is signed on top of it, and the scrub withholds the list."""
        if self._damage.get(origin) != str(error):
            self._damage[origin] = str(error)
            name = None if origin is None else str(origin)
            _log.error("list_damaged", origin=name, detail=str(error))

    async def _bring_in_order(self, origin: Origin, answers: Sequence[PeerReport]) -> None:
        tools = self._tools

        def permit(store: Store) -> None:
            publish_permit.obtain_permit(
                store,
                tools.mark,
                origin,
                lambda: answers or publish_permit.unasked(store),
                clock=tools.clock,
                needed=tools.needed,
            )

        def look(store: Store) -> tuple[Decision, bool, bool]:
            record = lists.find_own_list(store, str(origin))
            decision = publish_permit.look(
                store,
                tools.mark,
                record,
                answers or publish_permit.unasked(store),
                clock=tools.clock,
                needed=tools.needed,
            )
            is_released = released_size(store.connection, record) == record.log.size
            is_news = publish_permit.record_decision(store, record, decision, clock=tools.clock)
            return decision, is_released, is_news

        decision, is_released, is_news = await tools.writer.run_aside(look)
        if is_news and decision.obstacle is not None:
            _log.warning(
                "list_recovering",
                origin=str(origin),
                reason=str(decision.obstacle),
                detail=decision.detail,
            )
        if is_settled(decision, is_released=is_released):
            return
        try:
            if decision.action is Action.CATCH_UP:
                answers = (await recover(tools, origin)).answers
            with hold(tools.lock, "hashfed serve"):
                await tools.writer.run(permit)
        except (LockedError, StoreError):
            raise
        except NodeError as error:
            _log.warning(
                "recovery_failed", origin=str(origin), reason=error.reason, detail=str(error)
            )
        else:
            self._on_released()

    async def _finish(self) -> None:
        """Release what a killed publisher has committed."""
        for origin in await self._tools.writer.run_aside(_load_unreleased):
            await self._attend(origin, ())


def _load_own(store: Store) -> list[Origin]:
    return [record.origin for record in list_store.iter_lists(store.connection) if record.own]


def _load_unreleased(store: Store) -> list[Origin]:
    return [
        list_store.load_list_by_number(store.connection, number).origin
        for number in load_unreleased(store.connection)
    ]
