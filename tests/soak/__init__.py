"""Many processes, real servers, faults and a checker, for as long as it is told: `scripts/soak`.

`run` starts servers (`places`) and workers (`worker`), and injects faults (`faults`) by a seeded
schedule. Workers write down what they did (`records`); `checker` reads that, round by round, and
says what no promise explains; `gauges` watches memory and descriptors; `report` makes the page.
"""
