"""Guards taken out one at a time: some test must notice each of them.

``scripts/mutants`` runs them; ``tests/test_mutation.py`` sees to it that each still applies.
"""

from __future__ import annotations

from tests.mutation.catalogue import CATALOGUE
from tests.mutation.core import CORE
from tests.mutation.guards import Mutant
from tests.mutation.keeping import KEEPING
from tests.mutation.network import NETWORK
from tests.mutation.servers import SERVERS
from tests.mutation.serving import SERVING

__all__ = ["ALL", "Mutant"]

ALL: tuple[Mutant, ...] = (*CORE, *KEEPING, *NETWORK, *SERVERS, *SERVING, *CATALOGUE)
