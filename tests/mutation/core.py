"""The guards of flights, leases and invalidations."""

from __future__ import annotations

from tests.mutation.guards import Mutant

__all__ = ["CORE"]

CROSSING = "tests/catalogue/test_crossing.py"
FLIGHTS = (
    "tests/test_flight.py",
    "tests/test_interleavings.py",
    CROSSING,
    "tests/test_promises.py",
)
INTERLEAVED = (CROSSING, "tests/test_promises.py", "tests/test_cache.py")
INVALIDATED = ("tests/test_interleavings.py", "tests/test_guard.py", "tests/test_faults.py")
LEASES = ("tests/test_leases.py", "tests/storages/test_memory.py", "tests/test_interleavings.py")
LOST = ("tests/test_lost_commits.py", "tests/test_interleavings.py", "tests/test_faults.py")
ADAPTED = ("tests/test_adapted.py", "tests/test_adapted_loops.py")
FORKS = ("tests/test_forks.py", "tests/test_leases.py")
LOCALLY = ("tests/test_local_loading.py",)

FLIGHT = "gecaso/flight.py"
LOCAL = "gecaso/local.py"
LOCAL_LOADING = "gecaso/local_loading.py"
NETWORK_LOADING = "gecaso/network_loading.py"
GUARD = "gecaso/guard.py"
WRITING = "gecaso/writing.py"
TABLE = "gecaso/leases.py"
KEY = "gecaso/keys/key.py"
KEPT = "gecaso/keys/kept.py"

CORE = (
    # --- the lease ----------------------------------------------------------------------------
    Mutant(
        "a commit does not ask whether the lease is still out (in process)",
        LOCAL,
        "        if not self.leases.owns(lease):\n            return False\n        self.write",
        "        self.write",
        INTERLEAVED,
    ),
    Mutant(
        "a lease never runs over",
        TABLE,
        "return lease.until == inf or self._now() < lease.until",
        "return True",
        LEASES,
    ),
    Mutant(
        "an old lease passes for the new one of its key",
        TABLE,
        (
            "        if self._held.get(lease.key) is not lease:\n"
            "            return False\n"
            "        return lease.until"
        ),
        (
            "        if self._held.get(lease.key) is None:\n"
            "            return False\n"
            "        return lease.until"
        ),
        LEASES,
    ),
    Mutant(
        "giving back an old lease ends the new one",
        TABLE,
        (
            "        if held is None or held is not lease:\n"
            "            return False\n"
            "        self._drop"
        ),
        "        if held is None:\n            return False\n        self._drop",
        LEASES,
    ),
    Mutant(
        "a lease that is out is given to a second holder",
        TABLE,
        "            if not held.is_over(now):\n",
        "            if held.is_over(now):\n",
        LEASES,
    ),
    Mutant(
        "the lease of a closed loop stays out",
        TABLE,
        "        if self.loop is not None and self.loop.is_closed():\n            return True\n",
        "",
        (*LEASES, "tests/test_loops.py"),
    ),
    Mutant(
        "nobody is woken when a lease goes",
        TABLE,
        "            wake()\n\n    # --- waiting",
        "            pass\n\n    # --- waiting",
        LEASES,
    ),
    Mutant(
        "a put kills no lease (in process)",
        LOCAL,
        "                self.leases.kill(key)\n                self.write(key, entry)",
        "                self.write(key, entry)",
        INTERLEAVED,
    ),
    Mutant(
        "an invalidation kills no lease (in process)",
        LOCAL,
        "                self.leases.kill(key)\n                if keep_stale:",
        "                if keep_stale:",
        INTERLEAVED,
    ),
    Mutant(
        "clear kills no lease (in process)",
        LOCAL,
        "            self.leases.kill_all(\n                key\n",
        "            list(\n                key\n",
        (*LEASES, "tests/test_functions.py", "tests/test_operations.py"),
    ),
    Mutant(
        "store(expect=) compares nothing (in process)",
        LOCAL,
        "if expect is not None and self._version(key) != expect.get(key):",
        "if expect is not None and False:",
        ("tests/storages/test_memory.py", "tests/storages/test_contract.py"),
    ),
    # --- the look after the lease ---------------------------------------------------------------
    Mutant(
        "no look after the lease (in process)",
        LOCAL_LOADING,
        "            outcome = self._outcome_of(call, lease.seen, early)\n",
        "            outcome = None\n",
        (*LOCALLY, *FLIGHTS),
    ),
    Mutant(
        "no look after the lease (over a network)",
        NETWORK_LOADING,
        "        outcome = self._outcome_of(call, taken.lease.seen, mark)\n",
        "        outcome = None\n",
        (*FLIGHTS, "tests/test_processes.py"),
    ),
    Mutant(
        "what was seen beside a lease is for late joiners too",
        "gecaso/loading.py",
        "return Outcome(self.value(call, entry), upto=mark) if verdict in SERVED else None",
        "return Outcome(self.value(call, entry)) if verdict in SERVED else None",
        FLIGHTS,
    ),
    # --- joining --------------------------------------------------------------------------------
    Mutant(
        "late joiners of a fenced load get its value (in process)",
        LOCAL_LOADING,
        "return Outcome(value, upto=mark if is_stored else early)",
        "return Outcome(value)",
        FLIGHTS,
    ),
    Mutant(
        "late joiners of a fenced load get its value (over a network)",
        NETWORK_LOADING,
        "return Outcome(value, upto=early if is_stored else taken.early)",
        "return Outcome(value)",
        FLIGHTS,
    ),
    Mutant(
        "late joiners of a fenced load get its error (in process)",
        LOCAL_LOADING,
        "return Outcome(error=error, upto=early if fenced else mark)",
        "return Outcome(error=error)",
        (*LOCALLY, *FLIGHTS),
    ),
    Mutant(
        "late joiners of a fenced load get its error (over a network)",
        NETWORK_LOADING,
        "        return mark if kept else taken.early",
        "        return mark",
        FLIGHTS,
    ),
    Mutant(
        "a flight delivers to everybody, whatever the mark",
        FLIGHT,
        "if outcome is None or (outcome.upto is not None and waiter.place >= outcome.upto):",
        "if outcome is None:",
        FLIGHTS,
    ),
    Mutant(
        "callers do not join the load under way",
        FLIGHT,
        (
            "            flight = self.open.get(key)\n"
            "            if flight is not None and flight.is_lost():"
        ),
        "            flight = None\n            if flight is not None and flight.is_lost():",
        FLIGHTS,
    ),
    Mutant(
        "a flight whose loop is closed is joined",
        FLIGHT,
        "return self.outcome is None and self.loop is not None and self.loop.is_closed()",
        "return False",
        ("tests/test_loops.py", "tests/test_flight.py"),
    ),
    Mutant(
        "a circle of loads is not seen",
        FLIGHT,
        "            if flight is own:\n",
        "            if flight is own and False:\n",
        ("tests/test_flight.py", "tests/test_promises.py"),
    ),
    Mutant(
        "the last caller to leave does not cancel the load",
        FLIGHT,
        (
            "            flight.is_cancelled = True\n"
            "            self._close(flight)\n"
            "        self._cancel(flight)"
        ),
        "            return\n        self._cancel(flight)",
        FLIGHTS,
    ),
    Mutant(
        "the first caller to leave cancels the load",
        FLIGHT,
        "if flight.present or flight.outcome is not None or flight.loop is None:",
        "if flight.outcome is not None or flight.loop is None:",
        FLIGHTS,
    ),
    Mutant(
        "a load is cancelled twice when its loop ends",
        FLIGHT,
        "    if not task.cancelling():\n        task.cancel()",
        "    task.cancel()",
        ("tests/test_flight.py", "tests/test_lost_commits.py", "tests/test_loops.py"),
    ),
    Mutant(
        "a load that was cancelled from outside fails all callers",
        "gecaso/loading.py",
        "if shared.task is None or not shared.task.cancelling():",
        "if True:",
        (*LOCALLY, *FLIGHTS, "tests/test_loops.py"),
    ),
    Mutant(
        "all callers get the very same exception",
        "gecaso/flight.py",
        "            return faithful_copy(error)\n",
        "            return error\n",
        ("tests/test_flight.py", "tests/test_failure.py"),
    ),
    Mutant(
        "a flight of a thread wakes nobody in other loops",
        "gecaso/waiters.py",
        "            loop.call_soon_threadsafe(_set_all, group)",
        "            pass",
        ("tests/test_loops.py", "tests/test_flight.py"),
    ),
    Mutant(
        "a result that is used up once is shared",
        "gecaso/loads.py",
        "            if type(value) in USED_UP:\n",
        "            if False:\n",
        ("tests/test_callables.py", "tests/test_cache.py", "tests/test_decorator.py"),
    ),
    Mutant(
        "callers of what cannot be stored queue up",
        "gecaso/loading.py",
        "            return ABANDONED  # each caller looks again",
        "            return None  # each caller looks again",
        (*LOCALLY, "tests/test_flight.py", "tests/test_policy.py", "tests/test_promises.py"),
    ),
    Mutant(
        "who joins while a commit's answer is on its way gets its value (over a network)",
        NETWORK_LOADING,
        "return Outcome(value, upto=early if is_stored else taken.early)",
        "return Outcome(value, upto=None if is_stored else taken.early)",
        ("tests/test_late_joins.py", *FLIGHTS),
    ),
    # --- invalidations --------------------------------------------------------------------------
    Mutant(
        "an invalidation does not detach the load under way (in process)",
        WRITING,
        "            self._loading.flights.detach(keys)\n",
        "",
        FLIGHTS,
    ),
    Mutant(
        "an invalidation does not detach the load under way (over a network)",
        WRITING,
        "            flights.detach(keys)\n",
        "            pass\n",
        FLIGHTS,
    ),
    Mutant(
        "clear does not detach the loads under way",
        WRITING,
        "self._loading.flights.detach_where(concerns)",
        "pass",
        ("tests/test_functions.py", "tests/test_operations.py", "tests/test_cache.py"),
    ),
    Mutant(
        "a failed invalidation is forgotten",
        GUARD,
        "            self._postpone(failed, may_arrive_late=is_put)\n",
        "            pass\n",
        INVALIDATED,
    ),
    Mutant(
        "a cancelled invalidation is forgotten",
        GUARD,
        "            self._postpone(keys, may_arrive_late=is_put)\n            raise",
        "            raise",
        INVALIDATED,
    ),
    Mutant(
        "keys with an invalidation pending are read",
        GUARD,
        "return self.breaker.is_open or key in self.pending",
        "return self.breaker.is_open",
        INVALIDATED,
    ),
    Mutant(
        "the quick path does not know of failures",
        NETWORK_LOADING,
        "or breaker.failures or guard.pending:",
        "or guard.pending:",
        ("tests/test_failure.py", "tests/test_faults.py"),
    ),
    Mutant(
        "a key keeps the name that another storage gave it",
        KEY,
        "if known is not None and known[0] is mine:",
        "if known is not None:",
        ("tests/test_kept.py",),
    ),
    Mutant(
        "large keys are kept",
        KEPT,
        "            if _is_small(typed):\n",
        "            if True:\n",
        ("tests/test_kept.py",),
    ),
    Mutant(
        "the quick path does not know of pending invalidations",
        NETWORK_LOADING,
        "or breaker.failures or guard.pending:",
        "or breaker.failures:",
        INVALIDATED,
    ),
    Mutant(
        "a put that may arrive late is removed once",
        GUARD,
        "            await asyncio.sleep(SETTLING)\n            await storage.discard(late)",
        "            pass",
        INVALIDATED,
    ),
    Mutant(
        "a retry settles what was invalidated again meanwhile",
        GUARD,
        "            if self.pending.get(key) is mark:  # otherwise",
        "            if key in self.pending:  # otherwise",
        INVALIDATED,
    ),
    Mutant(
        "an invalidation that fails is not tried again",
        GUARD,
        "                if left <= pause:\n                    return error",
        "                return error",
        INVALIDATED,
    ),
    Mutant(
        "a failed invalidation raises nothing",
        GUARD,
        "        if error is not None and not journal:",
        "        if False:",
        INVALIDATED,
    ),
    Mutant(
        "a lease that the storage may still hold is not handed back",
        GUARD,
        "        self._owed.add(lease)\n        self._start_retry()",
        "        pass",
        LOST,
    ),
    # --- trouble --------------------------------------------------------------------------------
    Mutant(
        "the breaker never opens",
        "gecaso/breaker.py",
        "            self.is_open = True\n",
        "            self.is_open = False\n",
        ("tests/test_breaker.py", "tests/test_guard.py", "tests/test_faults.py"),
    ),
    Mutant(
        "a call asks again after its first failure",
        NETWORK_LOADING,
        "        call.is_cut_off = True  # trouble",
        "        call.is_cut_off = False  # trouble",
        ("tests/test_guard.py", "tests/test_faults.py", "tests/test_lost_commits.py"),
    ),
    Mutant(
        "trouble of the storage fails the call",
        NETWORK_LOADING,
        '        if call.policy.on_storage_error == "raise":\n            raise error',
        "        raise error",
        ("tests/test_guard.py", "tests/test_faults.py"),
    ),
    Mutant(
        "many probes at once",
        "gecaso/breaker.py",
        "        self._probe_at = now + LOST_PROBE\n",
        "        pass\n",
        ("tests/test_breaker.py", "tests/test_guard.py"),
    ),
    Mutant(
        "cancelling a caller breaks off the command that takes the lease",
        NETWORK_LOADING,
        "got = (await asyncio.shield(asking))[key]",
        "got = (await asking)[key]",
        ("tests/test_keeper.py", *LOST),
    ),
    Mutant(
        "a lease that came after its caller had left is kept",
        NETWORK_LOADING,
        "            self._guard.spawn(_hand_back(self.storage, asking))\n",
        "            pass\n",
        LOST,
    ),
    Mutant(
        "a cancelled load keeps its lease",
        NETWORK_LOADING,
        "                await colour.do(self._hand_back_later, ready.lease)",
        "                pass",
        LOST,
    ),
    Mutant(
        "nobody renews a lease",
        "gecaso/keeper.py",
        "            self._task = self._loop.create_task(self._renew())",
        "            pass",
        ("tests/test_keeper.py", "tests/test_processes.py"),
    ),
    Mutant(
        "the timer of a lease outlives its load",
        "gecaso/keeper.py",
        "        self._timer.cancel()\n",
        "        pass\n",
        ("tests/test_keeper.py", "tests/test_interleavings.py"),
    ),
    Mutant(
        "a lease is renewed after its load has ended",
        "gecaso/keeper.py",
        "        self._stopped = True\n",
        "        return\n",
        ("tests/test_keeper.py", "tests/test_interleavings.py"),
    ),
    # --- storages of three methods --------------------------------------------------------------
    Mutant(
        "an invalidation does not wait for the write under way",
        TABLE,
        "if held is not None and held.committing and not held.is_over(self._now()):",
        "if False:",
        ADAPTED,
    ),
    Mutant(
        "a commit does not ask whether the lease is still out (three methods)",
        TABLE,
        (
            "            if not self.owns(lease) or self._held[lease.key].committing:\n"
            "                return False\n"
            "            self._held[lease.key].committing"
        ),
        (
            "            if lease.key not in self._held:\n"
            "                return True\n"
            "            self._held[lease.key].committing"
        ),
        ADAPTED,
    ),
    Mutant(
        "a caller that leaves breaks off the write of a three-method storage",
        "gecaso/adapted.py",
        "                return await asyncio.shield(task)",
        "                return await task",
        ADAPTED,
    ),
    Mutant(
        "release ends the lease of a write under way",
        "gecaso/adapted.py",
        "            if not self._leases.is_writing(lease):  # whose write ends it\n",
        "            if True:\n",
        ADAPTED,
    ),
    Mutant(
        "a lease is lost with the look after it",
        "gecaso/adapted.py",
        "                    self._leases.give_back(got)\n                    raise",
        "                    raise",
        ADAPTED,
    ),
    # --- forks ----------------------------------------------------------------------------------
    Mutant(
        "a forked child waits for the flights of its parent",
        FLIGHT,
        "        table._reset()",
        "        pass",
        FORKS,
    ),
    Mutant(
        "a forked child respects the leases of its parent's tasks",
        TABLE,
        "        table._reset()",
        "        pass",
        FORKS,
    ),
    Mutant(
        "a forked child keeps its parent's breaker and tasks",
        GUARD,
        "        guard._reset_after_fork()",
        "        pass",
        (*FORKS, "tests/test_guard.py"),
    ),
)
