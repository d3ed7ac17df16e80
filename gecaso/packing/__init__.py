"""Values and parameters <-> bytes: serialise, compress, sign. Each step has a module of its own."""

from __future__ import annotations

from gecaso.packing.packer import Packer, current_packer, pack, unpack, using
from gecaso.packing.serializers import Serializer

__all__ = ["Packer", "Serializer", "current_packer", "pack", "unpack", "using"]
