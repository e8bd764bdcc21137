"""The baseline: threads that sign on a SoftHSM token in this process, with nothing in between.

`python -m benchmarks.direct KIND THREADS SECONDS`, KIND rsa or p256; prints one JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import pkcs11
from pkcs11.util.ec import encode_named_curve_parameters

from benchmarks.timing import Figures, measure
from orchestrator.control.profiles import load_profiles
from orchestrator.model.key_spec import HashFunction, SignMechanism, SignScheme
from orchestrator.tokens._pkcs11_library import Library, Pin

DIGEST = bytes(range(32))
_RSA = SignMechanism(SignScheme.RSA_PKCS, HashFunction.SHA256)


def main(kind: str, threads: int, seconds: float) -> Figures:
    """Sign from `threads` threads, one session each; return the figures."""
    with tempfile.TemporaryDirectory() as directory:
        tokens = Path(directory) / "tokens"
        tokens.mkdir()
        conf = Path(directory) / "softhsm2.conf"
        conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
        os.environ["SOFTHSM2_CONF"] = str(conf)
        modules = load_profiles()["hsm2m.medium"].modules
        library = Library(next(m for m in modules if Path(m).exists()))
        library.init_token("direct", Pin("direct-pin"))
        token = library.token("direct")
        login = token.open(rw=True, user_pin="direct-pin")
        if kind == "rsa":
            _, key = login.generate_keypair(pkcs11.KeyType.RSA, 2048, store=True, label="key")
            data, mechanism = _RSA.raw(DIGEST)[1], pkcs11.Mechanism.RSA_PKCS
        else:
            curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
            domain = login.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
            _, key = domain.generate_keypair(store=True, label="key")
            data, mechanism = DIGEST, pkcs11.Mechanism.ECDSA
        del key
        keys = []
        for _ in range(threads):
            session = token.open(rw=True)
            keys.append(session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, label="key"))
        actions = [partial(key.sign, data, mechanism=mechanism) for key in keys]
        result = measure(actions, seconds)
        library.close()
        return result


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
    sys.stdout.flush()
    os._exit(0)  # the library's threads end here
