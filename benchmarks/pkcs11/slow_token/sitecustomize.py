"""On an agent's path: every module is loaded through `slow.c`, compiled beside this file's copy."""

import os
from pathlib import Path
from typing import Any

import pkcs11

_SHIM = Path(__file__).with_name("slow.so")
_load = pkcs11.lib


def _lib(so: str) -> Any:  # noqa: ANN401  # what the library's own loader returns
    os.environ["SLOW_MODULE"] = so
    return _load(str(_SHIM))


setattr(pkcs11, "lib", _lib)  # noqa: B010  # what it holds is no function to a type checker
