"""The catalogue: each known way in which a look-aside cache is left with stale data.

An entry has up to three tests, named like it:

* ``test_<entry>``: the order of events, forced exactly, over each kind of storage;
* ``test_<entry>_is_searched_for``: its actors in some hundreds of schedules, by `explore`;
* ``test_<entry>_fools_the_naive_cache``, ``…_is_found_in_the_naive_cache``: the same again, and a
  cache without the guard falls for it. So the tests can fail.

``docs/guarantees.md`` says of each entry whether it is closed, bounded, or the user's to close.
What is not built yet is expected to fail, strictly: who builds it takes the mark away.
"""
