"""The guards of old values, background loads, evictions and the switch."""

from __future__ import annotations

from tests.mutation.guards import Mutant

__all__ = ["SERVING"]

FRESHNESS = "gecaso/freshness.py"
LOADING = "gecaso/loading.py"
LOADS = "gecaso/loads.py"
TINYLFU = "storages/_tinylfu.py"
OLD = ("tests/test_freshness.py", "tests/test_old_values.py")
EVICTION = (
    "tests/storages/test_memory.py",
    "tests/storages/test_memory_bounds.py",
    "tests/storages/test_eviction.py",
)

SERVING = (
    # --- the table of verdicts ------------------------------------------------------------------
    Mutant(
        "what is dead is judged by its freshness",
        FRESHNESS,
        "    if entry is None or now >= entry.dead_after:\n        return Verdict.LOAD\n",
        "    if entry is None:\n        return Verdict.LOAD\n",
        OLD,
    ),
    Mutant(
        "a mark that nothing is stored is a value",
        FRESHNESS,
        'return Verdict.ALONE if entry.kind == "uncacheable" else Verdict.RAISE',
        "return Verdict.RAISE",
        OLD,
    ),
    Mutant(
        "who asks for young values gets any",
        FRESHNESS,
        "    if now - entry.created > max_age:\n        return Verdict.LOAD\n",
        "",
        OLD,
    ),
    Mutant(
        "a load that failed is tried again at once",
        FRESHNESS,
        "    held = now < retry_at\n",
        "    held = False\n",
        OLD,
    ),
    Mutant(
        "old values are served without end while they are refreshed",
        FRESHNESS,
        "    if now < entry.fresh_until + policy.stale_while_revalidate:\n",
        "    if policy.stale_while_revalidate:\n",
        OLD,
    ),
    Mutant(
        "old values are fallen back to without end",
        FRESHNESS,
        "    if now < entry.fresh_until + policy.stale_if_error:\n",
        "    if policy.stale_if_error:\n",
        OLD,
    ),
    Mutant(
        "old values are not kept any longer than fresh ones",
        FRESHNESS,
        "kept = max(policy.stale_while_revalidate, policy.stale_if_error)",
        "kept = 0",
        OLD,
    ),
    Mutant(
        "the path of a hit does not ask when a refresh may be due",
        FRESHNESS,
        "    return min(entry.fresh_until, entry.created + after)\n",
        "    return entry.fresh_until\n",
        OLD,
    ),
    # --- falling back ---------------------------------------------------------------------------
    Mutant(
        "a failed load falls back to a value that was removed meanwhile",
        LOADING,
        (
            "            entry = await self._still_stored(call, colour, old)\n"
            "            if entry is None:\n                raise\n"
        ),
        "            entry = old\n",
        OLD,
    ),
    Mutant(
        "a slow load falls back to a value that was removed meanwhile",
        LOADING,
        "        if self.flights.open.get(call.key) is not shared:\n",
        "        if False:\n",
        OLD,
    ),
    Mutant(
        "trouble of gecaso's own is made up for by an old value",
        LOADING,
        "    if isinstance(error, (RecursiveLoad, StorageError)):\n        return False\n",
        "",
        ("tests/test_local_loading.py", *OLD),
    ),
    Mutant(
        "an invalidation does not let a load be tried again",
        LOADING,
        "            self._retry_at.pop(key, None)\n",
        "            pass\n",
        OLD,
    ),
    # --- loads in the background ----------------------------------------------------------------
    Mutant(
        "a load in the background has the context of whoever caused it",
        "gecaso/background.py",
        "create_task(run(), context=Context())",
        "create_task(run())",
        (*OLD, "tests/test_every_operation.py"),
    ),
    Mutant(
        "a load in the background may take for ever",
        LOADS,
        "limit = policy.max_load_time if call.is_behind else policy.timeout",
        "limit = policy.timeout",
        OLD,
    ),
    Mutant(
        "loads in the background are not counted",
        "gecaso/background.py",
        "        return len(self) < self.most\n",
        "        return True\n",
        (*OLD, "tests/test_operations.py"),
    ),
    Mutant(
        "a value that was removed is refreshed in the background",
        LOADING,
        "            return ABANDONED  # removed: who wants it loads it\n",
        "            return None\n",
        OLD,
    ),
    # --- evictions ------------------------------------------------------------------------------
    Mutant(
        "the newest may leave",
        TINYLFU,
        "            elif item is not self._newest or alone:\n",
        "            elif True:\n",
        EVICTION,
    ),
    Mutant(
        "a hit is not noticed in the window",
        TINYLFU,
        "            if item.hot:\n                item.hot = False\n",
        "            if False:\n                item.hot = False\n",
        EVICTION,
    ),
    Mutant(
        "a hit is not noticed among those that are kept",
        TINYLFU,
        "            elif item.hot:\n                item.hot = False\n",
        "            elif False:\n                item.hot = False\n",
        EVICTION,
    ),
    Mutant(
        "the dead do not leave by themselves",
        "storages/memory.py",
        "        self._take_out_dead(now, DUE_AT_ONCE)\n",
        "        pass\n",
        (*EVICTION, "tests/storages/test_memory_model.py"),
    ),
    # --- the switch -----------------------------------------------------------------------------
    Mutant(
        "caching cannot be switched off",
        "gecaso/switch.py",
        "    return _switch.times > 0\n",
        "    return False\n",
        ("tests/test_switch.py", "tests/test_every_operation.py"),
    ),
    Mutant(
        "the environment does not switch caching off",
        "gecaso/switch.py",
        'self.times = int(os.environ.get(VARIABLE, "").lower() not in NO)',
        "self.times = 0",
        ("tests/test_switch.py", "tests/test_every_operation.py"),
    ),
    Mutant(
        "the inner end of two switches turns caching on",
        "gecaso/switch.py",
        "before, self.times = self.times, self.times + by",
        "before, self.times = self.times, int(by > 0)",
        ("tests/test_switch.py", "tests/test_every_operation.py"),
    ),
)
